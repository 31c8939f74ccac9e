package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/testcluster"
)

// commands runs brokerctl against a cluster.
type commands struct {
	t         *testing.T
	bootstrap string
}

// run returns exit code and output of one command line; stdin is a terminal where terminal is set.
func (c commands) run(stdin string, terminal bool, args ...string) (code int, out, notes string) {
	c.t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(c.t.Context(), append([]string{"--bootstrap", c.bootstrap}, args...), streams{
		in: strings.NewReader(stdin), out: &stdout, err: &stderr, terminal: terminal,
	})
	return code, stdout.String(), stderr.String()
}

// ok runs a command line that must succeed.
func (c commands) ok(args ...string) (out, notes string) {
	c.t.Helper()
	code, out, notes := c.run("", false, args...)
	if code != exitOK {
		c.t.Fatalf("brokerctl %s: exit %d\n%s%s", strings.Join(args, " "), code, out, notes)
	}
	return out, notes
}

// json runs a command line that must succeed and reads what it prints.
func (c commands) json(to any, args ...string) {
	c.t.Helper()
	out, _ := c.ok(append([]string{"-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), to); err != nil {
		c.t.Fatalf("brokerctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// fails runs a command line that must end with the code and say the words.
func (c commands) fails(want int, says string, args ...string) {
	c.t.Helper()
	code, out, notes := c.run("", false, args...)
	if code != want || !strings.Contains(notes, says) || out != "" {
		c.t.Errorf("brokerctl %s: exit %d, want %d; it should say %q:\n%s%s", strings.Join(args, " "), code, want, says, out, notes)
	}
}

func TestTopicLife(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster: not in -short")
	}
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := commands{t: t, bootstrap: strings.Join(cluster.Bootstrap(), ",")}
	c.ok("topic", "create", "logs", "--partitions", "2", "--config", "segment.bytes=16384")
	t.Run("add-partitions", func(t *testing.T) { addPartitions(commands{t, c.bootstrap}) })
	t.Run("config", func(t *testing.T) { changeConfig(commands{t, c.bootstrap}) })
	t.Run("trim", func(t *testing.T) { trim(commands{t, c.bootstrap}) })
	t.Run("delete and recreate", func(t *testing.T) {
		c := commands{t, c.bootstrap}
		var before, after topicJSON
		c.json(&before, "topic", "describe", "logs")
		c.ok("topic", "delete", "logs", "--yes")
		c.ok("topic", "create", "logs", "--partitions", "1")
		c.json(&after, "topic", "describe", "logs")
		if after.TopicID == before.TopicID || len(after.Partitions) != 1 || *after.Partitions[0].HighWatermark != 0 {
			t.Errorf("%+v after %+v", after, before)
		}
	})
}

func addPartitions(c commands) {
	c.fails(exitUsage, "needs --total", "topic", "add-partitions", "logs")
	c.fails(exitFailed, "INVALID_PARTITIONS", "topic", "add-partitions", "logs", "--total", "2")
	c.fails(exitFailed, "INVALID_PARTITIONS", "topic", "add-partitions", "logs", "--total", "1", "--dry-run")
	c.fails(exitFailed, "UNKNOWN_TOPIC_OR_PARTITION", "topic", "add-partitions", "none", "--total", "4")
	out, notes := c.ok("topic", "add-partitions", "logs", "--total", "4", "--dry-run")
	if !strings.Contains(notes, "would add 2 partitions") || strings.Count(out, "\n") != 3 {
		c.t.Errorf("%s%s", notes, out)
	}
	var d topicJSON
	if c.json(&d, "topic", "describe", "logs"); len(d.Partitions) != 2 {
		c.t.Fatalf("--dry-run changed something: %d partitions", len(d.Partitions))
	}
	if out, notes := c.ok("topic", "add-partitions", "logs", "--total", "4"); out != "" || !strings.Contains(notes, "4 in total") {
		c.t.Errorf("%s%s", notes, out)
	}
	var added topicJSON
	c.json(&added, "topic", "add-partitions", "logs", "--total", "5")
	if len(added.Partitions) != 1 || added.Partitions[0].Partition != 4 || len(added.Partitions[0].Replicas) != 3 {
		c.t.Errorf("%+v", added)
	}
}

func changeConfig(c commands) {
	setting := func(list []settingJSON, key string) settingJSON {
		for _, s := range list {
			if s.Key == key {
				return s
			}
		}
		c.t.Fatalf("no setting %s in %+v", key, list)
		return settingJSON{}
	}
	c.fails(exitUsage, "KEY=VALUE", "topic", "config", "logs", "--set", "flush.mode")
	c.fails(exitUsage, "twice", "topic", "config", "logs", "--set", "flush.mode=os", "--set", "flush.mode=fsync")
	c.fails(exitUsage, "at once", "topic", "config", "logs", "--set", "flush.mode=os", "--unset", "flush.mode")
	c.fails(exitUsage, "only the name", "topic", "config", "logs", "--unset", "flush.mode=os")
	c.fails(exitFailed, `did you mean "segment.bytes"`, "topic", "config", "logs", "--set", "segment.byte=16384")
	c.fails(exitFailed, "between 16384 and", "topic", "config", "logs", "--set", "segment.bytes=7")
	c.fails(exitFailed, "UNKNOWN_TOPIC", "topic", "config", "none", "--set", "flush.mode=os")
	c.fails(exitFailed, "at most 3", "topic", "config", "logs", "--set", "min.insync.replicas=4")
	var list []settingJSON
	c.json(&list, "topic", "config", "logs")
	if s := setting(list, "segment.bytes"); s.Value != "16384" || s.Source != "topic" || s.Default != "1073741824" || s.Documentation == "" || s.Allowed == "" {
		c.t.Errorf("%+v", s)
	}
	if s := setting(list, "min.insync.replicas"); s.Value != "2" || s.Source != "default" || s.Default != "2" {
		c.t.Errorf("%+v", s)
	}
	c.json(&list, "topic", "config", "logs", "--set", "flush.mode=os", "--dry-run")
	if s := setting(list, "flush.mode"); s.Value != "os" {
		c.t.Errorf("planned: %+v", s)
	}
	c.json(&list, "topic", "config", "logs", "--set", "max.message.bytes=2048", "--set", "segment.ms=60000", "--unset", "min.insync.replicas")
	if setting(list, "max.message.bytes").Value != "2048" || setting(list, "segment.ms").Source != "topic" || setting(list, "flush.mode").Value != "fsync" {
		c.t.Errorf("%+v", list)
	}
	if out, notes := c.ok("topic", "config", "logs", "--unset", "max.message.bytes"); out != "" || !strings.Contains(notes, "1 unset") {
		c.t.Errorf("%s%s", notes, out)
	}
	for _, format := range []string{"text", "wide", "yaml"} {
		out, _ := c.ok("topic", "config", "logs", "-o", format)
		if !strings.Contains(out, "segment.ms") || !strings.Contains(out, "60000") {
			c.t.Errorf("-o %s:\n%s", format, out)
		}
	}
}

func trim(c commands) {
	line := strings.Repeat("x", 999) + "\n"
	if code, _, notes := c.run(strings.Repeat(line, 100), false, "produce", "logs", "-p", "3"); code != exitOK {
		c.t.Fatal(notes)
	}
	c.fails(exitUsage, "needs --partition", "topic", "trim", "logs", "--to", "5")
	c.fails(exitUsage, "needs --to", "topic", "trim", "logs", "--partition", "3")
	c.fails(exitUsage, "no offset", "topic", "trim", "logs", "--partition", "3", "--to", "-2")
	c.fails(exitUsage, "no offset", "topic", "trim", "logs", "--partition", "3", "--to", "start")
	c.fails(exitUsage, "needs --yes", "topic", "trim", "logs", "--partition", "3", "--to", "5")
	c.fails(exitFailed, "UNKNOWN_TOPIC_OR_PARTITION", "topic", "trim", "logs", "--partition", "9", "--to", "5", "--yes")
	var plan, done trimmedJSON
	c.json(&plan, "topic", "trim", "logs", "--partition", "3", "--to", "end", "--dry-run")
	if plan.LogStartOffset != 100 || plan.PreviousLogStartOffset != 0 || plan.HighWatermark != 100 {
		c.t.Errorf("%+v", plan)
	}
	if code, _, notes := c.run("n\n", true, "topic", "trim", "logs", "--partition", "3", "--to", "60"); code != exitFailed || !strings.Contains(notes, "from offset 0 to 59 for good? [y/N]") {
		c.t.Errorf("exit %d: %s", code, notes)
	}
	if code, _, notes := c.run("y\n", true, "topic", "trim", "logs", "--partition", "3", "--to", "60"); code != exitOK || !strings.Contains(notes, "trimmed logs/3 from offset 0 to 60") {
		c.t.Errorf("exit %d: %s", code, notes)
	}
	if out, _ := c.ok("consume", "logs", "-p", "3", "--from-beginning", "-e"); strings.Count(out, "\n") != 40 {
		c.t.Errorf("%d lines are left", strings.Count(out, "\n"))
	}
	c.fails(exitFailed, "OFFSET_OUT_OF_RANGE", "consume", "logs", "-p", "3", "-O", "59", "-n", "1")
	if _, notes := c.ok("topic", "trim", "logs", "--partition", "3", "--to", "10", "--yes"); !strings.Contains(notes, "nothing to trim") {
		c.t.Error(notes)
	}
	c.fails(exitFailed, "OFFSET_OUT_OF_RANGE", "topic", "trim", "logs", "--partition", "3", "--to", "101", "--yes")
	if c.json(&done, "topic", "trim", "logs", "--partition", "3", "--to", "end", "--yes"); done.LogStartOffset != 100 || done.PreviousLogStartOffset != 60 {
		c.t.Errorf("%+v", done)
	}
}

func TestTrimOffsets(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "17": 17, "-1": client.TrimToEnd, "end": client.TrimToEnd} {
		if got, err := trimOffset(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "-2", "x", "1e3", "99999999999999999999", "start"} {
		var usage *usageError
		if _, err := trimOffset(in); !errors.As(err, &usage) {
			t.Errorf("%q: %v", in, err)
		}
	}
}
