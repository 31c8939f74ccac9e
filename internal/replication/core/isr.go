package core

import (
	"slices"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// lag measures for how long a follower has been behind: since the log end first exceeded its position. It is exact within
// one round: a position that reached the mark has been behind since the mark was set, at the earliest.
type lag struct {
	caughtUp bool
	since    time.Duration
	mark     int64 // the log end at markTime
	markTime time.Duration
}

func (l *lag) fellBehind(logEnd int64, now time.Duration) {
	*l = lag{since: now, mark: logEnd, markTime: now}
}

// appended notes a new log end.
func (l *lag) appended(logEnd int64, now time.Duration) {
	if l.caughtUp {
		l.fellBehind(logEnd, now)
	}
}

// reached notes a new position.
func (l *lag) reached(position, logEnd int64, now time.Duration) {
	switch {
	case position >= logEnd:
		l.caughtUp = true
	case position >= l.mark:
		l.caughtUp = false
		l.since, l.mark, l.markTime = l.markTime, logEnd, now
	default:
		l.caughtUp = false
	}
}

// exceeds says whether the follower has been behind for longer than limit.
func (l *lag) exceeds(limit, now time.Duration) bool { return !l.caughtUp && now-l.since > limit }

// backoff is a follower's wait to rejoin the ISR.
type backoff struct {
	removals int
	joinedAt time.Duration
	rejoinAt time.Duration
	removing bool // this leader has proposed to remove it
}

// removed notes that the follower left the ISR by this leader's proposal. A long time in the ISR clears the score.
func (b *backoff) removed(cfg Config, now time.Duration) {
	if now-b.joinedAt > 2*cfg.RejoinMax {
		b.removals = 0
	}
	b.rejoinAt = now + doubled(cfg.RejoinMin, cfg.RejoinMax, b.removals)
	b.removals++
	b.removing = false
}

// doubled is least doubled n times, at most most.
func doubled(least, most time.Duration, n int) time.Duration {
	for range n {
		if least >= most {
			break
		}
		least *= 2
	}
	return min(least, most)
}

type proposalPhase uint8

const (
	proposalIdle     proposalPhase = iota
	proposalInFlight               // sent, no answer yet
	proposalRetry                  // its outcome is unknown, or it was refused: send again from retryAt on
	proposalSettling               // accepted, or overtaken: the image will tell
)

// settleTimeout is how long an accepted proposal's image is waited for before it is asked again.
const settleTimeout = 10 * time.Second

// proposing is the state of AlterPartition on the present partition epoch. By compare-and-set at most one proposal made on
// it takes effect; until a newer partition epoch arrives every one whose outcome is not known to be a refusal may.
type proposing struct {
	phase   proposalPhase
	seq     uint64
	maybe   []model.NodeID // members of all proposals that may have taken effect
	unknown bool           // an earlier attempt on this partition epoch may still take effect
	retries int
	retryAt time.Duration
}

// settle is called when a newer partition epoch is in force: nothing proposed before can take effect any more.
func (p *proposing) settle() { *p = proposing{seq: p.seq} }

// noteMembership keeps the rejoin scores after an ISR came into force.
func (l *leading) noteMembership(cfg Config, before []model.NodeID, now time.Duration) {
	for i := range l.followers {
		f := &l.followers[i]
		was, is := slices.Contains(before, f.ID), slices.Contains(l.isr, f.ID)
		switch {
		case is && !was:
			f.backoff.joinedAt = now
		case was && !is && f.backoff.removing:
			f.backoff.removed(cfg, now)
		}
		f.backoff.removing = false
	}
}

// mayJoin is R2: subscribed in this epoch, at or past the HighWatermark and at or past the epoch's start.
func (r *Replica) mayJoin(f *follower, now time.Duration) bool {
	position := r.position(f.ends)
	switch {
	case f.Fenced || !f.streaming || now < f.backoff.rejoinAt:
		return false
	case position < r.log.HighWatermark:
		return false
	case position < r.lead.epochStart && !plantedJoinWithoutEpochStart:
		return false
	default:
		return !f.lag.exceeds(r.cfg.LagTimeMax, now)
	}
}

// wanted says whether a follower belongs into the in-sync set as the leader sees it now.
func (r *Replica) wanted(f *follower, now time.Duration) bool {
	if slices.Contains(r.lead.isr, f.ID) {
		return !f.Fenced && !f.lag.exceeds(r.cfg.LagTimeMax, now)
	}
	return r.mayJoin(f, now)
}

// wantsChange says whether the wanted in-sync set differs from the one in force.
func (r *Replica) wantsChange(now time.Duration) bool {
	for i := range r.lead.followers {
		f := &r.lead.followers[i]
		if r.wanted(f, now) != slices.Contains(r.lead.isr, f.ID) {
			return true
		}
	}
	return false
}

// propose sends the wanted in-sync set where it differs from the one in force (R3), one proposal at a time. After an
// unknown outcome something is proposed in any case, so that the partition epoch moves on and the doubt ends.
func (r *Replica) propose(now time.Duration, out *Output) {
	p := &r.lead.proposal
	if p.phase == proposalInFlight || (p.phase != proposalIdle && now < p.retryAt) {
		return
	}
	p.unknown = p.unknown || p.phase == proposalSettling // the image that was promised does not come
	if !p.unknown && (!r.mayDiffer() || !r.wantsChange(now)) {
		return
	}
	members := []Member{{ID: r.self, BrokerEpoch: r.brokerEpoch}}
	for i := range r.lead.followers {
		f := &r.lead.followers[i]
		wanted := r.wanted(f, now)
		f.backoff.removing = !wanted && slices.Contains(r.lead.isr, f.ID)
		if wanted {
			members = append(members, Member{ID: f.ID, BrokerEpoch: f.BrokerEpoch})
		}
	}
	for _, m := range members {
		if !slices.Contains(p.maybe, m.ID) {
			p.maybe = append(p.maybe, m.ID)
		}
	}
	p.seq++
	p.phase = proposalInFlight
	out.Propose = true
	out.Proposal = Proposal{Seq: p.seq, LeaderEpoch: r.leaderEpoch, PartitionEpoch: r.partitionEpoch, ISR: members}
}

// mayDiffer is a quick look without allocation: all followers in the ISR and caught up need no proposal.
func (r *Replica) mayDiffer() bool {
	if len(r.lead.isr) != len(r.lead.followers)+1 {
		return true
	}
	for i := range r.lead.followers {
		if f := &r.lead.followers[i]; f.Fenced || !f.lag.caughtUp {
			return true
		}
	}
	return false
}

// ProposalOutcome says how a proposal ended.
type ProposalOutcome uint8

// The outcomes of a proposal.
const (
	// ProposalUnknown means that it may or may not take effect: no answer, or none that excludes it.
	ProposalUnknown ProposalOutcome = iota
	// ProposalAccepted means that an image will bring it.
	ProposalAccepted
	// ProposalRefused means that this attempt has no effect and never will.
	ProposalRefused
	// ProposalOvertaken means that a newer partition epoch exists, which an image will bring.
	ProposalOvertaken
)

// ProposalDone takes the outcome of the proposal seq. Only images change the in-sync set (R3).
func (r *Replica) ProposalDone(seq uint64, outcome ProposalOutcome, now time.Duration) Output {
	var out Output
	p := &r.lead.proposal
	if r.role != RoleLeader || p.phase != proposalInFlight || p.seq != seq {
		return out
	}
	switch outcome {
	case ProposalAccepted, ProposalOvertaken:
		p.phase = proposalSettling
		p.retryAt = now + settleTimeout
		return out
	case ProposalRefused:
		if !p.unknown {
			p.maybe = p.maybe[:0]
		}
	case ProposalUnknown:
		p.unknown = true
	}
	p.phase = proposalRetry
	p.retryAt = now + doubled(r.cfg.RetryMin, r.cfg.RetryMax, p.retries)
	p.retries++
	r.moved(now, &out)
	return out
}

// Tick lets time pass: followers that lag leave, those whose wait is over join, proposals are repeated, and followers hear of
// the HighWatermark where no data brought it. NeedsTick says whether it can do anything.
func (r *Replica) Tick(now time.Duration) Output {
	var out Output
	if r.role == RoleLeader {
		r.propose(now, &out)
		for i := range r.lead.followers {
			if r.lead.followers[i].tick(r.log) {
				out.FollowersReady = true
			}
		}
	}
	r.mendOn(now, &out)
	r.crowdOn(now, &out)
	return out
}

// NeedsTick says whether the passing of time alone can change anything: an idle partition in order needs none.
func (r *Replica) NeedsTick() bool {
	switch r.role {
	case RoleLeader:
		return r.lead.proposal.phase != proposalIdle || r.mayDiffer() || r.mayMend() || r.mustTell() || r.crowd.full
	case RoleFollower:
		return !r.follow.streaming && (!r.mend.damaged || r.mayMend())
	case RoleOffline:
		return r.mend.failed && r.mayMend()
	case RoleStopped:
		return false
	default:
		return false
	}
}

// mustTell says whether a follower is to hear of a HighWatermark by a tick to come.
func (r *Replica) mustTell() bool {
	for i := range r.lead.followers {
		if f := &r.lead.followers[i]; f.untold(r.log) && !f.mayTell(r.log) {
			return true
		}
	}
	return false
}

// OutcomeOf maps the error code of an AlterPartition answer to the outcome of the proposal.
func OutcomeOf(code model.ErrorCode) ProposalOutcome {
	switch code { //nolint:exhaustive // every other code leaves the outcome open
	case model.CodeNone:
		return ProposalAccepted
	case model.CodeInvalidUpdateVersion:
		return ProposalOvertaken
	case model.CodeIneligibleReplica, model.CodeNotController, model.CodeFencedLeaderEpoch, model.CodeStaleBrokerEpoch,
		model.CodeNotLeaderForPartition, model.CodeUnknownTopicID, model.CodeUnknownTopicOrPartition, model.CodeInvalidRequest,
		model.CodeBrokerIDNotRegistered, model.CodeUnknownLeaderEpoch, model.CodeInvalidReplicaAssignment:
		return ProposalRefused
	default:
		return ProposalUnknown
	}
}
