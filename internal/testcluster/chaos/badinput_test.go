//go:build unix

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/testports"
)

// badTimeout bounds each request with bad input, and badPatience is how long the command may take altogether.
const (
	badTimeout  = 3 * time.Second
	badPatience = badTimeout + 20*time.Second // a busy machine takes its time to start a process
)

// badCommand is a command line that must fail.
type badCommand struct {
	name  string
	stdin string
	code  int
	want  string // in standard error: the code of the failure
	args  []string
}

func badCommands() []badCommand {
	long := strings.Repeat("x", 250)
	create := func(name string, extra ...string) []string {
		return append([]string{"topic", "create", name}, extra...)
	}
	list := []badCommand{
		{"produce to an unknown topic", "x\n", 1, "UNKNOWN_TOPIC_OR_PARTITION", []string{"produce", "nobody"}},
		{"consume an unknown topic", "", 1, "UNKNOWN_TOPIC_OR_PARTITION", []string{"consume", "nobody", "--from-beginning", "-e"}},
		{"produce to a topic that cannot be", "x\n", 1, "INVALID_TOPIC", []string{"produce", "a b"}},
		{"an offset by a time that is none", "", 2, "yesterday", []string{"consume", "good", "-O", "@yesterday"}},
		{"describe an unknown topic", "", 1, "UNKNOWN_TOPIC_OR_PARTITION", []string{"topic", "describe", "nobody"}},
		{"delete an unknown topic", "", 1, "UNKNOWN_TOPIC_OR_PARTITION", []string{"topic", "delete", "nobody", "--yes"}},
		{"produce to an unknown partition", "x\n", 1, "UNKNOWN_TOPIC_OR_PARTITION", []string{"produce", "good", "-p", "99"}},
		{"consume an unknown partition", "", 1, "UNKNOWN_TOPIC_OR_PARTITION", []string{"consume", "good", "-p", "99", "--from-beginning", "-e"}},
		{"an offset beyond the end", "", 1, "OFFSET_OUT_OF_RANGE", []string{"consume", "good", "-p", "0", "-O", "1000000", "-n", "1"}},
		{"a topic that exists", "", 1, "TOPIC_ALREADY_EXISTS", create("good")},
		{"more replicas than brokers", "", 1, "INVALID_REPLICATION_FACTOR", create("t", "--replication-factor", "4")},
		{"no replica", "", 1, "INVALID_REPLICATION_FACTOR", create("t", "--replication-factor", "0")},
		{"0 partitions", "", 1, "INVALID_PARTITIONS", create("t", "--partitions", "0")},
		{"-1 partitions", "", 1, "INVALID_PARTITIONS", create("t", "--partitions", "-1")},
		{"too many partitions", "", 1, "INVALID_PARTITIONS", create("t", "--partitions", "2000000000")},
		{"an unknown setting", "", 1, "INVALID_CONFIG", create("t", "--config", "retention.sm=1")},
		{"a malformed setting", "", 1, "INVALID_CONFIG", create("t", "--config", "min.insync.replicas=two")},
		{"a setting without a value", "", 2, "KEY=VALUE", create("t", "--config", "retention.ms")},
		{"a setting out of bounds", "", 1, "INVALID_CONFIG", create("t", "--config", "min.insync.replicas=0")},
		{"fewer partitions than there are", "", 1, "INVALID_PARTITIONS", []string{"topic", "add-partitions", "good", "--total", "2"}},
		{"partitions for an unknown topic", "", 1, "UNKNOWN_TOPIC_OR_PARTITION", []string{"topic", "add-partitions", "nobody", "--total", "9"}},
		{"changing an unknown setting", "", 1, "INVALID_CONFIG", []string{"topic", "config", "good", "--set", "retention.sm=1"}},
		{"changing a setting to nonsense", "", 1, "INVALID_CONFIG", []string{"topic", "config", "good", "--set", "flush.mode=never"}},
		{"a line that is too large", strings.Repeat("y", 1<<20) + "\n", 1, "BATCH_TOO_LARGE", []string{"produce", "good"}},
		{"a line without the separator", "no separator\n", 1, "line 1", []string{"produce", "good", "--key-separator", "\t"}},
		{"acks that do not exist", "x\n", 2, "acks", []string{"produce", "good", "--acks", "some"}},
		{"receipts without acknowledgements", "x\n", 2, "receipts", []string{"produce", "good", "--acks", "none", "--receipts"}},
		{"an unknown codec", "x\n", 2, "brotli", []string{"produce", "good", "-z", "brotli"}},
		{"an unknown command", "", 2, "unknown command", []string{"topics"}},
		{"an unknown flag", "", 2, "--partition", create("t", "--partition", "3")},
		{"no topic", "", 2, "produce", []string{"produce"}},
		{"deleting without a terminal", "", 2, "--yes", []string{"topic", "delete", "good"}},
	}
	for _, name := range []string{"../x", "", long, "a/b", "ü", "__x", ".", "..", "a b", "a\nb"} {
		list = append(list, badCommand{fmt.Sprintf("a topic called %.10q", name), "", 1, "INVALID_TOPIC", create(name)})
	}
	return list
}

// TestBadInput gives the cluster everything that it must refuse: one clear answer with its code, in time; nothing is written,
// and nothing else suffers.
func TestBadInput(t *testing.T) {
	c := startDev(t, 3)
	c.createTopic("good", 3, 3)
	c.createTopic("strict", 1, 3, "min.insync.replicas=3")
	if r := c.ctlInput("one\ntwo\nthree\n", "produce", "good"); r.code != 0 {
		t.Fatal(r)
	}
	topics := c.must("topic", "list", "-o", "json")
	unchanged := func(t *testing.T) {
		t.Helper()
		if now := c.must("topic", "list", "-o", "json"); now != topics {
			t.Errorf("the topics have changed from %s to %s", topics, now)
		}
		if n := len(c.view("good", "what is there").Records); n != 3 {
			t.Errorf("%d records instead of 3: something was written", n)
		}
	}
	t.Run("brokerctl", func(t *testing.T) {
		for _, bad := range badCommands() {
			t.Run(bad.name, func(t *testing.T) {
				r := c.ctlInput(bad.stdin, append([]string{"--timeout", badTimeout.String()}, bad.args...)...)
				if r.code != bad.code || !strings.Contains(r.err, bad.want) || r.out != "" {
					t.Errorf("want exit status %d and %s:\n%v", bad.code, bad.want, r)
				}
				if r.took > badPatience {
					t.Errorf("answered only after %v", r.took)
				}
				mustReadWell(t, r.err)
			})
		}
		unchanged(t)
	})
	t.Run("batches", func(t *testing.T) {
		c.badBatches(t)
		unchanged(t)
	})
	t.Run("configuration", func(t *testing.T) {
		c.badConfigurations(t)
		unchanged(t)
	})
	c.awaitHealthy()
	t.Run("too few in sync", func(t *testing.T) { c.tooFewInSync(t) })
	begin := time.Now()
	c.start(3)
	c.awaitHealthy()
	t.Logf("healthy %v after the start of the dead node", time.Since(begin).Round(time.Millisecond))
	unchanged(t)
	if r := c.ctlInput("four\n", "produce", "strict", "--receipts"); r.code != 0 || !strings.Contains(r.out, `"isr":3`) {
		t.Error(r)
	}
}

// mustReadWell wants one short text without traces of the program's insides.
func mustReadWell(t *testing.T, text string) {
	t.Helper()
	text = strings.TrimSpace(text)
	if strings.Count(text, "\n") > 1 || len(text) > 1000 {
		t.Errorf("not one clear error:\n%s", text)
	}
	for _, trace := range []string{"panic", "goroutine", "rpc error", "%!", "<nil>"} {
		if strings.Contains(text, trace) {
			t.Errorf("the error shows %q:\n%s", trace, text)
		}
	}
}

// badBatches sends batches that lie to the leader of a partition.
func (c *cluster) badBatches(t *testing.T) {
	topic := c.mustTopic("good")
	conn, err := grpc.NewClient("passthrough:///"+c.address(leaderOf(t, topic, 0)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	producers := penstockv1.NewProducerServiceClient(conn)
	good := func(value []byte) []byte {
		b := record.NewBuilder(record.BuilderOptions{})
		for range 3 {
			if err := b.Add(record.Record{Value: value, Timestamp: time.Now().UnixMilli()}); err != nil {
				t.Fatal(err)
			}
		}
		batch, err := b.Finish(record.None, -1, -1, -1)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(batch)
	}
	change := func(batch []byte, at int, mend bool) []byte {
		batch[at] ^= 1
		if mend { // SetProducer reckons the checksum anew
			if err := record.SetProducer(batch, -1, -1, -1); err != nil {
				t.Fatal(err)
			}
		}
		return batch
	}
	const countAt, deltaAt, magicAt = 60, 26, 16
	value := []byte("must not arrive")
	for _, bad := range []struct {
		name  string
		batch []byte
		want  []penstockv1.ErrorCode
	}{
		{"a wrong checksum", change(good(value), len(good(value))-1, false), []penstockv1.ErrorCode{penstockv1.ErrorCode_ERROR_CODE_CORRUPT_BATCH}},
		{"a count that lies", change(good(value), countAt, true), []penstockv1.ErrorCode{penstockv1.ErrorCode_ERROR_CODE_CORRUPT_BATCH}},
		{"a last offset delta that lies", change(good(value), deltaAt, true), []penstockv1.ErrorCode{penstockv1.ErrorCode_ERROR_CODE_CORRUPT_BATCH}},
		{"another magic", change(good(value), magicAt, false), []penstockv1.ErrorCode{
			penstockv1.ErrorCode_ERROR_CODE_CORRUPT_BATCH, penstockv1.ErrorCode_ERROR_CODE_INVALID_REQUEST, penstockv1.ErrorCode_ERROR_CODE_INVALID_RECORD,
		}},
		{"a batch cut short", good(value)[:70], []penstockv1.ErrorCode{penstockv1.ErrorCode_ERROR_CODE_CORRUPT_BATCH}},
		{"garbage", []byte("garbage"), []penstockv1.ErrorCode{penstockv1.ErrorCode_ERROR_CODE_CORRUPT_BATCH}},
		{"a batch that is too large", good(bytes.Repeat([]byte{'z'}, 1<<20)), []penstockv1.ErrorCode{penstockv1.ErrorCode_ERROR_CODE_BATCH_TOO_LARGE}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), badTimeout)
			defer cancel()
			answer, err := producers.ProduceOnce(ctx, &penstockv1.ProduceRequest{
				Topic: "good", Partition: 0, Acks: penstockv1.Acks_ACKS_ALL, TimeoutMs: 2000, Batch: bad.batch,
			})
			refusal := answer.GetError()
			if refusal == nil {
				refusal = errorDetail(err)
			}
			found := false
			for _, want := range bad.want {
				found = found || refusal.GetCode() == want
			}
			if !found || answer.GetReceipt() != nil || refusal.GetMessage() == "" || !refusal.GetDefinite() {
				t.Errorf("want %v: %v, %v", bad.want, answer, err)
			}
			mustReadWell(t, refusal.GetMessage())
		})
	}
}

// badConfigurations starts brokers that must not start.
func (c *cluster) badConfigurations(t *testing.T) {
	text, err := os.ReadFile(c.config(1))
	if err != nil {
		t.Fatal(err)
	}
	// A free node: a cluster of its own.
	free := testports.Take(t, 4)
	alone := strings.NewReplacer(
		strconv.Itoa(c.port), strconv.Itoa(free), strconv.Itoa(c.port+1), strconv.Itoa(free+1),
		strconv.Itoa(c.port+2), strconv.Itoa(free+2), strconv.Itoa(c.port+3), strconv.Itoa(free+3),
	).Replace(string(text))
	elsewhere := strings.ReplaceAll(string(text), c.nodeDir(1), t.TempDir())
	for _, bad := range []struct {
		name, config string
		code         int
		want         []string
	}{
		{"an unknown key", string(text) + "listen.cleint: x\n", 2, []string{"listen.cleint", "listen.client"}},
		{"a repeated key", string(text) + "node.id: 7\n", 2, []string{"node.id"}},
		{"a value that is none", string(text) + "replica.lag.time.max: soon\n", 2, []string{"replica.lag.time.max"}},
		{"no YAML", "{[", 2, []string{"broker.yaml"}},
		{"a port in use", elsewhere, 1, []string{"in use"}},
		{"a data directory in use", alone, 1, []string{filepath.Join(c.nodeDir(1), "data")}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "broker.yaml")
			if err := os.WriteFile(path, []byte(bad.config), 0o600); err != nil {
				t.Fatal(err)
			}
			r := run(t, t.TempDir(), nil, "", c.bin.broker, "--config", path)
			if r.code != bad.code {
				t.Errorf("want exit status %d:\n%v", bad.code, r)
			}
			for _, want := range bad.want {
				if !strings.Contains(r.err, want) {
					t.Errorf("want %q in the error:\n%v", want, r)
				}
			}
			if r.took > badPatience {
				t.Errorf("refused only after %v", r.took)
			}
			last := strings.TrimSpace(r.err)
			mustReadWell(t, last[strings.LastIndex(last, "\n")+1:])
		})
	}
	t.Run("a file that is not there", func(t *testing.T) {
		r := run(t, t.TempDir(), nil, "", c.bin.broker, "--config", "nowhere.yaml")
		if r.code == 0 || !strings.Contains(r.err, "nowhere.yaml") {
			t.Error(r)
		}
	})
	t.Run("another cluster's directory", func(t *testing.T) {
		r := run(t, t.TempDir(), nil, "", c.bin.broker, "dev", "--brokers", "2", "--port", strconv.Itoa(free), "--data-dir", c.dir)
		if r.code != 2 || !strings.Contains(r.err, "another cluster") {
			t.Error(r)
		}
	})
}

// tooFewInSync kills a node, and produces to a topic that wants all three in sync.
func (c *cluster) tooFewInSync(t *testing.T) {
	c.kill(3)
	c.awaitLeaderSeesISR(t, "strict", 2)
	before := c.ends(t, "strict")
	r := c.ctlInput("must not arrive\n", "--timeout", badTimeout.String(), "produce", "strict", "--receipts")
	if r.code != 1 || !strings.Contains(r.out, "NOT_ENOUGH_REPLICAS") || !strings.Contains(r.err, "NOT_ENOUGH_REPLICAS") {
		t.Errorf("want exit status 1 and NOT_ENOUGH_REPLICAS:\n%v", r)
	}
	if r.took > badPatience {
		t.Errorf("answered only after %v", r.took)
	}
	if after := c.ends(t, "strict"); after != before {
		t.Errorf("the log grew from %d to %d", before, after)
	}
	if r := c.ctl("cluster", "health"); r.code != 3 {
		t.Errorf("want exit status 3 while a broker is dead:\n%v", r)
	}
}

// awaitLeaderSeesISR waits until the leader of partition 0 itself knows that its ISR has that size.
func (c *cluster) awaitLeaderSeesISR(t *testing.T, topic string, size int) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the leader of %s/0 knows of an ISR of %d", topic, size), func() error {
		described, err := c.topic(topic)
		if err != nil {
			return err
		}
		leader := described.Partitions[0].Leader
		if leader < 1 {
			return fmt.Errorf("no leader: %+v", described.Partitions)
		}
		conn, err := grpc.NewClient("passthrough:///"+c.address(int(leader)), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		seen, err := penstockv1.NewMetadataServiceClient(conn).GetMetadata(ctx, &penstockv1.GetMetadataRequest{Topics: []string{topic}})
		if err != nil {
			return err
		}
		if p := seen.GetTopics()[0].GetPartitions()[0]; p.GetLeaderId() != leader || len(p.GetIsr()) != size {
			return fmt.Errorf("broker %d sees %v", leader, p)
		}
		return nil
	})
}

func (c *cluster) ends(t *testing.T, topic string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	end, err := c.client().ListOffset(ctx, topic, 0, client.AtLogEnd())
	if err != nil {
		t.Fatal(err)
	}
	return end
}
