//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
)

// leaderOf returns the node that leads partition 0, and its leader epoch: it is the one that acknowledges now.
func leaderOf(ctx context.Context, t *testing.T, c *client.Client, acks *zeroAcks) (leader int, epoch int64) {
	t.Helper()
	await(t, "partition 0 has a leader, and it acknowledges", func() bool {
		meta, err := c.Metadata(ctx, "t")
		if err != nil {
			return false
		}
		p := meta.Topics[0].Partitions[0]
		leader, epoch = int(p.Leader), int64(p.LeaderEpoch)
		return leader > 0 && epoch == acks.epoch.Load()
	})
	return leader, epoch
}

// The leader of a partition is killed again and again while records come: each acknowledged one stands at its offset, once, and
// in order.
func TestKill9OfTheLeader(t *testing.T) {
	plan := devPlan{brokers: 3, port: freePorts(t, 3), dir: t.TempDir()}
	dev := launch(t, plan.args()...)
	dev.awaitText("ready: ")
	c := connect(t, plan.address(1, 0), plan.address(2, 0), plan.address(3, 0))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	if _, err := c.CreateTopic(ctx, client.TopicSpec{Name: "t", Partitions: new(int32(3)), ReplicationFactor: new(int32(3))}); err != nil {
		t.Fatal(err)
	}
	load := startLoad(ctx, t, c)
	var gaps []time.Duration
	for range kills(t) {
		gaps = append(gaps, killLeader(ctx, t, c, plan, &load.onZero))
	}
	load.end(ctx, t, c)
	slices.Sort(gaps)
	t.Logf("from kill to the next acknowledgement: p50 %v, max %v", gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond))
	dev.signal(syscall.SIGINT)
	if code := dev.exit(); code != exitOK {
		t.Errorf("broker dev ended with %d", code)
	}
}

// load is records that come, a thousand and more a second, into three partitions.
type load struct {
	producer *client.Producer
	book     *ledger
	onZero   zeroAcks
	failed   atomic.Int64
	stop     chan struct{}
	stopped  chan struct{}
}

func startLoad(ctx context.Context, t *testing.T, c *client.Client) *load {
	t.Helper()
	producer, err := c.NewProducer(ctx, client.ProducerConfig{BatchBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	l := &load{
		producer: producer, book: &ledger{acked: map[string]client.Receipt{}},
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
		case <-pace.C:
		}
		for j := range 10 {
			value, partition := fmt.Sprintf("%d-%d", i, j), int32(j%3) //nolint:gosec // small
			err := l.producer.ProduceTo(ctx, partition, client.Record{Topic: "t", Value: []byte(value)}, func(r client.Receipt, err error) {
				l.book.note(value, r, err)
				switch {
				case err != nil:
					l.failed.Add(1)
				case partition == 0:
					l.onZero.note(r)
				}
			})
			if err != nil {
				return
			}
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
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d records failed", n)
	}
	checkLedger(ctx, t, c, l.book)
}

// zeroAcks is what was acknowledged in partition 0.
type zeroAcks struct{ count, epoch atomic.Int64 }

// note is called by one goroutine at a time.
func (z *zeroAcks) note(r client.Receipt) {
	z.count.Add(1)
	z.epoch.Store(max(z.epoch.Load(), int64(r.LeaderEpoch)))
}

// killLeader kills the leader of partition 0, waits for its next acknowledgement, and starts the node again.
func killLeader(ctx context.Context, t *testing.T, c *client.Client, plan devPlan, acks *zeroAcks) time.Duration {
	t.Helper()
	await(t, "the cluster is healthy", healthy(c, 3))
	before := acks.count.Load()
	await(t, "records are acknowledged", func() bool { return acks.count.Load() > before+500 })
	victim, epoch := leaderOf(ctx, t, c, acks)
	killed := time.Now()
	if err := syscall.Kill(pidOf(t, plan, victim), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	await(t, "the next leader acknowledges", func() bool { return acks.epoch.Load() > epoch })
	gap := time.Since(killed)
	byHand := launch(t, "--config", filepath.Join(plan.nodeDir(victim), configName))
	byHand.awaitText("fenced=false")
	if strings.Contains(byHand.out.String(), "level=ERROR") {
		t.Logf("node %d said:\n%s", victim, byHand.out)
	}
	return gap
}

// A leader that is stopped for longer than its session, and then goes on, acknowledges nothing that gets lost.
func TestPausedLeader(t *testing.T) {
	plan := devPlan{brokers: 3, port: freePorts(t, 3), dir: t.TempDir()}
	dev := launch(t, plan.args()...)
	dev.awaitText("ready: ")
	c := connect(t, plan.address(1, 0), plan.address(2, 0), plan.address(3, 0))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := c.CreateTopic(ctx, client.TopicSpec{Name: "t", Partitions: new(int32(3)), ReplicationFactor: new(int32(3))}); err != nil {
		t.Fatal(err)
	}
	load := startLoad(ctx, t, c)
	await(t, "records are acknowledged", func() bool { return load.onZero.count.Load() > 500 })
	leader, epoch := leaderOf(ctx, t, c, &load.onZero)
	victim, paused := pidOf(t, plan, leader), time.Now()
	if err := syscall.Kill(victim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() error { return syscall.Kill(victim, syscall.SIGCONT) }
	defer func() {
		if err := goOn(); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
	}()
	await(t, "the next leader acknowledges", func() bool { return load.onZero.epoch.Load() > epoch })
	t.Logf("from the pause to the next acknowledgement: %v", time.Since(paused).Round(time.Millisecond))
	if err := goOn(); err != nil {
		t.Fatal(err)
	}
	await(t, "the cluster is healthy again", healthy(c, 3))
	load.end(ctx, t, c)
	dev.signal(syscall.SIGINT)
	if code := dev.exit(); code != exitOK {
		t.Errorf("broker dev ended with %d", code)
	}
}

// All nodes are killed at once while records come, and started again.
func TestKill9OfAllNodes(t *testing.T) {
	plan := devPlan{brokers: 3, port: freePorts(t, 3), dir: t.TempDir()}
	dev := launch(t, plan.args()...)
	dev.awaitText("ready: ")
	c := connect(t, plan.address(1, 0), plan.address(2, 0), plan.address(3, 0))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := c.CreateTopic(ctx, client.TopicSpec{Name: "t", Partitions: new(int32(3)), ReplicationFactor: new(int32(3))}); err != nil {
		t.Fatal(err)
	}
	load := startLoad(ctx, t, c)
	for range 2 {
		before := load.onZero.count.Load()
		await(t, "records are acknowledged", func() bool { return load.onZero.count.Load() > before+500 })
		for i := 1; i <= plan.brokers; i++ {
			if err := syscall.Kill(pidOf(t, plan, i), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		killed := time.Now()
		for i := 1; i <= plan.brokers; i++ {
			await(t, "the node is gone", func() bool {
				_, running := (&devNode{id: i, dir: plan.nodeDir(i)}).running()
				return !running
			})
			launch(t, "--config", filepath.Join(plan.nodeDir(i), configName))
		}
		epoch := load.onZero.epoch.Load()
		await(t, "a new leader acknowledges", func() bool { return load.onZero.epoch.Load() > epoch })
		t.Logf("from the kill of all to the next acknowledgement: %v", time.Since(killed).Round(time.Millisecond))
		await(t, "the cluster is healthy again", healthy(c, 3))
	}
	load.end(ctx, t, c)
	dev.signal(syscall.SIGINT)
	if code := dev.exit(); code != exitOK {
		t.Errorf("broker dev ended with %d", code)
	}
}
