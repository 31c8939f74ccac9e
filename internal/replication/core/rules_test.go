package core

import (
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

func TestR1_HighWatermarkIsTheMinimumOfTheMaximalISR(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2))
	appended(t, r, log, 10, 0)
	wantHW(t, r, 0)
	subscribed(t, r, 2, 0, model.NoLeaderEpoch, 0)
	acked(r, 2, 6, 6, 0)
	wantHW(t, r, 6)
	// Broker 3 is no member: it does not hold the HighWatermark back.
	subscribed(t, r, 3, 0, model.NoLeaderEpoch, 0)
	out := acked(r, 2, 8, 8, 0)
	wantHW(t, r, 8)
	if out.HighWatermark != 8 || !out.HighWatermarkMoved {
		t.Fatalf("output %+v", out)
	}
	// Once it is proposed it counts, before any image says so.
	out = acked(r, 3, 8, 8, 0)
	if !out.Propose || !slices.Equal(isrOf(out.Proposal), []model.NodeID{1, 2, 3}) {
		t.Fatalf("no proposal: %+v", out)
	}
	acked(r, 2, 10, 10, 0)
	wantHW(t, r, 8)
	acked(r, 3, 9, 9, 0)
	wantHW(t, r, 9)
	// A shrink that is only proposed leaves the old members in.
	r.Apply(partitionOf(1, 1, 2, 1, 2, 3), 0)
	appended(t, r, log, 1, 0)
	acked(r, 2, 11, 11, 0)
	out = r.Tick(4 * time.Second)
	if !out.Propose || !slices.Equal(isrOf(out.Proposal), []model.NodeID{1, 2}) {
		t.Fatalf("no shrink: %+v", out)
	}
	wantHW(t, r, 9)
	r.Apply(partitionOf(1, 1, 3, 1, 2), 4*time.Second)
	wantHW(t, r, 11)
}

func TestR1_NoMoveBelowMinISR(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1))
	appended(t, r, log, 5, 0)
	wantHW(t, r, 0)
	if code := r.MayAppend(true); code != model.CodeNotEnoughReplicas {
		t.Fatalf("acks=all gives %v", code)
	}
	if code := r.MayAppend(false); code != model.CodeNone {
		t.Fatalf("acks=leader gives %v", code)
	}
	if out := subscribed(t, r, 2, 0, model.NoLeaderEpoch, 0); !out.Propose {
		t.Fatal("no proposal to grow")
	}
	acked(r, 2, 5, 5, 0)
	wantHW(t, r, 0)
	r.Apply(partitionOf(1, 1, 2, 1, 2), 0)
	wantHW(t, r, 5)
}

func TestR1_PositionIsTheDurableEndInFsyncMode(t *testing.T) {
	for _, mode := range []FlushMode{FlushFsync, FlushOS} {
		log := new(modelLog)
		st := partitionOf(1, 1, 1, 1, 2)
		st.FlushMode = mode
		r := leaderOf(t, log, st)
		subscribed(t, r, 2, 0, model.NoLeaderEpoch, 0)
		for range 4 {
			log.append(modelRecord{epoch: 1})
		}
		r.LocalAppend(4, 0)
		acked(r, 2, 4, 3, 0)
		facts := r.Facts(4)
		if mode == FlushOS {
			wantHW(t, r, 4)
			if facts != (Facts{ISR: 2, Acked: 2}) {
				t.Fatalf("facts %+v", facts)
			}
			continue
		}
		wantHW(t, r, 0)
		out := r.LocalDurable(2, 0)
		if !out.PositionMoved || out.Position != 2 {
			t.Fatalf("output %+v", out)
		}
		wantHW(t, r, 2)
		r.LocalDurable(4, 0)
		wantHW(t, r, 3)
		if facts := r.Facts(3); facts != (Facts{ISR: 2, Acked: 2, FSynced: 2}) {
			t.Fatalf("facts %+v", facts)
		}
	}
}

func TestR2_JoinNeedsHighWatermarkEpochStartAndThisEpoch(t *testing.T) {
	// The new leader of epoch 3 has ten records and knows of six that are committed.
	log := new(modelLog).fill(1, 1, 1, 1, 1, 1, 2, 2, 2, 2)
	log.saved = 6
	r := leaderOf(t, log, partitionOf(1, 3, 5, 1, 2))
	if out := subscribed(t, r, 3, 5, 1, 0); out.Propose {
		t.Fatal("joined below the high watermark")
	}
	if out := acked(r, 3, 6, 6, 0); out.Propose {
		t.Fatal("joined at the high watermark, below the start of the leader's epoch")
	}
	if out := acked(r, 3, 9, 9, 0); out.Propose {
		t.Fatal("joined below the start of the leader's epoch")
	}
	if out := acked(r, 3, 10, 9, 0); out.Propose {
		t.Fatal("joined with an end that is not durable")
	}
	out := acked(r, 3, 10, 10, 0)
	if !out.Propose || out.Proposal.ISR[2] != (Member{ID: 3, BrokerEpoch: 13}) || out.Proposal.PartitionEpoch != 5 {
		t.Fatalf("did not join: %+v", out)
	}
}

func TestR2_NotFetchedInThisEpoch(t *testing.T) {
	log := new(modelLog).fill(1, 1)
	r := leaderOf(t, log, partitionOf(1, 2, 1, 1, 2))
	subscribed(t, r, 2, 2, 1, 0)
	subscribed(t, r, 3, 2, 1, 0)
	r.ProposalDone(1, ProposalRefused, 0)
	out := r.Apply(partitionOf(1, 3, 2, 1, 2), time.Second) // the same leader begins anew: nothing of the old epoch counts
	log.assign(3)
	if out.Propose || r.Tick(2*time.Second).Propose {
		t.Fatal("joined by a fetch of an older epoch")
	}
}

func TestR2_FencedOrStaleBrokerDoesNotJoin(t *testing.T) {
	log := new(modelLog)
	st := partitionOf(1, 1, 1, 1, 2)
	st.Replicas[2].Fenced = true
	r := leaderOf(t, log, st)
	if out := subscribed(t, r, 3, 0, model.NoLeaderEpoch, 0); out.Propose {
		t.Fatal("a fenced broker joined")
	}
	sub := Subscribe{SubscriptionID: 9, Follower: 3, FollowerEpoch: 12, LeaderEpoch: 1, LastFetchedEpoch: -1}
	if answer, _ := r.FollowerSubscribed(sub, 0); answer.Code != model.CodeStaleBrokerEpoch {
		t.Fatalf("an old incarnation was answered %+v", answer)
	}
	// A subscription may be newer than the image; the proposal carries its broker epoch.
	sub.FollowerEpoch = 20
	r.FollowerSubscribed(sub, 0)
	st.PartitionEpoch, st.Replicas[2].Fenced = 2, false
	out := r.Apply(st, 0)
	if !out.Propose || out.Proposal.ISR[2] != (Member{ID: 3, BrokerEpoch: 20}) {
		t.Fatalf("proposal %+v", out)
	}
	// A newer incarnation in the image makes everything known of the old one void.
	st.PartitionEpoch, st.Replicas[2].BrokerEpoch = 3, 30
	if out := r.Apply(st, 0); out.Propose {
		t.Fatalf("proposed an incarnation that never fetched: %+v", out)
	}
}

func TestR3_OnlyTheImageChangesTheISR(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2))
	subscribed(t, r, 2, 0, model.NoLeaderEpoch, 0)
	out := subscribed(t, r, 3, 0, model.NoLeaderEpoch, 0)
	if !out.Propose {
		t.Fatal("no proposal")
	}
	// One in flight.
	if out := r.Tick(time.Minute); out.Propose {
		t.Fatal("two proposals in flight")
	}
	r.ProposalDone(out.Proposal.Seq, ProposalAccepted, 0)
	if r.ISRSize() != 2 || r.Tick(9*time.Second).Propose {
		t.Fatal("an answer changed the ISR")
	}
	if !r.Tick(10 * time.Second).Propose {
		t.Fatal("the image that never came is not asked for again")
	}
	r.Apply(partitionOf(1, 1, 2, 1, 2, 3), 0)
	if r.ISRSize() != 3 {
		t.Fatal("the image did not change the ISR")
	}
}

func TestR3_UnknownOutcomeKeepsTheMemberUntilThePartitionEpochMoves(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2))
	subscribed(t, r, 2, 0, model.NoLeaderEpoch, 0)
	out := subscribed(t, r, 3, 0, model.NoLeaderEpoch, 0)
	r.ProposalDone(out.Proposal.Seq, ProposalUnknown, 0)
	appended(t, r, log, 1, 0)
	acked(r, 2, 1, 1, 0)
	wantHW(t, r, 0)
	// It is fenced now. Something is proposed in any case, so that the doubt ends; a refusal does not end it.
	st := partitionOf(1, 1, 1, 1, 2)
	st.Replicas[2].Fenced = true
	r.Apply(st, 0)
	out = r.Tick(time.Second)
	if !out.Propose || !slices.Equal(isrOf(out.Proposal), []model.NodeID{1, 2}) || out.Proposal.PartitionEpoch != 1 {
		t.Fatalf("proposal %+v", out)
	}
	r.ProposalDone(out.Proposal.Seq, ProposalRefused, time.Second)
	wantHW(t, r, 0)
	out = r.Tick(3 * time.Second)
	if !out.Propose {
		t.Fatal("not repeated")
	}
	r.ProposalDone(out.Proposal.Seq, ProposalOvertaken, 3*time.Second)
	wantHW(t, r, 0)
	st.PartitionEpoch = 2
	r.Apply(st, 3*time.Second)
	wantHW(t, r, 1)
}

func TestR3_RefusalEndsADefiniteProposal(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2))
	subscribed(t, r, 2, 0, model.NoLeaderEpoch, 0)
	out := subscribed(t, r, 3, 0, model.NoLeaderEpoch, 0)
	r.ProposalDone(out.Proposal.Seq, OutcomeOf(model.CodeIneligibleReplica), 0)
	appended(t, r, log, 1, 0)
	acked(r, 2, 1, 1, 0)
	wantHW(t, r, 1)
	if out := r.Tick(time.Second); out.Propose {
		t.Fatal("broker 3 is below the high watermark and was proposed again")
	}
}

func TestR4_NewLeaderKnowsOffsetsOnlyFromItsEpochStartOn(t *testing.T) {
	log := new(modelLog).fill(1, 1, 1, 1)
	log.saved = 2
	r := leaderOf(t, log, partitionOf(1, 2, 1, 1, 2))
	if r.LookupReady() {
		t.Fatal("ready below the epoch start")
	}
	for offset, want := range map[int64]model.ErrorCode{
		0: model.CodeNone, 2: model.CodeNone, 3: model.CodeNone, 4: model.CodeNone, // from the HighWatermark to the log end: wait
		5: model.CodeOffsetNotAvailable, -1: model.CodeOffsetNotAvailable,
	} {
		if got := r.CheckFetch(offset); got != want {
			t.Errorf("offset %d: %v, want %v", offset, got, want)
		}
	}
	subscribed(t, r, 2, 4, 1, 0)
	if !r.LookupReady() {
		t.Fatal("not ready at the epoch start")
	}
	if got := r.CheckFetch(5); got != model.CodeOffsetOutOfRange {
		t.Errorf("beyond the end: %v", got)
	}
	if got := r.CheckFetch(-1); got != model.CodeOffsetOutOfRange {
		t.Errorf("below the start: %v", got)
	}
}

// reconciled lets a follower and a leader talk until the subscription stands.
func reconciled(t *testing.T, leader, follower *Replica, log *modelLog) (steps int) {
	t.Helper()
	for steps = 1; steps < 20; steps++ {
		sub, ok := follower.NextSubscribe(uint64(steps), 1<<20, time.Duration(steps)*time.Second)
		if !ok {
			t.Fatalf("no subscription in step %d: %v", steps, follower)
		}
		answer, _ := leader.FollowerSubscribed(sub, 0)
		if answer == (SubscribeAnswer{}) {
			return steps
		}
		_, out := follower.FrameReceived(FrameIn{SubscriptionID: sub.SubscriptionID, LeaderEpoch: sub.LeaderEpoch, Answer: answer}, 0)
		if out.Stopped != nil {
			return steps
		}
		if !out.Truncate || out.TruncateTo >= log.end() {
			t.Fatalf("no progress: %+v in %v", out, follower)
		}
		log.truncate(out.TruncateTo)
		follower.Truncated(log.state())
	}
	t.Fatal("no end")
	return 0
}

func TestR5_HistoriesAreWalkedBackOnBothSides(t *testing.T) {
	// The classic of KIP-595: epochs interleave, one step is not enough.
	leaderLog := new(modelLog).fill(1, 1, 1, 3, 3, 5)
	followerLog := new(modelLog).fill(1, 1, 1, 2, 2, 4, 4)
	st := partitionOf(1, 6, 1, 1)
	leader, follower := leaderOf(t, leaderLog, st), followerOf(t, followerLog, st)
	reconciled(t, leader, follower, followerLog)
	if got := followerLog.end(); got != 3 {
		t.Fatalf("truncated to %d, want 3", got)
	}
}

func TestR5_NothingIsCutThatTheLeaderHas(t *testing.T) {
	// The follower knows of two committed records and has four that the leader has too: the HighWatermark cuts nothing.
	leaderLog := new(modelLog).fill(1, 1, 1, 1, 2)
	followerLog := new(modelLog).fill(1, 1, 1, 1)
	followerLog.saved = 2
	st := partitionOf(1, 3, 1, 1)
	leader, follower := leaderOf(t, leaderLog, st), followerOf(t, followerLog, st)
	if steps := reconciled(t, leader, follower, followerLog); steps != 1 || followerLog.end() != 4 {
		t.Fatalf("%d steps, end %d", steps, followerLog.end())
	}
}

func TestR5_LongerLogOfTheSameEpochIsCut(t *testing.T) {
	leaderLog := new(modelLog).fill(1, 1)
	followerLog := new(modelLog).fill(1, 1, 1, 1)
	st := partitionOf(1, 2, 1, 1)
	leader, follower := leaderOf(t, leaderLog, st), followerOf(t, followerLog, st)
	reconciled(t, leader, follower, followerLog)
	if followerLog.end() != 2 {
		t.Fatalf("end %d", followerLog.end())
	}
}

func TestR5_EpochsWithoutRecordsDoNotCount(t *testing.T) {
	// Broker 2 led epoch 2 and wrote nothing; the leader of epoch 3 has more of epoch 1, which broker 2 must be able to take.
	followerLog := new(modelLog).fill(1, 1)
	followerLog.assign(2)
	leaderLog := new(modelLog).fill(1, 1, 1)
	st := partitionOf(1, 3, 1, 1)
	leader, follower := leaderOf(t, leaderLog, st), followerOf(t, followerLog, st)
	if steps := reconciled(t, leader, follower, followerLog); steps != 1 || followerLog.end() != 2 {
		t.Fatalf("%d steps, end %d", steps, followerLog.end())
	}
	if !followerLog.append(modelRecord{epoch: 1}) {
		t.Fatal("a record of epoch 1 is refused")
	}
	// And one that a leader led without records is found when others ask for it.
	leaderLog = new(modelLog).fill(1, 1)
	leaderLog.assign(2)
	leader = leaderOf(t, leaderLog, st)
	sub := Subscribe{SubscriptionID: 1, Follower: 2, FollowerEpoch: 12, LeaderEpoch: 3, FetchOffset: 3, LastFetchedEpoch: 2}
	if answer, _ := leader.FollowerSubscribed(sub, 0); !answer.Diverging || answer.DivergingEpoch != 2 || answer.DivergingEnd != 2 {
		t.Fatalf("answer %+v", answer)
	}
}

func TestR5_NeverBelowTheHighWatermark(t *testing.T) {
	leaderLog := new(modelLog).fill(1, 3, 3)
	followerLog := new(modelLog).fill(1, 2, 2)
	followerLog.saved = 2
	st := partitionOf(1, 4, 1, 1)
	leader, follower := leaderOf(t, leaderLog, st), followerOf(t, followerLog, st)
	sub, _ := follower.NextSubscribe(1, 1, 0)
	answer, _ := leader.FollowerSubscribed(sub, 0)
	_, out := follower.FrameReceived(FrameIn{SubscriptionID: 1, LeaderEpoch: 4, Answer: answer}, 0)
	if out.Truncate || out.Stopped == nil || out.Stopped.Code != model.CodeCommittedDataDiverged || follower.Role() != RoleStopped {
		t.Fatalf("not stopped: %+v, %v", out, follower)
	}
	if out := follower.Apply(partitionOf(2, 5, 2, 2), 0); out.RoleChanged || follower.Role() != RoleStopped {
		t.Fatal("a stopped replica came back")
	}
}

func TestR8_OlderEpochsAreRefused(t *testing.T) {
	log := new(modelLog).fill(1)
	r := leaderOf(t, log, partitionOf(1, 5, 7, 1, 2))
	for epoch, want := range map[model.LeaderEpoch]model.ErrorCode{
		4: model.CodeFencedLeaderEpoch, 6: model.CodeUnknownLeaderEpoch, 5: model.CodeNone,
	} {
		sub := Subscribe{SubscriptionID: 2, Follower: 2, FollowerEpoch: 12, LeaderEpoch: epoch, FetchOffset: 1, LastFetchedEpoch: 1, DurableEnd: 1}
		if answer, _ := r.FollowerSubscribed(sub, 0); answer.Code != want {
			t.Errorf("epoch %d: %v, want %v", epoch, answer.Code, want)
		}
	}
	appended(t, r, log, 1, 0)
	r.Sent(2, 2, 2, 1)
	r.FollowerAcked(2, Ack{SubscriptionID: 1, LeaderEpoch: 5, LogEnd: 2, DurableEnd: 2}, 0) // an older subscription
	r.FollowerAcked(2, Ack{SubscriptionID: 2, LeaderEpoch: 4, LogEnd: 2, DurableEnd: 2}, 0) // an older epoch
	wantHW(t, r, 1)
	if r.Apply(partitionOf(3, 4, 9, 3), 0); r.Role() != RoleLeader {
		t.Fatal("an older image was taken")
	}
	follower := followerOf(t, new(modelLog), partitionOf(1, 5, 7, 1))
	follower.NextSubscribe(8, 1, 0)
	for _, in := range []FrameIn{
		{SubscriptionID: 7, LeaderEpoch: 5, Bytes: 1}, {SubscriptionID: 8, LeaderEpoch: 4, Bytes: 1}, {SubscriptionID: 8, LeaderEpoch: 5, Bytes: 1, BaseOffset: 3},
	} {
		if verdict, _ := follower.FrameReceived(in, 0); verdict != FrameDropped {
			t.Errorf("took %+v", in)
		}
	}
}

func TestR9_AnEpochIsNeverResumed(t *testing.T) {
	log := new(modelLog)
	st := partitionOf(1, 5, 1, 1, 2)
	leaderOf(t, log, st)
	// The process restarts in a new incarnation and sees the old image first.
	again := NewReplica(1, 21, Config{}, log.state(), log)
	if again.Apply(st, 0); again.Role() != RoleOffline {
		t.Fatalf("led by an image older than the own registration: %v", again)
	}
	// Even an image that names the new incarnation gives it no epoch that has begun.
	st.Replicas[0].BrokerEpoch = 21
	if again.Apply(st, 0); again.Role() != RoleOffline {
		t.Fatalf("resumed epoch 5: %v", again)
	}
	st.LeaderEpoch, st.PartitionEpoch = 6, 2
	if out := again.Apply(st, 0); again.Role() != RoleLeader || !out.AssignEpoch {
		t.Fatalf("does not lead epoch 6: %v", again)
	}
}

func TestR12_FactsOfTheOriginal(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2, 3))
	subscribed(t, r, 2, 0, -1, 0)
	subscribed(t, r, 3, 0, -1, 0)
	appended(t, r, log, 2, 0)
	acked(r, 2, 2, 2, 0)
	acked(r, 3, 1, 1, 0)
	wantHW(t, r, 1) // a duplicate of the second record still waits
	if facts := r.Facts(1); facts != (Facts{ISR: 3, Acked: 3, FSynced: 3}) {
		t.Fatalf("facts %+v", facts)
	}
	if facts := r.Facts(2); facts != (Facts{ISR: 3, Acked: 2, FSynced: 2}) {
		t.Fatalf("facts %+v", facts)
	}
}

// A new leader answers a duplicate of a committed record before followers have reported in its epoch.
func TestR12_FactsOfTheOriginalUnderANewLeader(t *testing.T) {
	for _, mode := range []FlushMode{FlushFsync, FlushOS} {
		log := new(modelLog)
		st := partitionOf(1, 1, 1, 1, 2, 3)
		st.ISR, st.FlushMode = []model.NodeID{1, 2}, mode
		r := leaderOf(t, log, st)
		subscribed(t, r, 2, 0, -1, 0)
		appended(t, r, log, 2, 0)
		acked(r, 2, 2, 2, 0)
		wantHW(t, r, 2)
		st.LeaderEpoch, st.PartitionEpoch = 2, 2
		r.Apply(st, 0)
		appended(t, r, log, 1, 0)
		want := Facts{ISR: 2, Acked: 2, FSynced: 2}
		if mode == FlushOS {
			want.FSynced = 1 // of the follower's disk nothing is known
		}
		if facts := r.Facts(2); facts != want {
			t.Fatalf("facts %+v, want %+v", facts, want)
		}
		if facts := r.Facts(3); facts.Acked != 1 {
			t.Fatalf("facts of what is not committed: %+v", facts)
		}
	}
}
