package server

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// requestOverhead is what a request counts for beside its bytes, so that empty ones are bounded too.
const requestOverhead = 512

// Produce appends batches as they come and answers each when its outcome is known.
func (s *producerService) Produce(
	raw grpc.BidiStreamingServer[penstockv1.ProduceRequest, penstockv1.ProduceResponse],
) error {
	p := &produceStream{
		service: s, stream: wire.ProduceServerStream{ServerStream: raw},
		limit: s.client.Limits.InFlightBytes, ready: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	defer s.client.Metrics.opened(p)()
	ctx, cancel := context.WithCancelCause(raw.Context())
	defer cancel(nil)
	written := make(chan struct{})
	if !s.client.Group.Go("produce-answers", func(context.Context) error {
		defer close(written)
		cancel(p.write(ctx))
		return nil
	}) {
		return stopping()
	}
	err := p.read(ctx)
	p.ended(err == nil)
	<-written
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

func stopping() error {
	return model.Errorf(model.CodeShuttingDown, "the broker is stopping: ask another one")
}

// produceStream is one stream: a reader that hands batches down in the order they came, and a writer that sends answers in
// the order they are known.
type produceStream struct {
	service *producerService
	stream  wire.ProduceServerStream
	limit   int64
	ready   chan struct{} // one token: the writer has something to look at
	room    chan struct{} // one token: the reader may look whether there is room

	mu       sync.Mutex
	answers  []answered
	inFlight int64 // bytes of requests whose answer was not sent, where there is to be one
	pending  int   // requests without an outcome
	closed   bool  // no more requests come
	broken   bool  // nobody waits for answers
}

// answered is an answer to be sent, and what its request counts for.
type answered struct {
	response *penstockv1.ProduceResponse
	cost     int64
}

// read takes requests until the client ends the stream.
func (p *produceStream) read(ctx context.Context) error {
	halt := p.service.client.Group.Stopping()
	for {
		var m wire.ProduceRequest
		if err := p.stream.Recv(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		cost := int64(m.Payload.Len()+recordBytes(m.Head.GetRecords())) + requestOverhead
		if err := p.admit(ctx, cost, halt); err != nil {
			m.Free()
			return err
		}
		p.service.produce(ctx, &m.Head, m.Payload, p.answer(m.Head.GetCorrelationId(), m.Head.GetAcks(), cost))
	}
}

func recordBytes(records []*penstockv1.Record) int {
	n := 0
	for _, r := range records {
		n += len(r.GetKey()) + len(r.GetValue())
	}
	return n
}

// admit waits until the request fits into what may be unanswered; a request alone always does.
func (p *produceStream) admit(ctx context.Context, cost int64, halt <-chan struct{}) error {
	for waited := false; ; waited = true {
		p.mu.Lock()
		if p.inFlight == 0 || p.inFlight+cost <= p.limit {
			p.inFlight += cost
			p.pending++
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
		if !waited {
			p.service.client.Metrics.throttled.Inc()
		}
		select {
		case <-p.room:
		case <-ctx.Done():
			return ctx.Err()
		case <-halt:
			return stopping()
		}
	}
}

// answer returns what takes the outcome of one request. It does not block.
func (p *produceStream) answer(id uint64, acks penstockv1.Acks, cost int64) func(*penstockv1.Receipt, error) {
	return func(receipt *penstockv1.Receipt, err error) {
		p.mu.Lock()
		p.pending--
		if !p.broken && (err != nil || acks != penstockv1.Acks_ACKS_NONE) {
			response := &penstockv1.ProduceResponse{CorrelationId: id, Receipt: receipt, Error: wire.ErrorProto(err)}
			p.answers = append(p.answers, answered{response, cost})
		} else {
			p.inFlight -= cost
		}
		p.mu.Unlock()
		token(p.ready)
		token(p.room)
	}
}

func token(into chan struct{}) {
	select {
	case into <- struct{}{}:
	default:
	}
}

// ended says that no more requests come; without wait the missing outcomes are of no interest.
func (p *produceStream) ended(wait bool) {
	p.mu.Lock()
	p.closed, p.broken = true, p.broken || !wait
	p.mu.Unlock()
	token(p.ready)
}

// take returns answers to send, and whether these are the last.
func (p *produceStream) take() (answers []answered, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answers, p.answers = p.answers, nil
	return answers, p.closed && (p.pending == 0 || p.broken)
}

// sent makes room for more requests: a client that reads no answers is read no further.
func (p *produceStream) sent(cost int64) {
	p.mu.Lock()
	p.inFlight -= cost
	p.mu.Unlock()
	token(p.room)
}

// write sends answers until the last one; its error ends the stream.
func (p *produceStream) write(ctx context.Context) error {
	for {
		answers, last := p.take()
		for _, answer := range answers {
			if err := p.stream.Send(answer.response); err != nil {
				return err
			}
			p.sent(answer.cost)
		}
		if last {
			return nil
		}
		select {
		case <-p.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
