package testcluster_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/testcluster"
)

// tally counts what a producer was told, by value.
type tally struct {
	mu       sync.Mutex
	receipts map[string]client.Receipt
	failed   int
	firstErr error
}

func (a *tally) note(value string, r client.Receipt, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.failed++
		if a.firstErr == nil {
			a.firstErr = err
		}
		return
	}
	a.receipts[value] = r
}

func (a *tally) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.receipts)
}

// load is records that come all the time, of 97 keys, into the topic "load".
type load struct {
	*tally
	producer      *client.Producer
	stop, stopped chan struct{}
}

func startLoad(ctx context.Context, t *testing.T, c *client.Client) *load {
	t.Helper()
	return startLoadWith(ctx, t, c, nil)
}

// startLoadWith gives the topic settings.
func startLoadWith(ctx context.Context, t *testing.T, c *client.Client, configs map[string]string) *load {
	t.Helper()
	createTopic(t, c, "load", 3, configs)
	producer, err := c.NewProducer(ctx, client.ProducerConfig{BatchBytes: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	l := &load{
		tally: &tally{receipts: map[string]client.Receipt{}}, producer: producer,
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go l.run(ctx)
	return l
}

func (l *load) run(ctx context.Context) {
	defer close(l.stopped)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		if i%20 == 0 {
			<-pace.C
		}
		value := fmt.Sprintf("value %d", i)
		r := client.Record{Topic: "load", Key: fmt.Appendf(nil, "key %d", i%97), Value: []byte(value)}
		if err := l.producer.Produce(ctx, r, func(r client.Receipt, err error) { l.note(value, r, err) }); err != nil {
			return
		}
	}
}

// end ends the load and looks for what was acknowledged.
func (l *load) end(ctx context.Context, t *testing.T, c *client.Client) {
	t.Helper()
	close(l.stop)
	<-l.stopped
	if err := l.producer.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if l.failed > 0 {
		t.Errorf("%d records failed, the first: %v", l.failed, l.firstErr)
	}
	checkReceipts(t, c, l.tally)
}

// awaitMore waits until n more records are acknowledged, and returns how long that took.
func (l *load) awaitMore(cluster *testcluster.Cluster, n int) time.Duration {
	before, began := l.count(), time.Now()
	cluster.Await("records are acknowledged", func() error { return atLeast(l.tally, before+n) })
	return time.Since(began).Round(time.Millisecond)
}

func TestLeaderKilledUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c, ctx := cluster.Client(), bounded(t, 3*time.Minute)
	l := startLoad(ctx, t, c)
	for range 3 {
		l.awaitMore(cluster, 500)
		victim := cluster.LeaderOf("load", 0)
		cluster.Kill(victim)
		t.Logf("node %d killed; the next acknowledgement came %v after", victim, l.awaitMore(cluster, 1))
		cluster.Restart(victim)
		cluster.AwaitHealthy()
	}
	l.end(ctx, t, c)
}

// The active controller dies together with the broker in the same node, and topics are made meanwhile.
func TestActiveControllerKilledUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c, ctx := cluster.Client(), bounded(t, 3*time.Minute)
	l := startLoad(ctx, t, c)
	for i := range 3 {
		l.awaitMore(cluster, 500)
		victim := cluster.ActiveController()
		cluster.Kill(victim)
		t.Logf("node %d killed; the next acknowledgement came %v after", victim, l.awaitMore(cluster, 1))
		createTopic(t, c, fmt.Sprintf("made-%d", i), 3, nil)
		cluster.Restart(victim)
		cluster.AwaitHealthy()
	}
	l.end(ctx, t, c)
}

func TestRollingRestartUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c, ctx := cluster.Client(), bounded(t, 3*time.Minute)
	l := startLoad(ctx, t, c)
	for i := 1; i <= cluster.Nodes(); i++ {
		l.awaitMore(cluster, 500)
		began := time.Now()
		cluster.Stop(i)
		t.Logf("node %d stopped within %v; the next acknowledgement came %v after", i, time.Since(began).Round(time.Millisecond), l.awaitMore(cluster, 1))
		cluster.Restart(i)
		cluster.AwaitHealthy()
	}
	l.end(ctx, t, c)
}

func atLeast(a *tally, n int) error {
	if got := a.count(); got < n {
		return fmt.Errorf("%d records are acknowledged, not %d", got, n)
	}
	return nil
}

// checkReceipts reads everything and looks for each acknowledged record at its offset, once, in the order of its key.
func checkReceipts(t *testing.T, c *client.Client, acked *tally) {
	t.Helper()
	seen := map[string]int{}
	last := map[string]int{}
	for _, r := range consumeAll(t, c, "load") {
		value := string(r.Value)
		seen[value]++
		if receipt, ok := acked.receipts[value]; ok && (receipt.Partition != r.Partition || receipt.Offset != r.Offset) {
			t.Errorf("%s was acknowledged at %d/%d and stands at %d/%d", value, receipt.Partition, receipt.Offset, r.Partition, r.Offset)
		}
		var n int
		if _, err := fmt.Sscanf(value, "value %d", &n); err != nil {
			t.Fatal(err)
		}
		if before, ok := last[string(r.Key)]; ok && n <= before {
			t.Errorf("key %s: value %d stands behind value %d", r.Key, n, before)
		}
		last[string(r.Key)] = n
	}
	for value := range acked.receipts {
		if seen[value] != 1 {
			t.Errorf("%s was acknowledged and stands there %d times", value, seen[value])
		}
	}
	t.Logf("%d records acknowledged, %d in the log", len(acked.receipts), len(seen))
}
