package core

import (
	"testing"
	"time"
)

// A broker that an entry of an earlier term lets in has no session at the controller of this term: it gets one, and its silence
// ends it.
func TestBrokerLetInByALateEntryCanExpire(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	image := w.state.Image()
	s := New(Config{})
	now := time.UnixMilli(image.TimeMs()).Add(time.Minute)
	s.Activate(now, image)
	delete(s.sessions, 1) // it was fenced when this term began, and let in by an entry that nobody here has decided
	s.Tick(now, now.Add(100*time.Millisecond))
	if s.WantsFencing(now) {
		t.Fatal("a full session was not granted")
	}
	if late := now.Add(s.Config().SessionTimeout); !s.WantsFencing(late) {
		t.Fatal("the broker that nobody heard of is never fenced")
	}
}
