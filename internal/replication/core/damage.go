package core

import (
	"slices"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// mending is what a replica whose log is damaged does about it. In order: a follower has its leader show that it holds whatever
// the replica would throw away; it leaves ISR and ELR through the controller, which begins a new leader epoch; the leader shows
// it once more, since that may have taken long; the replica discards the damage before it subscribes in that epoch, so that no
// position from before counts (R2), and fetches anew. A leader hands over
// first, as soon as another replica could lead; until then it serves what is intact.
type mending struct {
	failed   bool // the log refused to go on: a leader is relieved, a follower stays away
	forGood  bool // until it is opened anew; else until the next leader epoch
	damaged  bool
	from     int64 // the first damaged offset
	inFlight bool  // a Verify, a GiveUp or a Discard is with the shell
	seq      uint64
	leader   Member // the leader of the newest image
	verified bool   // it has shown in this leader epoch that it holds all that it has from there on
	retries  int
	retryAt  time.Duration
}

// mendRetryMax bounds the wait for a leader that is damaged itself.
const mendRetryMax = 30 * time.Second

// Verify asks whether the leader holds, intact, what this replica is about to discard.
type Verify struct {
	// Seq names the attempt in VerifyDone.
	Seq uint64
	// Leader and LeaderEpoch are whom to ask.
	Leader      model.NodeID
	LeaderEpoch model.LeaderEpoch
	// From and To bound the offsets that would be discarded; To is exclusive. They may reach beyond the leader's log: what
	// it does not have is not committed. This replica's HighWatermark is no bound: it hears of it late, and what it has
	// acknowledged may be committed.
	From, To int64
}

// GiveUp asks the controller to take the replica out of ISR and ELR, and the leadership from it.
type GiveUp struct {
	// Seq names the attempt in GiveUpDone.
	Seq uint64
	// LeaderEpoch is what it was decided on.
	LeaderEpoch model.LeaderEpoch
}

// VerifyOutcome says what the leader has shown.
type VerifyOutcome uint8

// The outcomes of a Verify.
const (
	// VerifyUnknown means that the leader could not be asked, or not now.
	VerifyUnknown VerifyOutcome = iota
	// VerifyWhole means that the leader holds the whole range.
	VerifyWhole
	// VerifyLeaderDamaged means that the leader's log is damaged there too.
	VerifyLeaderDamaged
)

// Damaged says whether the log is known to be damaged.
func (r *Replica) Damaged() bool { return r.mend.damaged }

// FoundDamage takes note of damage that begins at from: a follower takes no frames any more, and everything begins that is
// needed to replace what is damaged.
func (r *Replica) FoundDamage(from int64, now time.Duration) Output {
	var out Output
	if m := &r.mend; !m.damaged || from < m.from {
		*m = mending{damaged: true, from: from, seq: m.seq, leader: m.leader} // what is under way is of another range
	}
	r.follow.streaming = false
	r.mendOn(now, &out)
	return out
}

// HandingOver says that a damaged leader knows of another replica that could lead: appends and reads of what is damaged wait
// for it. Without one they fail.
func (r *Replica) HandingOver() bool {
	return r.role == RoleLeader && r.mend.damaged && r.lead.successor
}

// mendOn decides the next step of the mending.
func (r *Replica) mendOn(now time.Duration, out *Output) {
	m := &r.mend
	if m.inFlight || now < m.retryAt {
		return
	}
	if m.failed {
		if r.leader == r.self && r.lead.successor {
			r.askToGiveUp(out)
		}
		return
	}
	if !m.damaged {
		return
	}
	switch r.role {
	case RoleLeader:
		if r.lead.successor {
			r.askToGiveUp(out)
		}
	case RoleFollower:
		switch {
		case r.follow.restart: // what is damaged goes with the rest
		case !m.verified:
			m.seq++
			m.inFlight = true
			out.Verify = &Verify{
				Seq: m.seq, Leader: r.leader, LeaderEpoch: r.leaderEpoch, From: m.from, To: max(m.from, r.log.End),
			}
		case (r.seated || r.follow.subscribed) && !plantedDiscardInSync:
			r.askToGiveUp(out)
		default:
			m.seq++
			m.inFlight = true
			out.Discard, out.DiscardSeq = true, m.seq
		}
	case RoleOffline, RoleStopped:
	}
}

func (r *Replica) askToGiveUp(out *Output) {
	r.mend.seq++
	r.mend.inFlight = true
	out.GiveUp = &GiveUp{Seq: r.mend.seq, LeaderEpoch: r.leaderEpoch}
}

// VerifyDone takes the outcome of the Verify seq.
func (r *Replica) VerifyDone(seq uint64, outcome VerifyOutcome, now time.Duration) Output {
	var out Output
	m := &r.mend
	if !m.inFlight || m.seq != seq {
		return out
	}
	m.inFlight = false
	switch outcome {
	case VerifyWhole:
		m.verified, m.retries = true, 0
	case VerifyLeaderDamaged:
		m.retryAt = now + doubled(r.cfg.RetryMax, mendRetryMax, m.retries)
		m.retries++
	case VerifyUnknown:
		m.retryAt = now + doubled(r.cfg.RetryMin, r.cfg.RetryMax, m.retries)
		m.retries++
	}
	r.mendOn(now, &out)
	return out
}

// GiveUpDone takes the outcome of the GiveUp seq. What was decided arrives with an image; where none comes it is asked again.
func (r *Replica) GiveUpDone(seq uint64, accepted bool, now time.Duration) {
	m := &r.mend
	if !m.inFlight || m.seq != seq {
		return
	}
	m.inFlight = false
	m.retryAt = now + doubled(r.cfg.RetryMin, r.cfg.RetryMax, m.retries)
	m.retries++
	if accepted {
		m.retries, m.retryAt = 0, now+settleTimeout
	}
}

// Discarding says whether the Discard seq is still to be done: the role, the leader epoch and the damage are what it was decided on.
func (r *Replica) Discarding(seq uint64) bool {
	m := &r.mend
	return r.role == RoleFollower && m.damaged && m.inFlight && m.seq == seq
}

// DiscardFailed reports that the damage could not be discarded now; it is tried again after a while.
func (r *Replica) DiscardFailed(seq uint64, now time.Duration) {
	m := &r.mend
	if !r.Discarding(seq) {
		return
	}
	m.inFlight = false
	m.retryAt = now + doubled(r.cfg.RetryMax, mendRetryMax, m.retries)
	m.retries++
}

// LogFailed reports that the log refused to go on, though the disk has not failed: for good, or this once. Who leads hands over as
// soon as it can.
func (r *Replica) LogFailed(forGood bool, now time.Duration) Output {
	successor := r.lead.successor
	out := r.Offline()
	r.mend.failed, r.mend.forGood, r.lead.successor = true, r.mend.forGood || forGood, successor
	r.mendOn(now, &out)
	return out
}

// mayMend says whether the passing of time alone can bring the mending on.
func (r *Replica) mayMend() bool {
	if r.mend.failed {
		return !r.mend.inFlight && r.leader == r.self && r.lead.successor
	}
	return r.mend.damaged && !r.mend.inFlight && (r.role == RoleFollower || r.lead.successor)
}

// CanHandOver says that a leader knows of another live replica that could lead.
func (r *Replica) CanHandOver() bool { return r.role == RoleLeader && r.lead.successor }

// mendImage begins the mending anew after an image: what was asked in another role or epoch counts no more.
func (r *Replica) mendImage(st PartitionState, anew bool, now time.Duration, out *Output) {
	r.seated = slices.Contains(st.ISR, r.self) || slices.Contains(st.ELR, r.self)
	if r.leader == r.self {
		r.lead.successor = slices.ContainsFunc(st.Replicas, func(m Member) bool {
			return m.ID != r.self && m.mayLead() && (slices.Contains(st.ISR, m.ID) || slices.Contains(st.ELR, m.ID))
		})
	}
	m, leader := &r.mend, Member{ID: st.Leader}
	if i := slices.IndexFunc(st.Replicas, func(m Member) bool { return m.ID == st.Leader }); i >= 0 {
		leader.BrokerEpoch = st.Replicas[i].BrokerEpoch
	}
	m.verified = m.verified && !anew && r.role == RoleFollower && leader == m.leader
	m.leader = leader
	if anew {
		m.inFlight, m.retries, m.retryAt = false, 0, now
	}
	r.mendOn(now, out)
}

// mendLog takes the log's word for whether it is damaged, after it was cut or begun anew.
func (r *Replica) mendLog(log LogState) {
	if !log.Damaged {
		r.mend = mending{seq: r.mend.seq, leader: r.mend.leader}
		return
	}
	r.mend.damaged, r.mend.from, r.mend.inFlight = true, log.DamagedFrom, false
}
