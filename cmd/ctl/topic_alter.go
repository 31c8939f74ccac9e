package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/client"
)

func (a *app) topicAddPartitionsCmd() *cobra.Command {
	var total int32
	var dryRun bool
	cmd := &cobra.Command{
		Use: "add-partitions NAME", Short: "Give a topic more partitions", Args: args(1, 1),
		Long: "Give a topic more partitions. Those it has stay as they are, with their records; producers choose among all of them " +
			"from then on, so that a key may go to another partition than before. Partitions cannot be taken away.",
	}
	f := cmd.Flags()
	f.Int32Var(&total, "total", 0, "number of partitions afterwards")
	f.BoolVar(&dryRun, "dry-run", false, "check everything and show the placement, change nothing")
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		if !f.Changed("total") {
			return usagef("%s needs --total", cmd.CommandPath())
		}
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			topic, err := c.AddPartitions(ctx, argv[0], total, dryRun)
			if err != nil {
				return err
			}
			done := "added"
			if dryRun {
				done = "would add"
			}
			a.notef("%s %d partitions to topic %s: %d in total", done, len(topic.Partitions), argv[0], total)
			if a.output == "text" && !dryRun {
				return nil
			}
			d := describedTopic(topic, nil, nil)
			return a.print(d, func(w io.Writer, wide bool) error { return partitionTable(w, d.Partitions, wide) })
		})
	}
	return cmd
}

// settingJSON is one setting of a topic as topic config shows it.
type settingJSON struct {
	Key           string `json:"key"`
	Value         string `json:"value"`
	Source        string `json:"source"`
	Default       string `json:"default"`
	Allowed       string `json:"allowed"`
	Documentation string `json:"documentation"`
}

func (a *app) topicConfigCmd() *cobra.Command {
	var set, unset []string
	var dryRun bool
	cmd := &cobra.Command{
		Use: "config NAME", Short: "Show or change the settings of a topic", Args: args(1, 1),
		Long: "Show the settings of a topic: value, where it comes from, default, and what it does. With --set and --unset, change " +
			"them, all or none; changes take effect on all replicas without a restart.",
	}
	f := cmd.Flags()
	f.StringArrayVar(&set, "set", nil, "setting as KEY=VALUE; repeat for more")
	f.StringArrayVar(&unset, "unset", nil, "setting that goes back to its default; repeat for more")
	f.BoolVar(&dryRun, "dry-run", false, "check everything and show the settings as they would be, change nothing")
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		change, err := configChange(set, unset)
		if err != nil {
			return err
		}
		change.ValidateOnly = dryRun
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			return a.topicConfig(ctx, c, argv[0], change)
		})
	}
	return cmd
}

// configChange reads the flags.
func configChange(set, unset []string) (client.TopicConfigChange, error) {
	change := client.TopicConfigChange{Set: make(map[string]string), Unset: unset}
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return change, usagef("--set %q is not KEY=VALUE", s)
		}
		if _, twice := change.Set[key]; twice {
			return change, usagef("--set %s is given twice", key)
		}
		change.Set[key] = value
	}
	for _, key := range unset {
		if _, both := change.Set[key]; both {
			return change, usagef("%s is to be set and unset at once", key)
		}
		if strings.Contains(key, "=") || key == "" {
			return change, usagef("--unset %q: only the name of a setting stands there", key)
		}
	}
	return change, nil
}

func (a *app) topicConfig(ctx context.Context, c *client.Client, name string, change client.TopicConfigChange) error {
	if len(change.Set)+len(change.Unset) == 0 {
		t, err := c.DescribeTopic(ctx, name)
		if err != nil {
			return err
		}
		return a.printSettings(t.Configs)
	}
	configs, err := c.AlterTopicConfig(ctx, name, change)
	if err != nil {
		return err
	}
	done := "changed"
	if change.ValidateOnly {
		done = "would change"
	}
	a.notef("%s settings of topic %s: %d set, %d unset", done, name, len(change.Set), len(change.Unset))
	if a.output == "text" && !change.ValidateOnly {
		return nil
	}
	return a.printSettings(configs)
}

func (a *app) printSettings(configs []client.TopicConfig) error {
	list := make([]settingJSON, 0, len(configs))
	for _, c := range configs {
		list = append(list, settingJSON(c))
	}
	return a.print(list, func(w io.Writer, wide bool) error {
		head := []any{"SETTING", "VALUE", "SOURCE", "DEFAULT", "DOCUMENTATION"}
		if wide {
			head = append(head, "ALLOWED")
		}
		if err := row(w, head...); err != nil {
			return err
		}
		for _, s := range list {
			cells := []any{s.Key, s.Value, s.Source, s.Default, s.Documentation}
			if wide {
				cells = append(cells, s.Allowed)
			}
			if err := row(w, cells...); err != nil {
				return err
			}
		}
		return nil
	})
}

// trimmedJSON is what topic trim did, or would do.
type trimmedJSON struct {
	Topic                  string `json:"topic"`
	Partition              int32  `json:"partition"`
	PreviousLogStartOffset int64  `json:"previous_log_start_offset"`
	LogStartOffset         int64  `json:"log_start_offset"`
	HighWatermark          int64  `json:"high_watermark"`
	RemovedSegments        int32  `json:"removed_segments"`
	RemovedBytes           int64  `json:"removed_bytes"`
}

func (a *app) topicTrimCmd() *cobra.Command {
	var partition int32
	var to string
	var yes, dryRun bool
	cmd := &cobra.Command{
		Use: "trim NAME", Short: "Give up the oldest records of a partition", Args: args(1, 1),
		Long: "Give up the records of a partition below an offset, for good. The offset is the first to be kept; \"end\" (or -1) gives " +
			"up everything that is committed. What is not committed yet is always kept. Disk space comes back in whole segments.",
	}
	f := cmd.Flags()
	f.Int32Var(&partition, "partition", 0, "partition number")
	f.StringVar(&to, "to", "", "first offset to keep, or end")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&dryRun, "dry-run", false, "show what would go, change nothing")
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		for _, needed := range []string{"partition", "to"} {
			if !f.Changed(needed) {
				return usagef("%s needs --%s", cmd.CommandPath(), needed)
			}
		}
		offset, err := trimOffset(to)
		if err != nil {
			return err
		}
		if !dryRun && !yes && !a.terminal {
			return a.confirm(cmd.Context(), false, "trimming "+partitionName(argv[0], partition))
		}
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			return a.trim(ctx, c, argv[0], partition, offset, yes, dryRun)
		})
	}
	return cmd
}

// trimOffset reads --to.
func trimOffset(to string) (int64, error) {
	if to == "end" {
		return client.TrimToEnd, nil
	}
	offset, err := strconv.ParseInt(to, 10, 64)
	if err != nil || offset < client.TrimToEnd {
		return 0, usagef("--to %q is no offset: give a number from 0 on, or end", to)
	}
	return offset, nil
}

func (a *app) trim(ctx context.Context, c *client.Client, topic string, partition int32, to int64, yes, dryRun bool) error {
	done, err := c.TrimPartition(ctx, topic, partition, to, true)
	if err != nil {
		return err
	}
	name := partitionName(topic, partition)
	if !dryRun && done.Start > done.PreviousStart {
		what := fmt.Sprintf("give up the records of %s from offset %d to %d for good", name, done.PreviousStart, done.Start-1)
		if err := a.confirm(ctx, yes, what); err != nil {
			return err
		}
		// What was shown is what goes, also where the end has moved on since.
		if done, err = c.TrimPartition(ctx, topic, partition, done.Start, false); err != nil {
			return err
		}
	}
	switch {
	case done.Start == done.PreviousStart:
		a.notef("%s begins at offset %d: nothing to trim", name, done.Start)
	case dryRun:
		a.notef("would trim %s from offset %d to %d: %d segments, %d bytes", name, done.PreviousStart, done.Start, done.RemovedSegments, done.RemovedBytes)
	default:
		a.notef("trimmed %s from offset %d to %d: %d segments, %d bytes", name, done.PreviousStart, done.Start, done.RemovedSegments, done.RemovedBytes)
	}
	if a.output == "text" {
		return nil
	}
	out := trimmedJSON{
		Topic: topic, Partition: partition, PreviousLogStartOffset: done.PreviousStart, LogStartOffset: done.Start,
		HighWatermark: done.HighWatermark, RemovedSegments: done.RemovedSegments, RemovedBytes: done.RemovedBytes,
	}
	return a.print(out, func(w io.Writer, _ bool) error {
		if err := row(w, "PARTITION", "START", "WAS", "HIGH-WATERMARK", "SEGMENTS", "BYTES"); err != nil {
			return err
		}
		return row(w, name, out.LogStartOffset, out.PreviousLogStartOffset, out.HighWatermark, out.RemovedSegments, out.RemovedBytes)
	})
}
