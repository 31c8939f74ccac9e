package testcluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/broker"
	"github.com/penstock-io/penstock/internal/telemetry"
	"github.com/penstock-io/penstock/internal/testcluster"
)

// scrape is what one node answers to a scrape.
type scrape struct {
	text   []byte
	kinds  map[string]string             // of families, by name
	series map[string]map[string]float64 // values by name and labels
}

func scrapeNode(t *testing.T, cluster *testcluster.Cluster, i int) scrape {
	t.Helper()
	resp, err := http.Get("http://" + cluster.AdminAddress(i) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v: %s", resp.StatusCode, err, text)
	}
	s := scrape{text: text, kinds: map[string]string{}, series: map[string]map[string]float64{}}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			s.kinds[name] = kind
		}
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("node %d: %q: %v", i, line, err)
		}
		name, labels, _ := strings.Cut(line[:at], "{")
		if s.series[name] == nil {
			s.series[name] = map[string]float64{}
		}
		s.series[name][strings.TrimSuffix(labels, "}")] = value
	}
	return s
}

// scrapes are those of all nodes that run.
type scrapes []scrape

func scrapeAll(t *testing.T, cluster *testcluster.Cluster) (all scrapes) {
	t.Helper()
	for i := 1; i <= cluster.Nodes(); i++ {
		if cluster.Running(i) {
			all = append(all, scrapeNode(t, cluster, i))
		}
	}
	return all
}

// sum adds up the series of a metric that have all these labels, over the nodes.
func (all scrapes) sum(name string, labels ...string) (sum float64) {
	for _, s := range all {
		for have, value := range s.series[telemetry.MetricPrefix+name] {
			if !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(have, l) }) {
				sum += value
			}
		}
	}
	return sum
}

// awaitMetric waits for what arrives a moment later: gauges of the last checkpoint, and counters of answers under way.
func awaitMetric(t *testing.T, cluster *testcluster.Cluster, want float64, name string, labels ...string) {
	t.Helper()
	cluster.Await(fmt.Sprintf("%s%v is %v", name, labels, want), func() error {
		if have := scrapeAll(t, cluster).sum(name, labels...); have != want {
			return fmt.Errorf("it is %v", have)
		}
		return nil
	})
}

// TestMetrics drives a cluster through produce, consume, a kill and a restart, and holds every metric against what happened:
// values, names and kinds against the documented ones, and the rules of Prometheus.
func TestMetrics(t *testing.T) {
	t.Parallel()
	const records = 600
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	createSmall(t, c, "measured", 3, 3, nil)
	cluster.AwaitHealthy()
	bytesOut := produceAndConsume(t, c, records)

	awaitMetric(t, cluster, records, "topic_in_records_total", `topic="measured"`)
	awaitMetric(t, cluster, records, "topic_out_records_total", `topic="measured"`)
	all := scrapeAll(t, cluster) // holds all that came in: its bytes, batches and records are counted before they are answered
	awaitMetric(t, cluster, all.sum("topic_in_batches_total"), "server_produce_batches_total", `code="OK"`)
	awaitMetric(t, cluster, all.sum("topic_in_batches_total"), "server_produce_seconds_count", `acks="all"`)
	awaitMetric(t, cluster, all.sum("topic_in_batches_total"), "replication_append_seconds_count")
	awaitMetric(t, cluster, all.sum("topic_in_bytes_total"), "replication_appended_bytes_total")
	awaitMetric(t, cluster, all.sum("topic_in_bytes_total"), "topic_out_bytes_total")
	awaitMetric(t, cluster, 9, "replication_partitions")
	awaitMetric(t, cluster, 9, "topic_replicas", `topic="measured"`)
	awaitMetric(t, cluster, 3, "replication_leaders")
	awaitMetric(t, cluster, 3, "controller_brokers", `state="online"`)
	awaitMetric(t, cluster, 3, "controller_partitions")
	awaitMetric(t, cluster, 1, "active_controller")
	awaitMetric(t, cluster, 1, "controller_raft_state", `state="leader"`)
	awaitMetric(t, cluster, 3, "build_info", "revision=", "version=")
	awaitMetric(t, cluster, 0, "replication_under_replicated_partitions")
	cluster.Await("all that was consumed is counted as sent", func() error {
		if sent := scrapeAll(t, cluster).sum("server_sent_bytes_total", `listener="client"`); sent < float64(bytesOut) {
			return fmt.Errorf("%v bytes were sent to clients, they consumed %d", sent, bytesOut)
		}
		return nil
	})
	// Followers have everything, so all that was appended lies on three disks.
	awaitMetric(t, cluster, 3*all.sum("topic_in_bytes_total"), "topic_log_bytes")

	killed := leaderButNotController(t, cluster)
	led := scrapes{scrapeNode(t, cluster, killed)}.sum("replication_leaders")
	before := scrapeAll(t, cluster)
	cluster.Kill(killed)
	awaitMetric(t, cluster, before.sum("controller_fencings_total")+1, "controller_fencings_total")
	awaitMetric(t, cluster, before.sum("controller_elections_total", `reason="clean"`)+led, "controller_elections_total", `reason="clean"`)
	awaitMetric(t, cluster, 3, "replication_under_replicated_partitions")
	awaitMetric(t, cluster, 3, "controller_under_replicated_partitions")
	awaitMetric(t, cluster, 2, "controller_brokers", `state="online"`)
	awaitMetric(t, cluster, 0, "controller_leaderless_partitions")
	awaitMetric(t, cluster, 0, "replication_under_min_isr_partitions")
	all = scrapeAll(t, cluster)
	if all.sum("replication_isr_shrinks_total") < 3 {
		t.Errorf("a broker left 3 in-sync sets, %v shrinks were counted", all.sum("replication_isr_shrinks_total"))
	}
	// It lags behind what is appended without it, for as long as it is away.
	produceAndConsume(t, c, 30)
	cluster.Await("the lag shows", func() error {
		now := scrapeAll(t, cluster)
		follower := fmt.Sprintf("follower=%q", strconv.Itoa(killed))
		if now.sum("replication_follower_lag_records", follower) < 1 || now.sum("replication_follower_lag_seconds", follower) <= 0 {
			return fmt.Errorf("no lag of node %d", killed)
		}
		return nil
	})

	cluster.Restart(killed)
	cluster.AwaitHealthy()
	awaitMetric(t, cluster, 0, "controller_under_replicated_partitions")
	awaitMetric(t, cluster, 3, "controller_brokers", `state="online"`)
	awaitMetric(t, cluster, 0, "replication_follower_lag_records")
	awaitMetric(t, cluster, 3, "replication_isr_expands_total")
	all = scrapeAll(t, cluster)
	again := scrapes{scrapeNode(t, cluster, killed)}
	wantMetric(t, again, 3, "recovered_logs")
	if again.sum("recovery_seconds") <= 0 {
		t.Error("the restarted node says that its recovery took no time")
	}
	compareWithPage(t, all)

	if err := c.DeleteTopic(bounded(t, time.Minute), "measured"); err != nil {
		t.Fatal(err)
	}
	cluster.Await("the series of the deleted topic are gone", func() error {
		for i, s := range scrapeAll(t, cluster) {
			if bytes.Contains(s.text, []byte(`topic="measured"`)) {
				return fmt.Errorf("node %d has some", i+1)
			}
		}
		return nil
	})
}

func wantMetric(t *testing.T, all scrapes, want float64, name string, labels ...string) {
	t.Helper()
	if have := all.sum(name, labels...); have != want {
		t.Errorf("%s%v is %v, want %v", name, labels, have, want)
	}
}

// produceAndConsume produces records, in batches, and consumes all there are; it returns how many bytes their values have.
func produceAndConsume(t *testing.T, c *client.Client, n int) (size int) {
	t.Helper()
	p, err := c.NewProducer(bounded(t, time.Minute), client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var batch []client.Record
	for i := range n {
		batch = append(batch, client.Record{Topic: "measured", Key: []byte{byte(i)}, Value: bytes.Repeat([]byte("v"), 100)})
	}
	if _, err := p.ProduceSync(bounded(t, time.Minute), batch...); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(bounded(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	k, err := c.NewConsumer(client.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.AssignTopic(bounded(t, time.Minute), "measured", client.AtStart()); err != nil {
		t.Fatal(err)
	}
	for seen := 0; seen < n; {
		fetch, err := k.Poll(bounded(t, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		seen += len(fetch.Records)
		for _, r := range fetch.Records {
			size += len(r.Value)
		}
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	return size
}

// leaderButNotController is a node that leads something and does not decide.
func leaderButNotController(t *testing.T, cluster *testcluster.Cluster) int {
	t.Helper()
	active := cluster.ActiveController()
	for partition := range int32(3) {
		if leader := cluster.LeaderOf("measured", partition); leader != active {
			return leader
		}
	}
	t.Fatal("the active controller leads everything")
	return 0
}

// compareWithPage holds names and kinds of what the nodes show against what is documented, both ways, and against the rules.
func compareWithPage(t *testing.T, all scrapes) {
	t.Helper()
	documented := map[string]telemetry.MetricKind{}
	for _, group := range broker.MetricGroups() {
		for _, m := range group.Metrics {
			documented[telemetry.MetricPrefix+m.Name] = m.Kind
		}
	}
	shown := map[string]bool{}
	for i, s := range all {
		problems, err := promlint.New(bytes.NewReader(s.text)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("node %d: %s: %s", i+1, p.Metric, p.Text)
		}
		for name, kind := range s.kinds {
			shown[name] = true
			if want, ok := documented[name]; ok && string(want) != kind {
				t.Errorf("%s is a %s, documented as %s", name, kind, want)
			} else if !ok && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
				t.Errorf("%s is not documented", name)
			}
		}
	}
	for name := range documented {
		if !shown[name] {
			t.Errorf("%s is documented, and no node shows it", name)
		}
	}
	if !shown["go_goroutines"] || !shown["process_start_time_seconds"] {
		t.Error("the metrics of the runtime or the process are missing")
	}
}

// Series of a node: what every node has, and what each topic adds.
const (
	baseSeries  = 550
	topicSeries = 9
)

// TestSeriesAreFew: partitions and brokers add no series, topics a few.
func TestSeriesAreFew(t *testing.T) {
	t.Parallel()
	const topics = 100
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	for i := range topics {
		createSmall(t, c, fmt.Sprintf("topic-%d", i), 10, 3, nil)
	}
	cluster.AwaitHealthy()
	awaitMetric(t, cluster, 3*10*topics, "topic_replicas")
	for i, s := range scrapeAll(t, cluster) {
		n := 0
		for _, series := range s.series {
			n += len(series)
		}
		if n > baseSeries+topics*topicSeries {
			t.Errorf("node %d shows %d series, want at most %d", i+1, n, baseSeries+topics*topicSeries)
		}
		t.Logf("node %d: %d series, %d bytes", i+1, n, len(s.text))
	}
}
