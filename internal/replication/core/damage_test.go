package core

import (
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// A damaged follower discards nothing before its leader has shown that it is whole, and before an image begins a leader epoch in
// which the replica has no seat and has not subscribed: whatever its leader believed of its position counts no more (R2).
func TestDamageIsDiscardedOnlyOutOfTheISRAndInANewEpoch(t *testing.T) {
	log := new(modelLog).fill(1, 1, 1, 1)
	r := followerOf(t, log, partitionOf(1, 2, 1, 1, 2, 3))
	subscribeNow(t, r, 0)
	self := r.self
	out := r.FoundDamage(2, 0)
	// All four records: this replica has heard of no HighWatermark, but they may be committed by its acknowledgement.
	if out.Verify == nil || out.Verify.Leader != 1 || out.Verify.From != 2 || out.Verify.To != 4 || out.GiveUp != nil || out.Discard {
		t.Fatalf("%+v", out)
	}
	if _, wanted := r.SubscribeDue(); wanted {
		t.Fatal("a damaged log is to be appended to")
	}
	if out := r.VerifyDone(out.Verify.Seq+7, VerifyWhole, 0); out.GiveUp != nil {
		t.Fatalf("an answer to another question: %+v", out)
	}
	again := r.VerifyDone(out.Verify.Seq, VerifyLeaderDamaged, 0)
	if again.GiveUp != nil || again.Discard || again.Verify != nil {
		t.Fatalf("the leader is damaged too: %+v", again)
	}
	out = r.Tick(time.Minute)
	if out.Verify == nil {
		t.Fatalf("the leader is not asked again: %+v", out)
	}
	out = r.VerifyDone(out.Verify.Seq, VerifyWhole, time.Minute)
	if out.GiveUp == nil || out.GiveUp.LeaderEpoch != 2 || out.Discard {
		t.Fatalf("%+v", out)
	}
	r.GiveUpDone(out.GiveUp.Seq, true, time.Minute)
	without := func(leader model.NodeID, epoch model.LeaderEpoch, partitionEpoch model.PartitionEpoch) PartitionState {
		st := partitionOf(leader, epoch, partitionEpoch, 1, 2, 3)
		st.ISR = nil
		for id := model.NodeID(1); id <= 3; id++ {
			if id != self {
				st.ISR = append(st.ISR, id)
			}
		}
		return st
	}
	// Out of the ISR in the same epoch: the leader still counts on what it was told.
	if out := r.Apply(without(1, 2, 2), time.Minute); out.Discard {
		t.Fatalf("%+v", out)
	}
	// The seat may have been given up long after the leader was asked: it shows once more that it is whole.
	out = r.Apply(without(1, 3, 3), time.Minute)
	if out.Verify == nil || out.Verify.LeaderEpoch != 3 || out.Verify.To != 4 || out.Discard || out.Truncate {
		t.Fatalf("%+v", out)
	}
	if out := r.VerifyDone(out.Verify.Seq, VerifyWhole, time.Minute); !out.Discard || out.GiveUp != nil {
		t.Fatalf("%+v", out)
	}
	log.truncate(2)
	r.Truncated(log.state())
	sub := subscribeNow(t, r, time.Minute)
	if sub.FetchOffset != 2 || sub.LeaderEpoch != 3 || r.Damaged() {
		t.Fatalf("%+v, %v", sub, r)
	}
}

// A damaged leader asks to be relieved as soon as another could lead, and not before.
func TestDamagedLeaderAsksOnlyWhereAnotherCouldLead(t *testing.T) {
	log := new(modelLog).fill(1, 1)
	alone := partitionOf(1, 2, 1, 1)
	r := leaderOf(t, log, alone)
	if out := r.FoundDamage(0, 0); out.GiveUp != nil || out.Discard || out.Verify != nil || r.HandingOver() {
		t.Fatalf("%+v", out)
	}
	if out := r.Tick(time.Hour); out.GiveUp != nil {
		t.Fatalf("%+v", out)
	}
	both := partitionOf(1, 2, 2, 1, 2)
	out := r.Apply(both, time.Hour)
	if out.GiveUp == nil || !r.HandingOver() || r.Role() != RoleLeader {
		t.Fatalf("%+v", out)
	}
	r.GiveUpDone(out.GiveUp.Seq, false, time.Hour)
	if out := r.Tick(time.Hour); out.GiveUp != nil {
		t.Fatalf("asks again at once: %+v", out)
	}
	if out := r.Tick(time.Hour + time.Second); out.GiveUp == nil {
		t.Fatalf("does not ask again: %+v", out)
	}
}
