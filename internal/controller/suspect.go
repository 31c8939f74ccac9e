package controller

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// watchLeader makes the quorum notice the death of its leader's process sooner than by silence: when a connection on which
// this voter is spoken to ends, and the leader's address refuses a probe, the leader's lease is waited out and the election
// begins, instead of one to two heartbeat timeouts later. It is a hint to Raft's clock alone; Raft's rules, pre-vote
// included, decide as ever.
func (c *Controller) watchLeader(ctx context.Context, r *raft.Raft) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.trans.streams.ended:
		}
		leader, ok := c.cfg.voter(leaderOf(r))
		if !ok || leader.ID == c.cfg.NodeID || !c.refuses(ctx, leader.Address) {
			continue
		}
		if err := c.hasten(ctx, r, leader.ID); err != nil {
			return nil //nolint:nilerr // the group stops
		}
	}
}

// refuses reports whether nobody listens at the address. Silence is no refusal.
func (c *Controller) refuses(ctx context.Context, address string) bool {
	probeCtx, cancel := context.WithTimeout(ctx, c.cfg.ProbeTimeout)
	defer cancel()
	_, err := c.cfg.Prober.Probe(probeCtx, address)
	return err != nil && probeCtx.Err() == nil
}

// hasten waits until the leader has been silent for a lease, then shortens Raft's timeouts to the lease until there is another
// leader. The voters go one after the other: two that ask at once would split the votes.
func (c *Controller) hasten(ctx context.Context, r *raft.Raft, dead model.NodeID) error {
	alive := slices.DeleteFunc(slices.Clone(c.cfg.Voters), func(v Voter) bool { return v.ID == dead })
	rank := slices.IndexFunc(alive, func(v Voter) bool { return v.ID == c.cfg.NodeID })
	patience := c.cfg.LeaseTimeout + time.Duration(rank)*c.cfg.LeaseTimeout/4
	if err := lifecycle.Sleep(ctx, c.cfg.Clock, patience-c.silence(r)); err != nil {
		return err
	}
	if r.State() != raft.Follower || leaderOf(r) != dead || c.silence(r) < c.cfg.LeaseTimeout {
		return nil
	}
	usual := r.ReloadableConfig()
	short := usual
	short.HeartbeatTimeout, short.ElectionTimeout = c.cfg.LeaseTimeout, c.cfg.LeaseTimeout
	if err := r.ReloadConfig(short); err != nil {
		c.cfg.Logger.Warn("the election is not hastened", "error", err)
		return nil
	}
	c.cfg.Logger.Info("the quorum's leader is gone: hastening the election", "leader", dead)
	deadline := c.cfg.Clock.Now().Add(4 * c.cfg.ElectionTimeout)
	var stopped error
	for stopped == nil && c.cfg.Clock.Now().Before(deadline) {
		if id := leaderOf(r); id != model.NoNode && id != dead {
			break
		}
		stopped = lifecycle.Sleep(ctx, c.cfg.Clock, c.cfg.LeaseTimeout/10)
	}
	if err := r.ReloadConfig(usual); err != nil {
		c.cfg.Logger.Warn("raft's usual timeouts were not restored", "error", err)
	}
	return stopped
}

// silence is how long the leader has not been heard of.
func (c *Controller) silence(r *raft.Raft) time.Duration {
	return c.cfg.Clock.Now().Sub(r.LastContact())
}
