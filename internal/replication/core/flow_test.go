package core

import (
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

func TestLagCountsSinceTheLogEndExceededThePosition(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2, 3))
	subscribed(t, r, 2, 0, -1, 0)
	subscribed(t, r, 3, 0, -1, 0)
	// Idle for ever: nobody lags.
	if out := r.Tick(time.Hour); out.Propose || r.NeedsTick() {
		t.Fatal("an idle partition needs ticks")
	}
	// Always behind, and always moving: each position was exceeded less than 3 s ago.
	now := time.Hour
	for range 20 {
		now += time.Second
		appended(t, r, log, 1, now)
		acked(r, 2, log.end()-1, log.end()-1, now)
		acked(r, 3, log.end(), log.end(), now)
		if out := r.Tick(now); out.Propose {
			t.Fatalf("removed a follower that keeps up: %+v at %v", out.Proposal, now)
		}
	}
	// It stops: 3 s after the log end passed it, it is out.
	stopped := now
	for ; now < stopped+10*time.Second; now += 500 * time.Millisecond {
		out := r.Tick(now)
		acked(r, 3, log.end(), log.end(), now)
		if out.Propose {
			break
		}
	}
	if lagged := now - stopped; lagged < 2*time.Second || lagged > 4*time.Second {
		t.Fatalf("removed after %v", lagged)
	}
}

func TestRejoinWaitDoubles(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2, 3))
	subscribed(t, r, 2, 0, -1, 0)
	now := time.Duration(0)
	pe := model.PartitionEpoch(1)
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		subscribed(t, r, 3, log.end(), log.LatestEpoch(), now)
		appended(t, r, log, 1, now)
		acked(r, 2, log.end(), log.end(), now)
		now += 4 * time.Second
		out := r.Tick(now)
		if !out.Propose || slices.Contains(isrOf(out.Proposal), 3) {
			t.Fatalf("not removed: %+v", out)
		}
		pe++
		r.Apply(partitionOf(1, 1, pe, 1, 2), now)
		acked(r, 3, log.end(), log.end(), now)
		removed := now
		for now += 100 * time.Millisecond; ; now += 100 * time.Millisecond {
			if now > removed+time.Minute {
				t.Fatal("never rejoined")
			}
			if r.Tick(now).Propose {
				break
			}
		}
		if waited := (now - removed).Round(time.Second); waited != want*time.Second {
			t.Fatalf("waited %v, want %v s", waited, int64(want))
		}
		pe++
		r.Apply(partitionOf(1, 1, pe, 1, 2, 3), now)
	}
}

func TestFramesFollowCredit(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2))
	subscribed(t, r, 2, 0, -1, 0)
	order, ok := r.NextFrame(2, 2, 100)
	if !ok || order.Data {
		t.Fatalf("no greeting with the high watermark: %+v", order)
	}
	if _, ok := r.NextFrame(2, 2, 100); ok {
		t.Fatal("told the same twice")
	}
	appended(t, r, log, 3, 0)
	order, ok = r.NextFrame(2, 2, 1<<30)
	if !ok || !order.Data || order.From != 0 || order.UpTo != 3 || order.MaxBytes != 1<<20 {
		t.Fatalf("order %+v", order)
	}
	r.Sent(2, 2, 2, 1<<20)
	if order, ok = r.NextFrame(2, 2, 100); ok {
		t.Fatalf("sent beyond the credit: %+v", order)
	}
	r.FollowerAcked(2, Ack{SubscriptionID: 2, LeaderEpoch: 1, LogEnd: 2, DurableEnd: 0, Consumed: 1 << 20}, 0)
	if order, ok = r.NextFrame(2, 2, 100); !ok || order.From != 2 || order.MaxBytes != 100 {
		t.Fatalf("order %+v", order)
	}
	r.Sent(2, 2, 3, 10)
	// A follower cannot acknowledge what it was not sent.
	r.FollowerAcked(2, Ack{SubscriptionID: 2, LeaderEpoch: 1, LogEnd: 99, DurableEnd: 99, Consumed: 10}, 0)
	wantHW(t, r, 3)
}

// Next to data a HighWatermark costs nothing; alone, it costs two connections and six goroutines a round.
func TestHighWatermarkGoesWithDataOrAlonePastAQuietTick(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2))
	subscribed(t, r, 2, 0, -1, 0)
	if order, ok := r.NextFrame(2, 2, 100); !ok || order.Data {
		t.Fatalf("no greeting with the high watermark: %+v", order)
	}
	round := func(end int64) Output {
		t.Helper()
		appended(t, r, log, 1, 0)
		order, ok := r.NextFrame(2, 2, 100)
		if !ok || !order.Data || order.HighWatermark != end-1 {
			t.Fatalf("data does not carry the high watermark %d: %+v", end-1, order)
		}
		r.Sent(2, 2, end, 10)
		return r.FollowerAcked(2, Ack{SubscriptionID: 2, LeaderEpoch: 1, LogEnd: end, DurableEnd: end, Consumed: 10}, 0)
	}
	for end := int64(1); end <= 3; end++ {
		if out := round(end); !out.HighWatermarkMoved || out.FollowersReady {
			t.Fatalf("after record %d: %+v", end, out)
		}
		if order, ok := r.NextFrame(2, 2, 100); ok {
			t.Fatalf("told at once: %+v", order)
		}
		if r.Tick(0); !r.mustTell() { // data has come since the last one
			t.Fatal("nobody will tell the high watermark")
		}
	}
	if out := r.Tick(0); !out.FollowersReady || r.mustTell() {
		t.Fatalf("a quiet tick: %+v, needs another: %v", out, r.mustTell())
	}
	if order, ok := r.NextFrame(2, 2, 100); !ok || order.Data || order.HighWatermark != 3 {
		t.Fatalf("the high watermark is not told alone: %+v", order)
	}
	if order, ok := r.NextFrame(2, 2, 100); ok || r.mustTell() {
		t.Fatalf("told twice: %+v", order)
	}
}

func TestLogStartIsToldAtOnce(t *testing.T) {
	log := new(modelLog)
	r := leaderOf(t, log, partitionOf(1, 1, 1, 1, 2))
	subscribed(t, r, 2, 0, -1, 0)
	r.NextFrame(2, 2, 100)
	appended(t, r, log, 1, 0)
	r.NextFrame(2, 2, 100)
	r.Sent(2, 2, 1, 10)
	r.FollowerAcked(2, Ack{SubscriptionID: 2, LeaderEpoch: 1, LogEnd: 1, DurableEnd: 1, Consumed: 10}, 0)
	if out := r.LocalStart(1); !out.FollowersReady {
		t.Fatalf("followers do not hear of the start: %+v", out)
	}
	if order, ok := r.NextFrame(2, 2, 100); !ok || order.LogStart != 1 || order.HighWatermark != 1 {
		t.Fatalf("order %+v", order)
	}
}

func TestFollowerTakesHighWatermarkFromFrames(t *testing.T) {
	log := new(modelLog)
	r := followerOf(t, log, partitionOf(1, 1, 1, 1, 2))
	if _, ok := r.NextSubscribe(1, 1000, 0); !ok {
		t.Fatal("no subscription")
	}
	verdict, _ := r.FrameReceived(FrameIn{SubscriptionID: 1, LeaderEpoch: 1, HighWatermark: 5, Bytes: 10}, 0)
	if verdict != FrameAppend {
		t.Fatal("dropped")
	}
	log.append(modelRecord{epoch: 1})
	log.append(modelRecord{epoch: 1})
	if out := r.Appended(2); !out.HighWatermarkMoved || out.HighWatermark != 2 {
		t.Fatalf("output %+v", out)
	}
	if _, ok := r.NextAck(); ok {
		t.Fatal("acknowledged before the sync")
	}
	r.LocalDurable(2, 0)
	ack, ok := r.NextAck()
	if !ok || ack != (Ack{SubscriptionID: 1, LeaderEpoch: 1, LogEnd: 2, DurableEnd: 2, Consumed: 10}) {
		t.Fatalf("ack %+v", ack)
	}
	// Half the credit taken in is told without a sync.
	r.FrameReceived(FrameIn{SubscriptionID: 1, LeaderEpoch: 1, HighWatermark: 2, Bytes: 500, BaseOffset: 2}, 0)
	r.Appended(3)
	if ack, ok := r.NextAck(); !ok || ack.Consumed != 500 || ack.DurableEnd != 2 || ack.LogEnd != 3 {
		t.Fatalf("ack %+v", ack)
	}
	r.StreamLost(1, 0)
	if at, wanted := r.SubscribeDue(); !wanted || at != 0 {
		t.Fatalf("does not subscribe anew at once: %v", at)
	}
}

func TestFollowerBelowTheLogStartBeginsAnew(t *testing.T) {
	log := new(modelLog).fill(1, 1)
	r := followerOf(t, log, partitionOf(1, 2, 1, 1))
	r.NextSubscribe(1, 1, 0)
	_, out := r.FrameReceived(FrameIn{
		SubscriptionID: 1, LeaderEpoch: 2, Answer: SubscribeAnswer{Code: model.CodeOffsetOutOfRange, LogStart: 7},
	}, 0)
	if !out.Restart || out.RestartAt != 7 {
		t.Fatalf("output %+v", out)
	}
	r.Truncated(LogState{Start: 7, End: 7, Durable: 7})
	if sub, ok := r.NextSubscribe(2, 1, 0); !ok || sub.FetchOffset != 7 || sub.LastFetchedEpoch != model.NoLeaderEpoch {
		t.Fatalf("subscription %+v", sub)
	}
}
