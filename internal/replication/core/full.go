package core

import (
	"slices"
	"time"
)

// crowding is what a replica does whose log is whole and takes no more, since its disk is full. A leader waits a little, for it may
// be short of space for a moment alone, and then hands over to another member of an ISR that is large enough without it; where
// the controller knows of none that has room, it keeps leading and asks again, ever less often. A follower stops fetching: it
// leaves the ISR as any that lags. Either goes on once there is room.
type crowding struct {
	full     bool
	since    time.Duration // of the first refusal
	inFlight bool          // a GiveUp is with the shell
	seq      uint64
	refused  bool          // the controller knew of nobody to lead instead
	asked    int           // since the disk is full: also over leaderships, so that they do not go round
	retryAt  time.Duration // the next GiveUp
}

// NoRoom reports that an append, own or of a frame, was refused for lack of space; nothing of it is in the log.
func (r *Replica) NoRoom(now time.Duration) Output {
	var out Output
	if !r.crowd.full {
		r.crowd = crowding{full: true, since: now, seq: r.crowd.seq, retryAt: now + r.cfg.FullTimeMax}
	}
	if r.role == RoleFollower {
		r.follow.streaming = false
	}
	r.crowdOn(now, &out)
	return out
}

// RoomAgain reports that the disk has space: a follower fetches again.
func (r *Replica) RoomAgain(now time.Duration) {
	if !r.crowd.full {
		return
	}
	r.crowd = crowding{seq: r.crowd.seq}
	if r.role == RoleFollower && !r.follow.streaming {
		r.resubscribe(now)
	}
}

// Full says that NoRoom was reported and RoomAgain was not since: a small append may well succeed meanwhile.
func (r *Replica) Full() bool { return r.crowd.full }

// MakesRoom says that a leader whose disk is full expects another replica to take over: appends wait for it. Otherwise they fail.
func (r *Replica) MakesRoom() bool {
	return r.role == RoleLeader && r.crowd.full && !r.crowd.refused && r.mayLeave()
}

// mayLeave says that an ISR that is large enough, with another that could lead, is left without this leader.
func (r *Replica) mayLeave() bool {
	return r.lead.heir && len(r.lead.isr) > r.minISR
}

// crowdOn decides whether the leadership is to be handed over. Damage goes first.
func (r *Replica) crowdOn(now time.Duration, out *Output) {
	c := &r.crowd
	if !c.full || c.inFlight || now < c.retryAt || r.role != RoleLeader || r.mend.damaged || !r.mayLeave() {
		return
	}
	c.seq++
	c.asked++
	c.inFlight = true
	out.HandOver = &GiveUp{Seq: c.seq, LeaderEpoch: r.leaderEpoch}
}

// HandOverDone takes the outcome of the HandOver seq. What was decided arrives with an image.
func (r *Replica) HandOverDone(seq uint64, accepted bool, now time.Duration) {
	c := &r.crowd
	if !c.inFlight || c.seq != seq {
		return
	}
	c.inFlight, c.refused = false, !accepted
	c.retryAt = now + doubled(r.cfg.FullTimeMax, r.cfg.RejoinMax, c.asked)
}

// crowdImage takes the followers of an image as heirs; what was asked in another epoch counts no more.
func (r *Replica) crowdImage(st PartitionState, anew bool, now time.Duration, out *Output) {
	if r.role == RoleLeader {
		r.lead.heir = slices.ContainsFunc(st.Replicas, func(m Member) bool {
			return m.ID != r.self && m.mayLead() && slices.Contains(st.ISR, m.ID)
		})
	}
	if anew {
		r.crowd.inFlight, r.crowd.refused = false, false
		r.crowd.retryAt = now + doubled(r.cfg.FullTimeMax, r.cfg.RejoinMax, r.crowd.asked)
	}
	r.crowdOn(now, out)
}
