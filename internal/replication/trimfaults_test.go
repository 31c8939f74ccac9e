package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// trimBook is what one idempotent producer of a partition was promised, and where trims went.
type trimBook struct {
	tp       model.TopicPartition
	producer int64
	mu       sync.Mutex
	acked    map[int64]string // by the offset of the first record of each batch of three
	trims    int
	repeats  int // batches that were answered as duplicates
}

// TestRandomFaultsAndTrims trims under load while brokers die, lose power, disks and links, and leaders move. Batches are
// repeated until they are acknowledged: each is there once, at the offset of its receipt, in the same place everywhere, and no
// leader, however it came by its log, forgets a producer.
func TestRandomFaultsAndTrims(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number
	t.Logf("seed %d (the schedule of faults; goroutines run as they like)", seed)
	rng := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // no secret
	c := newCluster(t, 3, quickCheckpoints)
	var books []*trimBook
	for i, replicas := range [][]model.NodeID{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}} {
		tp := c.topic(byte(i+1), map[string]string{"segment.bytes": "16384", "segment.ms": "1000"}, replicas...)
		books = append(books, &trimBook{tp: tp, producer: int64(100 + i), acked: map[int64]string{}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for i, book := range books {
		load.Go(func() { book.produce(ctx, c) })
		load.Go(func() { book.trim(ctx, t, c, rand.New(rand.NewPCG(seed, uint64(10+i)))) }) //nolint:gosec // as above
	}
	defer func() {
		cancel()
		load.Wait()
		if t.Failed() {
			c.describe(t, books)
		}
	}()
	faults := map[string]int{}
	for range 10 {
		pause(t, time.Duration(20+rng.IntN(60))*time.Millisecond)
		fault := []string{"kill", "power", "disk", "link", "move"}[rng.IntN(5)]
		faults[fault]++
		c.fault(t, fault, model.NodeID(1+rng.IntN(3)), books[rng.IntN(3)].tp, time.Duration(rng.IntN(150))*time.Millisecond)
		for _, book := range books {
			eventually(t, "all are in sync again after "+fault, func() bool { return len(c.partition(book.tp).ISR) == 3 })
		}
	}
	cancel()
	load.Wait()
	for _, book := range books {
		book.check(t, c)
		t.Logf("%d batches, %d repeated, %d trims, epoch %d", len(book.acked), book.repeats, book.trims, c.partition(book.tp).LeaderEpoch)
	}
	t.Logf("faults %v", faults)
}

// describe logs where every replica stands.
func (c *cluster) describe(t *testing.T, books []*trimBook) {
	for _, book := range books {
		t.Logf("%s: %+v", book.tp, c.partition(book.tp))
		for id := model.NodeID(1); id <= 3; id++ {
			p, err := c.mgrOf(id).lookup(book.tp)
			if err != nil {
				t.Logf("broker %d: %v", id, err)
				continue
			}
			p.mu.Lock()
			at, restarting := p.replica.Restarting()
			due, wanted := p.replica.SubscribeDue()
			t.Logf("broker %d: %s; its log [%d, %d), failed: %v; restarting %v at %d; subscribes %v at %v, now %v", id, p.replica,
				p.log.LogStartOffset(), p.log.LogEndOffset(), p.log.Failed(), restarting, at, wanted, due, p.waiting.m.now())
			p.mu.Unlock()
		}
	}
}

// fault does one thing to a cluster and mends it after a while.
func (c *cluster) fault(t *testing.T, what string, id model.NodeID, tp model.TopicPartition, d time.Duration) {
	n := c.nodes[id]
	switch what {
	case "kill", "power", "disk":
		how := n.mem.CrashProcess
		if what == "power" {
			how = n.mem.Crash
		}
		n.crash(how)
		c.fence(id)
		if what == "disk" {
			if err := n.fs.RemoveAll("/data/topics"); err != nil {
				t.Fatal(err)
			}
		}
		pause(t, d)
		n.start()
	case "link":
		other := 1 + id%3
		c.link(id, other, false)
		pause(t, 4*d)
		c.link(id, other, true)
	case "move":
		if p := c.partition(tp); len(p.ISR) > 1 {
			c.lead(tp, p.ISR[1], p.ISR...)
		}
	}
}

// produce sends batch after batch, each until it is acknowledged.
func (b *trimBook) produce(ctx context.Context, c *cluster) {
	for i := 0; ctx.Err() == nil; i++ {
		value := fmt.Sprintf("%d-%d-%0300d", b.producer, i, i)
		batch, header := batchOf(c.t, b.producer, int32(3*i), value, value, value) //nolint:gosec // small
		for ctx.Err() == nil {
			done := make(chan answer, 1)
			c.mgrOf(max(c.partition(b.tp).Leader, 1)).Append(AppendRequest{
				TP: b.tp, Batch: [][]byte{batch}, Header: header, Acks: AcksAll, LeaderEpoch: model.NoLeaderEpoch,
				Deadline: time.Now().Add(300 * time.Millisecond),
				Done:     func(r Receipt, err error) { done <- answer{r, err} },
			})
			a := <-done
			if a.err == nil {
				b.note(a.receipt, value)
				break
			}
			code := model.CodeOf(a.err)
			if code == model.CodeUnknownProducerID || code == model.CodeOutOfOrderSequence || code == model.CodeInvalidProducerEpoch {
				c.t.Errorf("%s: batch %d: %v", b.tp, i, a.err)
				return
			}
		}
	}
}

func (b *trimBook) note(r Receipt, value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked[r.BaseOffset] = value
	if r.Duplicate {
		b.repeats++
	}
}

// trim moves the start to somewhere below the end, now and then, also into the middle of batches.
func (b *trimBook) trim(ctx context.Context, t *testing.T, c *cluster, rng *rand.Rand) {
	for ctx.Err() == nil {
		pause(t, time.Duration(5+rng.IntN(30))*time.Millisecond)
		mgr := c.mgrOf(max(c.partition(b.tp).Leader, 1))
		state, err := mgr.PartitionState(b.tp)
		if err != nil {
			continue
		}
		to := state.LogStartOffset + rng.Int64N(state.HighWatermark-state.LogStartOffset+2)
		if rng.IntN(5) == 0 {
			to = TrimToHighWatermark
		}
		res, err := mgr.Trim(b.tp, to, false)
		if err != nil {
			continue // it leads no more
		}
		if res.Start > res.HighWatermark || (to >= 0 && res.Start > max(to, res.Before)) {
			t.Errorf("%s: trimmed to %d: %+v", b.tp, to, res)
		}
		b.trims++
	}
}

// check holds the receipts against every replica.
func (b *trimBook) check(t *testing.T, c *cluster) {
	var first map[int64]string
	start := int64(0)
	for id := model.NodeID(1); id <= 3; id++ {
		leader := c.nodes[c.partition(b.tp).Leader].mgr
		eventually(t, "all replicas are equal", func() bool {
			want, err1 := leader.PartitionState(b.tp)
			have, err2 := c.nodes[id].mgr.PartitionState(b.tp)
			return err1 == nil && err2 == nil && want.HighWatermark == want.LogEndOffset && have.HighWatermark == want.HighWatermark &&
				have.LogEndOffset == want.LogEndOffset && have.LogStartOffset >= want.LogStartOffset
		})
		state, err := c.nodes[id].mgr.PartitionState(b.tp)
		if err != nil {
			t.Fatal(err)
		}
		start = max(start, state.LogStartOffset)
		got := c.nodes[id].records(b.tp)
		if id == 1 {
			first = got
		}
		seen := map[string]int{}
		for offset := start; offset < state.HighWatermark; offset++ {
			if got[offset] == "" || got[offset] != first[offset] {
				t.Fatalf("%s: offset %d is %.20q on broker %d and %.20q on broker 1", b.tp, offset, got[offset], id, first[offset])
			}
			if seen[got[offset]]++; seen[got[offset]] > 3 {
				t.Fatalf("%s: %.20q is there twice on broker %d", b.tp, got[offset], id)
			}
		}
		for base, value := range b.acked {
			for offset := max(base, start); offset < base+3; offset++ {
				if got[offset] != value {
					t.Fatalf("%s: broker %d lacks %.20q, acknowledged at offset %d", b.tp, id, value, base)
				}
			}
		}
	}
	if len(b.acked) == 0 || b.trims == 0 {
		t.Errorf("%s: %d batches, %d trims", b.tp, len(b.acked), b.trims)
	}
}

// records reads what a replica holds below the HighWatermark, by offset.
func (n *testNode) records(tp model.TopicPartition) map[int64]string {
	p, err := n.mgr.lookup(tp)
	if err != nil {
		n.c.t.Fatal(err)
	}
	out := map[int64]string{}
	for at, hw := p.log.LogStartOffset(), p.hw.Load(); at < hw; {
		read, err := p.log.Read(at, 1<<20, hw, nil)
		if err != nil || len(read.Data) == 0 {
			n.c.t.Fatalf("broker %d: read at %d: %v", n.id, at, err)
		}
		for data := read.Data; len(data) > 0; {
			h, err := record.ParseHeader(data)
			if err != nil {
				n.c.t.Fatal(err)
			}
			records, err := record.Records(data[:h.Size()], record.Limits{})
			if err != nil {
				n.c.t.Fatal(err)
			}
			for records.Next() {
				out[records.Record().Offset] = string(records.Record().Value)
			}
			data = data[h.Size():]
		}
		at = read.NextOffset
	}
	return out
}
