package broker

import (
	"fmt"
	"time"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/server"
)

// metadataStale is how long the metadata may go without word from a source that knows an active controller. Sources speak
// every second, another one is asked after 2.5, and an election of controllers takes about one.
const metadataStale = 5 * time.Second

// vitals are what readiness is decided on. All but failure and stopping count only once the node has started.
type vitals struct {
	failure  error
	stopping bool
	started  bool // recovered, all listeners open

	broker         bool // has that role; what follows up to the session's time-out is about it
	registered     bool // and a heartbeat was answered
	fenced         bool
	silence        time.Duration // since the controller answered a heartbeat
	sessionTimeout time.Duration

	metadata bool          // there is an image, and its source has known an active controller
	stale    time.Duration // since the source of metadata spoke and knew an active controller
}

// unready says why a node with these vitals does not serve; nothing where it does.
func (v vitals) unready() []server.Reason {
	var reasons []server.Reason
	add := func(code, format string, args ...any) {
		reasons = append(reasons, server.Reason{Code: code, Message: fmt.Sprintf(format, args...)})
	}
	if v.failure != nil {
		add("FAILED", "the node has failed and ends: %v", v.failure)
	}
	if v.stopping {
		add("STOPPING", "the node hands its leaderships over and stops")
	}
	if !v.started {
		add("STARTING", "the node recovers its logs; its listeners for clients are not served yet")
		return reasons
	}
	switch {
	case !v.broker:
	case !v.registered:
		add("NOT_REGISTERED", "the broker has not registered yet: see that a majority of the controllers runs and can be reached")
	case v.silence > v.sessionTimeout:
		add("SESSION_LOST", "the controller has not answered for %v, longer than session.timeout (%v): "+
			"others take this broker for dead and lead its partitions; see that it reaches the controllers", seconds(v.silence), v.sessionTimeout)
	case v.fenced:
		add("BROKER_FENCED", "the controller has fenced the broker: it is catching up, or was not heard of for too long")
	}
	switch {
	case !v.metadata:
		add("NO_METADATA", "no metadata yet: see that a majority of the controllers runs and can be reached")
	case v.stale > metadataStale:
		add("METADATA_STALE", "nothing was heard of an active controller for %v: the metadata may be out of date; "+
			"see that a majority of the controllers runs and can be reached", seconds(v.stale))
	}
	return reasons
}

func seconds(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// Unready says why the node does not serve; nothing where it does. It is what /readyz answers, and may be called at any time.
func (n *Node) Unready() []server.Reason {
	v := vitals{failure: n.root.Err(), stopping: n.stopping.Load(), started: n.started.Load()}
	if !v.started {
		return v.unready()
	}
	now := n.clock.Now()
	heard := n.controllers.MetadataHeard()
	v.metadata, v.stale = n.cache.Image().Offset() > 0 && !heard.IsZero(), now.Sub(heard)
	if v.broker = n.session != nil; v.broker {
		heard := n.session.Heard()
		v.registered, v.fenced = n.session.Epoch() != model.NoBrokerEpoch && !heard.IsZero(), n.session.Fenced()
		v.silence, v.sessionTimeout = now.Sub(heard), n.cfg.SessionTimeout
	}
	return v.unready()
}
