package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/client"
)

// maxLineBytes bounds what one line of input may hold; the cluster's own limit is smaller or the same.
const maxLineBytes = 1<<20 - 1<<11

// produceFlags are the flags of produce.
type produceFlags struct {
	key, separator, null string
	headers              []string
	partition            int32
	acks, codec, input   string
	receipts, create     bool
	delivery             time.Duration

	hasKey, hasSeparator, hasNull, hasPartition bool
}

func (a *app) produceCmd() *cobra.Command {
	var p produceFlags
	cmd := &cobra.Command{
		Use: "produce TOPIC", Short: "Append records, one a line of input", Args: args(1, 1),
		Long: "Append records, one a line of standard input or of --input. Lines are split at \\n only; every other byte is kept.",
	}
	f := cmd.Flags()
	f.StringVarP(&p.key, "key", "k", "", "key of all records")
	f.StringVar(&p.separator, "key-separator", "", "split each line into key and value where this occurs first")
	f.StringVar(&p.null, "null-value", "", "a value that is exactly this is written as null (a tombstone)")
	f.StringArrayVarP(&p.headers, "header", "H", nil, "header KEY:VALUE of all records; repeat for more")
	f.Int32VarP(&p.partition, "partition", "p", -1, "write to this partition")
	f.StringVar(&p.acks, "acks", "all", "none, leader or all")
	f.StringVarP(&p.codec, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	f.StringVar(&p.input, "input", "", "read this file instead of standard input")
	f.BoolVar(&p.receipts, "receipts", false, "print a receipt a record, as JSON, in input order")
	f.BoolVar(&p.create, "create", false, "create the topic first where it does not exist")
	f.DurationVar(&p.delivery, "delivery-timeout", 30*time.Second, "how long to try for each record (default 30s, or --timeout where given)")
	f.Lookup("delivery-timeout").DefValue = ""
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		p.hasKey, p.hasSeparator = f.Changed("key"), f.Changed("key-separator")
		p.hasNull, p.hasPartition = f.Changed("null-value"), f.Changed("partition")
		if cmd.Flags().Changed("timeout") && !f.Changed("delivery-timeout") {
			p.delivery = a.timeout
		}
		return a.produce(cmd.Context(), argv[0], &p)
	}
	return cmd
}

func (p *produceFlags) config() (client.ProducerConfig, error) {
	config := client.ProducerConfig{Codec: p.codec, DeliveryTimeout: p.delivery, MaxRecordBytes: maxLineBytes + 1<<10}
	switch p.acks {
	case "all":
		config.Acks = client.AcksAll
	case "leader":
		config.Acks = client.AcksLeader
	case "none":
		config.Acks = client.AcksNone
	default:
		return config, usagef("--acks %q is not one of none, leader, all", p.acks)
	}
	switch p.codec {
	case "none", "gzip", "snappy", "lz4", "zstd":
	default:
		return config, usagef("-z %q is not one of none, gzip, snappy, lz4, zstd", p.codec)
	}
	switch {
	case p.acks == "none" && p.receipts:
		return config, usagef("--receipts needs an acknowledgement: --acks none has none")
	case p.hasKey && p.hasSeparator:
		return config, usagef("-k and --key-separator exclude each other")
	case p.hasSeparator && p.separator == "":
		return config, usagef("--key-separator is empty")
	case p.hasPartition && p.partition < 0:
		return config, usagef("-p %d is no partition", p.partition)
	case p.delivery <= 0:
		return config, usagef("--delivery-timeout %v must be more than 0", p.delivery)
	}
	return config, nil
}

func (p *produceFlags) parseHeaders() ([]client.Header, error) {
	var out []client.Header
	for _, h := range p.headers {
		key, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, usagef("-H %q is not KEY:VALUE", h)
		}
		out = append(out, client.Header{Key: key, Value: []byte(value)})
	}
	return out, nil
}

func (a *app) produce(ctx context.Context, topic string, p *produceFlags) (err error) {
	config, err := p.config()
	if err != nil {
		return err
	}
	headers, err := p.parseHeaders()
	if err != nil {
		return err
	}
	in := a.in
	if p.input != "" {
		file, err := os.Open(p.input)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		in = file
	}
	return a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
		if p.create {
			spec := client.TopicSpec{Name: topic}
			if _, err := c.CreateTopic(ctx, spec); err != nil && !client.IsName(err, "TOPIC_ALREADY_EXISTS") {
				return err
			}
		}
		if _, err := c.Metadata(ctx, topic); err != nil {
			return err
		}
		producer, err := c.NewProducer(ctx, config)
		if err != nil {
			return err
		}
		job := &produceJob{flags: p, producer: producer, lines: newLineReader(newInterruptible(ctx, in), maxLineBytes)}
		job.template = client.Record{Topic: topic, Headers: headers}
		if p.hasKey {
			job.template.Key = []byte(p.key)
		}
		return a.runProduce(ctx, job)
	})
}

// produceJob reads lines into a producer.
type produceJob struct {
	flags    *produceFlags
	producer *client.Producer
	lines    *lineReader
	template client.Record
	receipts receiptPrinter
}

func (a *app) runProduce(ctx context.Context, job *produceJob) error {
	var out *bufio.Writer
	if job.flags.receipts {
		out = bufio.NewWriterSize(a.out, 64<<10)
		job.receipts.out = flushingWriter{out}
	}
	readErr := job.feed(ctx)
	// What was taken is brought to its end, also after an interrupt: bounded by the delivery timeout.
	closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), job.flags.delivery+a.timeout)
	defer cancel()
	closeErr := job.producer.Close(closeCtx)
	acked, failed, cause, outErr := job.receipts.outcome()
	if failed > 0 {
		a.notef("%d records written, %d failed; the first: %v", acked, failed, cause)
	} else if !job.flags.receipts {
		a.notef("%d records written", acked)
	}
	switch {
	case readErr != nil:
		return readErr
	case outErr != nil:
		return fmt.Errorf("writing receipts: %w", outErr)
	case failed > 0:
		return errReported
	default:
		return closeErr
	}
}

// flushingWriter writes through: receipts are worth something only once they are out.
type flushingWriter struct{ w *bufio.Writer }

func (f flushingWriter) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.w.Flush()
	}
	return n, err
}

// feed hands over every line; it returns early where going on makes no sense.
func (j *produceJob) feed(ctx context.Context) error {
	for ctx.Err() == nil && !j.receipts.broken() {
		line, err := j.lines.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case interrupted(ctx, err):
			return j.interrupted()
		case errors.Is(err, errLineTooLong):
			j.fail(&client.Error{
				Code: 10, Name: "BATCH_TOO_LARGE", Definite: true,
				Detail: fmt.Sprintf("line %d has more than %d bytes; split it", j.lines.line, maxLineBytes),
			})
			continue
		case err != nil:
			return fmt.Errorf("reading line %d: %w", j.lines.line+1, err)
		}
		r := j.template
		if r.Value = line; j.flags.hasSeparator {
			key, value, ok := bytes.Cut(line, []byte(j.flags.separator))
			if !ok {
				return fmt.Errorf("line %d has no %q to end its key; it and what follows was not written", j.lines.line, j.flags.separator)
			}
			r.Key, r.Value = key, value
		}
		if j.flags.hasNull && string(r.Value) == j.flags.null {
			r.Value = nil
		}
		if err := j.send(ctx, r); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return j.interrupted()
	}
	return nil
}

func (j *produceJob) interrupted() error {
	return fmt.Errorf("interrupted after line %d; what follows was not written", j.lines.line)
}

func (j *produceJob) fail(err error) { j.receipts.settle(j.receipts.take(), client.Receipt{}, err) }

// send hands a record to the producer. A record that is refused fails alone; a producer that takes nothing ends the job.
func (j *produceJob) send(ctx context.Context, r client.Record) error {
	n := j.receipts.take()
	done := func(receipt client.Receipt, err error) { j.receipts.settle(n, receipt, err) }
	var err error
	if j.flags.hasPartition {
		err = j.producer.ProduceTo(ctx, j.flags.partition, r, done)
	} else {
		err = j.producer.Produce(ctx, r, done)
	}
	if err == nil {
		return nil
	}
	if interrupted(ctx, err) { // while it waited for room: the producer never had it
		err = &client.Error{Code: 7, Name: "REQUEST_TIMED_OUT", Definite: true, Detail: "interrupted before it was sent"}
	}
	done(client.Receipt{}, err)
	if client.IsName(err, "BATCH_TOO_LARGE") {
		return nil
	}
	return errReported
}
