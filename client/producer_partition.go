package client

import (
	"context"
	"sync"
	"time"

	"github.com/penstock-io/penstock/internal/record"
)

// producerPartition is the way of records to one partition: an open batch, then a queue of closed ones in the order of
// their sequences. The first `next` of the queue are sent and not settled. Batches are settled at the head alone, so that
// an answer out of turn waits for those before it (see producer_settle.go).
type producerPartition struct {
	producer *Producer
	topic    *producerTopic
	number   int32

	mu      sync.Mutex
	open    *openBatch
	headers []record.RecordHeader // scratch
	queue   []*batch
	next    int
	last    *batch // the youngest closed batch

	producerID int64
	epoch      int16
	sequence   int32 // of the next record to be closed into a batch
	gap        bool  // a batch was given up: what was not sent yet waits for a bumped epoch
	renewing   bool  // a new producer id is on its way

	stream      *produceStream // where the queue goes; nil while that is to be found out
	leaderEpoch int32          // of the leader at its end
	listed      bool           // in the stream's ready list
	generation  uint64         // grows when the queue is sent anew: errors to older sends are ignored
	hold        bool           // an error waits for its turn: sending on is in vain
	failures    int            // in a row
	retryAt     time.Time
	askedAt     time.Time // when the metadata was asked about a silent leader

	active    bool     // in the producer's active list
	finished  []*batch // settled, callbacks not called yet
	finishing bool     // a goroutine calls them
}

func newProducerPartition(p *Producer, t *producerTopic, number int32) *producerPartition {
	return &producerPartition{
		producer: p, topic: t, number: number, producerID: p.producerID, epoch: p.producerEpoch, leaderEpoch: -1,
	}
}

// add puts a record into the open batch and closes the batch where it is full.
func (pt *producerPartition) add(ctx context.Context, r *Record, done func(Receipt, error)) error {
	p := pt.producer
	rec := record.Record{Key: r.Key, Value: r.Value, Timestamp: r.TimestampMs}
	if rec.Timestamp == 0 {
		rec.Timestamp = p.client.clock.Now().UnixMilli()
	}
	if err := p.check(r, &rec); err != nil {
		return err
	}
	granted := 0 // taken while waiting, to be put into the batch
	for {
		pt.mu.Lock()
		if p.closed.Load() {
			pt.mu.Unlock()
			p.budget.give(granted)
			return ErrClosed
		}
		need := pt.place(r, &rec, done, &granted)
		pt.mu.Unlock()
		if need == 0 {
			if granted > 0 {
				p.budget.give(granted)
			}
			return nil
		}
		signal(p.wake) // a batch that lingers may go now
		if err := p.budget.take(ctx, need, p.ended); err != nil {
			p.budget.give(granted)
			return err
		}
		granted += need
	}
}

// place adds the record and returns 0, or returns how many bytes of the budget must be waited for first. It needs mu.
func (pt *producerPartition) place(r *Record, rec *record.Record, done func(Receipt, error), granted *int) int {
	p := pt.producer
	if len(r.Headers) > 0 {
		pt.headers = pt.headers[:0]
		for _, h := range r.Headers {
			pt.headers = append(pt.headers, record.RecordHeader{Key: h.Key, Value: h.Value})
		}
		rec.Headers = pt.headers
	}
	if o := pt.open; o != nil && o.builder.Count() > 0 && o.builder.SizeAfter(*rec) > p.config.BatchBytes {
		pt.closeOpen()
		pt.schedule(p.client.clock.Now())
	}
	if pt.open == nil {
		pt.open = p.newOpenBatch()
	}
	o := pt.open
	if lack := o.builder.SizeAfter(*rec) - o.reserved; lack > 0 {
		lack = max(lack, chunkBytes)
		if *granted >= lack {
			o.reserved += *granted
			*granted = 0
		} else if p.budget.try(lack - *granted) {
			o.reserved += lack
			*granted = 0
		} else {
			return lack - *granted
		}
	}
	if err := o.builder.Add(*rec); err != nil { // sizes and times were checked before
		p.client.logger.Error("a record does not fit into its batch", "topic", pt.topic.name, "error", err)
		pt.drop(newError(codeInvalidRecord, true, "%w", err), done)
		return 0
	}
	o.callbacks = append(o.callbacks, done)
	if o.builder.Count() == 1 {
		now := p.client.clock.Now()
		o.created = now
		pt.activate()
		pt.schedule(now)
	}
	return 0
}

// drop ends a record that never entered a batch.
func (pt *producerPartition) drop(err *Error, done func(Receipt, error)) {
	b := &batch{failure: err, callbacks: []func(Receipt, error){done}, finished: true}
	pt.finished = append(pt.finished, b)
	pt.last = b
	pt.activate()
	signal(pt.producer.wake)
}

func (p *Producer) check(r *Record, rec *record.Record) error {
	if rec.Timestamp < 0 {
		return newError(codeInvalidTimestamp, true, "the timestamp %d is negative", r.TimestampMs)
	}
	size := record.SizeOf(*rec)
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value) + 2*5
	}
	if size > p.config.MaxRecordBytes {
		return newError(codeBatchTooLarge, true,
			"the record has %d bytes, MaxRecordBytes allows %d: split it, or raise that and max.message.bytes of the topic",
			size, p.config.MaxRecordBytes)
	}
	return nil
}

func (p *Producer) newOpenBatch() *openBatch {
	builder, ok := p.builders.Get().(*record.Builder)
	if !ok {
		builder = record.NewBuilder(record.BuilderOptions{})
	}
	return &openBatch{builder: builder}
}

// closeOpen turns the open batch into the last of the queue. It needs mu and a batch with records.
func (pt *producerPartition) closeOpen() {
	p, o := pt.producer, pt.open
	pt.open = nil
	b := &batch{
		count: int32(o.builder.Count()), callbacks: o.callbacks, reserved: o.reserved, //nolint:gosec // bounded by the builder
		created: o.created,
	}
	sequence := pt.sequence
	if p.config.DisableIdempotence {
		sequence = record.NoSequence
	}
	data, err := o.builder.Finish(p.codec, pt.producerID, pt.epoch, sequence)
	if err == nil {
		var dst []byte
		b.payload, dst = p.client.pool.Alloc(len(data))
		copy(dst, data)
		pt.sequence = addSequence(pt.sequence, b.count)
	}
	o.builder.Reset()
	p.builders.Put(o.builder)
	pt.last = b
	pt.queue = append(pt.queue, b)
	if err != nil { // no sequence was used up
		b.err = newError(codeInvalidRecord, true, "the batch cannot be encoded: %w", err)
		pt.settle(p.client.clock.Now())
	}
}

// activate enters the partition in the sweeper's list. It needs mu.
func (pt *producerPartition) activate() {
	if pt.active {
		return
	}
	pt.active = true
	p := pt.producer
	p.mu.Lock()
	p.active[pt] = struct{}{}
	first := len(p.active) == 1
	p.mu.Unlock()
	if first {
		signal(p.wake)
	}
}

// deactivate takes the partition off that list. It needs mu.
func (pt *producerPartition) deactivate() {
	pt.active = false
	p := pt.producer
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.active, pt)
}

// openReady reports whether the open batch shall go. It needs mu.
func (pt *producerPartition) openReady(now time.Time) bool {
	o := pt.open
	if o == nil || o.builder.Count() == 0 {
		return false
	}
	p := pt.producer
	if p.config.Linger > 0 && now.Sub(o.created) >= p.config.Linger {
		return true
	}
	return len(pt.queue) == 0 && (p.config.Linger == 0 || p.budget.pressed())
}

// sendable reports whether there is something to send now. It needs mu.
func (pt *producerPartition) sendable(now time.Time) bool {
	if pt.hold || pt.next >= pt.producer.window {
		return false
	}
	if pt.next < len(pt.queue) {
		return !pt.gap || pt.queue[pt.next].sent
	}
	return !pt.gap && pt.openReady(now)
}

// schedule hands the partition to the stream of its leader where there is something to send. It needs mu.
func (pt *producerPartition) schedule(now time.Time) {
	if !pt.sendable(now) {
		return
	}
	p := pt.producer
	if pt.stream == nil {
		if now.Before(pt.retryAt) {
			return
		}
		address, epoch, ok := p.client.meta.leader(pt.topic.name, pt.topic.id, pt.number)
		if ok {
			pt.stream = p.streamTo(address)
			pt.leaderEpoch = epoch
		}
		if pt.stream == nil {
			pt.failures++
			pt.retryAt = now.Add(backoff(pt.failures))
			p.client.meta.request(pt.topic.name)
			return
		}
		pt.listed = false
	}
	if pt.listed {
		return
	}
	if pt.listed = pt.stream.enlist(pt); !pt.listed { // it has ended just now
		pt.rewind(now, true, false)
	}
}

// take returns the next batch to be sent on s, with a reference to its payload of the caller's own; nil where there is
// none.
func (pt *producerPartition) take(s *produceStream) (*batch, outgoing) {
	p := pt.producer
	now := p.client.clock.Now()
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.stream != s {
		return nil, outgoing{}
	}
	pt.listed = false
	for pt.next < len(pt.queue) && pt.queue[pt.next].answered { // acknowledged in an earlier generation
		pt.next++
	}
	if !pt.sendable(now) {
		return nil, outgoing{}
	}
	if pt.next == len(pt.queue) {
		pt.closeOpen()
		if pt.next == len(pt.queue) {
			return nil, outgoing{}
		}
	}
	b := pt.queue[pt.next]
	pt.next++
	b.sent, b.sentAt = true, now
	out := outgoing{payload: b.payload.Ref(), correlation: s.register(pt, b, pt.generation)}
	pt.schedule(now)
	return b, out
}

// flush sends what is open and returns a channel that is closed when everything so far has ended; nil where all has.
func (pt *producerPartition) flush() <-chan struct{} {
	pt.mu.Lock()
	if pt.open != nil && pt.open.builder.Count() > 0 {
		pt.closeOpen()
		pt.schedule(pt.producer.client.clock.Now())
	}
	last := pt.last
	var done chan struct{}
	if last != nil && !last.ran {
		if last.done == nil {
			last.done = make(chan struct{})
		}
		done = last.done
	}
	pt.mu.Unlock()
	pt.finish()
	return done
}
