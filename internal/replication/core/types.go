package core

import (
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// Role is what a replica does at the moment.
type Role uint8

// The roles of a replica.
const (
	// RoleOffline has no work: no leader is known, or the image is older than the broker's own registration.
	RoleOffline Role = iota
	// RoleFollower copies from the leader.
	RoleFollower
	// RoleLeader takes appends and decides the HighWatermark.
	RoleLeader
	// RoleStopped refuses everything until an operator decides: its committed records differ from the leader's.
	RoleStopped
)

// String returns the role in lower case.
func (r Role) String() string {
	switch r {
	case RoleOffline:
		return "offline"
	case RoleFollower:
		return "follower"
	case RoleLeader:
		return "leader"
	case RoleStopped:
		return "stopped"
	default:
		return "unknown"
	}
}

// FlushMode says which end of a log counts as a replica's position.
type FlushMode uint8

// The flush modes of a topic.
const (
	// FlushFsync counts what is durable.
	FlushFsync FlushMode = iota
	// FlushOS counts what is appended.
	FlushOS
)

// History is the leader epoch history of a log. storage.Log implements it. It must not change but through what the shell
// does for an Output or reports to the Replica.
type History interface {
	// LatestEpoch is the newest leader epoch, or model.NoLeaderEpoch.
	LatestEpoch() model.LeaderEpoch
	// EpochEndOffset returns the largest epoch <= the one asked for, and the offset at which it ends: where the next one
	// begins, or the log's end. Without such an epoch it returns model.NoLeaderEpoch and where the oldest begins.
	EpochEndOffset(epoch model.LeaderEpoch) (model.LeaderEpoch, int64)
}

// Config holds the times of the rules. Zero values stand for the defaults.
type Config struct {
	// LagTimeMax removes a follower from the ISR that has been behind for longer (replica.lag.time.max); default 3 s.
	LagTimeMax time.Duration
	// RejoinMin and RejoinMax bound the wait to rejoin, which doubles per removal; defaults 1 s and 30 s.
	RejoinMin, RejoinMax time.Duration
	// RetryMin and RetryMax bound the wait to repeat a proposal or a subscription; defaults 20 ms and 1 s.
	RetryMin, RetryMax time.Duration
	// FullTimeMax is how long a leader's disk may be full before it hands over, and the least time between two such wishes; default 1 s.
	FullTimeMax time.Duration
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&c.LagTimeMax, 3*time.Second)
	set(&c.RejoinMin, time.Second)
	set(&c.RejoinMax, 30*time.Second)
	set(&c.RetryMin, 20*time.Millisecond)
	set(&c.RetryMax, time.Second)
	set(&c.FullTimeMax, time.Second)
	return c
}

// Member is a broker as a replica of the partition.
type Member struct {
	// ID is the broker.
	ID model.NodeID
	// BrokerEpoch is its incarnation.
	BrokerEpoch model.BrokerEpoch
	// Fenced says that it may neither lead nor join the ISR at the moment. Unused in proposals.
	Fenced bool
	// Stopping says that it is on its way to a clean stop and gets no leadership. Unused in proposals.
	Stopping bool
}

// mayLead says whether the controller would give it a leadership.
func (m Member) mayLead() bool { return !m.Fenced && !m.Stopping }

// PartitionState is what an image says of the partition. The Replica copies what it keeps.
type PartitionState struct {
	// Leader is the leader, or model.NoNode.
	Leader model.NodeID
	// LeaderEpoch numbers the leadership.
	LeaderEpoch model.LeaderEpoch
	// PartitionEpoch numbers the state.
	PartitionEpoch model.PartitionEpoch
	// Replicas are the assigned replicas, this broker included, with their registered broker epochs.
	Replicas []Member
	// ISR is the in-sync set in force, ELR the replicas that are eligible to lead beside it.
	ISR, ELR []model.NodeID
	// MinISR is min.insync.replicas; values below 1 count as 1.
	MinISR int
	// FlushMode is flush.mode.
	FlushMode FlushMode
}

// LogState is where a log stands. Ends are exclusive.
type LogState struct {
	// Start is the LogStartOffset.
	Start int64
	// End is the LogEndOffset.
	End int64
	// Durable is the end of what is known to be on the disk, at most End.
	Durable int64
	// HighWatermark is the checkpointed HighWatermark.
	HighWatermark int64
	// Damaged says that bytes below End are not what was written, from DamagedFrom on: nothing is appended until the
	// damage is discarded.
	Damaged     bool
	DamagedFrom int64
}

// Output is what the shell must do after a step, in the order of the fields.
type Output struct {
	// AssignEpoch asks to note in the epoch history that LeaderEpoch begins at EpochStart, before anything is appended.
	AssignEpoch bool
	// EpochStart is the log end at which the new leadership begins.
	EpochStart int64
	// RoleChanged says that role, leader or leader epoch are others than before: waiting appends of the old leadership fail with
	// NOT_LEADER_FOR_PARTITION (indefinite), readers are woken, old subscriptions are dropped on both sides.
	RoleChanged bool
	// Truncate asks to cut the log to TruncateTo, at most its end, and to forget the epochs that begin there or later; then to
	// call Truncated. No frame is taken in meanwhile.
	Truncate   bool
	TruncateTo int64
	// Restart asks to drop the whole log and begin anew at RestartAt (the leader's LogStartOffset) with the leader's producer
	// state there (R12), then to call Truncated, or RestartFailed. That may take its time, unless the role changes meanwhile.
	Restart   bool
	RestartAt int64
	// PositionMoved says that the leader's own position moved to Position: acks=leader is complete below it.
	PositionMoved bool
	Position      int64
	// HighWatermarkMoved says that the HighWatermark moved to HighWatermark: acks=all is complete below it, readers may
	// read on. It is to be checkpointed some time later.
	HighWatermarkMoved bool
	HighWatermark      int64
	// LogStartMoved asks a follower to move its LogStartOffset to LogStart.
	LogStartMoved bool
	LogStart      int64
	// Propose asks to send Proposal to the controller.
	Propose  bool
	Proposal Proposal
	// Verify asks to have the leader look at a range; then VerifyDone is to be called.
	Verify *Verify
	// GiveUp asks to send the wish to the controller; then GiveUpDone is to be called.
	GiveUp *GiveUp
	// HandOver asks the controller to let another replica lead: this one's log is whole and takes no more. Then HandOverDone is to be
	// called.
	HandOver *GiveUp
	// Discard asks to put the damage aside, and all that lies behind it; then Truncated is to be called, or DiscardFailed. The
	// preparations may take their time; then Discarding says whether it is still to be done.
	Discard    bool
	DiscardSeq uint64
	// FollowersReady says that NextFrame may have something to send.
	FollowersReady bool
	// Stopped is set when the replica stops: it carries COMMITTED_DATA_DIVERGED.
	Stopped *model.Error
}

// Proposal is an in-sync set that the leader asks for.
type Proposal struct {
	// Seq names the attempt in ProposalDone.
	Seq uint64
	// LeaderEpoch and PartitionEpoch are what it was decided on.
	LeaderEpoch    model.LeaderEpoch
	PartitionEpoch model.PartitionEpoch
	// ISR is the whole set, with the incarnations that were seen in sync. The shell owns it.
	ISR []Member
}

// Subscribe is a follower's request to be sent a partition's data.
type Subscribe struct {
	// SubscriptionID is chosen by the follower's shell, larger than any before.
	SubscriptionID uint64
	// Follower and FollowerEpoch are the follower's node id and broker epoch.
	Follower      model.NodeID
	FollowerEpoch model.BrokerEpoch
	// LeaderEpoch is the epoch that the follower follows.
	LeaderEpoch model.LeaderEpoch
	// FetchOffset is the follower's log end, LastFetchedEpoch the epoch of the last batch before it (model.NoLeaderEpoch
	// for an empty log), DurableEnd what it has on its disk.
	FetchOffset      int64
	LastFetchedEpoch model.LeaderEpoch
	DurableEnd       int64
	// Credit bounds the bytes under way.
	Credit int64
}

// SubscribeAnswer is what the leader answers at once; the zero value means that frames follow.
type SubscribeAnswer struct {
	// Code refuses the subscription where it is not CodeNone; Detail says why.
	Code   model.ErrorCode
	Detail string
	// Diverging says that the histories differ; DivergingEpoch and DivergingEnd tell where the leader's log ends the epoch
	// that was asked for, or the largest below it.
	Diverging      bool
	DivergingEpoch model.LeaderEpoch
	DivergingEnd   int64
	// LogStart is the leader's LogStartOffset, for CodeOffsetOutOfRange and Diverging.
	LogStart int64
}

// Ack is a follower's progress report.
type Ack struct {
	// SubscriptionID and LeaderEpoch name the subscription.
	SubscriptionID uint64
	LeaderEpoch    model.LeaderEpoch
	// LogEnd and DurableEnd are the follower's ends.
	LogEnd, DurableEnd int64
	// Consumed are the bytes of frames taken in since the last report; they return as credit.
	Consumed int64
}

// FrameOrder tells the leader's shell what to send to one follower.
type FrameOrder struct {
	// SubscriptionID and LeaderEpoch stand in the frame.
	SubscriptionID uint64
	LeaderEpoch    model.LeaderEpoch
	// HighWatermark and LogStart are the leader's.
	HighWatermark, LogStart int64
	// Data says that batches are to be read from From on, at most MaxBytes (but at least one batch) and below UpTo; report them
	// by Sent. Without Data the frame is progress alone.
	Data     bool
	From     int64
	UpTo     int64
	MaxBytes int64
}

// FrameIn is the head of a frame that a follower received.
type FrameIn struct {
	// SubscriptionID and LeaderEpoch name the subscription.
	SubscriptionID uint64
	LeaderEpoch    model.LeaderEpoch
	// HighWatermark and LogStart are the leader's.
	HighWatermark, LogStart int64
	// Bytes is the size of the batches, BaseOffset the offset of the first.
	Bytes      int64
	BaseOffset int64
	// Answer is the refusal or divergence that the frame carries.
	Answer SubscribeAnswer
}

// Verdict says what a follower does with the batches of a frame.
type Verdict uint8

// The verdicts on a frame.
const (
	// FrameDropped means that the batches are not wanted: an old subscription, or a frame that carries none.
	FrameDropped Verdict = iota
	// FrameAppend means that the batches are to be appended, and Appended to be called.
	FrameAppend
)

// Facts are the numbers of a receipt.
type Facts struct {
	// ISR is the size of the in-sync set in force.
	ISR int
	// Acked counts the replicas, the leader included, whose position has passed the batch.
	Acked int
	// FSynced counts the replicas that are known to have it on their disk.
	FSynced int
}
