package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newTestProducer(t testing.TB, c *Client, config ProducerConfig) *Producer {
	t.Helper()
	p, err := c.NewProducer(testContext(t), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestProduceSyncReturnsReceiptsInOrder(t *testing.T) {
	fake := newFakeCluster(t, 3, 1)
	fake.addTopic("t", 1)
	p := newTestProducer(t, fake.dial(), ProducerConfig{})
	for round := range 3 {
		receipts, err := p.ProduceSync(testContext(t), Record{Topic: "t", Value: []byte("a")}, Record{Topic: "t", Value: []byte("b")})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range receipts {
			if r.Offset != int64(2*round+i) || r.Topic != "t" || r.LeaderEpoch != 1 || r.ISR != 3 || r.Acked != 2 {
				t.Errorf("receipt %+v", r)
			}
		}
	}
}

func TestKeysDecideThePartitionAsInKafka(t *testing.T) {
	fake := newFakeCluster(t, 2, 1)
	fake.addTopic("t", 6)
	p := newTestProducer(t, fake.dial(), ProducerConfig{})
	for i := range 50 {
		key := fmt.Appendf(nil, "key-%d", i)
		receipts, err := p.ProduceSync(testContext(t), Record{Topic: "t", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		if want := record.Partition(key, 6); receipts[0].Partition != want {
			t.Errorf("%s went to %d, want %d", key, receipts[0].Partition, want)
		}
	}
}

func TestRecordsWithoutKeyStickAndThenSpread(t *testing.T) {
	fake := newFakeCluster(t, 2, 1)
	topic := fake.addTopic("t", 4)
	p := newTestProducer(t, fake.dial(), ProducerConfig{BatchBytes: 4096})
	for range 2000 {
		if err := p.Produce(testContext(t), Record{Topic: "t", Value: make([]byte, 100)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for i, part := range topic.partitions {
		if part.end == 0 {
			t.Errorf("partition %d got nothing", i)
		}
		total += part.end
	}
	if total != 2000 {
		t.Errorf("%d records", total)
	}
	if n := fake.count("batches"); n > 400 {
		t.Errorf("%d batches for 2000 records: they do not stick", n)
	}
}

// history is what a run of producers saw.
type history struct {
	mu     sync.Mutex
	acked  map[uint64]Receipt // by value
	failed map[uint64]error
	order  map[int32][]uint64 // produced, by partition
	calls  map[int32][]uint64 // callbacks, by partition
	called int
}

func newHistory() *history {
	return &history{acked: map[uint64]Receipt{}, failed: map[uint64]error{}, order: map[int32][]uint64{}, calls: map[int32][]uint64{}}
}

func (h *history) done(partition int32, v uint64) func(Receipt, error) {
	return func(r Receipt, err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.called++
		h.calls[partition] = append(h.calls[partition], v)
		if err != nil {
			h.failed[v] = err
		} else {
			h.acked[v] = r
		}
	}
}

// verify compares the history with the logs: every acknowledged record once, at its offset; no record twice; order kept;
// nothing in the log that certainly failed.
func (h *history) verify(t *testing.T, topic *fakeTopic) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for partition, calls := range h.calls {
		if !slices.IsSorted(calls) {
			t.Fatalf("callbacks of partition %d came out of order", partition)
		}
	}
	found := map[uint64]int64{}
	for number, p := range topic.partitions {
		position := map[uint64]int{}
		for i, v := range h.order[int32(number)] {
			position[v] = i
		}
		last := -1
		for _, b := range p.batches {
			it, err := record.Records(b.data, record.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			for it.Next() {
				v := binary.BigEndian.Uint64(it.Record().Value)
				if at, twice := found[v]; twice {
					t.Fatalf("record %d stands at %d and at %d of partition %d", v, at, it.Record().Offset, number)
				}
				found[v] = it.Record().Offset
				if position[v] <= last {
					t.Fatalf("record %d stands after one that was produced later, in partition %d at offset %d", v, number, it.Record().Offset)
				}
				last = position[v]
			}
		}
	}
	for v, r := range h.acked {
		if at, ok := found[v]; !ok || at != r.Offset && r.Offset >= 0 {
			t.Fatalf("record %d was acknowledged at %d, and stands at %d (%v)", v, r.Offset, at, ok)
		}
	}
	for v, err := range h.failed {
		if _, ok := found[v]; ok && asError(err).Definite {
			t.Fatalf("record %d failed for certain (%v), and is in the log", v, err)
		}
	}
}

// TestOrderAndExactlyOnceThroughFaults produces to brokers that move leaders, cut streams, refuse, and answer twice.
func TestOrderAndExactlyOnceThroughFaults(t *testing.T) {
	scenarios := map[string]faults{
		"cuts":     {dropAnswer: 20, cutBefore: 20, answerTwice: 50},
		"moves":    {moveLeader: 40, delayAnswers: true},
		"refusals": {refuse: 60, unsure: 60, delayAnswers: true},
		"all": {
			dropAnswer: 15, cutBefore: 15, refuse: 20, unsure: 20, answerTwice: 50, moveLeader: 20, loseUnacked: 500,
			delayAnswers: true,
		},
	}
	for name, f := range scenarios {
		for _, acks := range []Acks{AcksAll} {
			seed := rand.Uint64()
			t.Run(fmt.Sprintf("%s-%d", name, acks), func(t *testing.T) {
				t.Parallel()
				t.Logf("seed %d", seed)
				runFaults(t, seed, f, ProducerConfig{Acks: acks, BatchBytes: 600, RequestTimeout: 400 * time.Millisecond}, 3000)
			})
		}
	}
}

func runFaults(t *testing.T, seed uint64, f faults, config ProducerConfig, records int) *history {
	t.Helper()
	fake := newFakeCluster(t, 3, seed)
	topic := fake.addTopic("t", 4)
	fake.setFaults(f)
	p := newTestProducer(t, fake.dial(), config)
	h := newHistory()
	rng := rand.New(rand.NewPCG(seed, 9))
	ctx := testContext(t)
	for i := range uint64(records) {
		partition := int32(rng.IntN(4))
		h.order[partition] = append(h.order[partition], i)
		value := binary.BigEndian.AppendUint64(nil, i)
		value = append(value, make([]byte, rng.IntN(60))...)
		if err := p.ProduceTo(ctx, partition, Record{Topic: "t", Value: value}, h.done(partition, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(ctx); err != nil {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		t.Fatalf("%v; the fake counts %v", err, fake.counts)
	}
	fake.setFaults(faults{})
	fake.mu.Lock()
	t.Logf("faults: %v", fake.counts)
	fake.mu.Unlock()
	h.verify(t, topic)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.called != records {
		t.Errorf("%d callbacks for %d records", h.called, records)
	}
	if len(h.failed) > 0 && config.DeliveryTimeout == 0 {
		for v, err := range h.failed {
			t.Errorf("record %d failed: %v", v, err)
			break
		}
	}
	return h
}

// TestShortDeliveryTimeout gives batches up in the middle of everything: unknown outcomes, and new producer epochs.
func TestShortDeliveryTimeout(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h := runFaults(t, seed, faults{dropAnswer: 60, cutBefore: 60, refuse: 150, unsure: 100, moveLeader: 30, loseUnacked: 300, delayAnswers: true},
		ProducerConfig{
			BatchBytes: 600, RequestTimeout: 100 * time.Millisecond, DeliveryTimeout: 60 * time.Millisecond,
			BufferBytes: 1, MaxRecordBytes: 1000, // one batch or two at a time, so that production takes long enough
		}, 400)
	t.Logf("%d acknowledged, %d failed", len(h.acked), len(h.failed))
	if len(h.failed) == 0 || len(h.acked) == 0 {
		t.Error("the test shows nothing: nothing failed, or everything")
	}
}

func TestDefiniteFailureOfOneBatch(t *testing.T) {
	fake := newFakeCluster(t, 1, 1)
	topic := fake.addTopic("t", 1)
	p := newTestProducer(t, fake.dial(), ProducerConfig{})
	ctx := testContext(t)
	if _, err := p.ProduceSync(ctx, Record{Topic: "t", Value: []byte("before")}); err != nil {
		t.Fatal(err)
	}
	fake.mu.Lock()
	fake.refusing["t"] = model.Errorf(model.CodeInvalidRecord, "not this one")
	fake.mu.Unlock()
	_, err := p.ProduceSync(ctx, Record{Topic: "t", Value: []byte("bad")})
	if e := asError(err); e.Name != "INVALID_RECORD" || !e.Definite || e.Detail != "not this one" {
		t.Fatalf("%+v", err)
	}
	fake.mu.Lock()
	delete(fake.refusing, "t")
	fake.mu.Unlock()
	receipts, err := p.ProduceSync(ctx, Record{Topic: "t", Value: []byte("after")})
	if err != nil || receipts[0].Offset != 1 {
		t.Fatalf("%+v, %v", receipts, err)
	}
	fake.mu.Lock()
	defer fake.mu.Unlock()
	if got := topic.partitions[0].batches[1].header; got.ProducerEpoch != 1 || got.BaseSequence != 0 {
		t.Errorf("the next batch has epoch %d, sequence %d", got.ProducerEpoch, got.BaseSequence)
	}
}

func TestUnknownOutcomePastTheDeliveryTimeout(t *testing.T) {
	fake := newFakeCluster(t, 1, 1)
	topic := fake.addTopic("t", 1)
	p := newTestProducer(t, fake.dial(), ProducerConfig{DeliveryTimeout: 100 * time.Millisecond})
	fake.mu.Lock()
	topic.partitions[0].stalled = true
	fake.mu.Unlock()
	_, err := p.ProduceSync(testContext(t), Record{Topic: "t", Value: []byte("lost?")})
	if e := asError(err); e.Name != "REQUEST_TIMED_OUT" || e.Definite {
		t.Fatalf("%+v", err)
	}
	fake.mu.Lock()
	topic.partitions[0].stalled = false
	fake.mu.Unlock()
	receipts, err := p.ProduceSync(testContext(t), Record{Topic: "t", Value: []byte("next")})
	if err != nil || receipts[0].Offset != 1 {
		t.Fatalf("%+v, %v", receipts, err)
	}
	fake.mu.Lock()
	defer fake.mu.Unlock()
	if got := topic.partitions[0].batches[1].header; got.ProducerEpoch != 1 || got.BaseSequence != 0 {
		t.Errorf("the next batch has epoch %d, sequence %d", got.ProducerEpoch, got.BaseSequence)
	}
}
