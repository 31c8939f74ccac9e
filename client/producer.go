package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// Acks says when a record counts as acknowledged.
type Acks int

const (
	// AcksAll waits until every in-sync replica has the record. It is the default.
	AcksAll Acks = iota
	// AcksLeader waits for the leader alone: a failed leader may lose acknowledged records.
	AcksLeader
	// AcksNone waits for nothing: receipts carry no offset, and records may be lost or repeated without notice.
	AcksNone
)

// ProducerConfig says how records are batched, sent and waited for. The zero value is fine.
type ProducerConfig struct {
	// Acks says when a record counts as acknowledged.
	Acks Acks
	// Codec is the compression of batches: none (or empty), gzip, snappy, lz4 or zstd.
	Codec string
	// BatchBytes closes a batch that has grown to it; 0 means 128 KiB. A single larger record goes alone.
	BatchBytes int
	// MaxRecordBytes refuses larger records (as encoded, before compression); 0 means 1 MiB less one KiB.
	MaxRecordBytes int
	// Linger is how long a batch that is not full waits for more. With 0 a batch goes at once, and while one is under way
	// to a partition the next one collects.
	Linger time.Duration
	// BufferBytes bounds the records not acknowledged yet; 0 means 32 MiB. Produce waits while it is used up.
	BufferBytes int
	// MaxInFlight bounds the batches a partition that are sent and not acknowledged; 0 means as many as the broker
	// deduplicates, at most 64.
	MaxInFlight int
	// DeliveryTimeout bounds the life of a record from Produce to its end, retries included; 0 means 2 minutes.
	DeliveryTimeout time.Duration
	// RequestTimeout is how long a broker may take to acknowledge one batch before it is sent again; 0 means 30 s.
	RequestTimeout time.Duration
	// DisableIdempotence gives up the guarantee that retries repeat and reorder nothing. AcksNone implies it.
	DisableIdempotence bool
}

func (c ProducerConfig) withDefaults() ProducerConfig {
	c.BatchBytes = orDefault(c.BatchBytes, 128<<10)
	c.MaxRecordBytes = orDefault(c.MaxRecordBytes, 1<<20-1<<10)
	c.BufferBytes = max(orDefault(c.BufferBytes, 32<<20), c.MaxRecordBytes+record.HeaderSize+chunkBytes)
	c.MaxInFlight = orDefault(c.MaxInFlight, 64)
	c.DeliveryTimeout = orDefault(c.DeliveryTimeout, 2*time.Minute)
	c.RequestTimeout = orDefault(c.RequestTimeout, 30*time.Second)
	if c.Acks == AcksNone {
		c.DisableIdempotence = true
	}
	return c
}

// Producer sends records to the leaders of their partitions. Records of one partition keep the order in which Produce
// took them, whatever leaders do, and unless idempotence is disabled each is appended at most once. It is safe for
// concurrent use.
type Producer struct {
	client   *Client
	config   ProducerConfig
	codec    record.Codec
	acks     penstockv1.Acks
	group    *lifecycle.Group
	budget   *budget
	builders sync.Pool // *record.Builder
	unlisten func()
	wake     chan struct{} // the sweeper has something to do
	moved    atomic.Bool   // metadata changed since the last sweep
	closed   atomic.Bool
	ended    chan struct{}
	endOnce  sync.Once

	producerID    int64
	producerEpoch int16
	window        int // batches in flight a partition

	lastTopic atomic.Pointer[producerTopic]

	mu      sync.Mutex
	topics  map[string]*producerTopic
	former  map[string]model.UUID           // topics that are gone, of which Produce has not told yet
	streams map[string]*produceStream       // by address
	active  map[*producerPartition]struct{} // those with unfinished records
}

// producerTopic is a topic as a producer uses it.
type producerTopic struct {
	name       string
	id         model.UUID
	idBytes    []byte
	partitions atomic.Pointer[[]*producerPartition] // grows, never shrinks

	mu     sync.Mutex // guards the sticky partition
	sticky int32
	left   int // bytes until another one is chosen
}

// NewProducer returns a producer. Unless idempotence is disabled it asks a broker for a producer id, within ctx.
func (c *Client) NewProducer(ctx context.Context, config ProducerConfig) (*Producer, error) {
	p := &Producer{
		client: c, config: config.withDefaults(), producerID: record.NoProducerID, producerEpoch: record.NoProducerEpoch,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), topics: make(map[string]*producerTopic),
		former: make(map[string]model.UUID), streams: make(map[string]*produceStream), active: make(map[*producerPartition]struct{}),
	}
	p.window = p.config.MaxInFlight
	p.budget = newBudget(p.config.BufferBytes)
	switch p.config.Acks {
	case AcksAll:
		p.acks = penstockv1.Acks_ACKS_ALL
	case AcksLeader:
		p.acks = penstockv1.Acks_ACKS_LEADER
	case AcksNone:
		p.acks = penstockv1.Acks_ACKS_NONE
	default:
		return nil, newError(model.CodeInvalidRequiredAcks, true, "acks %d is not one of AcksAll, AcksLeader, AcksNone", config.Acks)
	}
	if config.Codec != "" {
		codec, err := record.ParseCodec(config.Codec)
		if err != nil {
			return nil, newError(model.CodeUnsupportedCompression, true, "%w", err)
		}
		p.codec = codec
	}
	if !p.config.DisableIdempotence {
		if err := p.initialize(ctx); err != nil {
			return nil, err
		}
	}
	p.group = c.group.Child("producer")
	p.unlisten = c.meta.listen(func() {
		p.moved.Store(true)
		signal(p.wake)
	})
	if !p.group.Go("sweeper", p.sweep) {
		p.unlisten()
		return nil, ErrClosed
	}
	return p, nil
}

func (p *Producer) initialize(ctx context.Context) error {
	id, epoch, inFlight, err := p.client.initProducer(ctx)
	if err != nil {
		return err
	}
	p.producerID, p.producerEpoch = id, epoch
	if inFlight > 0 {
		p.window = min(p.window, inFlight)
	}
	return nil
}

func (c *Client) initProducer(ctx context.Context) (id int64, epoch int16, inFlight int, err error) {
	err = c.call(ctx, true, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewProducerServiceClient(conn).InitProducer(ctx, &penstockv1.InitProducerRequest{})
		id, epoch = r.GetProducerId(), int16(r.GetProducerEpoch()) //nolint:gosec // Kafka's width
		inFlight = int(min(r.GetMaxInFlightBatches(), 64))
		return err
	})
	return id, epoch, inFlight, err
}

// Produce takes a record for the topic it names, into the partition that its key decides as in Kafka; records without a
// key go to one partition until a batch is full, then to another one. The record's bytes are copied before Produce
// returns.
//
// done is called exactly once if Produce returns nil, and never otherwise; it may be nil. Calls for one partition come in
// the order of its records, from a goroutine of the producer, which done must not block. An error of type [*Error] with
// Definite set says that the record is certainly not in the log; otherwise it may be.
//
// Produce waits while BufferBytes are in use, and for the topic's metadata at first use, until ctx ends.
//
// A topic that was deleted and made anew is another topic. Records for the old one fail with UNKNOWN_TOPIC_ID, and so does the
// first call of Produce that finds the new one; later calls write to it.
func (p *Producer) Produce(ctx context.Context, r Record, done func(Receipt, error)) error {
	t, err := p.topic(ctx, r.Topic)
	if err != nil {
		return err
	}
	return p.produce(ctx, t, t.choose(p, &r), &r, done)
}

// ProduceTo is Produce into a partition of the caller's choice.
func (p *Producer) ProduceTo(ctx context.Context, partition int32, r Record, done func(Receipt, error)) error {
	t, err := p.topic(ctx, r.Topic)
	if err != nil {
		return err
	}
	if n := len(*t.partitions.Load()); partition < 0 || int(partition) >= n {
		return newError(model.CodeUnknownTopicOrPartition, true, "topic %q has the partitions 0 to %d, not %d", r.Topic, n-1, partition)
	}
	return p.produce(ctx, t, partition, &r, done)
}

// ProduceSync produces records and waits for all of them. The receipts stand in the order of the records; one that failed
// is zero, and the error joins all failures. When ctx ends the records under way may still arrive.
func (p *Producer) ProduceSync(ctx context.Context, records ...Record) ([]Receipt, error) {
	var mu sync.Mutex
	receipts := make([]Receipt, len(records))
	var failures []error
	finished := make(chan struct{})
	left := len(records)
	settle := func(i int, receipt Receipt, err error) {
		mu.Lock()
		defer mu.Unlock()
		receipts[i] = receipt
		if err != nil {
			failures = append(failures, err)
		}
		if left--; left == 0 {
			close(finished)
		}
	}
	if left == 0 {
		return nil, nil
	}
	for i, r := range records {
		err := p.Produce(ctx, r, func(receipt Receipt, err error) { settle(i, receipt, err) })
		if err != nil {
			settle(i, Receipt{}, err)
		}
	}
	select {
	case <-finished:
		return receipts, errors.Join(failures...)
	case <-ctx.Done():
		mu.Lock()
		defer mu.Unlock()
		return append([]Receipt(nil), receipts...), errors.Join(append(failures, context.Cause(ctx))...)
	}
}

func (p *Producer) produce(ctx context.Context, t *producerTopic, number int32, r *Record, done func(Receipt, error)) error {
	if p.closed.Load() {
		return ErrClosed
	}
	return (*t.partitions.Load())[number].add(ctx, r, done)
}

// topic returns the producer's view of a topic.
func (p *Producer) topic(ctx context.Context, name string) (*producerTopic, error) {
	if t := p.lastTopic.Load(); t != nil && t.name == name {
		return t, nil
	}
	p.mu.Lock()
	t := p.topics[name]
	p.mu.Unlock()
	if t != nil {
		p.lastTopic.Store(t)
		return t, nil
	}
	if p.closed.Load() {
		return nil, ErrClosed
	}
	info, err := p.client.meta.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(info.partitions) == 0 {
		return nil, newError(model.CodeUnknownTopicOrPartition, true, "topic %q has no partitions", name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, gone := p.former[name]; gone {
		delete(p.former, name)
		if old != info.id {
			return nil, newError(model.CodeUnknownTopicID, true,
				"topic %q was deleted and made anew since the last record: this one was not sent; produce again to write to the new topic", name)
		}
	}
	if t = p.topics[name]; t == nil {
		t = &producerTopic{name: name, id: info.id, idBytes: info.id.Bytes()}
		t.grow(p, len(info.partitions))
		p.topics[name] = t
	}
	return t, nil
}

// grow makes partitions up to n. Calls are serialized by the producer's mutex.
func (t *producerTopic) grow(p *Producer, n int) {
	var list []*producerPartition
	if old := t.partitions.Load(); old != nil {
		list = append(list, *old...)
	}
	for len(list) < n {
		list = append(list, newProducerPartition(p, t, int32(len(list)))) //nolint:gosec // a partition number
	}
	t.partitions.Store(&list)
}

// choose returns the partition for a record.
func (t *producerTopic) choose(p *Producer, r *Record) int32 {
	n := int32(len(*t.partitions.Load())) //nolint:gosec // a number of partitions
	if r.Key != nil {
		return record.Partition(r.Key, n)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left <= 0 {
		t.left = p.config.BatchBytes
		t.sticky = t.another(p, n)
	}
	t.left -= len(r.Value) + 16
	return t.sticky
}

// another picks a partition at random, one with a leader if there is any.
func (t *producerTopic) another(p *Producer, n int32) int32 {
	from := rand.Int32N(n) //nolint:gosec // spreads load
	for i := range n {
		if _, _, ok := p.client.meta.leader(t.name, t.id, (from+i)%n); ok {
			return (from + i) % n
		}
	}
	return from
}

// Flush sends what waits for company and returns when every record taken before has ended and its callback has returned,
// or when ctx ends.
func (p *Producer) Flush(ctx context.Context) error {
	var waits []<-chan struct{}
	for _, pt := range p.activePartitions() {
		if last := pt.flush(); last != nil {
			waits = append(waits, last)
		}
	}
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Close flushes within ctx and ends the producer. Records that did not end in time fail with an error that wraps
// ErrClosed.
func (p *Producer) Close(ctx context.Context) error {
	if p.closed.Swap(true) {
		return nil
	}
	err := p.Flush(ctx)
	p.endOnce.Do(func() { close(p.ended) })
	p.unlisten()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, p.group.Stop(stopCtx))
}
