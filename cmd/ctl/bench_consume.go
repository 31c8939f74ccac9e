package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

func (a *app) benchConsumeCmd() *cobra.Command {
	var records int64
	cmd := &cobra.Command{Use: "consume TOPIC", Short: "Measure reading from the start", Args: args(1, 1)}
	cmd.Flags().Int64Var(&records, "records", 0, "records to read; 0 reads to the end as it is now")
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		if records < 0 {
			return usagef("--records %d must be 0 or more", records)
		}
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			return a.benchConsume(ctx, c, argv[0], records)
		})
	}
	return cmd
}

func (a *app) benchConsume(ctx context.Context, c *client.Client, topic string, most int64) (err error) {
	consumer, err := c.NewConsumer(client.ConsumerConfig{CreditBytes: 16 << 20})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, consumer.Close()) }()
	flags := &consumeFlags{untilEnd: true}
	if err := a.assign(ctx, c, consumer, topic, flags, offsetRange{from: client.AtStart()}); err != nil {
		return err
	}
	clock := lifecycle.RealClock()
	begin := clock.Now()
	var records, bytes int64
	for most == 0 || records < most {
		fetch, err := consumer.Poll(ctx)
		if errors.Is(err, client.ErrDone) {
			break
		}
		if err != nil {
			return err
		}
		if fetch.Err != nil {
			return fetch.Err
		}
		for i := range fetch.Records {
			bytes += int64(len(fetch.Records[i].Key) + len(fetch.Records[i].Value))
		}
		records += int64(len(fetch.Records))
	}
	return a.printBench(newBench(records, bytes, clock.Now().Sub(begin), 0))
}

func (a *app) benchLatencyCmd() *cobra.Command {
	var b benchLatency
	cmd := &cobra.Command{Use: "latency TOPIC", Short: "Measure one record outstanding, to ack and to consumer", Args: args(1, 1)}
	f := cmd.Flags()
	f.IntVar(&b.records, "records", 5000, "records to send, one after the other")
	f.IntVar(&b.size, "record-size", 1024, "bytes of each value")
	f.Int32VarP(&b.partition, "partition", "p", 0, "partition to use")
	f.StringVar(&b.flags.acks, "acks", "all", "leader or all")
	b.flags.codec, b.flags.delivery = "none", 30*time.Second
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		if b.records < 1 || b.size < 0 || b.size > maxLineBytes || b.partition < 0 {
			return usagef("--records must be 1 or more, --record-size 0 to %d, -p 0 or more", maxLineBytes)
		}
		if b.flags.acks == "none" {
			return usagef("--acks none has no acknowledgement to measure")
		}
		b.topic = argv[0]
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error { return a.benchLatency(ctx, c, &b) })
	}
	return cmd
}

// benchLatency measures one record outstanding.
type benchLatency struct {
	topic     string
	records   int
	size      int
	partition int32
	flags     produceFlags

	clock    lifecycle.Clock
	producer *client.Producer
	arrived  chan arrival
}

// arrival is a record that a consumer has in hand.
type arrival struct {
	offset int64
	at     time.Time
}

// latencyWarmup records come first and are not counted.
const latencyWarmup = 100

func (a *app) benchLatency(ctx context.Context, c *client.Client, b *benchLatency) (err error) {
	config, err := b.flags.config()
	if err != nil {
		return err
	}
	consumer, err := c.NewConsumer(client.ConsumerConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, consumer.Close()) }()
	if err := consumer.Assign(ctx, client.Assignment{Topic: b.topic, Partition: b.partition, From: client.AtEnd()}); err != nil {
		return err
	}
	if b.producer, err = c.NewProducer(ctx, config); err != nil {
		return err
	}
	b.clock, b.arrived = lifecycle.RealClock(), make(chan arrival, 1024)
	g := lifecycle.New(ctx, "bench", nil)
	g.Go("consumer", func(ctx context.Context) error { return b.receive(ctx, consumer) })
	begin := b.clock.Now()
	acks, consumed, err := b.send(ctx)
	took := b.clock.Now().Sub(begin)
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.timeout)
	defer cancel()
	if err := errors.Join(err, g.Stop(stopCtx), b.producer.Close(stopCtx)); err != nil {
		return err
	}
	out := newBench(int64(b.records), int64(b.records)*int64(b.size), took, 0)
	out.Latency, out.ToConsumer = percentiles(acks), percentiles(consumed)
	return a.printBench(out)
}

func (b *benchLatency) receive(ctx context.Context, k *client.Consumer) error {
	for {
		fetch, err := k.Poll(ctx)
		if err != nil {
			return err
		}
		now := b.clock.Now()
		if fetch.Err != nil {
			return fetch.Err
		}
		for i := range fetch.Records {
			select {
			case b.arrived <- arrival{offset: fetch.Records[i].Offset, at: now}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (b *benchLatency) send(ctx context.Context) (acks, consumed []time.Duration, err error) {
	type ack struct {
		receipt client.Receipt
		at      time.Time
		err     error
	}
	done := make(chan ack, 1)
	r := client.Record{Topic: b.topic, Value: payload(b.size)}
	for i := range latencyWarmup + b.records {
		sent := b.clock.Now()
		err := b.producer.ProduceTo(ctx, b.partition, r, func(receipt client.Receipt, err error) {
			done <- ack{receipt: receipt, at: b.clock.Now(), err: err}
		})
		if err != nil {
			return nil, nil, err
		}
		got := <-done
		if got.err != nil {
			return nil, nil, got.err
		}
		at, err := b.await(ctx, got.receipt.Offset)
		if err != nil {
			return nil, nil, err
		}
		if i >= latencyWarmup {
			acks, consumed = append(acks, got.at.Sub(sent)), append(consumed, at.Sub(sent))
		}
	}
	return acks, consumed, nil
}

// await returns when the record of the offset reached the consumer.
func (b *benchLatency) await(ctx context.Context, offset int64) (time.Time, error) {
	for {
		select {
		case got := <-b.arrived:
			if got.offset >= offset {
				return got.at, nil
			}
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}
