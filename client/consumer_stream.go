package client

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/wire"
)

// fetchStream is the long-lived stream of a consumer to one broker. Its fields are guarded by the consumer.
type fetchStream struct {
	consumer *Consumer
	address  string
	wake     chan struct{}

	ended    bool
	subs     map[uint64]*consumerPartition
	commands []*penstockv1.FetchRequest
	owed     int // credit to be given back
	out      int // credit in use
	queued   int // items that Poll has not taken
	heard    time.Time
	cancel   context.CancelFunc
}

// route runs until ctx is done: it subscribes partitions at their leaders, and again where they move or fail.
func (k *Consumer) route(ctx context.Context) error {
	for {
		next := k.routeOnce(k.client.clock.Now())
		if next < 0 {
			select {
			case <-k.kick:
				continue
			case <-ctx.Done():
				k.end()
				return ctx.Err()
			}
		}
		timer := k.client.clock.NewTimer(next)
		select {
		case <-timer.C():
		case <-k.kick:
		case <-ctx.Done():
			timer.Stop()
			k.end()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// end lets a waiting Poll see that nothing will come.
func (k *Consumer) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	signal(k.ready)
}

// routeOnce returns how long until it has something to do again; negative where it is not known.
func (k *Consumer) routeOnce(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	moved := k.moved.Swap(false)
	if moved {
		k.assignAdded()
	}
	next := time.Duration(-1)
	for _, pt := range k.partitions {
		if pt.over {
			continue
		}
		if moved {
			k.followLeader(pt, now)
		}
		if pt.stream != nil {
			continue
		}
		if !now.Before(pt.retryAt) && k.subscribe(pt, now) || pt.over {
			continue
		}
		if wait := max(pt.retryAt.Sub(now), time.Millisecond); next < 0 || wait < next {
			next = wait
		}
	}
	for _, s := range k.streams {
		s.checkSilence(now)
		if next < 0 || next > silence {
			next = silence
		}
	}
	return next
}

// maxSilence is how long a broker may send nothing, not even progress, before its stream is given up.
const maxSilence = 5 * silence

// checkSilence asks around where a broker sends nothing that has credit to, and in the end gives its stream up. It needs
// the consumer's mu.
func (s *fetchStream) checkSilence(now time.Time) {
	silent := now.Sub(s.heard)
	if s.out > 0 || len(s.subs) == 0 || silent < 2*silence || s.heard.IsZero() {
		return
	}
	for _, pt := range s.subs {
		s.consumer.client.meta.request(pt.key.topic)
	}
	if silent > maxSilence {
		s.cancel()
	}
}

// followLeader leaves a leader that is none any more. It needs mu.
func (k *Consumer) followLeader(pt *consumerPartition, now time.Time) {
	address, epoch, ok := k.client.meta.leader(pt.key.topic, pt.id, pt.key.partition)
	if !ok || epoch <= pt.leaderEpoch {
		return
	}
	if pt.stream != nil && pt.stream.address != address {
		k.leave(pt, true)
	}
	if pt.stream == nil {
		pt.retryAt = now
	}
}

// leave ends a partition's subscription, telling the broker if tell is set. It needs mu.
func (k *Consumer) leave(pt *consumerPartition, tell bool) {
	s := pt.stream
	if s == nil {
		return
	}
	delete(s.subs, pt.sub)
	if tell {
		s.command(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Unsubscribe{
			Unsubscribe: &penstockv1.FetchUnsubscribe{SubscriptionId: pt.sub},
		}})
	}
	pt.stream, pt.sub = nil, 0
}

// subscribe asks the partition's leader for records from offset on; false where that must wait. It needs mu.
func (k *Consumer) subscribe(pt *consumerPartition, now time.Time) bool {
	address, epoch, ok := k.client.meta.leader(pt.key.topic, pt.id, pt.key.partition)
	var s *fetchStream
	if ok {
		s = k.streamTo(address)
	}
	if s == nil {
		if info := k.client.meta.cached(pt.key.topic); info == nil || info.id != pt.id {
			k.topicMissing(pt, now, newError(model.CodeUnknownTopicOrPartition, true, "topic %q was deleted", pt.key.topic))
		}
		k.retry(pt, now)
		return false
	}
	k.nextSub++
	pt.stream, pt.sub, pt.leaderEpoch = s, k.nextSub, epoch
	s.subs[pt.sub] = pt
	subscribe := &penstockv1.FetchSubscribe{
		SubscriptionId: pt.sub, Topic: pt.key.topic, TopicId: pt.id.Bytes(), Partition: pt.key.partition,
		Offset: pt.offset, CurrentLeaderEpoch: &epoch,
	}
	if pt.end >= 0 {
		end := pt.end
		subscribe.EndOffset = &end
	}
	s.command(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Subscribe{Subscribe: subscribe}})
	return true
}

// retry waits before the next try and asks for metadata. It needs mu.
func (k *Consumer) retry(pt *consumerPartition, now time.Time) {
	pt.failures++
	pt.retryAt = now.Add(backoff(pt.failures))
	k.client.meta.request(pt.key.topic)
}

// topicMissing ends a partition whose topic stays unknown. It needs mu.
func (k *Consumer) topicMissing(pt *consumerPartition, now time.Time, err *Error) {
	if pt.unknownAt.IsZero() {
		pt.unknownAt = now
	}
	if now.Sub(pt.unknownAt) >= unknownTopicWait {
		k.push(fetchItem{partition: pt, next: pt.offset, from: pt.offset, err: err})
	}
}

// streamTo returns the stream to a broker, a new one where there is none; nil while the consumer ends. It needs mu.
func (k *Consumer) streamTo(address string) *fetchStream {
	if s := k.streams[address]; s != nil {
		return s
	}
	s := &fetchStream{
		consumer: k, address: address, wake: make(chan struct{}, 1), subs: make(map[uint64]*consumerPartition),
	}
	if !k.group.Go("fetch-send", s.run) {
		return nil
	}
	k.streams[address] = s
	return s
}

// command queues a command. It needs the consumer's mu.
func (s *fetchStream) command(c *penstockv1.FetchRequest) {
	if !s.ended {
		s.commands = append(s.commands, c)
		signal(s.wake)
	}
}

// giveBack returns credit, in a few large pieces. It needs the consumer's mu.
func (s *fetchStream) giveBack(n int) {
	if s.ended {
		return
	}
	s.owed += n
	s.out -= n
	if s.owed >= s.consumer.config.CreditBytes/4 || s.queued == 0 {
		signal(s.wake)
	}
}

// run opens the stream, sends commands until it breaks, and sends its partitions elsewhere.
func (s *fetchStream) run(ctx context.Context) error {
	k := s.consumer
	ctx, cancel := context.WithCancel(ctx)
	k.mu.Lock()
	s.cancel = cancel
	k.mu.Unlock()
	err := s.serve(ctx, cancel)
	cancel()
	k.client.logger.Debug("a fetch stream ended", "broker", s.address, "error", err)
	now := k.client.clock.Now()
	k.mu.Lock()
	s.ended = true
	delete(k.streams, s.address)
	for _, pt := range s.subs {
		k.leave(pt, false)
		k.retry(pt, now)
	}
	k.mu.Unlock()
	signal(k.kick)
	return nil
}

func (s *fetchStream) serve(ctx context.Context, cancel context.CancelFunc) error {
	k := s.consumer
	conn, err := k.client.connected(ctx, s.address)
	if err != nil {
		return err
	}
	raw, err := penstockv1.NewConsumerServiceClient(conn).Fetch(ctx)
	if err != nil {
		return err
	}
	stream := wire.FetchClientStream{ClientStream: raw}
	k.mu.Lock()
	s.heard = k.client.clock.Now()
	k.mu.Unlock()
	received := make(chan error, 1)
	started := k.group.Go("fetch-receive", func(context.Context) error {
		defer cancel()
		received <- s.receive(stream)
		return nil
	})
	if !started {
		return ErrClosed
	}
	err = s.send(ctx, stream)
	cancel()
	if cause := <-received; cause != nil {
		return cause
	}
	return err
}

func (s *fetchStream) send(ctx context.Context, stream wire.FetchClientStream) error {
	k := s.consumer
	//nolint:gosec // sizes and times that a caller set; the broker bounds them
	err := stream.Send(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Open{Open: &penstockv1.FetchOpen{
		CreditBytes: uint64(k.config.CreditBytes), MaxFrameBytes: uint32(k.config.MaxFrameBytes),
		Format: penstockv1.FetchFormat_FETCH_FORMAT_BATCHES, MinBytes: uint32(k.config.MinBytes),
		MaxWaitMs: uint32(k.config.MaxWait.Milliseconds()),
	}}})
	for err == nil {
		k.mu.Lock()
		commands, owed := s.commands, s.owed
		s.commands, s.owed = nil, 0
		k.mu.Unlock()
		if owed > 0 {
			commands = append(commands, &penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Credit{
				Credit: &penstockv1.FetchCredit{Bytes: uint64(owed)}, //nolint:gosec // > 0
			}})
		}
		for _, c := range commands {
			if err = stream.Send(c); err != nil {
				return err
			}
		}
		if len(commands) > 0 {
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (s *fetchStream) receive(stream wire.FetchClientStream) error {
	for {
		var m wire.FetchResponse
		if err := stream.Recv(&m); err != nil {
			return err
		}
		s.frame(&m)
	}
}

// frame takes a frame in. While a partition is subscribed here, this goroutine alone moves its offset.
func (s *fetchStream) frame(m *wire.FetchResponse) {
	k := s.consumer
	credit := m.Payload.Len()
	k.mu.Lock()
	s.heard = k.client.clock.Now()
	s.out += credit
	pt := s.subs[m.Head.GetSubscriptionId()]
	var offset int64
	if pt != nil {
		offset = pt.offset
	}
	k.mu.Unlock()
	if pt == nil { // of a subscription that was left
		m.Free()
		k.mu.Lock()
		s.giveBack(credit)
		k.mu.Unlock()
		return
	}
	item := fetchItem{
		partition: pt, stream: s, credit: credit, from: offset, next: offset,
		highWatermark: m.Head.GetHighWatermark(), logStartOffset: m.Head.GetLogStartOffset(),
	}
	var lie error
	if credit > 0 {
		item.payload, item.data = k.onePiece(m.Payload)
		item.next, lie = examine(item.data, offset)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.subs[m.Head.GetSubscriptionId()] != pt {
		item.payload.Free()
		s.giveBack(credit)
		return
	}
	s.accept(&item, m, lie)
}

// accept enters a frame that is of a live subscription. It needs the consumer's mu.
func (s *fetchStream) accept(item *fetchItem, m *wire.FetchResponse, lie error) {
	k, pt := s.consumer, item.partition
	now := k.client.clock.Now()
	if lie == nil && m.Head.GetError() == nil {
		pt.failures, pt.unknownAt = 0, time.Time{}
		item.next = max(item.next, m.Head.GetNextOffset())
		if pt.end >= 0 && (item.next >= pt.end || m.Head.GetEndOfRange()) {
			item.endOfRange = true
			item.next = pt.end
		}
	}
	pt.offset = item.next
	switch e := m.Head.GetError(); {
	case lie != nil:
		item.err = newError(model.CodeCorruptBatch, true, "%s/%d: %w", pt.key.topic, pt.key.partition, lie)
		item.payload.Free()
		item.payload, item.data = wire.Payload{}, nil
		k.leave(pt, true)
	case e != nil:
		s.refused(pt, protoError(e), item, now)
	case item.endOfRange:
		k.leave(pt, !m.Head.GetEndOfRange())
	}
	if item.credit > 0 || item.endOfRange || item.err != nil {
		s.queued++
		k.push(*item)
	}
}

// refused deals with an error frame, which ended the subscription. It needs the consumer's mu.
func (s *fetchStream) refused(pt *consumerPartition, e *Error, item *fetchItem, now time.Time) {
	k := s.consumer
	k.leave(pt, false)
	if !e.Retryable {
		item.err = e
		return
	}
	if e.is(model.CodeUnknownTopicOrPartition, model.CodeUnknownTopicID) {
		if pt.unknownAt.IsZero() {
			pt.unknownAt = now
		}
		if now.Sub(pt.unknownAt) >= unknownTopicWait {
			item.err = e
			return
		}
	}
	asked := pt.leaderEpoch
	k.retry(pt, now)
	if e.hint == nil {
		signal(k.kick)
		return
	}
	k.client.meta.hint(pt.key.topic, pt.id, e.hint)
	if e.hint.GetLeaderEpoch() > asked {
		pt.retryAt = now
	}
}

// onePiece returns the payload's bytes in one piece, with the payload to be freed for them. It takes over the reference.
func (k *Consumer) onePiece(p wire.Payload) (wire.Payload, []byte) {
	pieces := p.Bytes()
	if len(pieces) == 1 {
		return p, pieces[0]
	}
	whole, data := k.client.pool.Alloc(p.Len())
	at := 0
	for _, piece := range pieces {
		at += copy(data[at:], piece)
	}
	p.Free()
	return whole, data
}

// examine checks whole batches, their checksums and order, and returns the offset after them, at least offset.
func examine(data []byte, offset int64) (next int64, err error) {
	next = offset
	end := int64(-1)
	s := record.NewScanner(data, record.Limits{})
	for s.Next() {
		h := s.Header()
		if h.BaseOffset < 0 || h.BaseOffset < end {
			return offset, fmt.Errorf("a batch at offset %d follows one that ends at %d", h.BaseOffset, end)
		}
		if err := record.CheckCRC(s.Batch()); err != nil {
			return offset, fmt.Errorf("the batch at offset %d is damaged: %w", h.BaseOffset, err)
		}
		end = h.NextOffset()
		next = max(next, end)
	}
	if err := s.Err(); err != nil {
		return offset, err
	}
	if n := len(s.Rest()); n > 0 {
		return offset, fmt.Errorf("the last batch is cut off: %d bytes", n)
	}
	return next, nil
}
