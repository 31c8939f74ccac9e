package core

import (
	"fmt"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// following is what a follower knows beyond its log.
type following struct {
	streaming bool
	// subscribed says that there was a subscription in this leader epoch: the leader may count on what it told.
	subscribed bool
	subID      uint64
	retryAt    time.Duration
	retries    int
	leaderHW   int64
	leaderLow  int64 // the leader's LogStartOffset
	acked      ends
	consumed   int64 // bytes taken in since the last acknowledgement
	credit     int64
	restart    bool // the log is about to begin anew at restartAt
	restartAt  int64
}

// SubscribeDue says from when on the follower wants to subscribe; false when it has a subscription, is about to begin its log
// anew, or is no follower.
func (r *Replica) SubscribeDue() (at time.Duration, wanted bool) {
	if r.role != RoleFollower || r.follow.streaming || r.follow.restart || r.mend.damaged || r.crowd.full {
		return 0, false
	}
	return r.follow.retryAt, true
}

// NextSubscribe hands out the subscription to send to the leader, under an id larger than any given before; false when
// none is wanted now.
func (r *Replica) NextSubscribe(subscriptionID uint64, credit int64, now time.Duration) (Subscribe, bool) {
	if at, wanted := r.SubscribeDue(); !wanted || now < at {
		return Subscribe{}, false
	}
	r.follow.streaming, r.follow.subID, r.follow.credit = true, subscriptionID, credit
	r.follow.subscribed = true
	r.follow.consumed, r.follow.leaderHW, r.follow.leaderLow = 0, 0, 0
	r.follow.acked = ends{log: r.log.End, durable: r.log.Durable}
	return Subscribe{
		SubscriptionID: subscriptionID, Follower: r.self, FollowerEpoch: r.brokerEpoch, LeaderEpoch: r.leaderEpoch,
		FetchOffset: r.log.End, LastFetchedEpoch: r.lastBatchEpoch(), DurableEnd: r.log.Durable, Credit: credit,
	}, true
}

// lastBatchEpoch is the epoch of the last batch.
func (r *Replica) lastBatchEpoch() model.LeaderEpoch {
	return LastBatchEpoch(r.history, r.log.Start, r.log.End)
}

// LastBatchEpoch is the leader epoch of the last batch of a log in [start, end): the newest that begins below its end.
// Epochs without records may stand behind it. An empty log gives model.NoLeaderEpoch.
func LastBatchEpoch(history History, start, end int64) model.LeaderEpoch {
	if end == start {
		return model.NoLeaderEpoch
	}
	for epoch := history.LatestEpoch(); epoch >= 0; {
		before, begin := history.EpochEndOffset(epoch - 1)
		if begin < end {
			return epoch
		}
		epoch = before
	}
	return model.NoLeaderEpoch
}

// StreamLost reports that a subscription has ended: its stream broke, or a frame of it could not be appended. The follower
// subscribes anew, at once where it has made progress since the last time, else after a while that doubles.
func (r *Replica) StreamLost(subscriptionID uint64, now time.Duration) {
	if r.role == RoleFollower && r.follow.streaming && r.follow.subID == subscriptionID {
		r.resubscribe(now)
	}
}

func (r *Replica) resubscribe(now time.Duration) {
	r.follow.streaming = false
	r.follow.retryAt = now
	if r.follow.retries > 0 {
		r.follow.retryAt = now + doubled(r.cfg.RetryMin, r.cfg.RetryMax, r.follow.retries-1)
	}
	r.follow.retries++
}

// FrameReceived takes the head of a frame. Where the verdict is FrameAppend the shell appends the batches and calls
// Appended; frames of older subscriptions or epochs are dropped (R8).
func (r *Replica) FrameReceived(in FrameIn, now time.Duration) (Verdict, Output) {
	var out Output
	if r.role != RoleFollower || !r.follow.streaming || in.SubscriptionID != r.follow.subID || in.LeaderEpoch != r.leaderEpoch {
		return FrameDropped, out
	}
	switch {
	case in.Answer.Diverging:
		r.follow.streaming = false
		r.follow.retryAt = now
		r.reconcile(in.Answer, now, &out)
		return FrameDropped, out
	case in.Answer.Code == model.CodeOffsetOutOfRange && in.Answer.LogStart > r.log.End:
		r.restart(in.Answer.LogStart, now, &out)
		return FrameDropped, out
	case in.Answer.Code != model.CodeNone:
		r.follow.retries = max(r.follow.retries, 1)
		r.resubscribe(now)
		return FrameDropped, out
	}
	r.follow.leaderHW = max(r.follow.leaderHW, in.HighWatermark)
	r.follow.leaderLow = max(r.follow.leaderLow, in.LogStart)
	if in.Bytes > 0 {
		// A log that begins within a batch gets that batch whole.
		if in.BaseOffset != r.log.End && (in.BaseOffset > r.log.End || r.log.Start != r.log.End) {
			r.resubscribe(now) // a gap: nothing of it is taken
			return FrameDropped, out
		}
		r.follow.consumed += in.Bytes
		r.followLogStart(&out)
		return FrameAppend, out
	}
	r.follow.retries = 0
	r.followHighWatermark(&out)
	r.followLogStart(&out)
	return FrameDropped, out
}

// restart asks for a log that begins anew at the leader's start: what was committed here lies below.
func (r *Replica) restart(at int64, now time.Duration, out *Output) {
	r.follow.streaming = false
	r.follow.retryAt = now
	r.follow.restart, r.follow.restartAt = true, at
	out.Restart, out.RestartAt = true, at
}

// Restarting says that a Restart was asked for and neither Truncated nor RestartFailed was called since: at which offset.
func (r *Replica) Restarting() (at int64, restarting bool) {
	return r.follow.restartAt, r.role == RoleFollower && r.follow.restart
}

// RestartFailed reports that the log could not begin anew now; the follower asks its leader again, after a while.
func (r *Replica) RestartFailed(now time.Duration) {
	if _, restarting := r.Restarting(); restarting {
		r.follow.restart = false
		r.follow.retries = max(r.follow.retries, 1)
		r.resubscribe(now)
	}
}

// Appended reports that the batches of a frame were appended and the log now ends at end.
func (r *Replica) Appended(end int64) Output {
	var out Output
	r.log.End = max(r.log.End, end)
	if r.role == RoleFollower {
		r.follow.retries = 0
		r.followHighWatermark(&out)
		r.followLogStart(&out)
	}
	return out
}

func (r *Replica) followHighWatermark(out *Output) { r.raise(min(r.follow.leaderHW, r.log.End), out) }

// followLogStart follows the leader's LogStartOffset and never passes the own HighWatermark.
func (r *Replica) followLogStart(out *Output) {
	if start := min(r.follow.leaderLow, r.log.HighWatermark); start > r.log.Start {
		r.log.Start = start
		out.LogStartMoved, out.LogStart = true, start
	}
}

// reconcile walks the history back by one step (R5): to where the leader's log ends the epoch, or where our own does, the
// earlier of the two; where the leader's epoch is unknown here, to the end of the largest one below it. The next
// subscription asks again from there. Committed records are never cut, but for those that the leader has trimmed.
func (r *Replica) reconcile(answer SubscribeAnswer, now time.Duration, out *Output) {
	epoch, end := r.history.EpochEndOffset(answer.DivergingEpoch)
	switch {
	case answer.DivergingEpoch < 0 || epoch < 0:
		// One log begins after the other's epochs end: nothing below the leader's start can be compared any more. An empty log
		// has nothing to keep.
		if answer.LogStart > r.floor || r.log.Start == r.log.End {
			r.restart(answer.LogStart, now, out)
			return
		}
		end = answer.LogStart
	case epoch == answer.DivergingEpoch:
		end = min(end, answer.DivergingEnd)
	}
	end = min(max(end, r.log.Start), r.log.End)
	if end < r.floor && end < r.log.End && !plantedTruncateToHighWatermark {
		r.stop(model.Errorf(model.CodeCommittedDataDiverged,
			"the leader %d of epoch %d has another history from offset %d on (its epoch %d ends at %d), but records below %d were "+
				"committed here; compare the replicas and decide which history to keep",
			r.leader, r.leaderEpoch, end, answer.DivergingEpoch, answer.DivergingEnd, r.floor), out)
		return
	}
	if end == r.log.End {
		// Nothing to cut: the same question will get the same answer until the leader changes.
		r.follow.retries = max(r.follow.retries, 1)
		r.resubscribe(now)
	}
	out.Truncate, out.TruncateTo = true, end
}

// NextAck hands out the acknowledgement to send; false when there is no news. It coalesces: one acknowledgement tells of
// everything since the last.
func (r *Replica) NextAck() (Ack, bool) {
	f := &r.follow
	if r.role != RoleFollower || !f.streaming {
		return Ack{}, false
	}
	at := ends{log: r.log.End, durable: r.log.Durable}
	if r.position(at) == r.position(f.acked) && 2*f.consumed < f.credit {
		return Ack{}, false
	}
	ack := Ack{
		SubscriptionID: f.subID, LeaderEpoch: r.leaderEpoch, LogEnd: at.log, DurableEnd: at.durable, Consumed: f.consumed,
	}
	if r.position(at) > at.durable && plantedAckBeforeFsync {
		ack.DurableEnd = at.log
	}
	f.acked, f.consumed = at, 0
	return ack, true
}

// String describes the replica for logs.
func (r *Replica) String() string {
	return fmt.Sprintf("%s of leader %d epoch %d, log [%d, %d), durable %d, high watermark %d",
		r.role, r.leader, r.leaderEpoch, r.log.Start, r.log.End, r.log.Durable, r.log.HighWatermark)
}
