package client

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/wire"
)

// ConsumerConfig says how records are fetched. The zero value is fine.
type ConsumerConfig struct {
	// CreditBytes bounds the bytes that one broker may send ahead of Poll; 0 means 4 MiB.
	CreditBytes int
	// MaxFrameBytes bounds what one Poll returns, before decompression, exceeded only by a single larger batch; 0 means
	// 1 MiB.
	MaxFrameBytes int
	// MinBytes lets a broker wait until it has so many bytes of a partition, or MaxWait has passed; 0 sends at once.
	MinBytes int
	// MaxWait is the longest such wait; 0 with MinBytes means 500 ms.
	MaxWait time.Duration
	// MaxUncompressedBytes bounds one decompressed batch; 0 means 64 MiB.
	MaxUncompressedBytes int
}

// Assignment is a partition to read and the range of it.
type Assignment struct {
	Topic     string
	Partition int32
	// From is the first record; required.
	From Position
	// To is the end, which is not read any more; none reads on for ever. Positions such as AtEnd are resolved once, when
	// the partition is assigned.
	To Position
}

// Fetch is what one Poll returned: records of one partition, its end, or its failure.
type Fetch struct {
	Topic     string
	Partition int32
	// Records come in the order of their offsets. They, and the bytes they point to, are valid until the next Poll and must
	// not be changed; Clone keeps one.
	Records []Record
	// HighWatermark is the first offset that was not committed when the records were sent.
	HighWatermark int64
	// LogStartOffset is the first offset that could be read then.
	LogStartOffset int64
	// NextOffset is where reading goes on.
	NextOffset int64
	// EndOfRange is true where the assignment's To was reached; nothing more comes of the partition.
	EndOfRange bool
	// Err is why nothing more comes of the partition: an *Error, such as OFFSET_OUT_OF_RANGE or CORRUPT_BATCH.
	Err error
}

// Consumer reads partitions by offset. It follows their leaders; each record of a range comes once and in order. Assign,
// Unassign, Position and Close may be called by anybody, Poll by one goroutine at a time.
type Consumer struct {
	client   *Client
	config   ConsumerConfig
	group    *lifecycle.Group
	unlisten func()
	kick     chan struct{} // the router has something to do
	ready    chan struct{} // Poll has something to look at
	moved    atomic.Bool   // metadata changed since the router looked

	mu         sync.Mutex
	partitions map[partitionKey]*consumerPartition
	followed   map[string]*followedTopic // by name
	streams    map[string]*fetchStream   // by address
	items      []fetchItem
	nextSub    uint64
	closed     bool
	closing    sync.Once

	// Of Poll alone.
	held      fetchItem
	records   []Record
	headers   []Header
	iterators []*record.Iterator
}

type partitionKey struct {
	topic     string
	partition int32
}

// consumerPartition is one assignment. It is guarded by the consumer.
type consumerPartition struct {
	key       partitionKey
	id        model.UUID
	offset    int64 // next to be received
	position  int64 // next to be delivered
	end       int64 // -1 where there is none
	over      bool  // nothing more will be received
	gone      bool  // unassigned: what was received is dropped
	failures  int
	retryAt   time.Time
	unknownAt time.Time

	stream      *fetchStream
	sub         uint64
	leaderEpoch int32
}

// fetchItem is what was received and not delivered.
type fetchItem struct {
	partition      *consumerPartition
	stream         *fetchStream // whose credit the bytes are
	credit         int
	payload        wire.Payload
	data           []byte // the payload in one piece
	from           int64  // records below are not wanted
	next           int64
	highWatermark  int64
	logStartOffset int64
	endOfRange     bool
	err            *Error
}

// NewConsumer returns a consumer without assignments.
func (c *Client) NewConsumer(config ConsumerConfig) (*Consumer, error) {
	config.CreditBytes = orDefault(config.CreditBytes, 4<<20)
	config.MaxFrameBytes = orDefault(config.MaxFrameBytes, 1<<20)
	if config.MinBytes > 0 {
		config.MaxWait = orDefault(config.MaxWait, 500*time.Millisecond)
	}
	k := &Consumer{
		client: c, config: config, group: c.group.Child("consumer"), kick: make(chan struct{}, 1),
		ready: make(chan struct{}, 1), partitions: make(map[partitionKey]*consumerPartition),
		followed: make(map[string]*followedTopic),
		streams:  make(map[string]*fetchStream),
	}
	k.unlisten = c.meta.listen(func() {
		k.moved.Store(true)
		signal(k.kick)
	})
	if !k.group.Go("router", k.route) {
		k.unlisten()
		return nil, ErrClosed
	}
	return k, nil
}

// Assign adds partitions. It resolves their positions within ctx, and adds all or none. A partition that is assigned
// already starts anew.
func (k *Consumer) Assign(ctx context.Context, assignments ...Assignment) error {
	var list []*consumerPartition
	for _, a := range assignments {
		pt, err := k.resolve(ctx, a)
		if err != nil {
			return err
		}
		list = append(list, pt)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return ErrClosed
	}
	for _, pt := range list {
		k.remove(pt.key)
		k.partitions[pt.key] = pt
		if pt.end >= 0 && pt.offset >= pt.end {
			k.push(fetchItem{partition: pt, next: pt.offset, endOfRange: true})
		}
	}
	signal(k.kick)
	return nil
}

func (k *Consumer) resolve(ctx context.Context, a Assignment) (*consumerPartition, error) {
	if a.From.IsZero() {
		return nil, newError(model.CodeInvalidRequest, true, "%s/%d is assigned without a place to start: set From", a.Topic, a.Partition)
	}
	t, err := k.client.meta.topic(ctx, a.Topic)
	if err != nil {
		return nil, err
	}
	if a.Partition < 0 || int(a.Partition) >= len(t.partitions) {
		return nil, newError(model.CodeUnknownTopicOrPartition, true,
			"topic %q has the partitions 0 to %d, not %d", a.Topic, len(t.partitions)-1, a.Partition)
	}
	pt := &consumerPartition{key: partitionKey{a.Topic, a.Partition}, id: t.id, end: -1, leaderEpoch: -1}
	at := []Position{a.From}
	if !a.To.IsZero() {
		at = append(at, a.To)
	}
	offsets := make([]int64, 0, len(at))
	if a.From.kind == positionOffset && (a.To.IsZero() || a.To.kind == positionOffset) {
		offsets = append(offsets, a.From.value, a.To.value)
	} else if offsets, err = k.client.ListOffsets(ctx, a.Topic, a.Partition, at...); err != nil {
		return nil, err
	}
	if offsets[0] < 0 {
		return nil, newError(model.CodeOffsetOutOfRange, true, "offset %d is negative", offsets[0])
	}
	pt.offset, pt.position = offsets[0], offsets[0]
	if !a.To.IsZero() {
		pt.end = max(offsets[1], 0)
	}
	return pt, nil
}

// followedTopic is a topic whose new partitions are assigned as they appear.
type followedTopic struct {
	id    model.UUID
	known int // partitions that were there, or have been assigned since
}

// AssignTopic assigns every partition of a topic, from a position on and without an end, and those that are added to it later,
// from their beginning on. A topic that is deleted and made anew is another one: its partitions end with an error.
func (k *Consumer) AssignTopic(ctx context.Context, topic string, from Position) error {
	t, err := k.client.meta.topic(ctx, topic)
	if err != nil {
		return err
	}
	list := make([]Assignment, 0, len(t.partitions))
	for n := range t.partitions {
		list = append(list, Assignment{Topic: topic, Partition: int32(n), From: from}) //nolint:gosec // a partition number
	}
	if err := k.Assign(ctx, list...); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.followed[topic] = &followedTopic{id: t.id, known: len(t.partitions)}
	k.moved.Store(true)
	signal(k.kick)
	return nil
}

// assignAdded assigns the partitions that were added to followed topics. It needs mu.
func (k *Consumer) assignAdded() {
	for name, followed := range k.followed {
		info := k.client.meta.cached(name)
		if info == nil || info.id != followed.id {
			continue
		}
		for ; followed.known < len(info.partitions); followed.known++ {
			key := partitionKey{name, int32(followed.known)} //nolint:gosec // a partition number
			if k.partitions[key] == nil {
				k.partitions[key] = &consumerPartition{key: key, id: info.id, end: -1, leaderEpoch: -1}
			}
		}
	}
}

// Unassign ends reading a partition; what was received of it is dropped.
func (k *Consumer) Unassign(topic string, partition int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remove(partitionKey{topic, partition})
	signal(k.ready)
}

// remove needs mu.
func (k *Consumer) remove(key partitionKey) {
	pt := k.partitions[key]
	if pt == nil {
		return
	}
	delete(k.partitions, key)
	pt.gone, pt.over = true, true
	k.leave(pt, true)
}

// Position returns the offset of the next record that Poll will return of a partition; false where it is not assigned.
func (k *Consumer) Position(topic string, partition int32) (int64, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pt := k.partitions[partitionKey{topic, partition}]
	if pt == nil {
		return -1, false
	}
	return pt.position, true
}

// push queues what was received. It needs mu.
func (k *Consumer) push(item fetchItem) {
	if item.endOfRange || item.err != nil {
		item.partition.over = true
	}
	k.items = append(k.items, item)
	signal(k.ready)
}

// Poll waits for the next records, end of a range, or failure of a partition. It returns [ErrDone] when every assigned
// partition has reached its end or failed, ErrClosed after Close, and the cause of ctx when it ends.
func (k *Consumer) Poll(ctx context.Context) (Fetch, error) {
	k.release()
	for {
		item, err := k.pop()
		if err != nil {
			return Fetch{}, err
		}
		if item.partition == nil {
			select {
			case <-k.ready:
				continue
			case <-ctx.Done():
				return Fetch{}, context.Cause(ctx)
			}
		}
		k.held = item
		f, empty := k.deliver(item)
		if empty {
			k.release()
			continue
		}
		return f, nil
	}
}

// release gives back what the last Poll returned.
func (k *Consumer) release() {
	item := k.held
	k.held = fetchItem{}
	item.payload.Free()
	if item.stream != nil && item.credit > 0 {
		k.mu.Lock()
		item.stream.giveBack(item.credit)
		k.mu.Unlock()
	}
}

// pop returns the next item; without a partition where there is none yet.
func (k *Consumer) pop() (fetchItem, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.items) > 0 {
		item := k.items[0]
		k.items[0] = fetchItem{}
		k.items = k.items[1:]
		if item.stream != nil {
			item.stream.queued--
		}
		if !item.partition.gone {
			return item, nil
		}
		item.payload.Free()
		if item.stream != nil {
			item.stream.giveBack(item.credit)
		}
	}
	k.items = nil
	if k.closed {
		return fetchItem{}, ErrClosed
	}
	for _, pt := range k.partitions {
		if !pt.over {
			return fetchItem{}, nil
		}
	}
	return fetchItem{}, ErrDone
}

// deliver turns an item into what Poll returns; empty where there is nothing in it that anybody wants to see.
func (k *Consumer) deliver(item fetchItem) (f Fetch, empty bool) {
	pt := item.partition
	f = Fetch{
		Topic: pt.key.topic, Partition: pt.key.partition, HighWatermark: item.highWatermark,
		LogStartOffset: item.logStartOffset, NextOffset: item.next, EndOfRange: item.endOfRange,
	}
	if item.err != nil {
		f.Err = item.err
	}
	records, err := k.decode(item)
	f.Records = records
	if err != nil {
		e := newError(model.CodeCorruptBatch, true, "%s/%d: %w", pt.key.topic, pt.key.partition, err)
		f.Err, f.EndOfRange = e, false
		f.NextOffset = item.from
		if n := len(records); n > 0 {
			f.NextOffset = records[n-1].Offset + 1
		}
	}
	k.mu.Lock()
	pt.position = f.NextOffset
	if err != nil {
		pt.over = true
		k.leave(pt, true)
	}
	k.mu.Unlock()
	return f, len(records) == 0 && f.Err == nil && !f.EndOfRange
}

// decode walks the batches of an item. On an error it returns the records before it.
func (k *Consumer) decode(item fetchItem) ([]Record, error) {
	k.records, k.headers = k.records[:0], k.headers[:0]
	limits := record.Limits{MaxUncompressedBytes: k.config.MaxUncompressedBytes, SkipCRC: true}
	scanner := record.NewScanner(item.data, limits)
	for used := 0; scanner.Next(); used++ {
		h := scanner.Header()
		if h.NextOffset() <= item.from || h.IsControl() {
			continue
		}
		if used == len(k.iterators) {
			k.iterators = append(k.iterators, new(record.Iterator))
		}
		if err := k.walk(k.iterators[used], scanner.Batch(), limits, item); err != nil {
			return k.records, fmt.Errorf("the batch at offset %d is damaged: %w", h.BaseOffset, err)
		}
	}
	return k.records, scanner.Err()
}

// walk appends the records of one batch that lie in the range. Compressed batches need an iterator each, which holds
// their bytes.
func (k *Consumer) walk(it *record.Iterator, batch []byte, limits record.Limits, item fetchItem) error {
	if err := it.Reset(batch, limits); err != nil {
		return err
	}
	pt := item.partition
	epoch := it.Header().LeaderEpoch
	for it.Next() {
		r := it.Record()
		if r.Offset < item.from || pt.end >= 0 && r.Offset >= pt.end {
			continue
		}
		k.records = append(k.records, Record{
			Topic: pt.key.topic, Partition: pt.key.partition, Offset: r.Offset, Key: r.Key, Value: r.Value,
			TimestampMs: r.Timestamp, LeaderEpoch: epoch, Headers: k.copyHeaders(r.Headers),
		})
	}
	return it.Err()
}

func (k *Consumer) copyHeaders(list []record.RecordHeader) []Header {
	if len(list) == 0 {
		return nil
	}
	from := len(k.headers)
	for _, h := range list {
		k.headers = append(k.headers, Header{Key: h.Key, Value: h.Value})
	}
	return k.headers[from:len(k.headers):len(k.headers)]
}

// Close ends the consumer and what Poll returned last. It must not be called while Poll runs in another goroutine with
// records in use; a waiting Poll returns ErrClosed.
func (k *Consumer) Close() error {
	var err error
	k.closing.Do(func() { err = k.stop() })
	return err
}

func (k *Consumer) stop() error {
	k.unlisten()
	k.end()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := k.group.Stop(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	for key := range k.partitions {
		k.remove(key)
	}
	for _, item := range k.items {
		item.payload.Free()
	}
	k.items = nil
	return err
}
