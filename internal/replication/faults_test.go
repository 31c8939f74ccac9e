package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// ledger is what the producers of one partition were promised.
type ledger struct {
	tp    model.TopicPartition
	mu    sync.Mutex
	acked map[int64]string
	open  int // outcomes unknown
}

// TestRandomFaults kills brokers, cuts their power and their links under load, and holds every receipt against what is
// there in the end. One broker at a time is down, so that no committed record may be lost.
func TestRandomFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number
	t.Logf("seed %d (the schedule of faults; goroutines run as they like)", seed)
	rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // no secret
	c := newCluster(t, 3, nil)
	var books []*ledger
	for i, replicas := range [][]model.NodeID{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}} {
		books = append(books, &ledger{tp: c.topic(byte(i+1), map[string]string{"segment.bytes": "16384"}, replicas...), acked: map[int64]string{}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var producers sync.WaitGroup
	for _, book := range books {
		producers.Go(func() { book.produce(ctx, c) })
	}
	faults := map[string]int{}
	for range 8 {
		n := c.nodes[model.NodeID(1+rng.IntN(3))]
		pause(t, time.Duration(20+rng.IntN(80))*time.Millisecond)
		switch fault := []string{"kill", "power", "link", "move"}[rng.IntN(4)]; fault {
		case "kill", "power":
			faults[fault]++
			how := n.mem.CrashProcess
			if fault == "power" {
				how = n.mem.Crash
			}
			n.crash(how)
			c.fence(n.id)
			pause(t, time.Duration(rng.IntN(100))*time.Millisecond)
			n.start()
		case "link":
			faults[fault]++
			other := 1 + n.id%3
			c.link(n.id, other, false)
			pause(t, time.Duration(rng.IntN(700))*time.Millisecond)
			c.link(n.id, other, true)
		case "move":
			if p := c.partition(books[0].tp); len(p.ISR) > 1 {
				faults[fault]++
				c.lead(books[0].tp, p.ISR[1], p.ISR...)
			}
		}
		for _, book := range books {
			eventually(t, "all are in sync again", func() bool { return len(c.partition(book.tp).ISR) == 3 })
		}
	}
	cancel()
	producers.Wait()
	for _, book := range books {
		book.check(t, c)
		t.Logf("%d receipts, %d open, epoch %d", len(book.acked), book.open, c.partition(book.tp).LeaderEpoch)
	}
	t.Logf("faults %v", faults)
}

// pause lets the load run for a while.
func pause(t *testing.T, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// produce sends values to whoever leads and notes what it is promised.
func (b *ledger) produce(ctx context.Context, c *cluster) {
	slots := make(chan struct{}, 8)
	for i := 0; ctx.Err() == nil; i++ {
		leader := c.partition(b.tp).Leader
		value := fmt.Sprintf("value %d", i)
		batch, header := batchOf(c.t, -1, -1, value)
		slots <- struct{}{}
		c.mgrOf(leader).Append(AppendRequest{
			TP: b.tp, Batch: [][]byte{batch}, Header: header, Acks: AcksAll, LeaderEpoch: model.NoLeaderEpoch,
			Deadline: time.Now().Add(2 * time.Second),
			Done: func(r Receipt, err error) {
				b.note(c.t, r, value, err)
				<-slots
			},
		})
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
}

func (b *ledger) note(t testing.TB, r Receipt, value string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil && IsIndefinite(err):
		b.open++
	case err != nil:
	case b.acked[r.BaseOffset] != "":
		t.Errorf("%s: offset %d was promised to %q and to %q", b.tp, r.BaseOffset, b.acked[r.BaseOffset], value)
	case r.FSynced < 2:
		t.Errorf("%s: acknowledged with %d durable copies", b.tp, r.FSynced)
	default:
		b.acked[r.BaseOffset] = value
	}
}

// check holds the receipts against every replica.
func (b *ledger) check(t *testing.T, c *cluster) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var first []string
	for id := model.NodeID(1); id <= 3; id++ {
		leader := c.nodes[c.partition(b.tp).Leader].mgr
		eventually(t, "all replicas are equal", func() bool {
			want, err1 := leader.PartitionState(b.tp)
			have, err2 := c.nodes[id].mgr.PartitionState(b.tp)
			return err1 == nil && err2 == nil && want.HighWatermark == want.LogEndOffset &&
				have.HighWatermark == want.HighWatermark && have.LogEndOffset == want.LogEndOffset
		})
		got := c.nodes[id].values(b.tp)
		if id == 1 {
			first = got
		}
		if !slices.Equal(got, first) {
			t.Errorf("%s: brokers 1 and %d differ", b.tp, id)
		}
		for offset, value := range b.acked {
			if offset >= int64(len(got)) || got[offset] != value {
				t.Fatalf("%s: broker %d lacks %q, acknowledged at offset %d of %d", b.tp, id, value, offset, len(got))
			}
		}
	}
	if len(b.acked) == 0 {
		t.Errorf("%s: nothing was acknowledged", b.tp)
	}
}

// mgrOf is the present manager of a broker.
func (c *cluster) mgrOf(id model.NodeID) *Manager {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id].mgr
}
