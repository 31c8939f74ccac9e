package core

import (
	"slices"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// leading is what a leader knows beyond its log.
type leading struct {
	epochStart int64
	position   int64 // the leader's own, as last told by Output.Position
	isr        []model.NodeID
	successor  bool       // another replica is in ISR or ELR and could lead
	heir       bool       // one that is in the ISR
	followers  []follower // in the order of the assignment, without this broker
	proposal   proposing
}

// follower is a leader's view of another replica, in this epoch alone.
type follower struct {
	Member
	ends      ends // -1 until it subscribed in this epoch
	lag       lag
	backoff   backoff
	subID     uint64
	streaming bool
	next      int64 // next offset to be sent
	underWay  int64 // bytes sent and not yet taken in
	credit    int64
	toldHW    int64
	toldStart int64
	quiet     bool // nothing was sent since the last tick
	tell      bool // a HighWatermark may be sent alone: no data is coming to carry it
}

// untold says that the leader's HighWatermark or LogStartOffset is not what the follower was sent last.
func (f *follower) untold(log LogState) bool {
	return f.streaming && (f.toldHW != log.HighWatermark || f.toldStart != log.Start)
}

// mayTell says whether progress may be sent without data: at once after a subscription or when the log's start moved. A
// HighWatermark waits for the next data to carry it, or for a tick at which none has come: sent alone after every batch it
// would cost as much as the batch.
func (f *follower) mayTell(log LogState) bool {
	return f.untold(log) && (f.tell || f.toldHW < 0 || f.toldStart != log.Start)
}

// tick lets a HighWatermark be sent alone where nothing was sent since the last tick; true where there is one.
func (f *follower) tick(log LogState) bool {
	if !f.untold(log) || f.mayTell(log) {
		return false
	}
	f.tell, f.quiet = f.quiet, true
	return f.tell
}

// begin starts a leadership at the log's end. What is known of rejoin backoffs is kept from an earlier one.
func (l *leading) begin(r *Replica, now time.Duration) {
	old := l.followers
	*l = leading{epochStart: r.log.End, position: -1}
	for i := range old {
		l.followers = append(l.followers, newFollower(old[i].Member, old[i].backoff, r.log.End, now))
	}
}

func newFollower(m Member, b backoff, logEnd int64, now time.Duration) follower {
	b.removing = false
	f := follower{Member: m, ends: unknownEnds, backoff: b}
	f.lag.fellBehind(logEnd, now)
	return f
}

// takeImage updates assignment, ISR and the state of the proposal. Positions of an older incarnation are forgotten.
func (l *leading) takeImage(r *Replica, st PartitionState, newPartitionEpoch bool, now time.Duration) {
	followers := make([]follower, 0, len(st.Replicas))
	for _, m := range st.Replicas {
		if m.ID == r.self {
			continue
		}
		f := newFollower(m, backoff{}, r.log.End, now)
		if i := l.index(m.ID); i >= 0 && l.followers[i].BrokerEpoch >= m.BrokerEpoch {
			f = l.followers[i] // a subscription may be newer than the image
			f.Fenced, f.Stopping = m.Fenced, m.Stopping
		}
		if f.ends != unknownEnds {
			f.lag.reached(r.position(f.ends), r.log.End, now) // the flush mode may have changed
		}
		followers = append(followers, f)
	}
	l.followers = followers
	before := l.isr
	l.isr = slices.Clone(st.ISR)
	if newPartitionEpoch {
		l.proposal.settle()
		l.noteMembership(r.cfg, before, now)
	}
}

func (l *leading) index(id model.NodeID) int {
	return slices.IndexFunc(l.followers, func(f follower) bool { return f.ID == id })
}

func (l *leading) find(id model.NodeID) *follower {
	if i := l.index(id); i >= 0 {
		return &l.followers[i]
	}
	return nil
}

// LocalAppend reports that the log now ends at end: after an append as leader.
func (r *Replica) LocalAppend(end int64, now time.Duration) Output {
	var out Output
	if end <= r.log.End {
		return out
	}
	r.log.End = end
	if r.role != RoleLeader {
		return out
	}
	for i := range r.lead.followers {
		f := &r.lead.followers[i]
		f.lag.appended(end, now)
		out.FollowersReady = out.FollowersReady || f.streaming
	}
	r.moved(now, &out)
	return out
}

// moved draws the consequences of any progress: the leader's position, the HighWatermark, the in-sync set.
func (r *Replica) moved(now time.Duration, out *Output) {
	own := r.position(ends{log: r.log.End, durable: r.log.Durable})
	if own > r.lead.position {
		r.lead.position = own
		out.PositionMoved, out.Position = true, own
	}
	r.advance(own, out)
	r.propose(now, out)
}

// advance is R1: the minimum over the maximal ISR, and only while the ISR in force is large enough.
func (r *Replica) advance(own int64, out *Output) {
	if len(r.lead.isr) < r.minISR {
		return
	}
	hw := own
	for _, ids := range [2][]model.NodeID{r.lead.isr, r.lead.proposal.maybe} {
		for _, id := range ids {
			if id == r.self || plantedLeaderAcksAlone {
				continue
			}
			f := r.lead.find(id)
			if f == nil {
				return // a member that is not assigned: nothing is known of it
			}
			hw = min(hw, r.position(f.ends))
		}
	}
	r.raise(hw, out)
}

// FollowerSubscribed takes a follower's subscription and answers it. Every call drops the follower's older subscriptions; one
// that arrives after a newer of the same incarnation is refused and drops nothing (R8).
func (r *Replica) FollowerSubscribed(sub Subscribe, now time.Duration) (SubscribeAnswer, Output) {
	var out Output
	if answer := r.admit(sub); answer.Code != model.CodeNone {
		return answer, out
	}
	f := r.lead.find(sub.Follower)
	if sub.FollowerEpoch > f.BrokerEpoch {
		*f = newFollower(Member{ID: f.ID, BrokerEpoch: sub.FollowerEpoch, Fenced: f.Fenced, Stopping: f.Stopping}, backoff{}, r.log.End, now)
	}
	if sub.SubscriptionID < f.subID {
		// It was overtaken on its way: the follower no longer listens to it, and the newer one lives.
		return SubscribeAnswer{Code: model.CodeFencedLeaderEpoch, Detail: "the follower has subscribed anew since"}, out
	}
	f.streaming = false
	answer := r.compare(sub)
	if answer.Code != model.CodeNone || answer.Diverging {
		return answer, out
	}
	f.subID, f.streaming = sub.SubscriptionID, true
	f.next, f.underWay, f.credit = sub.FetchOffset, 0, sub.Credit
	f.toldHW, f.toldStart, f.quiet, f.tell = -1, -1, false, false
	f.ends = ends{log: sub.FetchOffset, durable: min(sub.DurableEnd, sub.FetchOffset)}
	f.lag.reached(r.position(f.ends), r.log.End, now)
	r.moved(now, &out)
	out.FollowersReady = true
	return answer, out
}

// admit checks the epochs of a subscription (R8).
func (r *Replica) admit(sub Subscribe) SubscribeAnswer {
	switch {
	case sub.LeaderEpoch > r.leaderEpoch:
		return SubscribeAnswer{Code: model.CodeUnknownLeaderEpoch, Detail: "the leader has not seen this leader epoch yet; retry"}
	case sub.LeaderEpoch < r.leaderEpoch:
		return SubscribeAnswer{Code: model.CodeFencedLeaderEpoch, Detail: "the leader epoch has passed; wait for the metadata"}
	case r.role != RoleLeader:
		return SubscribeAnswer{Code: model.CodeNotLeaderForPartition, Detail: "this broker does not lead the partition"}
	}
	f := r.lead.find(sub.Follower)
	switch {
	case f == nil:
		return SubscribeAnswer{Code: model.CodeReplicaNotAvailable, Detail: "the broker is not assigned to the partition; retry once it is"}
	case sub.FollowerEpoch < f.BrokerEpoch:
		return SubscribeAnswer{Code: model.CodeStaleBrokerEpoch, Detail: "a newer incarnation of the broker is registered"}
	default:
		return SubscribeAnswer{}
	}
}

// compare holds the follower's history against the leader's (R5).
func (r *Replica) compare(sub Subscribe) SubscribeAnswer {
	if sub.FetchOffset < r.log.Start {
		return SubscribeAnswer{
			Code: model.CodeOffsetOutOfRange, LogStart: r.log.Start,
			Detail: "the follower's log ends below the log start offset; begin anew there",
		}
	}
	if plantedNoEpochCheckOnFetch && sub.FetchOffset <= r.log.End {
		return SubscribeAnswer{}
	}
	if sub.FetchOffset == r.log.Start {
		return SubscribeAnswer{} // nothing that can be read lies before it
	}
	if sub.LastFetchedEpoch == model.NoLeaderEpoch && sub.FetchOffset <= r.log.End {
		// An empty log that begins above ours: it followed a leader that had moved its start there, which was committed.
		return SubscribeAnswer{}
	}
	epoch, end := r.history.EpochEndOffset(sub.LastFetchedEpoch)
	if epoch == sub.LastFetchedEpoch && sub.FetchOffset <= end {
		return SubscribeAnswer{}
	}
	return SubscribeAnswer{Diverging: true, DivergingEpoch: epoch, DivergingEnd: end, LogStart: r.log.Start}
}

// FollowerAcked takes a follower's progress. Acknowledgements of older subscriptions or epochs are ignored (R8).
func (r *Replica) FollowerAcked(id model.NodeID, ack Ack, now time.Duration) Output {
	var out Output
	f := r.streamingTo(id, ack.SubscriptionID)
	if f == nil || ack.LeaderEpoch != r.leaderEpoch {
		return out
	}
	f.underWay = max(0, f.underWay-ack.Consumed)
	// More than was sent cannot have been taken in.
	logEnd := min(ack.LogEnd, f.next)
	f.ends.log = max(f.ends.log, logEnd)
	f.ends.durable = max(f.ends.durable, min(ack.DurableEnd, logEnd))
	f.lag.reached(r.position(f.ends), r.log.End, now)
	r.moved(now, &out)
	out.FollowersReady = out.FollowersReady || f.next < r.log.End || f.mayTell(r.log)
	return out
}

// FollowerGone reports that a subscription has ended, with its stream or by the follower's wish.
func (r *Replica) FollowerGone(id model.NodeID, subscriptionID uint64) {
	if f := r.streamingTo(id, subscriptionID); f != nil {
		f.streaming = false
	}
}

func (r *Replica) streamingTo(id model.NodeID, subscriptionID uint64) *follower {
	if r.role != RoleLeader {
		return nil
	}
	f := r.lead.find(id)
	if f == nil || !f.streaming || f.subID != subscriptionID {
		return nil
	}
	return f
}

// NextFrame hands out what to send on a subscription, with at most budget bytes of batches; false when there is nothing.
// Progress alone is told only when no data is under way: acknowledgements and ticks bring the call again.
func (r *Replica) NextFrame(id model.NodeID, subscriptionID uint64, budget int64) (FrameOrder, bool) {
	f := r.streamingTo(id, subscriptionID)
	if f == nil {
		return FrameOrder{}, false
	}
	order := FrameOrder{
		SubscriptionID: f.subID, LeaderEpoch: r.leaderEpoch,
		HighWatermark: r.log.HighWatermark, LogStart: r.log.Start,
	}
	switch {
	case f.next < r.log.End:
		if budget <= 0 || f.underWay >= f.credit {
			return FrameOrder{}, false
		}
		order.Data, order.From, order.UpTo = true, f.next, r.log.End
		order.MaxBytes = min(budget, f.credit-f.underWay)
	case f.underWay > 0 || !f.mayTell(r.log):
		return FrameOrder{}, false
	}
	f.toldHW, f.toldStart, f.quiet, f.tell = order.HighWatermark, order.LogStart, false, false
	return order, true
}

// Sent reports what was read and sent for a FrameOrder with Data: bytes of batches that end at next.
func (r *Replica) Sent(id model.NodeID, subscriptionID uint64, next, bytes int64) {
	if f := r.streamingTo(id, subscriptionID); f != nil {
		f.next = max(f.next, next)
		f.underWay += bytes
	}
}

// Facts counts what a receipt tells of the records below end. It is meaningful on a leader only. Below the HighWatermark
// every member of the ISR counts, whether or not it has been heard of in this leader epoch: it would be no member without
// those records (R1, R2).
func (r *Replica) Facts(end int64) Facts {
	facts := Facts{ISR: len(r.lead.isr)}
	committed := end <= r.log.HighWatermark
	count := func(e ends) {
		if r.position(e) >= end {
			facts.Acked++
		}
		if e.durable >= end {
			facts.FSynced++
		}
	}
	count(ends{log: r.log.End, durable: r.log.Durable})
	for i := range r.lead.followers {
		f := &r.lead.followers[i]
		held := f.ends
		if committed && slices.Contains(r.lead.isr, f.ID) {
			held.log = max(held.log, end)
			if r.mode == FlushFsync && end > r.osEnd {
				held.durable = max(held.durable, end)
			}
		}
		count(held)
	}
	return facts
}

// MayAppend says whether a leader may take an append of acks=all: CodeNone, CodeNotLeaderForPartition, or
// CodeNotEnoughReplicas while the ISR in force is smaller than min.insync.replicas.
func (r *Replica) MayAppend(acksAll bool) model.ErrorCode {
	switch {
	case r.role != RoleLeader:
		return model.CodeNotLeaderForPartition
	case acksAll && len(r.lead.isr) < r.minISR:
		return model.CodeNotEnoughReplicas
	default:
		return model.CodeNone
	}
}

// LookupReady says whether a leader may answer offset look-ups: its HighWatermark has reached its epoch's start (R4).
func (r *Replica) LookupReady() bool {
	return r.role == RoleLeader && r.log.HighWatermark >= r.lead.epochStart
}

// CheckFetch judges the offset of a consumer's fetch (R4): CodeNone where it may be read or, at or above the HighWatermark,
// waited for.
func (r *Replica) CheckFetch(offset int64) model.ErrorCode {
	switch {
	case r.role != RoleLeader:
		return model.CodeNotLeaderForPartition
	case offset >= r.log.Start && offset <= r.log.End:
		return model.CodeNone
	case !r.LookupReady():
		return model.CodeOffsetNotAvailable
	default:
		return model.CodeOffsetOutOfRange
	}
}

// ISR returns a copy of the in-sync set in force; nil unless leading.
func (r *Replica) ISR() []model.NodeID { return slices.Clone(r.lead.isr) }

// ISRSize is the size of the in-sync set in force; 0 unless leading.
func (r *Replica) ISRSize() int { return len(r.lead.isr) }

// EachLag tells, on a leader, how far each follower is behind: in records of its position, and for how long, 0 for one that
// has everything.
func (r *Replica) EachLag(now time.Duration, tell func(id model.NodeID, records int64, behind time.Duration)) {
	if r.role != RoleLeader {
		return
	}
	for i := range r.lead.followers {
		f := &r.lead.followers[i]
		records, behind := r.log.End-max(r.position(f.ends), r.log.Start), time.Duration(0)
		if !f.lag.caughtUp {
			behind = now - f.lag.since
		}
		tell(f.ID, max(records, 0), max(behind, 0))
	}
}
