package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

type benchProduceFlags struct {
	produceFlags
	records, producers, rate int
	size, batch, inflight    int
}

func (a *app) benchProduceCmd() *cobra.Command {
	var b benchProduceFlags
	cmd := &cobra.Command{Use: "produce TOPIC", Short: "Measure appending", Args: args(1, 1)}
	f := cmd.Flags()
	f.IntVar(&b.records, "records", 1_000_000, "records to append")
	f.IntVar(&b.size, "record-size", 1024, "bytes of each value")
	f.IntVar(&b.batch, "batch-size", 128<<10, "bytes of a batch")
	f.IntVar(&b.inflight, "buffer", 32<<20, "bytes of records not acknowledged, per producer")
	f.IntVar(&b.producers, "producers", 1, "producers side by side, each with connections of its own")
	f.IntVar(&b.rate, "rate", 0, "records a second over all; 0 is as many as possible")
	f.StringVar(&b.acks, "acks", "all", "none, leader or all")
	f.StringVarP(&b.codec, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	b.delivery = 2 * time.Minute
	cmd.RunE = func(cmd *cobra.Command, argv []string) error { return a.benchProduce(cmd.Context(), argv[0], &b) }
	return cmd
}

func (a *app) benchProduce(ctx context.Context, topic string, b *benchProduceFlags) error {
	config, err := b.config()
	if err != nil {
		return err
	}
	if b.records < 1 || b.size < 0 || b.size > maxLineBytes || b.batch < 1 || b.producers < 1 || b.producers > 1000 || b.rate < 0 {
		return usagef("--records, --batch-size and --producers must be 1 or more, --record-size 0 to %d, --rate 0 or more", maxLineBytes)
	}
	config.BatchBytes, config.BufferBytes = b.batch, b.inflight
	clock := lifecycle.RealClock()
	g := lifecycle.New(ctx, "bench", nil)
	runs := make([]*benchProducer, b.producers)
	for i := range runs {
		share := b.records / b.producers
		if i < b.records%b.producers {
			share++
		}
		r := &benchProducer{app: a, topic: topic, config: config, value: payload(b.size), count: share, clock: clock}
		if b.rate > 0 {
			r.interval = time.Second * time.Duration(b.producers) / time.Duration(b.rate)
		}
		runs[i] = r
	}
	if err := a.startBench(ctx, runs); err != nil {
		return err
	}
	begin := clock.Now()
	for _, r := range runs {
		g.Go("producer", r.run)
	}
	err = g.Wait()
	took := clock.Now().Sub(begin)
	var samples []time.Duration
	var acked, failed int64
	for _, r := range runs {
		samples = append(samples, r.samples...)
		acked += r.acked
		failed += r.failed
		err = errors.Join(err, r.client.Close())
		if r.cause != nil {
			a.notef("a record failed: %v", r.cause)
		}
	}
	if err != nil {
		return err
	}
	out := newBench(acked, acked*int64(b.size), took, failed)
	out.Latency = percentiles(samples)
	return a.printBench(out)
}

// startBench connects every producer before the clock starts.
func (a *app) startBench(ctx context.Context, runs []*benchProducer) error {
	for i, r := range runs {
		c, err := a.dial(ctx)
		if err == nil {
			r.client = c
			if _, err = c.Metadata(ctx, r.topic); err == nil {
				r.producer, err = c.NewProducer(ctx, r.config)
			}
		}
		if err != nil {
			for _, started := range runs[:i+1] {
				if started.client != nil {
					err = errors.Join(err, started.client.Close())
				}
			}
			return err
		}
	}
	return nil
}

// benchProducer is one producer of the measurement.
type benchProducer struct {
	app      *app
	topic    string
	config   client.ProducerConfig
	value    []byte
	count    int
	interval time.Duration
	clock    lifecycle.Clock
	client   *client.Client
	producer *client.Producer

	mu      sync.Mutex
	samples []time.Duration
	acked   int64
	failed  int64
	cause   error
}

// sampleEvery thins out latency samples: one in so many records.
const sampleEvery = 16

func (r *benchProducer) run(ctx context.Context) error {
	begin := r.clock.Now()
	settle := func(_ client.Receipt, err error) { r.settle(0, err) }
	for i := range r.count {
		if r.interval > 0 {
			due := begin.Add(time.Duration(i) * r.interval)
			if wait := due.Sub(r.clock.Now()); wait > 0 {
				if err := lifecycle.Sleep(ctx, r.clock, wait); err != nil {
					return err
				}
			}
		}
		done := settle
		if i%sampleEvery == 0 || r.interval > 0 {
			sent := r.clock.Now()
			done = func(_ client.Receipt, err error) { r.settle(r.clock.Now().Sub(sent), err) }
		}
		if err := r.producer.Produce(ctx, client.Record{Topic: r.topic, Value: r.value}, done); err != nil {
			return err
		}
	}
	return r.producer.Close(ctx)
}

func (r *benchProducer) settle(latency time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed++
		r.cause = err
		return
	}
	r.acked++
	if latency > 0 {
		r.samples = append(r.samples, latency)
	}
}
