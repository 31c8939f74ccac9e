package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

// consumeFlags are the flags of consume.
type consumeFlags struct {
	partitions    []int32
	fromBeginning bool
	offset        string
	count         int64
	untilEnd      bool
	format        string

	hasOffset, hasFormat, hasCount bool
}

func (a *app) consumeCmd() *cobra.Command {
	var c consumeFlags
	cmd := &cobra.Command{
		Use: "consume TOPIC", Short: "Read records and write them to standard output", Args: args(1, 1),
		Long: "Read records, from the end on unless told otherwise, and write each value and a line end. " +
			"With -o json, one object a line.\n\n" +
			"-O begins at the start or the end, at offset N, N records after the start (+N) or before the end (-N), or at the first " +
			"record of a time (@TIME); N..M and @A..B end before M and before the first record of B, or at the end where there is " +
			"none yet. A time is RFC 3339 (@2026-01-31T12:00:00Z), milliseconds since 1970, or so long ago (@-1h).",
	}
	f := cmd.Flags()
	f.Int32SliceVarP(&c.partitions, "partitions", "p", nil, "these partitions alone, as P,P,...")
	f.BoolVar(&c.fromBeginning, "from-beginning", false, "begin at the start of the log")
	f.StringVarP(&c.offset, "offset", "O", "end", "where to begin, in each partition: start, end, N, +N, -N, N..M, @TIME or @A..B")
	f.Int64VarP(&c.count, "count", "n", 0, "stop after so many records")
	f.BoolVarP(&c.untilEnd, "exit-at-end", "e", false, "stop at the end of the log as it is now")
	f.StringVarP(&c.format, "format", "f", "", `format of a record: %t %p %o %k %v %h{%k=%v } %d %% \n \t \xNN`)
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		c.hasOffset, c.hasFormat, c.hasCount = f.Changed("offset"), f.Changed("format"), f.Changed("count")
		return a.consume(cmd.Context(), argv[0], &c)
	}
	return cmd
}

func (c *consumeFlags) check(output string) (r offsetRange, write recordWriter, err error) {
	switch {
	case c.fromBeginning && c.hasOffset:
		return r, nil, usagef("--from-beginning and -O exclude each other")
	case c.hasCount && c.count < 1:
		return r, nil, usagef("-n %d: must be 1 or more", c.count)
	case output == "yaml":
		return r, nil, usagef("consume writes text or json, not yaml")
	case output == "json" && c.hasFormat:
		return r, nil, usagef("-f and -o json exclude each other")
	}
	if c.fromBeginning {
		c.offset = "start"
	}
	if r, err = parseOffsetRange(c.offset, lifecycle.RealClock().Now()); err != nil {
		return r, nil, err
	}
	seen := make(map[int32]bool)
	for _, p := range c.partitions {
		if p < 0 || seen[p] {
			return r, nil, usagef("-p: %d is no partition or stands there twice", p)
		}
		seen[p] = true
	}
	if output == "json" {
		return r, appendJSON, nil
	}
	format := `%v\n`
	if c.hasFormat {
		format = c.format
	}
	parsed, err := parseFormat(format, false)
	return r, parsed.write, err
}

// recordWriter appends one rendered record to b.
type recordWriter func(b []byte, r *client.Record) ([]byte, error)

func (f recordFormat) write(b []byte, r *client.Record) ([]byte, error) { return f.append(b, r), nil }

func appendJSON(b []byte, r *client.Record) ([]byte, error) {
	line, err := json.Marshal(newJSONRecord(r))
	if err != nil {
		return b, fmt.Errorf("record %s at offset %d: %w", partitionName(r.Topic, r.Partition), r.Offset, err)
	}
	return append(append(b, line...), '\n'), nil
}

func (a *app) consume(ctx context.Context, topic string, flags *consumeFlags) error {
	r, write, err := flags.check(a.output)
	if err != nil {
		return err
	}
	return a.withClient(ctx, func(ctx context.Context, c *client.Client) (err error) {
		consumer, err := c.NewConsumer(client.ConsumerConfig{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, consumer.Close()) }()
		if err := a.assign(ctx, c, consumer, topic, flags, r); err != nil {
			return err
		}
		err = a.writeRecords(ctx, consumer, write, flags.count)
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return nil // interrupted: how a consumer without end is meant to stop
		}
		return err
	})
}

// assign assigns the partitions asked for, or all: then also those that are added later, unless there is an end.
func (a *app) assign(ctx context.Context, c *client.Client, k *client.Consumer, topic string, flags *consumeFlags, r offsetRange) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if len(flags.partitions) == 0 && r.end.IsZero() && !flags.untilEnd {
		return k.AssignTopic(ctx, topic, r.from)
	}
	m, err := c.Metadata(ctx, topic)
	if err != nil {
		return err
	}
	partitions := flags.partitions
	if len(partitions) == 0 {
		for _, p := range m.Topics[0].Partitions {
			partitions = append(partitions, p.Partition)
		}
	}
	list := make([]client.Assignment, 0, len(partitions))
	for _, p := range partitions {
		as := client.Assignment{Topic: topic, Partition: p, From: r.from, To: r.end}
		if flags.untilEnd {
			if as.To, err = earlierEnd(ctx, c, topic, p, r.end); err != nil {
				return err
			}
		}
		list = append(list, as)
	}
	return k.Assign(ctx, list...)
}

// earlierEnd is the end of the log now, or the end of the range where that comes first.
func earlierEnd(ctx context.Context, c *client.Client, topic string, partition int32, end client.Position) (client.Position, error) {
	if end.IsZero() {
		return client.AtEnd(), nil
	}
	offsets, err := c.ListOffsets(ctx, topic, partition, end, client.AtEnd())
	if err != nil {
		return end, err
	}
	return client.AtOffset(min(offsets[0], offsets[1])), nil
}

// writeRecords writes until everything assigned is read, or most records are (0 is no limit).
func (a *app) writeRecords(ctx context.Context, k *client.Consumer, write recordWriter, most int64) error {
	out := bufio.NewWriterSize(a.out, 256<<10)
	var line []byte
	for written := int64(0); ; {
		fetch, err := k.Poll(ctx)
		if errors.Is(err, client.ErrDone) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range fetch.Records {
			if line, err = write(line[:0], &fetch.Records[i]); err == nil {
				_, err = out.Write(line)
			}
			if err != nil {
				return err
			}
			if written++; written == most {
				return out.Flush()
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if fetch.Err != nil {
			return fmt.Errorf("%s from offset %d on: %w", partitionName(fetch.Topic, fetch.Partition), fetch.NextOffset, fetch.Err)
		}
	}
}
