package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

const (
	answerTimeout = time.Second            // a heartbeat not answered for so long is tried at another controller
	hurryInterval = 100 * time.Millisecond // between heartbeats while the broker waits to be let in, or to stop
	registerPause = 500 * time.Millisecond // between attempts to register
	tellInterval  = time.Second            // between heartbeats that say where logs end
	deafTimeout   = 2 * time.Second        // without an answer nobody is waited for any more when the broker stops
)

// SessionConfig is what a broker's session with the active controller needs.
type SessionConfig struct {
	// NodeID is the broker.
	NodeID model.NodeID
	// Interval is the time between heartbeats.
	Interval time.Duration
	// Request describes the incarnation; it is asked before each registration.
	Request func() *internalv1.RegisterBrokerRequest
	// Registered is told of the broker epoch, which it puts on file, before the broker goes on.
	Registered func(ctx context.Context, resp *internalv1.RegisterBrokerResponse) error
	// CaughtUp is called when the image in force holds the registration.
	CaughtUp func()
	// FencedChanged is called when the controller fenced or unfenced the broker.
	FencedChanged func(fenced bool)
	// LogEnds says where logs end of partitions that wait for it to be known, to be elected; nil is nothing to say, ever. It is
	// asked about once a second, and when a controller answers that has not been told by this stream.
	LogEnds func() []*internalv1.ReplicaState
	// Troubles says which replicas are not in order; nil is none, ever. It is asked when LogEnds is.
	Troubles func() []*internalv1.ReplicaTrouble
	// Disk says what is wrong with the data directory; nil, also as an answer, is nothing. It is asked when LogEnds is.
	Disk func() *internalv1.DiskState
	// Applied is the metadata offset of the image in force.
	Applied func() model.MetadataOffset
	// Await waits until the image in force is at least as new as the offset.
	Await func(ctx context.Context, offset model.MetadataOffset) error
	// Clock is the wall clock.
	Clock lifecycle.Clock
	// Logger is where the session tells what happens.
	Logger *slog.Logger
}

// Session keeps a broker registered: it registers, catches up with the metadata to the registration, holds the heartbeat
// stream, asks to be unfenced, and registers anew where its epoch has become stale.
type Session struct {
	cfg         SessionConfig
	controllers *Controllers
	conns       *Conns
	group       *lifecycle.Group

	epoch    atomic.Int64
	fenced   atomic.Bool
	unfenced chan struct{} // closed when the broker is let in for the first time
	wantStop atomic.Bool
	goodbye  atomic.Bool
	heard    atomic.Int64 // when the controller answered last, in nanoseconds since the Unix epoch
	poke     chan struct{}
	mayStop  chan struct{}
	ended    chan struct{} // closed when the goodbye was sent, or the session is over
	once     struct{ unfenced, mayStop sync.Once }
}

// StartSession begins the session in a goroutine of group. A registration that can never succeed fails the group.
func StartSession(cfg SessionConfig, controllers *Controllers, conns *Conns, group *lifecycle.Group) *Session {
	s := &Session{
		cfg: cfg, controllers: controllers, conns: conns, group: group,
		unfenced: make(chan struct{}), poke: make(chan struct{}, 1),
		mayStop: make(chan struct{}), ended: make(chan struct{}),
	}
	s.epoch.Store(int64(model.NoBrokerEpoch))
	s.fenced.Store(true)
	if !group.Go("session", s.run) {
		close(s.ended)
	}
	return s
}

// Epoch is the broker epoch of the last registration; NoBrokerEpoch before the first.
func (s *Session) Epoch() model.BrokerEpoch { return model.BrokerEpoch(s.epoch.Load()) }

// Fenced says what the controller answered last; true before it answered.
func (s *Session) Fenced() bool { return s.fenced.Load() }

// Heard is when the controller answered a heartbeat last; zero before the first time.
func (s *Session) Heard() time.Time {
	if at := s.heard.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Unfenced is closed when the broker was let in for the first time.
func (s *Session) Unfenced() <-chan struct{} { return s.unfenced }

// errNoController says that nobody is there to move leaderships.
var errNoController = errors.New("no active controller answers")

// Drain asks the controller to move leaderships away and returns when that is done, when the session is over, when no
// controller has answered for some seconds, or when ctx ends.
func (s *Session) Drain(ctx context.Context) error {
	s.wantStop.Store(true)
	s.wake()
	ticker := s.cfg.Clock.NewTimer(hurryInterval)
	defer ticker.Stop()
	for began := s.cfg.Clock.Now(); ; {
		select {
		case <-s.mayStop:
			return nil
		case <-s.ended:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("leaderships were not moved away in time: %w", ctx.Err())
		case now := <-ticker.C():
			if now.Sub(began) > deafTimeout && now.Sub(time.Unix(0, s.heard.Load())) > deafTimeout {
				return fmt.Errorf("leaderships were not moved away: %w", errNoController)
			}
			ticker.Reset(hurryInterval)
		}
	}
}

// Goodbye tells the controller that the broker stops now, and ends the session.
func (s *Session) Goodbye(ctx context.Context) error {
	s.goodbye.Store(true)
	s.wake()
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no goodbye to the controller: %w", ctx.Err())
	}
}

func (s *Session) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// errStale says that the broker must register anew.
var errStale = errors.New("the broker epoch is stale")

func (s *Session) run(ctx context.Context) error {
	defer close(s.ended)
	for {
		if err := s.register(ctx); err != nil {
			return err
		}
		err := s.keep(ctx)
		if !errors.Is(err, errStale) {
			return err
		}
		s.fenced.Store(true)
		s.cfg.Logger.Warn("the controller does not know this registration any more: registering anew",
			"broker_epoch", s.Epoch())
	}
}

// register repeats until the broker is registered and its image holds the registration.
func (s *Session) register(ctx context.Context) error {
	for {
		if s.goodbye.Load() {
			return context.Canceled
		}
		resp, err := s.controllers.RegisterBroker(ctx, s.cfg.Request())
		if err == nil {
			return s.registered(ctx, resp)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if never(err) {
			return fmt.Errorf("register at the controller: %w", err)
		}
		s.cfg.Logger.Warn("not registered yet", "error", err)
		if err := s.pause(ctx, registerPause); err != nil {
			return err
		}
	}
}

func (s *Session) registered(ctx context.Context, resp *internalv1.RegisterBrokerResponse) error {
	if err := s.cfg.Registered(ctx, resp); err != nil {
		return fmt.Errorf("take in the registration: %w", err)
	}
	s.epoch.Store(resp.GetBrokerEpoch())
	s.cfg.Logger.Info("registered", "broker_epoch", resp.GetBrokerEpoch(), "metadata_offset", resp.GetMetadataOffset())
	if err := s.cfg.Await(ctx, model.MetadataOffset(resp.GetMetadataOffset())); err != nil {
		return ctx.Err()
	}
	s.cfg.CaughtUp()
	return nil
}

// never reports whether the controller's answer cannot change by waiting.
func never(err error) bool {
	switch model.CodeOf(err) { //nolint:exhaustive // all others pass
	case model.CodeInconsistentClusterID, model.CodeUnsupportedFeatureLevel, model.CodeInvalidRequest:
		return true
	default:
		return false
	}
}

func (s *Session) pause(ctx context.Context, d time.Duration) error {
	timer := s.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.poke:
	case <-timer.C():
	}
	return nil
}

// keep holds a heartbeat stream to whoever is the active controller. It returns nil after the goodbye, errStale where the
// broker must register anew, and else the end of ctx.
func (s *Session) keep(ctx context.Context) error {
	for wait := retryMin; ; {
		v := s.controllers.target()
		answered, err := s.stream(ctx, v)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case s.goodbye.Load():
			return nil // nobody to say it to: the session times out
		case model.IsCode(err, model.CodeStaleBrokerEpoch), model.IsCode(err, model.CodeBrokerIDNotRegistered):
			return errStale
		}
		s.cfg.Logger.Debug("heartbeats are interrupted", "controller", v.ID, "address", v.Address, "error", err)
		if answered {
			wait = retryMin
		}
		if s.controllers.learnFrom(v, err) {
			continue
		}
		if err := s.controllers.pause(ctx, wait, s.poke); err != nil {
			return err
		}
		wait = min(2*wait, retryMax)
	}
}

// stream sends heartbeats to v until something goes wrong; nil means that the goodbye was answered.
func (s *Session) stream(ctx context.Context, v config.Voter) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := s.conns.Get(PurposeSession, v.Address)
	if err != nil {
		return false, err
	}
	if err := awaitReady(ctx, conn, v.Address); err != nil {
		return false, err
	}
	stream, err := internalv1.NewControllerServiceClient(conn).Heartbeat(ctx)
	if err != nil {
		return false, wire.FromStatus(err)
	}
	answers, failed := make(chan *internalv1.HeartbeatResponse, 1), make(chan error, 1)
	done := make(chan struct{})
	if !s.group.Go("session-answers", func(context.Context) error {
		defer close(done)
		receive(ctx, stream.Recv, answers, failed)
		return nil
	}) {
		return false, context.Canceled
	}
	defer func() {
		cancel()
		<-done
	}()
	var told time.Time
	var troubles []*internalv1.ReplicaTrouble
	var disk *internalv1.DiskState
	for {
		bye := s.goodbye.Load()
		beat := s.heartbeat(bye)
		if now := s.cfg.Clock.Now(); s.cfg.LogEnds != nil && !bye && (told.IsZero() || now.Sub(told) >= tellInterval) {
			beat.LogEnds, told = s.cfg.LogEnds(), now
			if s.cfg.Troubles != nil {
				troubles = s.cfg.Troubles()
			}
			if s.cfg.Disk != nil {
				disk = s.cfg.Disk()
			}
		}
		beat.Troubles, beat.Disk = troubles, disk
		if err := stream.Send(beat); err != nil {
			return answered, s.reason(ctx, failed, err)
		}
		answer, err := s.answer(ctx, answers, failed)
		if err != nil {
			return answered, err
		}
		if !answered {
			s.controllers.Learn(v.ID, v.Address)
			answered = true
		}
		if bye {
			return true, nil
		}
		if err := s.pause(ctx, s.take(answer)); err != nil {
			return true, err
		}
	}
}

func receive[T any](ctx context.Context, recv func() (T, error), into chan<- T, failed chan<- error) {
	for {
		answer, err := recv()
		if err != nil {
			failed <- wire.FromStatus(err)
			return
		}
		select {
		case into <- answer:
		case <-ctx.Done():
			failed <- ctx.Err()
			return
		}
	}
}

func (s *Session) heartbeat(goodbye bool) *internalv1.HeartbeatRequest {
	stopping := s.wantStop.Load()
	return &internalv1.HeartbeatRequest{
		BrokerId: int32(s.cfg.NodeID), BrokerEpoch: s.epoch.Load(),
		MetadataOffset: uint64(s.cfg.Applied()),
		WantUnfence:    !stopping && !goodbye, WantStop: stopping, Goodbye: goodbye,
	}
}

// reason prefers what the other side said over the failure to send.
func (s *Session) reason(ctx context.Context, failed <-chan error, sendErr error) error {
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.timeout():
		return wire.FromStatus(sendErr)
	}
}

func (s *Session) answer(
	ctx context.Context, answers <-chan *internalv1.HeartbeatResponse, failed <-chan error,
) (*internalv1.HeartbeatResponse, error) {
	select {
	case answer := <-answers:
		return answer, nil
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.timeout():
		return nil, model.Errorf(model.CodeRequestTimedOut, "the controller did not answer a heartbeat within %v", answerTimeout)
	}
}

func (s *Session) timeout() <-chan time.Time { return s.cfg.Clock.NewTimer(answerTimeout).C() }

// take acts on an answer and returns when to send the next heartbeat.
func (s *Session) take(answer *internalv1.HeartbeatResponse) time.Duration {
	s.heard.Store(s.cfg.Clock.Now().UnixNano())
	if was := s.fenced.Swap(answer.GetFenced()); was != answer.GetFenced() {
		s.cfg.Logger.Info("the controller changed this broker's state", "fenced", answer.GetFenced())
		s.cfg.FencedChanged(answer.GetFenced())
	}
	if !answer.GetFenced() {
		s.once.unfenced.Do(func() { close(s.unfenced) })
	}
	if answer.GetMayStop() {
		s.once.mayStop.Do(func() { close(s.mayStop) })
		return s.cfg.Interval
	}
	if answer.GetFenced() || s.wantStop.Load() {
		return min(hurryInterval, s.cfg.Interval)
	}
	return s.cfg.Interval
}
