package client

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// produceStream is the long-lived stream of a producer to one broker. Partitions line up to send one batch at a time.
type produceStream struct {
	producer *Producer
	address  string
	wake     chan struct{}

	mu       sync.Mutex
	ended    bool
	ready    []*producerPartition
	bound    map[*producerPartition]struct{}
	inFlight map[uint64]flight // by correlation id
	nextID   uint64
}

// flight is a batch that was sent and not answered.
type flight struct {
	partition  *producerPartition
	batch      *batch
	generation uint64
}

// outgoing is what is sent for a batch.
type outgoing struct {
	payload     wire.Payload
	correlation uint64
}

// streamTo returns the stream to a broker, a new one where there is none; nil while the producer ends.
func (p *Producer) streamTo(address string) *produceStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.streams[address]; s != nil {
		return s
	}
	s := &produceStream{
		producer: p, address: address, wake: make(chan struct{}, 1),
		bound: make(map[*producerPartition]struct{}), inFlight: make(map[uint64]flight),
	}
	if !p.group.Go("produce-send", s.run) {
		return nil
	}
	p.streams[address] = s
	return s
}

// enlist puts a partition in line; false where the stream has ended.
func (s *produceStream) enlist(pt *producerPartition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.bound[pt] = struct{}{}
	s.ready = append(s.ready, pt)
	if len(s.ready) == 1 {
		signal(s.wake)
	}
	return true
}

// forget ends what ties a partition to the stream; answers to what it sent still reach it.
func (s *produceStream) forget(pt *producerPartition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bound, pt)
}

// register notes a batch that is about to be sent.
func (s *produceStream) register(pt *producerPartition, b *batch, generation uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID++
	s.inFlight[s.nextID] = flight{pt, b, generation}
	return s.nextID
}

func (s *produceStream) landed(correlation uint64) (flight, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.inFlight[correlation]
	delete(s.inFlight, correlation)
	return f, ok
}

// pop returns the first in line, or nil.
func (s *produceStream) pop() *producerPartition {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) == 0 {
		return nil
	}
	pt := s.ready[0]
	s.ready[0] = nil
	s.ready = s.ready[1:]
	if len(s.ready) > 0 {
		signal(s.wake)
	} else {
		s.ready = nil
	}
	return pt
}

// run opens the stream, sends until it breaks, and tells everybody.
func (s *produceStream) run(ctx context.Context) error {
	p := s.producer
	ctx, cancel := context.WithCancel(ctx)
	err := s.serve(ctx, cancel)
	cancel()
	if ctx.Err() == nil || err != nil {
		p.client.logger.Debug("a produce stream ended", "broker", s.address, "error", err)
	}
	p.mu.Lock()
	if p.streams[s.address] == s {
		delete(p.streams, s.address)
	}
	p.mu.Unlock()
	s.mu.Lock()
	s.ended = true
	bound := make([]*producerPartition, 0, len(s.bound))
	for pt := range s.bound {
		bound = append(bound, pt)
	}
	s.ready, s.inFlight = nil, nil
	s.mu.Unlock()
	now := p.client.clock.Now()
	for _, pt := range bound {
		pt.lost(s, now)
	}
	return nil
}

func (s *produceStream) serve(ctx context.Context, cancel context.CancelFunc) error {
	p := s.producer
	conn, err := p.client.connected(ctx, s.address)
	if err != nil {
		return err
	}
	raw, err := penstockv1.NewProducerServiceClient(conn).Produce(ctx)
	if err != nil {
		return err
	}
	stream := wire.ProduceClientStream{ClientStream: raw}
	received := make(chan error, 1)
	started := p.group.Go("produce-receive", func(context.Context) error {
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

func (s *produceStream) send(ctx context.Context, stream wire.ProduceClientStream) error {
	p := s.producer
	var m wire.ProduceRequest
	m.Head.Acks = p.acks
	m.Head.TimeoutMs = uint32(min(p.config.RequestTimeout, time.Hour).Milliseconds()) //nolint:gosec // bounded
	for {
		pt := s.pop()
		if pt == nil {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		b, out := pt.take(s)
		if b == nil {
			continue
		}
		m.Head.CorrelationId, m.Payload = out.correlation, out.payload
		m.Head.Topic, m.Head.TopicId, m.Head.Partition = pt.topic.name, pt.topic.idBytes, pt.number
		err := stream.Send(&m)
		m.Free()
		if err != nil {
			return err
		}
		if p.config.Acks == AcksNone {
			if f, ok := s.landed(out.correlation); ok {
				pt.answer(b, f.generation, &penstockv1.Receipt{Partition: pt.number, BaseOffset: -1, Count: b.count}, nil)
			}
		}
	}
}

func (s *produceStream) receive(stream wire.ProduceClientStream) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		f, ok := s.landed(m.GetCorrelationId())
		switch {
		case !ok && m.GetError() != nil: // a failure without acks
			s.noteHint(m.GetError())
		case !ok: // a second answer
		case m.GetError() != nil:
			f.partition.answer(f.batch, f.generation, nil, protoError(m.GetError()))
		case m.GetReceipt() == nil:
			f.partition.answer(f.batch, f.generation, nil,
				newError(model.CodeUnknownServerError, false, "an empty answer came from %s", s.address))
		default:
			f.partition.answer(f.batch, f.generation, m.GetReceipt(), nil)
		}
	}
}

func (s *produceStream) noteHint(e *penstockv1.Error) {
	h := e.GetLeader()
	if h == nil {
		return
	}
	meta := s.producer.client.meta
	if id, err := model.UUIDFromBytes(h.GetTopicId()); err == nil && !meta.hint(h.GetTopic(), id, h) {
		meta.request(h.GetTopic())
	}
}

// sweepInterval is how fine the producer's sense of time is.
const sweepInterval = 5 * time.Millisecond

// sweep runs until ctx is done: it gives time and moved leaders their due, and sleeps while nothing is under way.
func (p *Producer) sweep(ctx context.Context) error {
	defer p.abandon()
	interval := sweepInterval
	if p.config.Linger > 0 {
		interval = min(interval, max(p.config.Linger/2, time.Millisecond))
	}
	for {
		if !p.busy() {
			select {
			case <-p.wake:
			case <-ctx.Done():
				return ctx.Err()
			}
		} else if err := p.pause(ctx, interval); err != nil {
			return err
		}
		moved := p.moved.Swap(false)
		if moved {
			p.followTopics()
		}
		p.sweepOnce(moved)
	}
}

// pause waits for the interval, or less where somebody wants the sweeper.
func (p *Producer) pause(ctx context.Context, d time.Duration) error {
	timer := p.client.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-p.wake:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (p *Producer) sweepOnce(moved bool) {
	now := p.client.clock.Now()
	for _, pt := range p.activePartitions() {
		pt.sweep(now, moved)
	}
}

func (p *Producer) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.active) > 0
}

func (p *Producer) activePartitions() []*producerPartition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.active))
}

// followTopics grows topics that grew and lets go of those that were deleted or made anew.
func (p *Producer) followTopics() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, t := range p.topics {
		info := p.client.meta.cached(name)
		switch {
		case info == nil || info.id != t.id:
			delete(p.topics, name)
			p.former[name] = t.id
			p.lastTopic.CompareAndSwap(t, nil)
		case len(info.partitions) > len(*t.partitions.Load()):
			t.grow(p, len(info.partitions))
		}
	}
}

// abandon ends the producer with everything under way.
func (p *Producer) abandon() {
	p.closed.Store(true)
	p.endOnce.Do(func() { close(p.ended) })
	p.unlisten()
	p.mu.Lock()
	list := slices.Collect(maps.Keys(p.active))
	for _, t := range p.topics {
		list = append(list, *t.partitions.Load()...)
	}
	p.mu.Unlock()
	for _, pt := range list {
		pt.abort()
	}
}

// renew gets another producer id for a partition whose epochs are used up. The caller holds the partition.
func (p *Producer) renew(pt *producerPartition) {
	started := p.group.Go("producer-id", func(ctx context.Context) error {
		for failures := 1; ; failures++ {
			id, epoch, _, err := p.client.initProducer(ctx)
			if err == nil {
				pt.mu.Lock()
				pt.producerID, pt.epoch, pt.gap, pt.renewing = id, epoch, false, false
				pt.renumber()
				pt.schedule(p.client.clock.Now())
				pt.mu.Unlock()
				return nil
			}
			if lifecycle.Sleep(ctx, p.client.clock, backoff(failures)) != nil {
				return nil
			}
		}
	})
	if !started {
		pt.renewing = false
	}
}
