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

// leaderOf returns the node that leads partition 0.
func leaderOf(ctx context.Context, t *testing.T, c *client.Client) int {
	t.Helper()
	leader := 0
	await(t, "partition 0 has a leader", func() bool {
		meta, err := c.Metadata(ctx, "t")
		if err == nil {
			leader = int(meta.Topics[0].Partitions[0].Leader)
		}
		return err == nil && leader > 0
	})
	return leader
}

// The leader of a partition is killed again and again while records come: each acknowledged one stands at its offset, once, and
// in order.
func TestKill9OfTheLeader(t *testing.T) {
	plan := devPlan{brokers: 3, port: freePorts(t, 3), dir: t.TempDir()}
	dev := launch(t, plan.args()...)
	dev.awaitText("ready")
	c := connect(t, plan.address(1, 0), plan.address(2, 0), plan.address(3, 0))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	if _, err := c.CreateTopic(ctx, client.TopicSpec{Name: "t", Partitions: new(int32(3)), ReplicationFactor: new(int32(3))}); err != nil {
		t.Fatal(err)
	}
	producer, err := c.NewProducer(ctx, client.ProducerConfig{BatchBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	book := &ledger{acked: map[string]client.Receipt{}}
	var onZero zeroAcks
	var failed atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-pace.C:
			}
			for j := range 10 {
				value, partition := fmt.Sprintf("%d-%d", i, j), int32(j%3) //nolint:gosec // small
				err := producer.ProduceTo(ctx, partition, client.Record{Topic: "t", Value: []byte(value)}, func(r client.Receipt, err error) {
					book.note(value, r, err)
					switch {
					case err != nil:
						failed.Add(1)
					case partition == 0:
						onZero.note(r)
					}
				})
				if err != nil {
					return
				}
			}
		}
	}()
	var gaps []time.Duration
	for range kills(t) {
		gaps = append(gaps, killLeader(ctx, t, c, plan, &onZero))
	}
	close(stop)
	<-stopped
	if err := producer.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if n := failed.Load(); n > 0 {
		t.Errorf("%d records failed", n)
	}
	checkLedger(ctx, t, c, book)
	slices.Sort(gaps)
	t.Logf("from kill to the next acknowledgement: p50 %v, max %v", gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond))
	dev.signal(syscall.SIGINT)
	if code := dev.exit(); code != exitOK {
		t.Errorf("broker dev ended with %d", code)
	}
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
	victim := leaderOf(ctx, t, c)
	epoch, killed := acks.epoch.Load(), time.Now()
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
