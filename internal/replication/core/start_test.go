package core

import (
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

func frameOf(r *Replica, in FrameIn) FrameIn {
	in.SubscriptionID, in.LeaderEpoch = 5, r.LeaderEpoch()
	return in
}

func subscribeNow(t *testing.T, r *Replica, now time.Duration) Subscribe {
	t.Helper()
	sub, ok := r.NextSubscribe(5, 1<<20, now)
	if !ok {
		t.Fatalf("no subscription: %v", r)
	}
	return sub
}

// The leader tells its start once; a follower whose HighWatermark lies below follows as that rises.
func TestFollowerFollowsTheStartAsItsHighWatermarkRises(t *testing.T) {
	log := new(modelLog).fill(1, 1, 1)
	r := followerOf(t, log, partitionOf(1, 2, 1, 1, 2))
	subscribeNow(t, r, 0)
	verdict, out := r.FrameReceived(frameOf(r, FrameIn{HighWatermark: 5, LogStart: 5, Bytes: 10, BaseOffset: 3}), 0)
	if verdict != FrameAppend || out.LogStartMoved {
		t.Fatalf("%v, %+v", verdict, out)
	}
	log.fill(2, 2)
	if out = r.Appended(5); !out.LogStartMoved || out.LogStart != 5 || r.Log().HighWatermark != 5 {
		t.Fatalf("%+v, %v", out, r)
	}
}

func TestRestartTakesItsTime(t *testing.T) {
	log := new(modelLog).fill(1)
	r := followerOf(t, log, partitionOf(1, 2, 1, 1))
	refuse := func(now time.Duration) {
		t.Helper()
		subscribeNow(t, r, now)
		_, out := r.FrameReceived(frameOf(r, FrameIn{Answer: SubscribeAnswer{Code: model.CodeOffsetOutOfRange, LogStart: 7}}), now)
		if at, restarting := r.Restarting(); !out.Restart || out.RestartAt != 7 || !restarting || at != 7 {
			t.Fatalf("%+v, %d, %v", out, at, restarting)
		}
		if _, wanted := r.SubscribeDue(); wanted {
			t.Fatal("subscribes while its log is about to begin anew")
		}
	}
	refuse(0)
	r.RestartFailed(time.Second)
	at, wanted := r.SubscribeDue()
	if !wanted || at <= time.Second {
		t.Fatalf("asks again at %v, %v", at, wanted)
	}
	refuse(at)
	log.records, log.starts = make([]modelRecord, 7), nil
	r.Truncated(LogState{Start: 7, End: 7, Durable: 7})
	if sub := subscribeNow(t, r, at); sub.FetchOffset != 7 || sub.LastFetchedEpoch != model.NoLeaderEpoch {
		t.Fatalf("%+v", sub)
	}
	// The new start lies within a batch, which comes whole.
	if verdict, _ := r.FrameReceived(frameOf(r, FrameIn{HighWatermark: 9, LogStart: 7, Bytes: 10, BaseOffset: 6}), at); verdict != FrameAppend {
		t.Fatal("the batch that holds the start was dropped")
	}
	log.fill(2, 2)
	r.Appended(9)
	if verdict, _ := r.FrameReceived(frameOf(r, FrameIn{HighWatermark: 9, LogStart: 7, Bytes: 10, BaseOffset: 8}), at); verdict != FrameDropped {
		t.Fatal("a batch that overlaps what is there was taken")
	}
	// Another leader ends it.
	subscribeNow(t, r, time.Hour)
	r.FrameReceived(frameOf(r, FrameIn{Answer: SubscribeAnswer{Code: model.CodeOffsetOutOfRange, LogStart: 20}}), 0)
	r.Apply(partitionOf(3, 3, 2, 3), 0)
	if _, restarting := r.Restarting(); restarting {
		t.Fatal("the restart outlived the leader")
	}
}

func TestLeaderServesAnEmptyFollowerThatBeginsAboveItsStart(t *testing.T) {
	log := new(modelLog).fill(1, 1, 1, 1)
	r := leaderOf(t, log, partitionOf(1, 2, 1, 1))
	sub := func(offset int64) SubscribeAnswer {
		answer, _ := r.FollowerSubscribed(Subscribe{
			SubscriptionID: uint64(offset + 1), Follower: 2, FollowerEpoch: 12, LeaderEpoch: 2, FetchOffset: offset,
			LastFetchedEpoch: model.NoLeaderEpoch, DurableEnd: offset, Credit: 1,
		}, 0)
		return answer
	}
	if answer := sub(3); answer != (SubscribeAnswer{}) {
		t.Errorf("%+v", answer)
	}
	if answer := sub(4); answer != (SubscribeAnswer{}) {
		t.Errorf("%+v", answer)
	}
	if answer := sub(9); !answer.Diverging {
		t.Errorf("beyond the end: %+v", answer)
	}
}

// An answer that leaves nothing to cut is asked for again after a while, not at once.
func TestReconcilingWithoutProgressBacksOff(t *testing.T) {
	log := new(modelLog).fill(1)
	r := followerOf(t, log, partitionOf(1, 2, 1, 1))
	subscribeNow(t, r, 0)
	r.FrameReceived(frameOf(r, FrameIn{Answer: SubscribeAnswer{Diverging: true, DivergingEpoch: 1, DivergingEnd: 9}}), time.Second)
	if at, wanted := r.SubscribeDue(); !wanted || at <= time.Second {
		t.Fatalf("asks again at %v, %v", at, wanted)
	}
}

// R5: an empty follower above the end of a leader that was elected with losses has nothing that could be cut: it begins anew
// where the leader's log begins, instead of asking for what will not come.
func TestR5EmptyFollowerAboveTheLeadersEndBeginsAnew(t *testing.T) {
	log := new(modelLog)
	log.saved = 5
	r := followerOf(t, log, partitionOf(1, 2, 1, 1))
	r.Truncated(LogState{Start: 5, End: 5, Durable: 5})
	leader := leaderOf(t, new(modelLog).fill(1, 1, 1), partitionOf(1, 2, 1, 1))
	_, out := r.FrameReceived(frameOf(r, FrameIn{Answer: leader.compare(subscribeNow(t, r, 0))}), 0)
	if !out.Restart || out.RestartAt != 0 || out.Truncate || out.Stopped != nil {
		t.Fatalf("%+v", out)
	}
	r.Truncated(LogState{})
	sub := subscribeNow(t, r, 0)
	if answer := leader.compare(sub); sub.FetchOffset != 0 || answer != (SubscribeAnswer{}) {
		t.Fatalf("%+v, %+v", sub, answer)
	}
	if verdict, _ := r.FrameReceived(frameOf(r, FrameIn{HighWatermark: 3, Bytes: 30}), 0); verdict != FrameAppend {
		t.Fatal("what the leader has was dropped")
	}
}

// What was committed in os mode is on a follower's disk once the follower says so, whatever the mode is now.
func TestFactsOfRecordsCommittedInOSMode(t *testing.T) {
	log := new(modelLog).fill(1, 1)
	st := partitionOf(1, 2, 1, 1, 2)
	st.FlushMode = FlushOS
	r := leaderOf(t, log, st)
	subscribed(t, r, 2, 0, model.NoLeaderEpoch, 0)
	acked(r, 2, 2, 0, 0)
	if facts := r.Facts(2); facts.Acked != 2 || facts.FSynced != 1 {
		t.Fatalf("%+v", facts)
	}
	st.FlushMode = FlushFsync
	r.Apply(st, 0)
	if facts := r.Facts(2); facts.FSynced != 1 {
		t.Fatalf("nobody flushed: %+v", facts)
	}
	acked(r, 2, 2, 2, 0)
	if facts := r.Facts(2); facts.Acked != 2 || facts.FSynced != 2 {
		t.Fatalf("%+v", facts)
	}
}

// A leader that was trimmed above the follower's last epoch has no history to compare. What the follower holds beyond its
// committed records goes; committed ones never do, unless the leader has trimmed them.
func TestReconcilingWithATrimmedLeader(t *testing.T) {
	for what, c := range map[string]struct {
		committed, leaderStart int64
		restart, truncate      bool
	}{
		"the leader begins where the committed records end": {3, 3, false, true},
		"it begins above": {3, 4, true, false},
		"it begins below: the histories of committed records differ": {3, 2, false, false},
	} {
		t.Run(what, func(t *testing.T) {
			log := new(modelLog).fill(1, 1, 1, 1, 1)
			log.saved = c.committed
			r := followerOf(t, log, partitionOf(1, 3, 1, 1))
			leaderLog := new(modelLog).fill(1, 1, 2, 2, 2)
			leader := leaderOf(t, leaderLog, partitionOf(1, 3, 1, 1))
			leader.LocalStart(c.leaderStart)
			leaderLog.starts = []epochStart{{2, c.leaderStart}, {3, 5}} // as trimming leaves them
			answer := leader.compare(subscribeNow(t, r, 0))
			if !answer.Diverging || answer.DivergingEpoch != model.NoLeaderEpoch {
				t.Fatalf("%+v", answer)
			}
			_, out := r.FrameReceived(frameOf(r, FrameIn{Answer: answer}), 0)
			if out.Restart != c.restart || out.Truncate != c.truncate || (out.Stopped != nil) == (c.restart || c.truncate) {
				t.Fatalf("%+v", out)
			}
			if (c.restart && out.RestartAt != c.leaderStart) || (c.truncate && out.TruncateTo != c.leaderStart) {
				t.Fatalf("%+v", out)
			}
		})
	}
}
