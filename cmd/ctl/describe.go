package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

type topicJSON struct {
	Name       string          `json:"name"`
	TopicID    string          `json:"topic_id"`
	Partitions []partitionJSON `json:"partitions"`
	Configs    []configJSON    `json:"configs"`
}

type configJSON struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// partitionJSON is the state of a partition; offsets are null where the leader did not say.
type partitionJSON struct {
	Topic          string  `json:"topic,omitempty"`
	Partition      int32   `json:"partition"`
	Leader         *int32  `json:"leader"`
	LeaderEpoch    int32   `json:"leader_epoch"`
	PartitionEpoch int32   `json:"partition_epoch"`
	ISR            []int32 `json:"isr"`
	ELR            []int32 `json:"elr"`
	Replicas       []int32 `json:"replicas"`
	LogStartOffset *int64  `json:"log_start_offset"`
	HighWatermark  *int64  `json:"high_watermark"`
	LogEndOffset   *int64  `json:"log_end_offset"`
	PossiblyLossy  bool    `json:"possibly_lossy,omitempty"`
}

// partitionOffsets are start, HighWatermark and end by partition name.
type partitionOffsets map[string][]int64

// offsetsOf asks the leaders for start, HighWatermark and end of each partition, all leaders at once: one that does not answer in
// time leaves its own partitions without, and no others.
func offsetsOf(ctx context.Context, c *client.Client, timeout time.Duration, topics ...client.Topic) partitionOffsets {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type asked struct {
		topic     string
		partition int32
	}
	led := make(map[int32][]asked)
	for _, t := range topics {
		for _, p := range t.Partitions {
			if p.Leader >= 0 {
				led[p.Leader] = append(led[p.Leader], asked{t.Name, p.Partition})
			}
		}
	}
	var mu sync.Mutex
	out := make(partitionOffsets)
	g := lifecycle.New(ctx, "offsets", slog.New(slog.DiscardHandler))
	for _, list := range led {
		g.Go("leader", func(context.Context) error {
			for _, p := range list {
				offsets, err := c.ListOffsets(ctx, p.topic, p.partition, client.AtStart(), client.AtEnd(), client.AtLogEnd())
				if err == nil {
					mu.Lock()
					out[partitionName(p.topic, p.partition)] = offsets
					mu.Unlock()
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil { // they return no failures
		return nil
	}
	return out
}

func describedTopic(t client.Topic, configs []client.TopicConfig, offsets partitionOffsets) topicJSON {
	d := topicJSON{Name: t.Name, TopicID: t.ID, Partitions: []partitionJSON{}, Configs: []configJSON{}}
	for _, p := range t.Partitions {
		d.Partitions = append(d.Partitions, describedPartition("", p, offsets[partitionName(t.Name, p.Partition)]))
	}
	for _, c := range configs {
		d.Configs = append(d.Configs, configJSON{Key: c.Key, Value: c.Value, Source: c.Source})
	}
	return d
}

func describedPartition(topic string, p client.Partition, offsets []int64) partitionJSON {
	j := partitionJSON{
		Topic: topic, Partition: p.Partition, Leader: nodeOrNull(p.Leader), LeaderEpoch: p.LeaderEpoch,
		PartitionEpoch: p.PartitionEpoch, ISR: orEmpty(p.ISR), ELR: orEmpty(p.ELR), Replicas: orEmpty(p.Replicas),
		PossiblyLossy: p.PossiblyLossy,
	}
	if len(offsets) == 3 {
		j.LogStartOffset, j.HighWatermark, j.LogEndOffset = &offsets[0], &offsets[1], &offsets[2]
	}
	return j
}

func describeTable(w io.Writer, d topicJSON, wide bool) error {
	if err := row(w, "topic "+d.Name+"  id "+d.TopicID); err != nil {
		return err
	}
	if err := partitionTable(w, d.Partitions, wide); err != nil {
		return err
	}
	gap := false
	for _, c := range d.Configs {
		if c.Source == "default" && !wide {
			continue
		}
		if !gap { // settings are a table of their own
			gap = true
			if err := row(w, ""); err != nil {
				return err
			}
		}
		if err := row(w, c.Key+"="+c.Value, c.Source); err != nil {
			return err
		}
	}
	return nil
}

func partitionTable(w io.Writer, list []partitionJSON, wide bool) error {
	head := []any{"PARTITION", "LEADER", "EPOCH", "ISR", "REPLICAS", "START", "HIGH-WATERMARK", "END"}
	if wide {
		head = append(head, "ELR", "PARTITION-EPOCH")
	}
	if err := row(w, head...); err != nil {
		return err
	}
	for _, p := range list {
		var name any = p.Partition
		if p.Topic != "" {
			name = partitionName(p.Topic, p.Partition)
		}
		cells := []any{
			name, known(p.Leader), p.LeaderEpoch, ids(p.ISR), ids(p.Replicas),
			known(p.LogStartOffset), known(p.HighWatermark), known(p.LogEndOffset),
		}
		if wide {
			cells = append(cells, ids(p.ELR), p.PartitionEpoch)
		}
		if err := row(w, cells...); err != nil {
			return err
		}
	}
	for _, p := range list {
		if !p.PossiblyLossy {
			continue
		}
		name := fmt.Sprintf("partition %d", p.Partition)
		if p.Topic != "" {
			name = partitionName(p.Topic, p.Partition)
		}
		if err := row(w, name+": its last election may have lost acknowledged records; compare with what producers hold receipts for"); err != nil {
			return err
		}
	}
	return nil
}
