package broker

import (
	"context"
	"errors"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// Times of a clean stop.
const (
	goodbyeTimeout = 2 * time.Second
	othersTimeout  = 5 * time.Second // how long the controller stays for brokers that stop at the same time
	orphanTimeout  = time.Second     // without an active controller it does not stay for them
	othersPoll     = 20 * time.Millisecond
)

// Stop stops the node cleanly: leaderships move away, clients are served no more, the controller is told, the logs are closed,
// and the controller goes last. ctx bounds it all; what does not end in time is cut off and named. Only the first call of Stop
// or Kill does anything.
func (n *Node) Stop(ctx context.Context) error {
	if !n.ended.CompareAndSwap(false, true) {
		return nil
	}
	n.stopping.Store(true)
	failure := n.root.Err()
	if failure == nil {
		n.leave(ctx)
		n.awaitOthers(ctx)
	}
	var errs []error
	for _, group := range []*lifecycle.Group{n.groups.session, n.groups.gossip, n.groups.metadata, n.groups.replicas} {
		errs = append(errs, group.Stop(ctx))
	}
	if n.replicas != nil && failure == nil {
		errs = append(errs, n.replicas.Close(ctx))
	} else if failure == nil && n.dir != nil {
		errs = append(errs, n.dir.MarkClean())
	}
	errs = append(errs, n.root.Stop(ctx), n.release())
	if failure != nil {
		return nil // the failure was reported by Err, and all of the above follows from it
	}
	return errors.Join(errs...)
}

// leave hands over leaderships, ends the service for clients, and says goodbye.
func (n *Node) leave(ctx context.Context) {
	if n.session == nil {
		return
	}
	n.client.Serving(false)
	drain, cancel := bound(ctx, n.cfg.ShutdownTimeout)
	defer cancel()
	if err := n.session.Drain(drain); err != nil {
		n.log.Warn("stopping all the same", "error", err)
	}
	if err := n.groups.clients.Stop(ctx); err != nil {
		n.log.Warn("clients were cut off", "error", err)
	}
	goodbye, cancel := bound(ctx, goodbyeTimeout)
	defer cancel()
	if err := n.session.Goodbye(goodbye); err != nil {
		n.log.Info("left without a goodbye", "error", err)
	}
}

// awaitOthers keeps the controller up for brokers that are stopping too and still need it.
func (n *Node) awaitOthers(ctx context.Context) {
	if n.quorum == nil {
		return
	}
	ctx, cancel := bound(ctx, othersTimeout)
	defer cancel()
	orphaned := time.Time{}
	for n.othersStopping() {
		now := n.clock.Now()
		if _, _, known := n.quorum.ActiveController(); known {
			orphaned = time.Time{}
		} else if orphaned.IsZero() {
			orphaned = now
		} else if now.Sub(orphaned) > orphanTimeout {
			return
		}
		if lifecycle.Sleep(ctx, n.clock, othersPoll) != nil {
			return
		}
	}
}

func (n *Node) othersStopping() bool {
	for _, b := range n.quorum.Image().Brokers() {
		if b.ID != n.cfg.NodeID && b.Stopping && !b.Fenced {
			return true
		}
	}
	return false
}

// Kill ends the node at once, as if its process had died: nothing is handed over, flushed, or marked. Everything is awaited.
// Only the first call of Stop or Kill does anything.
func (n *Node) Kill() error {
	if !n.ended.CompareAndSwap(false, true) {
		return nil
	}
	n.stopping.Store(true)
	now, cancel := context.WithCancel(context.Background())
	cancel()
	stopped := n.root.Stop(now)
	var late *lifecycle.StillRunningError
	if errors.As(stopped, &late) {
		stopped = nil
	}
	closed := n.release()
	<-n.root.Done()
	if n.root.Err() != nil {
		return nil // it had failed before; Err tells
	}
	return errors.Join(stopped, closed)
}

// release gives back what belongs to no group.
func (n *Node) release() error {
	var errs []error
	if n.conns != nil {
		errs = append(errs, n.conns.Close())
	}
	errs = append(errs, n.listeners.close())
	if n.dir != nil {
		<-n.root.Done()
		errs = append(errs, n.dir.Close())
	}
	return errors.Join(errs...)
}

// BrokerEpoch is the epoch of the broker's last registration; NoBrokerEpoch before it.
func (n *Node) BrokerEpoch() model.BrokerEpoch {
	if n.session == nil {
		return model.NoBrokerEpoch
	}
	return n.session.Epoch()
}
