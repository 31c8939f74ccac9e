package core

import (
	"testing"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

func (w *world) expired() bool {
	return w.state.WantsFencing(w.now)
}

func (w *world) tick(d time.Duration) {
	w.now = w.now.Add(d)
	w.state.Tick(w.now, w.now.Add(100*time.Millisecond))
}

func TestSessionEndsAfterItsTimeout(t *testing.T) {
	w := newWorld(t, Config{SessionTimeout: 3 * time.Second})
	w.join(1, 2)
	tp := w.topic("t", nil, 1, 2)
	w.tick(0)
	for range 29 {
		w.tick(100 * time.Millisecond)
		w.heartbeat(2)
	}
	if w.expired() {
		t.Fatal("expired too early")
	}
	w.tick(100 * time.Millisecond)
	if !w.expired() {
		t.Fatal("not expired")
	}
	w.batch(func(b *Batch) {
		if dead, err := b.FenceDead(); err != nil || len(dead) != 1 || dead[0] != 1 {
			t.Fatalf("%v, %v", dead, err)
		}
	})
	w.expect(tp, 2, ids(2), nil, nil)
	// The same incarnation may come back.
	if resp := w.heartbeat(1); !resp.GetFenced() {
		t.Fatal("not told that it is fenced")
	}
	w.unfence(1)
}

func TestControllerForgivesItsOwnStalls(t *testing.T) {
	w := newWorld(t, Config{SessionTimeout: 3 * time.Second})
	w.join(1)
	w.tick(0)
	w.tick(5 * time.Second) // late by 4.9 s
	if w.expired() {
		t.Fatal("a broker is fenced for the controller's stall")
	}
	w.tick(100 * time.Millisecond)
	w.tick(2800 * time.Millisecond) // late by 2.7 s: forgiven as well
	if w.expired() {
		t.Fatal("expired")
	}
	for range 40 {
		w.tick(150 * time.Millisecond) // late by 50 ms: not a stall
	}
	if !w.expired() {
		t.Fatal("never expires")
	}
}

func TestNewActiveControllerGivesFullSessionsAndProbesAtOnce(t *testing.T) {
	w := newWorld(t, Config{SessionTimeout: 3 * time.Second})
	w.join(1, 2)
	w.register(3)
	w.state.Deactivate()
	if w.state.Active() || w.expired() {
		t.Fatal("decides though it is not active")
	}
	w.now = w.now.Add(time.Hour)
	targets := w.state.Activate(w.now, w.state.Image())
	if len(targets) != 2 || targets[0].ID != 1 || targets[1].ID != 2 || targets[0].PeerAddress != "h:1" {
		t.Fatalf("%+v", targets)
	}
	if w.expired() {
		t.Fatal("sessions do not start full")
	}
	w.kill(2)
	w.now = w.now.Add(3 * time.Second)
	if !w.expired() {
		t.Fatal("sessions do not end")
	}
}

func TestControlledStop(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	moves, sole := w.topic("moves", nil, 1, 2, 3), w.topic("sole", nil, 1)
	want := func(r *internalv1.HeartbeatRequest) { r.WantStop = true }
	resp := w.heartbeat(1, want)
	if resp.GetMayStop() || resp.GetFenced() {
		t.Fatalf("%v", resp)
	}
	w.expect(moves, 2, ids(1, 2, 3), nil, nil) // it stays in sync until it goes
	w.expect(sole, 1, ids(1), nil, nil)        // nobody else can lead it
	w.heartbeat(2)
	if w.heartbeat(1, want).GetMayStop() {
		t.Fatal("broker 3 has not heard of the moves")
	}
	w.heartbeat(3)
	if !w.heartbeat(1, want).GetMayStop() {
		t.Fatal("may not stop")
	}
	w.kill(2) // a stopping broker gets no leadership
	w.expect(moves, 3, ids(1, 3), nil, nil)
	w.kill(3)
	w.expect(moves, none, ids(1), ids(3), nil)
	resp = w.heartbeat(1, func(r *internalv1.HeartbeatRequest) { r.Goodbye = true })
	if !resp.GetFenced() || !resp.GetMayStop() {
		t.Fatalf("%v", resp)
	}
	w.expect(moves, none, nil, ids(1, 3), nil)
	w.expect(sole, none, nil, ids(1), nil)
	last := w.entries[len(w.entries)-1]
	if last.GetCause() != "broker-stopped" || last.GetActor() != "broker 1" {
		t.Fatalf("%v", last)
	}
	if !w.heartbeat(1, func(r *internalv1.HeartbeatRequest) { r.WantUnfence = true }).GetFenced() {
		t.Fatal("unfenced though it said goodbye")
	}
	w.join(1)
	w.expect(sole, 1, ids(1), nil, nil)
	if resp := w.heartbeat(1); resp.GetFenced() {
		t.Fatal("a new incarnation is fenced")
	}
}

func TestStoppingBrokerJoinsNoISR(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	tp := w.topic("t", nil, 1, 2)
	w.propose(tp, ids(1))
	w.heartbeat(2, func(r *internalv1.HeartbeatRequest) { r.WantStop = true })
	if r := w.propose(tp, ids(1, 2)); model.ErrorCode(r.GetErrorCode()) != model.CodeIneligibleReplica {
		t.Fatalf("%v", r)
	}
}
