package core

import (
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// Replica is one partition on one broker. It is not safe for concurrent use.
type Replica struct {
	cfg         Config
	self        model.NodeID
	brokerEpoch model.BrokerEpoch
	history     History

	role           Role
	leader         model.NodeID
	leaderEpoch    model.LeaderEpoch
	partitionEpoch model.PartitionEpoch
	minISR         int
	mode           FlushMode

	log   LogState // HighWatermark included; it never falls
	osEnd int64    // records below were committed in flush.mode=os
	floor int64    // never truncated below (R5): the highest HighWatermark ever known here

	seated bool // in ISR or ELR by the newest image taken

	lead   leading
	follow following
	mend   mending
	crowd  crowding
}

// NewReplica returns an offline replica of the broker self in its incarnation brokerEpoch, over a log as recovery left it.
func NewReplica(self model.NodeID, brokerEpoch model.BrokerEpoch, cfg Config, log LogState, history History) *Replica {
	r := &Replica{
		cfg: cfg.withDefaults(), self: self, brokerEpoch: brokerEpoch, history: history,
		leader: model.NoNode, leaderEpoch: model.NoLeaderEpoch, partitionEpoch: -1, minISR: 1,
		log: log, floor: log.HighWatermark,
	}
	// A checkpoint above the log's end tells of records that were lost with the disk; they are no longer ours to vouch for.
	r.log.HighWatermark = min(max(log.HighWatermark, log.Start), log.End)
	r.log.Durable = min(r.log.Durable, log.End)
	r.mendLog(log)
	return r
}

// Role is the present role.
func (r *Replica) Role() Role { return r.role }

// Leader is the leader by the newest image taken, or model.NoNode.
func (r *Replica) Leader() model.NodeID { return r.leader }

// LeaderEpoch is the leader epoch by the newest image taken.
func (r *Replica) LeaderEpoch() model.LeaderEpoch { return r.leaderEpoch }

// PartitionEpoch is the partition epoch by the newest image taken.
func (r *Replica) PartitionEpoch() model.PartitionEpoch { return r.partitionEpoch }

// Log is where the log stands, with the HighWatermark in force.
func (r *Replica) Log() LogState { return r.log }

// FlushMode is the topic's flush mode by the newest image taken.
func (r *Replica) FlushMode() FlushMode { return r.mode }

// SetBrokerEpoch sets the incarnation that images must name for this broker before it takes a role.
func (r *Replica) SetBrokerEpoch(epoch model.BrokerEpoch) { r.brokerEpoch = epoch }

// Apply takes the partition's state from an image. Older states than the last one taken are ignored (R8).
func (r *Replica) Apply(st PartitionState, now time.Duration) Output {
	var out Output
	if r.role == RoleStopped || st.LeaderEpoch < r.leaderEpoch || st.PartitionEpoch < r.partitionEpoch {
		return out
	}
	if st.LeaderEpoch > r.leaderEpoch && !r.mend.forGood {
		r.mend.failed = false
	}
	role := r.roleFor(st)
	anew := role != r.role || st.Leader != r.leader || st.LeaderEpoch != r.leaderEpoch
	newPartitionEpoch := st.PartitionEpoch > r.partitionEpoch
	r.leader, r.leaderEpoch, r.partitionEpoch = st.Leader, st.LeaderEpoch, st.PartitionEpoch
	if r.mode == FlushOS && st.FlushMode == FlushFsync {
		r.osEnd = r.log.HighWatermark
	}
	r.minISR, r.mode = max(st.MinISR, 1), st.FlushMode
	if anew {
		out.RoleChanged = true
		r.enter(role, now, &out)
	}
	if r.role == RoleLeader {
		r.lead.takeImage(r, st, newPartitionEpoch || anew, now)
		r.moved(now, &out)
	}
	r.mendImage(st, anew, now, &out)
	r.crowdImage(st, anew, now, &out)
	return out
}

// roleFor decides what the state makes of this replica.
func (r *Replica) roleFor(st PartitionState) Role {
	own := -1
	for i := range st.Replicas {
		if st.Replicas[i].ID == r.self {
			own = i
		}
	}
	switch {
	case own < 0 || st.Leader == model.NoNode || r.mend.failed:
		return RoleOffline
	case st.Replicas[own].BrokerEpoch != r.brokerEpoch && !plantedResumeEpoch:
		return RoleOffline // the image is older than our own registration (R6, R9), or somebody has registered after us
	case st.Leader != r.self:
		return RoleFollower
	case r.role == RoleLeader && st.LeaderEpoch == r.leaderEpoch:
		return RoleLeader
	case r.history.LatestEpoch() >= st.LeaderEpoch && !plantedResumeEpoch:
		return RoleOffline // an epoch that has begun before is never led again (R9)
	default:
		return RoleLeader
	}
}

// enter begins a role.
func (r *Replica) enter(role Role, now time.Duration, out *Output) {
	r.role = role
	r.follow = following{}
	if role != RoleLeader {
		r.lead = leading{}
	}
	switch role {
	case RoleLeader:
		r.lead.begin(r, now)
		out.AssignEpoch, out.EpochStart = true, r.log.End
	case RoleFollower:
		r.follow.retryAt = now
		if r.mend.damaged {
			return // nothing is cut but with the damage
		}
		if r.history.LatestEpoch() != r.lastBatchEpoch() {
			// Epochs that this broker led without a record end here: the new leader may send batches of older ones.
			out.Truncate, out.TruncateTo = true, r.log.End
		}
		if plantedTruncateToHighWatermark && r.log.HighWatermark < r.log.End {
			out.Truncate, out.TruncateTo = true, r.log.HighWatermark
		}
	case RoleOffline, RoleStopped:
	}
}

// Offline takes the role away until the next image, for instance when the log failed.
func (r *Replica) Offline() Output {
	if r.role == RoleOffline || r.role == RoleStopped {
		return Output{}
	}
	var out Output
	out.RoleChanged = true
	r.enter(RoleOffline, 0, &out)
	return out
}

// stop ends the replica for good.
func (r *Replica) stop(err *model.Error, out *Output) {
	r.enter(RoleStopped, 0, out)
	out.RoleChanged = true
	out.Stopped = err
}

// LocalDurable reports that the log is on the disk up to end, after a sync.
func (r *Replica) LocalDurable(end int64, now time.Duration) Output {
	var out Output
	if end = min(end, r.log.End); end <= r.log.Durable {
		return out
	}
	r.log.Durable = end
	if r.role == RoleLeader {
		r.moved(now, &out)
	}
	return out
}

// LocalStart reports that the LogStartOffset moved to start.
func (r *Replica) LocalStart(start int64) Output {
	var out Output
	r.log.Start = max(r.log.Start, start)
	out.FollowersReady = r.role == RoleLeader
	return out
}

// Truncated reports that the log was cut or begun anew and now has this state; its HighWatermark is ignored.
func (r *Replica) Truncated(log LogState) {
	r.log.Start, r.log.End, r.log.Durable = log.Start, log.End, min(log.Durable, log.End)
	r.log.HighWatermark = min(max(r.log.HighWatermark, log.Start), log.End)
	r.follow.acked, r.follow.restart = ends{}, false
	r.mendLog(log)
}

// position is what counts for the HighWatermark.
func (r *Replica) position(e ends) int64 {
	if r.mode == FlushOS || plantedAckBeforeFsync {
		return e.log
	}
	return e.durable
}

// raise moves the HighWatermark up.
func (r *Replica) raise(hw int64, out *Output) {
	if hw <= r.log.HighWatermark {
		return
	}
	r.log.HighWatermark = hw
	r.floor = max(r.floor, hw)
	out.HighWatermarkMoved, out.HighWatermark = true, hw
}

// ends are the two ends of a log.
type ends struct{ log, durable int64 }

var unknownEnds = ends{log: -1, durable: -1}
