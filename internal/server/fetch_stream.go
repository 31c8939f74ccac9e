package server

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/wire"
)

// Defaults and bounds of fetch streams.
const (
	defaultCreditBytes = 4 << 20
	defaultProgress    = time.Second
	minProgress        = 50 * time.Millisecond
	commandQueue       = 16
)

// Fetch reads many partitions over one stream, within the credit that the client grants.
func (s *consumerService) Fetch(raw grpc.BidiStreamingServer[penstockv1.FetchRequest, penstockv1.FetchResponse]) error {
	stream := wire.FetchServerStream{ServerStream: raw}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return model.Errorf(model.CodeInvalidRequest, "the first command of a fetch stream must be open")
	}
	f := newFetchStream(s, stream, open)
	ctx, cancel := context.WithCancel(raw.Context())
	if !s.client.Group.Go("fetch-commands", func(context.Context) error {
		f.receive(ctx)
		return nil
	}) {
		cancel()
		return stopping()
	}
	err = f.run(ctx)
	f.close()
	cancel()
	// The receiver ends with the stream, which ends when this handler returns: it is awaited by the group.
	return err
}

// fetchStream is one stream. Its loop runs in the handler's goroutine, which alone touches the subscriptions; another one
// receives commands, and wake-ups come from anywhere.
type fetchStream struct {
	service  *consumerService
	stream   wire.FetchServerStream
	plain    bool
	frame    int // bytes of one frame
	minBytes int
	maxWait  time.Duration
	progress time.Duration
	credit   int64
	held     int64 // bytes read by all subscriptions and not sent yet

	commands chan *penstockv1.FetchRequest
	ended    chan error // how the client's side ended
	wake     chan struct{}
	subs     map[uint64]*fetchSub
	queue    []*fetchSub // to be looked at, in order
	waiting  []*fetchSub // hold less than minBytes
	reading  int         // turns under way
	parked   []*fetchSub // would take a turn beyond the credit

	mu     sync.Mutex
	ready  []*fetchSub // woken from outside
	turns  []*turn     // reads of old records that have ended
	closed bool        // nobody takes turns any more
}

// fetchSub is a subscription of a stream.
type fetchSub struct {
	subscription
	gone     bool
	queued   bool
	cancel   func()    // takes the wake-up or the wait for a turn back; nil while there is none
	turn     *turn     // the read of old records that waits or is under way: the reader belongs to it
	heldFrom time.Time // when something was held first
	sent     time.Time // when the last frame went out
}

func newFetchStream(s *consumerService, stream wire.FetchServerStream, open *penstockv1.FetchOpen) *fetchStream {
	f := &fetchStream{
		service: s, stream: stream, plain: open.GetFormat() == penstockv1.FetchFormat_FETCH_FORMAT_RECORDS,
		frame: frameBytes(open.GetMaxFrameBytes()), credit: defaultCreditBytes, progress: defaultProgress,
		maxWait:  min(time.Duration(open.GetMaxWaitMs())*time.Millisecond, maxFetchWait),
		commands: make(chan *penstockv1.FetchRequest, commandQueue), ended: make(chan error, 1),
		wake: make(chan struct{}, 1), subs: map[uint64]*fetchSub{},
	}
	f.minBytes = min(int(open.GetMinBytes()), f.frame)
	if c := open.GetCreditBytes(); c > 0 {
		f.credit = int64(min(c, uint64(s.client.Limits.FetchCreditBytes))) //nolint:gosec // bounded by an int64
	}
	if ms := open.GetProgressIntervalMs(); ms > 0 {
		f.progress = max(time.Duration(ms)*time.Millisecond, minProgress)
	}
	return f
}

// receive hands the client's commands to the loop.
func (f *fetchStream) receive(ctx context.Context) {
	for {
		command, err := f.stream.Recv()
		if err != nil {
			f.ended <- err
			return
		}
		select {
		case f.commands <- command:
		case <-ctx.Done():
			return
		}
	}
}

// run serves until the client ends the stream.
func (f *fetchStream) run(ctx context.Context) error {
	clock := f.service.client.Clock
	timer := clock.NewTimer(f.progress / 2)
	defer timer.Stop()
	commands, ended := f.commands, f.ended
	for {
		if err := f.serve(ctx, clock.Now()); err != nil {
			return err
		}
		if ended == nil && len(f.subs) == 0 && len(commands) == 0 {
			return nil
		}
		select {
		case command := <-commands:
			if err := f.command(ctx, command); err != nil {
				return err
			}
		case err := <-ended:
			if !errors.Is(err, io.EOF) {
				return err
			}
			ended = nil // the client says no more: what it asked for is served to its end
		case <-f.wake:
		case <-timer.C():
			if err := f.tick(clock.Now()); err != nil {
				return err
			}
			timer.Reset(f.nextTick())
		case <-ctx.Done():
			return ctx.Err()
		case <-f.service.client.Group.Stopping():
			return stopping()
		}
	}
}

// nextTick is how long the loop may sleep.
func (f *fetchStream) nextTick() time.Duration {
	if len(f.waiting) > 0 {
		return min(f.progress/2, max(f.maxWait/2, time.Millisecond))
	}
	return f.progress / 2
}

func (f *fetchStream) command(ctx context.Context, command *penstockv1.FetchRequest) error {
	switch c := command.GetCommand().(type) {
	case *penstockv1.FetchRequest_Subscribe:
		return f.subscribe(ctx, c.Subscribe)
	case *penstockv1.FetchRequest_Unsubscribe:
		f.remove(f.subs[c.Unsubscribe.GetSubscriptionId()])
		return nil
	case *penstockv1.FetchRequest_Credit:
		limit := f.service.client.Limits.FetchCreditBytes
		f.credit = min(f.credit+int64(min(c.Credit.GetBytes(), uint64(limit))), limit) //nolint:gosec // bounded
		return nil
	case *penstockv1.FetchRequest_Open:
		return model.Errorf(model.CodeInvalidRequest, "a fetch stream is opened once")
	default:
		return model.Errorf(model.CodeInvalidRequest, "the command is not known")
	}
}

func (f *fetchStream) subscribe(ctx context.Context, req *penstockv1.FetchSubscribe) error {
	id := req.GetSubscriptionId()
	f.remove(f.subs[id])
	sub := &fetchSub{sent: f.service.client.Clock.Now()}
	made, err := f.service.subscribe(ctx, req)
	switch {
	case id == 0:
		err = model.Errorf(model.CodeInvalidRequest, "subscription_id is 0: choose another")
	case len(f.subs) >= f.service.client.Limits.Subscriptions:
		err = model.Errorf(model.CodeTooManyRequests, "the stream has %d subscriptions, which is the limit: open another stream", len(f.subs))
	}
	if err != nil {
		sub.subscription = subscription{id: id, partition: req.GetPartition(), next: req.GetOffset(), failed: err}
		return f.send(sub)
	}
	sub.subscription = *made
	sub.id = id
	f.subs[id] = sub
	f.enqueue(sub)
	return nil
}

func (f *fetchStream) enqueue(sub *fetchSub) {
	if !sub.gone && !sub.queued {
		sub.queued = true
		f.queue = append(f.queue, sub)
	}
}

// remove ends a subscription; nil is none.
func (f *fetchStream) remove(sub *fetchSub) {
	if sub == nil || sub.gone {
		return
	}
	sub.gone = true
	sub.unwatch()
	f.held -= int64(sub.heldBytes())
	sub.drop()
	delete(f.subs, sub.id)
	f.waiting = slices.DeleteFunc(f.waiting, func(w *fetchSub) bool { return w == sub })
}

func (s *fetchSub) unwatch() {
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
}

func (f *fetchStream) close() {
	for _, sub := range f.subs {
		f.remove(sub)
	}
	f.closeTurns()
}

// serve sends while there is credit and something to send. It returns to the loop after each round of the queue, so that
// commands are heard.
func (f *fetchStream) serve(ctx context.Context, now time.Time) error {
	f.mu.Lock()
	woken, turns := f.ready, f.turns
	f.ready, f.turns = nil, nil
	f.mu.Unlock()
	for _, t := range turns {
		if err := f.endTurn(t, now); err != nil {
			return err
		}
	}
	for _, sub := range woken {
		sub.cancel = nil
		f.enqueue(sub)
	}
	for range len(f.queue) {
		if err := f.makeRoom(); err != nil {
			return err
		}
		if f.credit <= 0 || ctx.Err() != nil {
			return nil // what is queued stays so
		}
		sub := f.queue[0]
		f.queue = f.queue[1:]
		sub.queued = false
		if sub.gone {
			continue
		}
		if err := f.step(ctx, sub, now); err != nil {
			return err
		}
	}
	if len(f.queue) > 0 {
		token(f.wake)
	} else {
		f.queue = nil
	}
	return nil
}

// makeRoom sends what waits for more where the credit would not do for more.
func (f *fetchStream) makeRoom() error {
	for f.credit > 0 && f.held >= f.credit && len(f.waiting) > 0 {
		if err := f.send(f.waiting[0]); err != nil {
			return err
		}
	}
	return nil
}

// step reads once from a subscription, and sends what is due.
func (f *fetchStream) step(ctx context.Context, sub *fetchSub, now time.Time) error {
	if !sub.over() {
		// What others hold counts: it will need credit too.
		room := min(f.frame-sub.heldBytes(), int(min(f.credit-f.held, maxFrameBytes)))
		before := sub.heldBytes()
		if err := f.read(sub, room); errors.Is(err, replication.ErrBacklogFull) {
			if !f.takeTurn(ctx, sub, room) {
				return stopping()
			}
		} else if err != nil {
			sub.failed = f.hint(sub, err)
		} else if grown := sub.heldBytes() > before; grown && before == 0 {
			sub.heldFrom = now
		} else if !grown {
			f.watch(sub)
		}
	}
	return f.deliver(sub, now)
}

// deliver sends what a subscription holds where that is due, and queues it to be read on.
func (f *fetchStream) deliver(sub *fetchSub, now time.Time) error {
	due := sub.failed != nil || sub.over() ||
		(sub.heldBytes() > 0 && (sub.heldBytes() >= f.minBytes || f.held >= f.credit || now.Sub(sub.heldFrom) >= f.maxWait))
	if due {
		if err := f.send(sub); err != nil {
			return err
		}
	} else if sub.heldBytes() > 0 && !slices.Contains(f.waiting, sub) {
		f.waiting = append(f.waiting, sub)
	}
	if sub.cancel == nil {
		f.enqueue(sub)
	}
	return nil
}

// read reads once from a subscription: one batch at least.
func (f *fetchStream) read(sub *fetchSub, room int) error {
	metrics, before := f.service.client.Metrics, sub.heldBytes()
	began := metrics.clock.Now()
	err := sub.readMore(room)
	if grown := sub.heldBytes() - before; grown > 0 {
		metrics.fetchRead.Observe(metrics.since(began))
		f.held += int64(grown)
	}
	return err
}

func (f *fetchStream) hint(sub *fetchSub, err error) error {
	request := RequestOf(f.stream.Context())
	return withHint(f.service.client.Cache.Image(), request.Listener, sub.tp, err)
}

// watch asks to be woken when there is more to read.
func (f *fetchStream) watch(sub *fetchSub) {
	sub.cancel = func() {}
	cancel := sub.reader.Notify(func() {
		f.mu.Lock()
		f.ready = append(f.ready, sub)
		f.mu.Unlock()
		token(f.wake)
	})
	sub.cancel = cancel
}

// send sends a frame of what the subscription holds, and ends the subscription where that was the last.
func (f *fetchStream) send(sub *fetchSub) error {
	f.credit -= int64(sub.heldBytes())
	f.held -= int64(sub.heldBytes())
	f.waiting = slices.DeleteFunc(f.waiting, func(w *fetchSub) bool { return w == sub })
	frame := sub.frame(f.plain)
	defer frame.Free()
	if sub.failed != nil || sub.over() {
		f.remove(sub)
	}
	sub.sent = f.service.client.Clock.Now()
	data := frame.Payload.Len() > 0
	err := f.stream.Send(frame)
	if metrics := f.service.client.Metrics; data && err == nil {
		metrics.fetchSend.Observe(metrics.since(sub.sent))
	}
	return err
}

// tick sends what has waited long enough, and progress of idle subscriptions.
func (f *fetchStream) tick(now time.Time) error {
	for _, sub := range slices.Clone(f.waiting) {
		if f.credit > 0 && now.Sub(sub.heldFrom) >= f.maxWait {
			if err := f.send(sub); err != nil {
				return err
			}
		}
	}
	for _, sub := range f.subs {
		if sub.gone || sub.queued || sub.heldBytes() > 0 || now.Sub(sub.sent) < f.progress {
			continue
		}
		if f.held >= f.service.client.Limits.FetchCreditBytes {
			continue // without credit a batch of each subscription would be held
		}
		if sub.turn != nil { // its reader is in other hands
			if sub.last.HighWatermark == 0 {
				continue // nothing is known yet
			}
		} else if err := f.read(sub, 1); err != nil && !errors.Is(err, replication.ErrBacklogFull) {
			sub.failed = f.hint(sub, err)
		}
		if sub.heldBytes() > 0 && f.credit <= 0 {
			continue
		}
		if err := f.send(sub); err != nil {
			return err
		}
	}
	return nil
}
