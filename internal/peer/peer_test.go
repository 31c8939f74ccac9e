package peer_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/peer"
	"github.com/penstock-io/penstock/internal/testports"
	"github.com/penstock-io/penstock/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeController answers as a controller would; what it does is set by the test.
type fakeController struct {
	internalv1.UnimplementedControllerServiceServer
	id      model.NodeID
	address string
	group   *lifecycle.Group

	mu         sync.Mutex
	active     *fakeController // who is active; nil is nobody
	fenced     bool
	stale      bool
	silent     bool
	late       bool // sees the end of every request's time before the caller does
	registered int
	created    int
	beats      []*internalv1.HeartbeatRequest
	frames     func(from uint64) []*internalv1.FollowMetadataResponse
}

func (f *fakeController) locked(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

// notActive returns the answer of a node that is not the active controller, or nil where it is.
func (f *fakeController) notActive() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active == f {
		return nil
	}
	err := error(model.Errorf(model.CodeNotController, "node %d is not it", f.id))
	if f.active == nil {
		return err
	}
	host, portText, splitErr := net.SplitHostPort(f.active.address)
	port, convErr := strconv.ParseInt(portText, 10, 32)
	return errors.Join(wire.WithLeader(err, &penstockv1.LeaderHint{LeaderId: int32(f.active.id), Host: host, Port: int32(port)}), splitErr, convErr)
}

func (f *fakeController) RegisterBroker(
	context.Context, *internalv1.RegisterBrokerRequest,
) (*internalv1.RegisterBrokerResponse, error) {
	if err := f.notActive(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.registered++
	f.stale = false
	return &internalv1.RegisterBrokerResponse{BrokerEpoch: int64(10 * f.registered), MetadataOffset: 1}, nil
}

func (f *fakeController) CreateTopic(
	context.Context, *internalv1.CreateTopicRequest,
) (*internalv1.CreateTopicResponse, error) {
	if err := f.notActive(); err != nil {
		return nil, err
	}
	late := false
	f.locked(func() { f.created, late = f.created+1, f.late })
	if late {
		return nil, status.FromContextError(context.DeadlineExceeded).Err()
	}
	return &internalv1.CreateTopicResponse{MetadataOffset: uint64(f.id)}, nil
}

func (f *fakeController) Heartbeat(stream grpc.BidiStreamingServer[internalv1.HeartbeatRequest, internalv1.HeartbeatResponse]) error {
	for {
		beat, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.notActive(); err != nil {
			return err
		}
		var silent, stale bool
		answer := &internalv1.HeartbeatResponse{}
		f.locked(func() {
			f.beats = append(f.beats, beat)
			silent, stale = f.silent, f.stale
			answer.Fenced, answer.MayStop = f.fenced, beat.GetWantStop()
		})
		if stale {
			return model.Errorf(model.CodeStaleBrokerEpoch, "register anew")
		}
		if silent {
			continue
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

func (f *fakeController) FollowMetadata(
	req *internalv1.FollowMetadataRequest, stream grpc.ServerStreamingServer[internalv1.FollowMetadataResponse],
) error {
	var frames []*internalv1.FollowMetadataResponse
	f.locked(func() { frames = f.frames(req.GetMetadataOffset()) })
	for _, frame := range frames {
		if err := stream.Send(frame); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// harness is some fake controllers and the way to them.
type harness struct {
	group       *lifecycle.Group
	fakes       []*fakeController
	conns       *peer.Conns
	voters      []config.Voter
	controllers *peer.Controllers
}

func newHarness(t *testing.T, n int) *harness {
	t.Helper()
	h := &harness{group: lifecycle.New(context.Background(), "test", slog.New(slog.DiscardHandler)), conns: peer.NewConns(wire.Limits{})}
	for i := range n {
		h.fakes = append(h.fakes, &fakeController{id: model.NodeID(i + 1)})
		h.serve(t, h.fakes[i])
		h.voters = append(h.voters, config.Voter{ID: h.fakes[i].id, Address: h.fakes[i].address})
	}
	h.controllers = peer.NewControllers(h.conns, h.voters, lifecycle.RealClock())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := errors.Join(h.group.Stop(ctx), h.conns.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *harness) serve(t *testing.T, f *fakeController) {
	t.Helper()
	if f.address == "" {
		f.address = testports.Address(t) // it is listened on again after a stop, or refuses
	}
	listener, err := net.Listen("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	f.group = h.group.Child("fake")
	server := grpc.NewServer(append(wire.ServerOptions(wire.Limits{}), grpc.WaitForHandlers(true))...)
	internalv1.RegisterControllerServiceServer(server, f)
	f.group.Go("serve", func(context.Context) error {
		// A test that is over before this goroutine ran has stopped the server already.
		if err := server.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	f.group.Go("stop", func(ctx context.Context) error {
		<-ctx.Done()
		server.Stop()
		return nil
	})
}

// elect makes one the active controller; nil makes nobody.
func (h *harness) elect(active *fakeController) {
	for _, f := range h.fakes {
		f.locked(func() { f.active = active })
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		if err := lifecycle.Sleep(context.Background(), lifecycle.RealClock(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestCallFollowsTheHint(t *testing.T) {
	h := newHarness(t, 3)
	h.elect(h.fakes[2])
	resp, err := h.controllers.CreateTopic(bounded(t, 20*time.Second), &internalv1.CreateTopicRequest{})
	if err != nil || resp.GetMetadataOffset() != 3 {
		t.Fatalf("%v, %v", resp, err)
	}
	if id, _ := h.controllers.Active(); id != 3 {
		t.Errorf("active: %d", id)
	}
}

func TestCallPassesADeadController(t *testing.T) {
	h := newHarness(t, 3)
	h.elect(h.fakes[0])
	if _, err := h.controllers.CreateTopic(bounded(t, 20*time.Second), &internalv1.CreateTopicRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := h.fakes[0].group.Stop(bounded(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	h.elect(h.fakes[1])
	// What may be sent twice is; a topic that may have been created is for the caller to look after.
	if _, err := h.controllers.RegisterBroker(bounded(t, 20*time.Second), &internalv1.RegisterBrokerRequest{}); err != nil {
		t.Fatal(err)
	}
	if id, _ := h.controllers.Active(); id != 2 {
		t.Errorf("active: %d", id)
	}
}

func TestCallWithoutQuorumSaysSo(t *testing.T) {
	h := newHarness(t, 3)
	h.elect(nil)
	// The answer comes while the caller waits for it. A busy machine may be late once with that, but not for ever longer times.
	var err error
	for patience := 300 * time.Millisecond; ; patience *= 2 {
		ctx := bounded(t, patience)
		_, err = h.controllers.CreateTopic(ctx, &internalv1.CreateTopicRequest{})
		if !model.IsCode(err, model.CodeNoQuorum) {
			t.Errorf("got %v", err)
		}
		if ctx.Err() == nil {
			break
		}
		if patience > 4*time.Second {
			t.Fatal("the answer came when nobody waited for it any more")
		}
	}
	if proto := wire.ErrorProto(err); proto.GetCode() != penstockv1.ErrorCode_ERROR_CODE_NO_QUORUM {
		t.Errorf("passed on as %v", proto)
	}
}

// The time of a call runs at both ends. Where the controller sees its end a moment sooner, the caller is told the same.
func TestCallWhoseTimeEndsAtTheControllerFirst(t *testing.T) {
	h := newHarness(t, 1)
	h.elect(h.fakes[0])
	h.fakes[0].locked(func() { h.fakes[0].late = true })
	_, err := h.controllers.CreateTopic(bounded(t, 20*time.Second), &internalv1.CreateTopicRequest{})
	var remote *wire.RemoteError
	if !model.IsCode(err, model.CodeNoQuorum) || !errors.As(err, &remote) || remote.Definite {
		t.Errorf("got %v", err)
	}
}

// session starts a session whose metadata is always caught up.
func (h *harness) session(t *testing.T) *peer.Session {
	t.Helper()
	nothing := func() {}
	return peer.StartSession(peer.SessionConfig{
		NodeID: 7, Interval: 20 * time.Millisecond,
		Request:    func() *internalv1.RegisterBrokerRequest { return &internalv1.RegisterBrokerRequest{} },
		Registered: func(context.Context, *internalv1.RegisterBrokerResponse) error { return nil },
		CaughtUp:   nothing, FencedChanged: func(bool) {},
		LogEnds: func() []*internalv1.ReplicaState { return []*internalv1.ReplicaState{{Partition: 3}} },
		Applied: func() model.MetadataOffset { return 1 },
		Await:   func(context.Context, model.MetadataOffset) error { return nil },
		Clock:   lifecycle.RealClock(), Logger: slog.New(slog.DiscardHandler),
	}, h.controllers, h.conns, h.group.Child("session"))
}

// A controller knows nothing of what its predecessor was told: the first heartbeat to each says it, and others now and then.
func TestSessionTellsEveryControllerWhereLogsEnd(t *testing.T) {
	h := newHarness(t, 2)
	s := h.session(t)
	for _, active := range []*fakeController{h.fakes[0], h.fakes[1], h.fakes[0]} {
		active.locked(func() { active.beats = nil })
		h.elect(active)
		await(t, "heartbeats with and without", func() bool {
			with, without := 0, 0
			active.locked(func() {
				for i, beat := range active.beats {
					if told := len(beat.GetLogEnds()) == 1 && beat.GetLogEnds()[0].GetPartition() == 3; told {
						with++
					} else if without++; i == 0 {
						t.Errorf("the first heartbeat says nothing: %v", beat)
					}
				}
			})
			return with > 0 && without > 0
		})
	}
	if err := s.Goodbye(bounded(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
}

func TestSessionUnfencesDrainsAndSaysGoodbye(t *testing.T) {
	h := newHarness(t, 3)
	h.elect(h.fakes[1])
	s := h.session(t)
	<-s.Unfenced()
	if s.Epoch() != 10 || s.Fenced() {
		t.Errorf("epoch %d, fenced %v", s.Epoch(), s.Fenced())
	}
	ctx := bounded(t, 20*time.Second)
	if err := errors.Join(s.Drain(ctx), s.Goodbye(ctx)); err != nil {
		t.Fatal(err)
	}
	h.fakes[1].locked(func() {
		last := h.fakes[1].beats[len(h.fakes[1].beats)-1]
		if !last.GetGoodbye() || last.GetWantUnfence() || last.GetBrokerEpoch() != 10 || last.GetMetadataOffset() != 1 {
			t.Errorf("last heartbeat: %v", last)
		}
	})
}

func TestSessionRegistersAnewWhenStale(t *testing.T) {
	h := newHarness(t, 1)
	h.elect(h.fakes[0])
	s := h.session(t)
	<-s.Unfenced()
	h.fakes[0].locked(func() { h.fakes[0].stale = true })
	await(t, "a second registration", func() bool { return s.Epoch() == 20 })
}

func TestSessionMovesToTheNextController(t *testing.T) {
	h := newHarness(t, 2)
	h.elect(h.fakes[0])
	s := h.session(t)
	<-s.Unfenced()
	if err := h.fakes[0].group.Stop(bounded(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	h.elect(h.fakes[1])
	await(t, "heartbeats at the new controller", func() bool {
		h.fakes[1].mu.Lock()
		defer h.fakes[1].mu.Unlock()
		return len(h.fakes[1].beats) > 0
	})
	if s.Epoch() != 10 {
		t.Errorf("registered anew without need: epoch %d", s.Epoch())
	}
}

func TestSessionLeavesASilentController(t *testing.T) {
	h := newHarness(t, 2)
	h.elect(h.fakes[0])
	s := h.session(t)
	<-s.Unfenced()
	h.fakes[0].locked(func() { h.fakes[0].silent = true })
	h.fakes[1].locked(func() { h.fakes[1].active = h.fakes[1] })
	await(t, "heartbeats at the new controller", func() bool {
		h.fakes[1].mu.Lock()
		defer h.fakes[1].mu.Unlock()
		return len(h.fakes[1].beats) > 0
	})
}
