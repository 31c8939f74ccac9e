package sim

import (
	"slices"
	"time"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
)

// subscription is a follower that a leader serves.
type subscription struct {
	follower *node
	epoch    model.BrokerEpoch
	id       uint64
	conn     *conn
}

// pump lets the streams of a replica work soon: as follower subscribe and acknowledge, as leader send.
func (r *replica) pump() {
	if r.pumping || !r.b.running() {
		return
	}
	r.pumping = true
	r.b.n.after(r.b.w.between(0, 200*time.Microsecond), func() {
		r.pumping = false
		switch r.core.Role() {
		case core.RoleFollower:
			r.pumpFollower()
		case core.RoleLeader:
			for _, s := range slices.Clone(r.subs) {
				r.pumpLeader(s)
			}
		case core.RoleOffline, core.RoleStopped:
		}
	})
}

func (r *replica) pumpFollower() {
	b, w := r.b, r.b.w
	leader := w.nodeOf(r.core.Leader())
	now := b.n.mono()
	if at, wanted := r.core.SubscribeDue(); wanted {
		if at > now {
			if !r.retry {
				r.retry = true
				b.n.after(at-now+time.Millisecond, func() { r.retry = false; r.pump() })
			}
			return
		}
		b.subs++
		sub, ok := r.core.NextSubscribe(b.subs, w.cfg.credit, now)
		if !ok {
			return
		}
		r.latestSub = sub.SubscriptionID
		c := b.stream(leader)
		w.note("subscribe", int64(b.n.id), int64(r.p.index), sub.FetchOffset, int64(sub.LeaderEpoch))
		c.send(0, func() { leader.broker.subscribe(c, b.n, r.p.index, sub) })
		if !c.alive(0) {
			r.core.StreamLost(sub.SubscriptionID, now)
			r.pump()
		}
		return
	}
	if ack, ok := r.core.NextAck(); ok {
		c := b.stream(leader)
		c.send(0, func() { leader.broker.acked(c, r.p.index, ack) })
	}
}

// stream returns the stream to a leader, a new one where there is none.
func (b *broker) stream(leader *node) *conn {
	if c := b.streams[leader.index]; c != nil && c.alive(0) {
		return c
	}
	c := b.w.net.dial(b.n, leader)
	b.streams[leader.index] = c
	c.closed[0] = func() { b.streamLost(leader) }
	c.closed[1] = func() { leader.broker.followerGone(c) }
	return c
}

func (b *broker) streamLost(leader *node) {
	for _, r := range b.replicas {
		if r != nil && r.core.Leader() == leader.id {
			r.core.StreamLost(r.latestSub, b.n.mono())
			r.pump()
		}
	}
}

// followerGone drops the subscriptions that came over a stream.
func (b *broker) followerGone(c *conn) {
	for _, r := range b.replicas {
		if r == nil {
			continue
		}
		r.subs = slices.DeleteFunc(r.subs, func(s *subscription) bool {
			if s.conn == c {
				r.core.FollowerGone(s.follower.id, s.id)
			}
			return s.conn == c
		})
	}
}

// subscribe takes a follower's subscription.
func (b *broker) subscribe(c *conn, follower *node, part int, sub core.Subscribe) {
	r := b.replica(part)
	if r == nil {
		b.refuse(c, follower, part, sub, core.SubscribeAnswer{Code: model.CodeNotLeaderForPartition})
		return
	}
	answer, out := r.core.FollowerSubscribed(sub, b.n.mono())
	// Newer ones, of this process or of a later one, live on: this one may have been overtaken.
	r.subs = slices.DeleteFunc(r.subs, func(s *subscription) bool {
		return s.follower == follower && (s.epoch < sub.FollowerEpoch || s.epoch == sub.FollowerEpoch && s.id < sub.SubscriptionID)
	})
	if answer.Code != model.CodeNone || answer.Diverging {
		b.w.comment("%s refuses %+v: %+v; epochs %s", r.p, sub, answer, r.log.describeEpochs())
		b.w.note("subscribe-refused", int64(b.n.id), int64(part), int64(answer.Code), b2i(answer.Diverging))
		b.refuse(c, follower, part, sub, answer)
	} else {
		b.w.note("subscribed", int64(b.n.id), int64(part), sub.FetchOffset, int64(follower.id))
		r.subs = append(r.subs, &subscription{follower: follower, epoch: sub.FollowerEpoch, id: sub.SubscriptionID, conn: c})
	}
	r.do(out)
	r.pump()
}

func (b *broker) refuse(c *conn, follower *node, part int, sub core.Subscribe, answer core.SubscribeAnswer) {
	in := core.FrameIn{SubscriptionID: sub.SubscriptionID, LeaderEpoch: sub.LeaderEpoch, Answer: answer}
	c.send(1, func() { follower.broker.frame(part, in, nil) })
}

// acked takes a follower's progress, on the stream of its subscription alone.
func (b *broker) acked(c *conn, part int, ack core.Ack) {
	r := b.replica(part)
	if r == nil {
		return
	}
	for _, s := range r.subs {
		if s.conn == c && s.id == ack.SubscriptionID {
			r.do(r.core.FollowerAcked(s.follower.id, ack, b.n.mono()))
			r.pump()
			return
		}
	}
}

// pumpLeader sends a follower all that it may be sent.
func (r *replica) pumpLeader(s *subscription) {
	for r.b.running() {
		order, ok := r.core.NextFrame(s.follower.id, s.id, r.b.w.cfg.frame)
		if !ok {
			return
		}
		in := core.FrameIn{
			SubscriptionID: order.SubscriptionID, LeaderEpoch: order.LeaderEpoch,
			HighWatermark: order.HighWatermark, LogStart: order.LogStart,
		}
		var batches []batch
		if order.Data {
			var err error
			batches, err = r.log.read(order.From, order.UpTo, order.MaxBytes)
			if r.b.crashed(err) {
				return
			}
			if corrupt(err) {
				r.core.FollowerGone(s.follower.id, s.id)
				r.subs = slices.DeleteFunc(r.subs, func(o *subscription) bool { return o == s })
				r.b.refuse(s.conn, s.follower, r.p.index, core.Subscribe{SubscriptionID: s.id, LeaderEpoch: order.LeaderEpoch},
					core.SubscribeAnswer{Code: model.CodeCorruptRecord})
				r.suspect(order.From, err)
				return
			}
			if err != nil || len(batches) == 0 {
				r.b.w.oracle.fail("%s on broker %d: nothing to send from %d to %d: %v", r.p, r.b.n.id, order.From, order.UpTo, err)
				return
			}
			for _, b := range batches {
				in.Bytes += b.size()
			}
			in.BaseOffset = batches[0].base
			r.core.Sent(s.follower.id, s.id, batches[len(batches)-1].end(), in.Bytes)
		}
		part := r.p.index
		r.b.w.note("frame", int64(r.b.n.id), int64(part), int64(s.follower.id), order.From)
		s.conn.send(1, func() { s.follower.broker.frame(part, in, batches) })
	}
}

// frame takes what a leader sends.
func (b *broker) frame(part int, in core.FrameIn, batches []batch) {
	r := b.replica(part)
	if r == nil {
		return
	}
	verdict, out := r.core.FrameReceived(in, b.n.mono())
	r.do(out)
	if verdict == core.FrameAppend && b.running() {
		if err := r.log.appendFollower(batches); b.crashed(err) {
			return
		} else if err != nil {
			b.w.oracle.fail("%s on broker %d: the follower cannot append at %d: %v; %s", r.p, b.n.id, in.BaseOffset, err, r.core)
			return
		}
		b.w.note("follow", int64(b.n.id), int64(part), in.BaseOffset, r.log.end())
		r.do(r.core.Appended(r.log.end()))
		r.appendedDirty()
	}
	r.pump()
}
