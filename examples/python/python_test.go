//go:build unix

package python_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/documents"
	"github.com/penstock-io/penstock/internal/testcluster/chaos"
)

// TestPython runs the session of the README, and then both programs while a leader is killed.
func TestPython(t *testing.T) {
	needPython(t)
	c := startCluster(t)
	c.session()
	c.samePartitions()
	c.secondCopies()
	c.failover()
	c.tinyCredit()
	c.grown()
	c.madeAnew()
	c.plainErrors()
}

// session runs the shell blocks of the README as they stand.
func (c *devCluster) session() {
	c.t.Helper()
	blocks, err := documents.Session(repository, "TestPython")
	if err != nil {
		c.t.Fatal(err)
	}
	var script strings.Builder
	for _, b := range blocks {
		script.WriteString(b.Text)
	}
	out, errOut := c.must(nil, "bash", "-euo", "pipefail", "-c", script.String())
	for _, want := range []string{`"customer": "ada"`, `"note": "grüße"`} {
		if !strings.Contains(out, want) {
			c.t.Errorf("the session does not show %s:\n%s\n%s", want, out, errOut)
		}
	}
	if !strings.Contains(errOut, "100 of 100 records acknowledged") {
		c.t.Errorf("the session does not tell of 100 records:\n%s", errOut)
	}
}

// row is a line of consumer.py and of `brokerctl consume -o json`.
type row struct {
	Partition int32           `json:"partition"`
	Offset    int64           `json:"offset"`
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
}

func (c *devCluster) rows(text string) []row {
	c.t.Helper()
	var rows []row
	for line := range strings.Lines(text) {
		var r row
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			c.t.Fatalf("%v: %s", err, line)
		}
		rows = append(rows, r)
	}
	return rows
}

// samePartitions writes keys of many lengths from Python and with brokerctl: each lies in the same partition.
func (c *devCluster) samePartitions() {
	c.t.Helper()
	var objects, lines strings.Builder
	for n := range 200 {
		key := strings.Repeat("k", n%9) + strconv.Itoa(n*n) + strings.Repeat("é", n%4)
		fmt.Fprintf(&objects, "{\"customer\": %q, \"n\": %d}\n", key, n)
		fmt.Fprintf(&lines, "%s|%d\n", key, n)
	}
	homes := map[string]int32{}
	c.must(nil, "bin/brokerctl", "topic", "create", "keys-go", "--partitions", "7")
	c.must(nil, "bin/brokerctl", "topic", "create", "keys-python", "--partitions", "7")
	c.must(strings.NewReader(lines.String()), "bin/brokerctl", "produce", "keys-go", "--key-separator", "|")
	c.must(strings.NewReader(objects.String()), "examples/python/producer.py", "keys-python", "--stdin", "--quiet")
	out, _ := c.must(nil, "bin/brokerctl", "-o", "json", "consume", "keys-go", "--from-beginning", "-e")
	for _, r := range c.rows(out) {
		homes[r.Key] = r.Partition
	}
	out, _ = c.must(nil, "examples/python/consumer.py", "keys-python")
	rows := c.rows(out)
	if len(rows) != 200 {
		c.t.Errorf("%d of 200 records came back", len(rows))
	}
	for _, r := range rows {
		if home, known := homes[r.Key]; !known || home != r.Partition {
			c.t.Errorf("key %q: partition %d from Python, %d from Go", r.Key, r.Partition, home)
		}
	}
}

// secondCopies writes a record twice as a producer does whose answer was lost: one is read, or both where they are asked for.
func (c *devCluster) secondCopies() {
	c.t.Helper()
	c.must(nil, "bin/brokerctl", "topic", "create", "twice", "--partitions", "1")
	for _, sequence := range []string{"0", "0", "1"} {
		c.must(strings.NewReader("{}\n"), "bin/brokerctl", "produce", "twice", "-k", "k", "-H", "producer:p", "-H", "sequence:"+sequence)
	}
	for _, test := range []struct {
		args []string
		want int
	}{{[]string{"twice"}, 2}, {[]string{"twice", "--duplicates"}, 3}} {
		out, _ := c.must(nil, "examples/python/consumer.py", test.args...)
		if rows := c.rows(out); len(rows) != test.want {
			c.t.Errorf("consumer.py %v: %d records, want %d", test.args, len(rows), test.want)
		}
	}
}

// tinyCredit reads with less credit than a handful of records: where a frame gave back less than it cost, the stream would
// soon be silent for ever.
func (c *devCluster) tinyCredit() {
	c.t.Helper()
	const program = `
import sys
sys.path.insert(0, "examples/python")
import consuming
consuming.CREDIT_BYTES, consuming.FRAME_BYTES = 2000, 1000
import consumer
sys.argv = ["consumer.py", "faults"]
sys.exit(consumer.main())`
	out, _ := c.must(nil, "/usr/bin/python3", "-c", program)
	if n := len(c.rows(out)); n != faultRecords {
		c.t.Errorf("%d of %d records were read", n, faultRecords)
	}
}

const (
	faultRecords = 12000
	faultKeys    = 30
)

// value is record n as producer.py writes it.
func value(n int) string { return fmt.Sprintf(`{"customer":"c%02d","n":%d}`, n%faultKeys, n) }

// failover feeds the producer at an even pace, follows with a consumer, and kills the leader of a partition half-way.
func (c *devCluster) failover() {
	c.t.Helper()
	c.must(nil, "bin/brokerctl", "topic", "create", "faults", "--partitions", "6")
	follower := c.command(c.t.Context(), nil, "examples/python/consumer.py", "faults", "--follow")
	followed, err := follower.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := follower.Start(); err != nil {
		c.t.Fatal(err)
	}
	var seen atomic.Int64
	seenAll := make(chan struct{})
	go func() {
		defer close(seenAll)
		for lines := bufio.NewScanner(followed); lines.Scan(); {
			seen.Add(1)
		}
	}()
	producer := c.command(c.t.Context(), nil, "examples/python/producer.py", "faults", "--stdin")
	var out, errOut bytes.Buffer
	producer.Stdout, producer.Stderr = &out, &errOut
	stdin, err := producer.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := producer.Start(); err != nil {
		c.t.Fatal(err)
	}
	victim := c.leader("faults")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := range faultRecords {
		if _, err := fmt.Fprintln(stdin, value(n)); err != nil {
			c.t.Fatalf("the producer takes no more records: %v\n%s", err, errOut.String())
		}
		if n%20 == 0 {
			<-tick.C
		}
		switch n {
		case faultRecords / 3:
			c.kill(victim)
		case 2 * faultRecords / 3:
			c.restart(victim)
		}
	}
	_ = stdin.Close()
	if err := producer.Wait(); err != nil {
		c.t.Fatalf("the producer ended with %v\n%s", err, errOut.String())
	}
	if now := c.leader("faults"); now == victim {
		c.t.Errorf("node %d leads after it was killed: the fault did not bite", victim)
	}
	duplicates := c.checkReceipts(out.String())
	c.checkOnce()
	eventually(c.t, time.Minute, "the consumer that was there all the time has everything", func() error {
		if n := seen.Load(); n != faultRecords {
			return fmt.Errorf("%d of %d records", n, faultRecords)
		}
		return nil
	})
	_ = follower.Process.Signal(os.Interrupt)
	<-seenAll
	if err := follower.Wait(); err != nil {
		c.t.Errorf("the consumer ended with %v", err)
	}
	c.t.Logf("%d records, node %d killed under them: all acknowledged and read once; %d second copies in the log", faultRecords, victim, duplicates)
}

// checkReceipts looks for each acknowledged record at its place, and counts what stands in the log beyond them.
func (c *devCluster) checkReceipts(text string) (duplicates int) {
	c.t.Helper()
	type place struct {
		partition int32
		offset    int64
	}
	log := map[place]string{}
	out, _ := c.must(nil, "bin/brokerctl", "-o", "json", "consume", "faults", "--from-beginning", "-e")
	for _, r := range c.rows(out) {
		var stored string
		if err := json.Unmarshal(r.Value, &stored); err != nil {
			c.t.Fatal(err)
		}
		log[place{r.Partition, r.Offset}] = stored
	}
	n := 0
	err := chaos.ParseReceipts(strings.NewReader(text), func(r chaos.Receipt) {
		switch at := (place{r.Partition, r.Offset}); {
		case r.Error != "":
			c.t.Errorf("record %d failed with %s", n, r.Error)
		case log[at] != value(n):
			c.t.Errorf("record %d was acknowledged at %v, where %q stands", n, at, log[at])
		case r.Acked < 2 || r.FSynced != r.Acked:
			c.t.Errorf("record %d: %+v", n, r)
		}
		n++
	})
	if err != nil || n != faultRecords {
		c.t.Errorf("%d receipts for %d records: %v", n, faultRecords, err)
	}
	return len(log) - faultRecords
}

// checkOnce reads with a new consumer: each record once, each key in its order.
func (c *devCluster) checkOnce() {
	c.t.Helper()
	out, _ := c.must(nil, "examples/python/consumer.py", "faults")
	rows, last := c.rows(out), map[string]int{}
	for _, r := range rows {
		var body struct {
			N int `json:"n"`
		}
		if err := json.Unmarshal(r.Value, &body); err != nil {
			c.t.Fatal(err)
		}
		if before, seen := last[r.Key]; seen && before >= body.N {
			c.t.Errorf("key %s: record %d comes after record %d", r.Key, body.N, before)
		}
		last[r.Key] = body.N
	}
	if len(rows) != faultRecords {
		c.t.Errorf("%d of %d records were read", len(rows), faultRecords)
	}
}

// leader is the node that leads partition 0.
func (c *devCluster) leader(topic string) int {
	c.t.Helper()
	out, _ := c.must(nil, "bin/brokerctl", "-o", "json", "topic", "describe", topic)
	var described struct {
		Partitions []struct {
			Leader *int `json:"leader"`
		} `json:"partitions"`
	}
	if err := json.Unmarshal([]byte(out), &described); err != nil || len(described.Partitions) == 0 || described.Partitions[0].Leader == nil {
		c.t.Fatalf("no leader: %v: %s", err, out)
	}
	return *described.Partitions[0].Leader
}

// kill kills a node of this test's own cluster by the number in its file.
func (c *devCluster) kill(node int) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.nodeDir(node), "broker.pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, time.Minute, "the node has ended", func() error {
		if syscall.Kill(pid, 0) == nil {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
}

// restart starts a node again; `broker dev` stops it with the others.
func (c *devCluster) restart(node int) {
	c.t.Helper()
	log, err := os.Create(filepath.Join(c.nodeDir(node), "restarted.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	again := exec.Command(filepath.Join(c.home, "bin/broker"), "--config", filepath.Join(c.nodeDir(node), "broker.yaml")) //nolint:gosec // made by this test
	again.Env, again.Stdout, again.Stderr = cleanEnv(), log, log
	if err := again.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- again.Wait() }()
	c.t.Cleanup(func() {
		_ = again.Process.Signal(os.Interrupt)
		<-ended
		_ = log.Close()
	})
}

func (c *devCluster) nodeDir(node int) string {
	return filepath.Join(c.dir(), "node-"+strconv.Itoa(node))
}
