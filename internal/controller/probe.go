package controller

import (
	"context"

	"github.com/penstock-io/penstock/internal/controller/core"
)

// connectionLost begins the early fencing of a broker whose heartbeat stream ended without goodbye.
func (l *loop) connectionLost(s lostSession) {
	if t, ok := l.state.Lost(s.broker, s.epoch); ok {
		l.probe(t, true)
	}
}

// probe asks a broker who it is, off the loop. A broker that refuses or that is another incarnation is dead; whether one
// that does not answer in time is dead as well is said by silenceIsDeath: it is where its connection was lost before, not
// where a new active controller merely looks around.
func (l *loop) probe(t core.Target, silenceIsDeath bool) {
	sent := l.c.cfg.Clock.Now()
	l.state.ProbeStarted(t)
	started := l.c.group.Go("probe", func(ctx context.Context) error {
		probeCtx, cancel := context.WithTimeout(ctx, l.c.cfg.ProbeTimeout)
		defer cancel()
		result, err := l.c.cfg.Prober.Probe(probeCtx, t.PeerAddress)
		o := probeOutcome{target: t, sent: sent}
		switch {
		case ctx.Err() != nil:
			return nil // the controller stops; that says nothing about the broker
		case err == nil:
			o.dead = result.IncarnationID != t.IncarnationID
		case probeCtx.Err() == nil:
			o.dead = true
		default:
			o.dead = silenceIsDeath
		}
		select {
		case l.probed <- o:
		case <-l.c.loopEnded:
		}
		return nil
	})
	if !started {
		l.state.ProbeEnded(t, sent, false)
	}
}
