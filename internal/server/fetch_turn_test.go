package server_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/storage"
)

// oldRecords starts a node whose topic holds more than what counts as the tail, and takes all places in the gate of the backlog.
func oldRecords(t *testing.T, batchBytes int) (n *node, gate *storage.BacklogGate, batches int64) {
	t.Helper()
	n = start(t, map[string]string{"storage.backlog.reads": "1", "limits.fetch.credit.bytes": "64MiB"})
	batch := batchOf(t, batchBytes)
	batches = 2*storage.TailBytes/int64(len(batch)) + 1
	n.produce(batch, batches)
	gate = n.cluster.Node(1).Replicas().Backlog()
	if !gate.TryEnter() || gate.TryEnter() {
		t.Fatal("the setting gives not one place")
	}
	return n, gate, batches
}

func (n *node) produce(batch []byte, times int64) {
	n.Helper()
	for range times {
		if _, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "t", Batch: batch}); err != nil {
			n.Fatal(err)
		}
	}
}

// awaitWaiting returns once so many reads wait for their turn.
func (n *node) awaitWaiting(gate *storage.BacklogGate, want int) {
	n.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for gate.Waiting() != want {
		select {
		case <-ticker.C:
		case <-n.ctx.Done():
			n.Fatalf("%d reads wait, want %d", gate.Waiting(), want)
		}
	}
}

// TestFetchStreamReadsOldRecordsInTurn has a subscription far behind and one at the tail on one stream while the gate of the backlog
// is full: the tail is served, then the old records are, all of them and in order.
func TestFetchStreamReadsOldRecordsInTurn(t *testing.T) {
	n, gate, batches := oldRecords(t, 512<<10)
	const frame = 1 << 20
	f := n.fetch(&penstockv1.FetchOpen{CreditBytes: 36 << 20, MinBytes: frame, MaxWaitMs: 60_000, ProgressIntervalMs: 50})
	for id := range uint64(3) { // the first two have the same place to begin
		f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: id + 1, Topic: "t"})
	}
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 9, Topic: "t", Offset: batches})
	n.awaitWaiting(gate, 3)
	n.produce(batchOf(t, 512<<10), 2)
	if frame := f.data(); frame.GetSubscriptionId() != 9 || frame.GetNextOffset() != batches+2 {
		t.Fatalf("subscription %d came to %d", frame.GetSubscriptionId(), frame.GetNextOffset())
	}
	// One that goes gives its wait up.
	f.send(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Unsubscribe{Unsubscribe: &penstockv1.FetchUnsubscribe{SubscriptionId: 3}}})
	n.awaitWaiting(gate, 2)
	gate.Leave(0)
	next := map[uint64]int64{}
	for next[1] < batches || next[2] < batches {
		got := f.data()
		id := got.GetSubscriptionId()
		if got.GetError() != nil || got.GetNextOffset() <= next[id] || id == 3 {
			t.Fatalf("subscription %d: %d after %d, %v", id, got.GetNextOffset(), next[id], got.GetError())
		}
		if len(got.GetBatches()) < frame { // what turns had reserved does not count against the credit for ever
			t.Errorf("a frame of %d bytes", len(got.GetBatches()))
		}
		next[id] = got.GetNextOffset()
	}
	if !gate.TryEnter() {
		t.Error("the streams hold a place")
	}
	gate.Leave(0)
}

// TestFetchStreamReadsOldRecordsWithinItsCredit has more subscriptions far behind than the credit lets read at a time.
func TestFetchStreamReadsOldRecordsWithinItsCredit(t *testing.T) {
	n, gate, batches := oldRecords(t, 512<<10)
	f := n.fetch(&penstockv1.FetchOpen{CreditBytes: 16 << 10})
	for id := range uint64(3) {
		f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: id + 1, Topic: "t", EndOffset: new(int64(4))})
	}
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 9, Topic: "t", Offset: batches})
	for f.next().GetSubscriptionId() != 9 { // heard after the others
	}
	n.awaitWaiting(gate, 1)
	if waiting := gate.Waiting(); waiting != 1 {
		t.Errorf("%d reads wait with the credit for one", waiting)
	}
	gate.Leave(0)
	for ends := 0; ends < 3; {
		got := f.data()
		if got.GetEndOfRange() {
			ends++
		}
		f.send(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Credit{
			Credit: &penstockv1.FetchCredit{Bytes: uint64(len(got.GetBatches()))},
		}})
	}
}

// TestFetchStreamTurnsReturnTheirCredit lets each read of a subscription far behind be a turn: what a turn reserved is free again when it
// has ended, or the later ones would bring a batch at a time.
func TestFetchStreamTurnsReturnTheirCredit(t *testing.T) {
	const batch, credit = 64 << 10, 512 << 10
	n, gate, _ := oldRecords(t, batch)
	f := n.fetch(&penstockv1.FetchOpen{CreditBytes: credit})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t"})
	left, next := int64(credit), int64(0)
	for turn := range 16 {
		n.awaitWaiting(gate, 1)
		gate.Leave(0)
		largest := 0
		for left > 0 { // the turn, and what follows while the gate is open
			got := f.data()
			if got.GetError() != nil || got.GetNextOffset() <= next {
				t.Fatalf("%d after %d, %v", got.GetNextOffset(), next, got.GetError())
			}
			next, largest = got.GetNextOffset(), max(largest, len(got.GetBatches()))
			left -= int64(len(got.GetBatches()))
		}
		if turn > 3 && largest < 3*batch { // reads have grown by then
			t.Fatalf("turn %d: %d bytes at most with credit for %d", turn, largest, credit)
		}
		for !gate.TryEnter() { // the read before it has ended
			runtime.Gosched()
		}
		f.send(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Credit{Credit: &penstockv1.FetchCredit{Bytes: uint64(credit - left)}}})
		left = credit
	}
	gate.Leave(0)
}

// TestFetchStreamEndsWhileItWaits ends a stream, and stops a node, while reads of old records wait: neither leaves a goroutine behind,
// nor a place taken.
func TestFetchStreamEndsWhileItWaits(t *testing.T) {
	n, gate, _ := oldRecords(t, 512<<10)
	whole := n.ctx
	ctx, cancel := context.WithCancel(n.ctx)
	n.ctx = ctx
	f := n.fetch(&penstockv1.FetchOpen{})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t"})
	n.ctx = whole
	n.awaitWaiting(gate, 1)
	cancel()
	n.awaitWaiting(gate, 0)
	once := make(chan error, 1)
	ctx, cancel = context.WithCancel(n.ctx)
	go func() {
		_, err := n.consumer.FetchOnce(ctx, &penstockv1.FetchOnceRequest{Partitions: []*penstockv1.FetchSubscribe{{Topic: "t"}}})
		once <- err
	}()
	n.awaitWaiting(gate, 1)
	cancel()
	if err := <-once; err == nil {
		t.Error("a fetch that was given up succeeded")
	}
	n.awaitWaiting(gate, 0)
	f = n.fetch(&penstockv1.FetchOpen{})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t"})
	n.awaitWaiting(gate, 1)
	n.cluster.Stop(1)
	n.awaitWaiting(gate, 0)
	gate.Leave(0)
	if !gate.TryEnter() {
		t.Error("somebody holds a place")
	}
}
