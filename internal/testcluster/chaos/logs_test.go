//go:build unix

package chaos

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/testcluster"
)

// keySeparator stands between key and value of the lines keyed by a field; no log has it.
const keySeparator = "\x01"

// TestRealLogs sends whole logs through the cluster, keyed by file and keyed by a field of each line, and reads them back:
// at once, after a clean restart of all nodes, after kill -9 of all at once, and after kill -9 of each in turn.
func TestRealLogs(t *testing.T) {
	const byFile, byField = "logs-by-file", "logs-by-field"
	c := startDev(t, 3)
	logs := testcluster.SampleLogs(t)
	c.createTopic(byFile, 6, 3)
	c.createTopic(byField, 6, 3)
	sentByFile, sentByField := c.produceLogs(byFile, byField, logs)
	t.Logf("%d keys by file, %d keys by field", len(sentByFile), len(sentByField))
	if len(sentByField) < 200 {
		t.Errorf("only %d keys by field", len(sentByField))
	}
	verify := func(when string) {
		t.Helper()
		for _, wrong := range CheckKeyed(sentByFile, c.view(byFile, when)) {
			t.Errorf("%s: %s: %s", byFile, when, wrong)
		}
		for _, wrong := range CheckKeyed(sentByField, c.view(byField, when)) {
			t.Errorf("%s: %s: %s", byField, when, wrong)
		}
	}
	verify("at once")
	for topic, sent := range map[string]map[string][]string{byFile: sentByFile, byField: sentByField} {
		for _, wrong := range CheckKeyed(sent, c.viewByCtl(topic)) {
			t.Errorf("%s through brokerctl: %s", topic, wrong)
		}
	}
	c.checkTextOutput(byFile, sentByFile)

	c.stopAll()
	c.startAll()
	verify("after all nodes were stopped and started")

	c.killEverything()
	c.startAll()
	verify("after all nodes were killed at once")

	for i := 1; i <= c.n; i++ {
		before := ledBy(c.mustTopic(byFile), int32(i))
		c.kill(i)
		verify(fmt.Sprintf("while node %d was dead", i))
		c.start(i)
		c.awaitHealthy()
		if len(before) > 0 {
			c.mustHaveGrown(byFile, before)
		}
		verify(fmt.Sprintf("after node %d was killed and came back", i))
	}
	c.compareStopped(byFile, byField)
}

// killEverything kills all nodes at once, and broker dev with them.
func (c *cluster) killEverything() {
	c.t.Helper()
	dev := c.dev
	if err := dev.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	<-dev.ended
	c.dev = nil
	var nodes []int
	for i := 1; i <= c.n; i++ {
		nodes = append(nodes, i)
	}
	c.kill(nodes...)
}

// produceLogs sends every log to both topics, and returns what each key got.
func (c *cluster) produceLogs(byFile, byField string, logs []testcluster.SampleLog) (sentByFile, sentByField map[string][]string) {
	c.t.Helper()
	sentByFile, sentByField = map[string][]string{}, map[string][]string{}
	for _, log := range logs {
		path := filepath.Join(c.t.TempDir(), log.Name)
		if err := os.WriteFile(path, bytes.Join(log.Lines, []byte("\n")), 0o600); err != nil {
			c.t.Fatal(err)
		}
		c.must("produce", byFile, "-k", log.Name, "--input", path)
		keyOf := keyOf(log)
		var keyed strings.Builder
		for _, line := range log.Lines {
			sentByFile[log.Name] = append(sentByFile[log.Name], string(line))
			key := keyOf(line)
			sentByField[key] = append(sentByField[key], string(line))
			keyed.WriteString(key + keySeparator + string(line) + "\n")
		}
		if r := c.ctlInput(keyed.String(), "produce", byField, "--key-separator", keySeparator, "-z", "zstd"); r.code != 0 {
			c.t.Fatal(r)
		}
	}
	return sentByFile, sentByField
}

// keyOf chooses how the lines of a log are keyed: by the field that has the most values, but not one for nearly each line;
// where that gives few keys, by the end of the field that has the most values.
func keyOf(log testcluster.SampleLog) func(line []byte) string {
	most := func(limit int) (field, values int) {
		for n := range 10 {
			distinct := map[string]bool{}
			for _, line := range log.Lines {
				distinct[fieldOf(line, n)] = true
			}
			if len(distinct) > values && len(distinct) <= limit {
				field, values = n, len(distinct)
			}
		}
		return field, values
	}
	if field, values := most(len(log.Lines) / 2); values >= 100 {
		return func(line []byte) string { return fieldOf(line, field) }
	}
	field, _ := most(len(log.Lines))
	return func(line []byte) string {
		value := fieldOf(line, field)
		return log.Name + ":" + value[max(0, len(value)-2):]
	}
}

// fieldOf is a field of a line, or nothing.
func fieldOf(line []byte, n int) string {
	fields := bytes.Fields(line)
	if n >= len(fields) {
		return ""
	}
	return string(fields[n])
}

// viewByCtl reads a whole topic by `brokerctl consume -o json`.
func (c *cluster) viewByCtl(topic string) View {
	c.t.Helper()
	view := View{Name: "brokerctl consume"}
	for line := range strings.Lines(c.must("consume", topic, "--from-beginning", "-e", "-o", "json")) {
		var r struct {
			Topic      string
			Partition  int32
			Offset     int64
			Timestamp  int64
			Key, Value json.RawMessage
			Headers    []struct{ Key, Value json.RawMessage }
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			c.t.Fatalf("brokerctl consume -o json wrote %q: %v", line, err)
		}
		if r.Topic != topic || r.Timestamp <= 0 || len(r.Headers) > 0 {
			c.t.Errorf("brokerctl consume -o json wrote %q", line)
		}
		view.Records = append(view.Records, Read{
			Partition: r.Partition, Offset: r.Offset, LeaderEpoch: -1, Key: c.jsonBytes(r.Key), Value: c.jsonBytes(r.Value),
		})
	}
	return view
}

// jsonBytes reads bytes as brokerctl writes them: a string, or {"base64": "..."} where they are not UTF-8.
func (c *cluster) jsonBytes(raw json.RawMessage) string {
	c.t.Helper()
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var coded struct{ Base64 *string }
	if err := json.Unmarshal(raw, &coded); err != nil || coded.Base64 == nil {
		c.t.Fatalf("neither a string nor base64: %s", raw)
	}
	decoded, err := base64.StdEncoding.DecodeString(*coded.Base64)
	if err != nil {
		c.t.Fatalf("%s: %v", raw, err)
	}
	return string(decoded)
}

// checkTextOutput reads each partition as text: the bytes of its lines, each with a line end.
func (c *cluster) checkTextOutput(topic string, sent map[string][]string) {
	c.t.Helper()
	want := map[int32]*strings.Builder{}
	for _, r := range c.view(topic, "text").Records { // within a partition in order
		if want[r.Partition] == nil {
			want[r.Partition] = &strings.Builder{}
		}
		want[r.Partition].WriteString(r.Value + "\n")
	}
	if len(want) == 0 || len(sent) == 0 {
		c.t.Fatal("nothing to compare")
	}
	for partition, text := range want {
		if got := c.must("consume", topic, "-p", fmt.Sprint(partition), "--from-beginning", "-e"); got != text.String() {
			c.t.Errorf("partition %d of %s as text: %d bytes, want %d, not the same", partition, topic, len(got), text.Len())
		}
	}
}
