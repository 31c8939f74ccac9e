package controller

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft doubles its wait after each failed attempt to bring a voter up to date, to 10 s in the end: a voter that comes back
// after half a minute would hear nothing for so long, though heartbeats reach it within a fraction of a second. So after a few
// failures an attempt takes as long as the voter is away, and Raft counts one failure where it counted hundreds.
const (
	quickFailures = 3               // that are passed on at once: a connection that broke is simply opened again
	longestWait   = 5 * time.Minute // of one attempt
)

// absences knows which voters cannot be reached. Its methods are safe for concurrent use.
type absences struct {
	mu     sync.Mutex
	away   map[raft.ServerID]*absence
	closed chan struct{}
}

type absence struct {
	failures int
	over     chan struct{} // closed when the voter has answered
}

func newAbsences() absences {
	return absences{away: map[raft.ServerID]*absence{}, closed: make(chan struct{})}
}

// failed notes that an attempt has failed, and returns when the next one makes sense.
func (a *absences) failed(id raft.ServerID) {
	a.mu.Lock()
	away := a.away[id]
	if away == nil {
		away = &absence{over: make(chan struct{})}
		a.away[id] = away
	}
	away.failures++
	quick := away.failures <= quickFailures
	a.mu.Unlock()
	if quick {
		return
	}
	timer := time.NewTimer(longestWait) //nolint:forbidigo // Raft lives on the wall clock
	defer timer.Stop()
	select {
	case <-away.over:
	case <-a.closed:
	case <-timer.C:
	}
}

// reached notes that a voter has answered.
func (a *absences) reached(id raft.ServerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if away := a.away[id]; away != nil {
		close(away.over)
		delete(a.away, id)
	}
}

// close lets all go on that wait, for good. It is called once, before Raft is shut down, which waits for them.
func (a *absences) close() { close(a.closed) }
