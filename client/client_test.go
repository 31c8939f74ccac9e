package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

func TestDialErrors(t *testing.T) {
	t.Parallel()
	for want, config := range map[string]Config{
		"no bootstrap address": {},
		"is not host:port":     {Bootstrap: []string{"localhost"}},
		"no bootstrap broker":  {Bootstrap: []string{"127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler)},
		"connection refused":   {Bootstrap: []string{"127.0.0.1:1", "127.0.0.1:2"}, Logger: slog.New(slog.DiscardHandler)},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		c, err := Dial(ctx, config)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if c != nil {
			t.Error("a client came with the error")
		}
	}
}

// TestDeadAddressesFailFast asks for a connection again and again: each time the refusal comes at once.
func TestDeadAddressesFailFast(t *testing.T) {
	fake := newFakeCluster(t, 2, 1)
	c := fake.dial()
	fake.nodes[1].stop()
	start := time.Now()
	for refused := 0; refused < 20; {
		_, err := c.connected(testContext(t), fake.nodes[1].addr.String())
		switch {
		case err == nil && refused > 0 || time.Since(start) > 40*time.Second:
			t.Fatalf("%v after %d refusals", err, refused)
		case err == nil: // the end of the connection has not been seen yet
		case !strings.Contains(err.Error(), "cannot connect"): // refused, or reset while it ends
			t.Fatal(err)
		default:
			refused++
		}
	}
	if took := time.Since(start); took > 15*time.Second { // waiting for gRPC's next attempt takes a second and more each time
		t.Errorf("20 refusals took %v", took)
	}
}

// TestBootstrapSkipsSilentBrokers asks brokers that take connections and never say a word, as frozen machines do.
func TestBootstrapSkipsSilentBrokers(t *testing.T) {
	t.Parallel()
	fake := newFakeCluster(t, 1, 1)
	addresses := fake.bootstrap()[:1]
	for range 3 {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = silent.Close() })
		addresses = append(addresses, silent.Addr().String())
	}
	for range addresses { // each is asked first once, or nearly
		c, err := Dial(testContext(t), Config{
			Bootstrap: addresses, Logger: slog.New(slog.DiscardHandler), RequestTimeout: 2 * time.Second, DialTimeout: 2 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBootstrapSkipsDeadBrokers(t *testing.T) {
	fake := newFakeCluster(t, 1, 1)
	fake.addTopic("t", 1)
	c, err := Dial(testContext(t), Config{
		Bootstrap: []string{"127.0.0.1:1", "127.0.0.1:2", fake.bootstrap()[0]}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	p := newTestProducer(t, c, ProducerConfig{})
	if _, err := p.ProduceSync(testContext(t), Record{Topic: "t"}); err != nil {
		t.Error(err)
	}
}

func TestErrorsOfProduce(t *testing.T) {
	t.Parallel()
	fake := newFakeCluster(t, 2, 1)
	fake.addTopic("t", 2)
	c := fake.dial()
	ctx := testContext(t)
	if _, err := c.NewProducer(ctx, ProducerConfig{Codec: "rot13"}); !IsName(err, "UNSUPPORTED_COMPRESSION") {
		t.Errorf("%v", err)
	}
	if _, err := c.NewProducer(ctx, ProducerConfig{Acks: 7}); !IsName(err, "INVALID_REQUIRED_ACKS") {
		t.Errorf("%v", err)
	}
	p := newTestProducer(t, c, ProducerConfig{MaxRecordBytes: 1000})
	for want, r := range map[string]Record{
		"UNKNOWN_TOPIC_OR_PARTITION": {Topic: "missing"},
		"INVALID_TOPIC":              {Topic: "a/b"},
		"BATCH_TOO_LARGE":            {Topic: "t", Value: make([]byte, 2000)},
		"INVALID_TIMESTAMP":          {Topic: "t", TimestampMs: -5},
	} {
		start := time.Now()
		err := p.Produce(ctx, r, func(Receipt, error) { t.Error("a callback for a record that was not taken") })
		if !IsName(err, want) || !asError(err).Definite {
			t.Errorf("%v, want %s", err, want)
		}
		if took := time.Since(start); took > 12*time.Second { // less than a request's timeout
			t.Errorf("%s took %v", want, took)
		}
	}
	if err := p.ProduceTo(ctx, 2, Record{Topic: "t"}, nil); !IsName(err, "UNKNOWN_TOPIC_OR_PARTITION") {
		t.Errorf("%v", err)
	}
}

func TestAcksNoneAndLeader(t *testing.T) {
	for _, acks := range []Acks{AcksNone, AcksLeader} {
		fake := newFakeCluster(t, 1, 1)
		topic := fake.addTopic("t", 1)
		p := newTestProducer(t, fake.dial(), ProducerConfig{Acks: acks})
		receipts, err := p.ProduceSync(testContext(t), Record{Topic: "t"}, Record{Topic: "t"})
		if err != nil {
			t.Fatal(err)
		}
		if known := receipts[1].Offset == 1; known != (acks == AcksLeader) {
			t.Errorf("acks %d: %+v", acks, receipts)
		}
		await(t, "both records are there", func() bool {
			fake.mu.Lock()
			defer fake.mu.Unlock()
			return topic.partitions[0].end == 2
		})
	}
}

// TestBackPressure lets nothing be acknowledged: what Produce takes is bounded, and it waits until its context ends.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	fake := newFakeCluster(t, 1, 1)
	topic := fake.addTopic("t", 1)
	topic.partitions[0].stalled = true
	const limit = 64 << 10
	p := newTestProducer(t, fake.dial(), ProducerConfig{BufferBytes: limit, MaxRecordBytes: 10_000, BatchBytes: 8 << 10})
	var taken, ended atomic.Int64
	done := func(Receipt, error) { ended.Add(1) }
	ctx, cancel := context.WithCancel(testContext(t))
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for range 4 {
		wg.Go(func() {
			for {
				if err := p.Produce(ctx, Record{Topic: "t", Value: make([]byte, 1000)}, done); err != nil {
					errs <- err
					return
				}
				taken.Add(1)
			}
		})
	}
	await(t, "all four wait", func() bool { return p.budget.waiting.Load() == 4 })
	if n := taken.Load(); n > limit/1000 || n < limit/1000/3 {
		t.Errorf("%d records of 1,000 bytes were taken, the limit is %d bytes", n, limit)
	}
	cancel()
	wg.Wait()
	for range 4 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if n := ended.Load(); n != 0 {
		t.Errorf("%d records ended", n)
	}
	// What is under way ends with the producer, its outcome being unknown.
	short, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	if err := p.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if ended.Load() != taken.Load() {
		t.Errorf("%d records were taken, %d ended", taken.Load(), ended.Load())
	}
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	if want := p.config.BufferBytes; p.budget.free != want {
		t.Errorf("%d of %d bytes are free after the end", p.budget.free, want)
	}
}

func TestLingerFillsBatches(t *testing.T) {
	t.Parallel()
	fake := newFakeCluster(t, 1, 1)
	fake.addTopic("t", 1)
	p := newTestProducer(t, fake.dial(), ProducerConfig{Linger: time.Second})
	var wg sync.WaitGroup
	start := time.Now()
	for range 50 {
		wg.Add(1)
		if err := p.Produce(testContext(t), Record{Topic: "t"}, func(Receipt, error) { wg.Done() }); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if took := time.Since(start); took < 900*time.Millisecond || fake.count("batches") != 1 {
		t.Errorf("%d batches in %v", fake.count("batches"), took)
	}
}

// TestDeadBrokerAndItsReturn stops the leader; another one takes over, and later the first is back at its address.
func TestDeadBrokerAndItsReturn(t *testing.T) {
	t.Parallel()
	fake := newFakeCluster(t, 3, 1)
	topic := fake.addTopic("t", 1)
	p := newTestProducer(t, fake.dial(), ProducerConfig{})
	ctx := testContext(t)
	produce := func(want int64) {
		t.Helper()
		receipts, err := p.ProduceSync(ctx, Record{Topic: "t"})
		if err != nil || receipts[0].Offset != want {
			t.Fatalf("%+v, %v", receipts, err)
		}
	}
	produce(0)
	first := fake.nodes[0]
	addr := first.addr.String()
	first.stop()
	var late []Receipt
	finished := make(chan error, 1)
	go func() {
		var err error
		late, err = p.ProduceSync(ctx, Record{Topic: "t"})
		finished <- err
	}()
	fake.moveLeader(topic, 0, 2)
	if err := <-finished; err != nil || late[0].Offset != 1 || late[0].LeaderEpoch != 2 {
		t.Fatalf("%+v, %v", late, err)
	}
	first.start(addr)
	fake.moveLeader(topic, 0, 1)
	produce(2)
	fake.nodes[1].stop()
	fake.nodes[2].stop()
	produce(3)
}

// TestHungLeader never answers; the metadata push shows another leader, and the batch goes there at once.
func TestHungLeader(t *testing.T) {
	fake := newFakeCluster(t, 2, 1)
	topic := fake.addTopic("t", 1)
	p := newTestProducer(t, fake.dial(), ProducerConfig{})
	ctx := testContext(t)
	if _, err := p.ProduceSync(ctx, Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	fake.mu.Lock()
	topic.partitions[0].stalled = true
	fake.mu.Unlock()
	finished := make(chan error, 1)
	var receipts []Receipt
	go func() {
		var err error
		receipts, err = p.ProduceSync(ctx, Record{Topic: "t"})
		finished <- err
	}()
	await(t, "the batch comes", func() bool { return fake.count("batches") >= 2 })
	fake.mu.Lock()
	topic.partitions[0].stalled = false
	fake.move(topic.partitions[0], 2)
	fake.mu.Unlock()
	if err := <-finished; err != nil || receipts[0].Offset != 1 || !receipts[0].Duplicate || receipts[0].LeaderEpoch != 1 {
		t.Fatalf("%+v, %v", receipts, err)
	}
}

// TestOlderLeaderHintsAreIgnored shows too that a hint alone is enough: the metadata goes on to show the old leader.
func TestOlderLeaderHintsAreIgnored(t *testing.T) {
	fake := newFakeCluster(t, 2, 1)
	topic := fake.addTopic("t", 1)
	c := fake.dial()
	ctx := testContext(t)
	info, err := c.meta.topic(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	fake.mu.Lock()
	node := fake.nodes[1]
	topic.partitions[0].leader, topic.partitions[0].epoch, topic.partitions[0].hidden = 2, 5, true
	fake.mu.Unlock()
	p := newTestProducer(t, c, ProducerConfig{})
	if _, err := p.ProduceSync(ctx, Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	if n := fake.count("not leader"); n != 1 {
		t.Errorf("%d refusals until the leader was found", n)
	}
	old := protoHint("t", info.id, 1, 4, node.addr.Port)
	if c.meta.hint("t", info.id, old) {
		t.Error("a hint of an older epoch was taken")
	}
	if address, epoch, ok := c.meta.leader("t", info.id, 0); !ok || epoch != 5 || address != node.addr.String() {
		t.Errorf("%s %d %v", address, epoch, ok)
	}
}

// TestEpochsRunOut gives a producer its last epoch: after the next failure it goes on with another producer id.
func TestEpochsRunOut(t *testing.T) {
	fake := newFakeCluster(t, 1, 1)
	topic := fake.addTopic("t", 1)
	p := newTestProducer(t, fake.dial(), ProducerConfig{})
	p.producerEpoch = math.MaxInt16
	ctx := testContext(t)
	fake.mu.Lock()
	fake.refusing["t"] = model.Errorf(model.CodeInvalidRecord, "no")
	fake.mu.Unlock()
	if _, err := p.ProduceSync(ctx, Record{Topic: "t"}); !IsName(err, "INVALID_RECORD") {
		t.Fatal(err)
	}
	fake.mu.Lock()
	delete(fake.refusing, "t")
	fake.mu.Unlock()
	if _, err := p.ProduceSync(ctx, Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	fake.mu.Lock()
	defer fake.mu.Unlock()
	if h := topic.partitions[0].batches[0].header; h.ProducerID == p.producerID || h.ProducerEpoch != 0 || h.BaseSequence != 0 {
		t.Errorf("%+v", h)
	}
}

func TestSequencesWrap(t *testing.T) {
	fake := newFakeCluster(t, 1, 1)
	topic := fake.addTopic("t", 1)
	p := newTestProducer(t, fake.dial(), ProducerConfig{BatchBytes: 400})
	ctx := testContext(t)
	pt, err := p.topic(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	part := (*pt.partitions.Load())[0]
	part.mu.Lock()
	part.sequence = math.MaxInt32 - 20
	part.mu.Unlock()
	fake.mu.Lock()
	topic.partitions[0].producers[p.producerID] = &fakeProducer{next: math.MaxInt32 - 20}
	fake.mu.Unlock()
	var records []Record
	for i := range 100 {
		records = append(records, Record{Topic: "t", Value: fmt.Appendf(nil, "%d", i)})
	}
	if _, err := p.ProduceSync(ctx, records...); err != nil {
		t.Fatal(err)
	}
	fake.mu.Lock()
	defer fake.mu.Unlock()
	if next := topic.partitions[0].producers[p.producerID].next; next != 79 {
		t.Errorf("the next sequence is %d", next)
	}
}

func TestClosedClient(t *testing.T) {
	fake := newFakeCluster(t, 1, 1)
	fake.addTopic("t", 1)
	c := fake.dial()
	ctx := testContext(t)
	p := newTestProducer(t, c, ProducerConfig{Linger: time.Hour})
	k := newTestConsumer(t, c, ConsumerConfig{})
	if err := k.Assign(ctx, Assignment{Topic: "t", From: AtEnd()}); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	if err := p.Produce(ctx, Record{Topic: "t"}, func(_ Receipt, err error) { failed <- err }); err != nil {
		t.Fatal(err)
	}
	polled := make(chan error, 1)
	go func() {
		_, err := k.Poll(ctx)
		polled <- err
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, ErrClosed) || !asError(err).Definite {
		t.Errorf("%v", err)
	}
	if err := <-polled; !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := p.Produce(ctx, Record{Topic: "t"}, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := c.NewProducer(ctx, ProducerConfig{}); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := c.NewConsumer(ConsumerConfig{}); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := c.ListTopics(ctx, false); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestAdministration(t *testing.T) {
	fake := newFakeCluster(t, 2, 1)
	c := fake.dial()
	ctx := testContext(t)
	n := int32(3)
	topic, err := c.CreateTopic(ctx, TopicSpec{Name: "new", Partitions: &n})
	if err != nil || topic.Name != "new" || len(topic.Partitions) != 3 || len(topic.ID) != 36 {
		t.Fatalf("%+v, %v", topic, err)
	}
	_, err = c.CreateTopic(ctx, TopicSpec{Name: "new"})
	if e := asError(err); e.Name != "TOPIC_ALREADY_EXISTS" || e.Code != 36 || !e.Definite || e.Retryable {
		t.Errorf("%+v", e)
	}
	meta, err := c.Metadata(ctx, "new")
	if err != nil || len(meta.Brokers) != 2 || len(meta.Topics) != 1 || meta.Brokers[0].State != "online" {
		t.Errorf("%+v, %v", meta, err)
	}
	if _, err := c.Metadata(ctx, "old"); !IsName(err, "UNKNOWN_TOPIC_OR_PARTITION") {
		t.Errorf("%v", err)
	}
	if err := c.DeleteTopic(ctx, "new"); err != nil {
		t.Error(err)
	}
	start := time.Now()
	if err := c.DeleteTopic(ctx, "new"); !IsName(err, "UNKNOWN_TOPIC_OR_PARTITION") || time.Since(start) > 12*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
