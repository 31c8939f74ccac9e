package core

import (
	"testing"
	"time"
)

// A leader without room waits a little, asks to be followed by another, and asks again ever less often, also over leaderships; with room
// it asks no more.
func TestLeaderWithoutRoomHandsOver(t *testing.T) {
	log := new(modelLog).fill(1, 1)
	r := leaderOf(t, log, partitionOf(1, 2, 1, 1, 2, 3))
	if out := r.NoRoom(0); out.HandOver != nil || !r.MakesRoom() {
		t.Fatalf("at once: %+v", out)
	}
	if !r.NeedsTick() {
		t.Fatal("time does not pass for it")
	}
	out := r.Tick(time.Second)
	if out.HandOver == nil || out.HandOver.LeaderEpoch != 2 {
		t.Fatalf("%+v", out)
	}
	if out := r.Tick(time.Minute); out.HandOver != nil {
		t.Fatal("asked beside the first")
	}
	r.HandOverDone(out.HandOver.Seq, false, time.Second)
	if r.MakesRoom() {
		t.Fatal("nobody could take over, and producers are told to wait")
	}
	var asked []time.Duration
	for now := time.Second; now < 2*time.Minute; now += 500 * time.Millisecond {
		out := r.Tick(now)
		if out.HandOver == nil {
			continue
		}
		asked = append(asked, now)
		r.HandOverDone(out.HandOver.Seq, len(asked) == 2, now)
		if len(asked) == 2 { // away and back
			r.Apply(partitionOf(2, 3, 2, 2, 3), now)
			r.Apply(partitionOf(1, 4, 3, 1, 2, 3), now)
			log.assign(4)
		}
	}
	if len(asked) < 5 || len(asked) > 7 || asked[1]-asked[0] < 4*time.Second || asked[3]-asked[2] < 16*time.Second {
		t.Fatalf("asked at %v", asked)
	}
	r.RoomAgain(3 * time.Minute)
	if out := r.Tick(4 * time.Minute); out.HandOver != nil || r.Full() || r.MakesRoom() {
		t.Fatalf("%+v", out)
	}
}

// Nobody is asked for where nobody could lead with an ISR that is large enough: members that are fenced, on their way to a stop,
// or outside the ISR.
func TestLeaderWithoutRoomKnowsWhoCouldFollow(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*PartitionState)
		may    bool
	}{
		"as it is":            {func(*PartitionState) {}, true},
		"one is stopping":     {func(st *PartitionState) { st.Replicas[1].Stopping = true }, true},
		"both are stopping":   {func(st *PartitionState) { st.Replicas[1].Stopping, st.Replicas[2].Stopping = true, true }, false},
		"both are fenced":     {func(st *PartitionState) { st.Replicas[1].Fenced, st.Replicas[2].Fenced = true, true }, false},
		"the ISR is as small": {func(st *PartitionState) { st.ISR = st.ISR[:2] }, false},
		"others in the ELR":   {func(st *PartitionState) { st.ISR, st.ELR, st.MinISR = st.ISR[:1], st.ISR[1:], 1 }, false},
	} {
		st := partitionOf(1, 2, 1, 1, 2, 3)
		c.change(&st)
		r := leaderOf(t, new(modelLog).fill(1), st)
		r.NoRoom(0)
		out := r.Tick(time.Second)
		if (out.HandOver != nil) != c.may || r.MakesRoom() != c.may {
			t.Errorf("%s: %+v, makes room %v", name, out.HandOver, r.MakesRoom())
		}
	}
}

// A damaged leader tells nobody to wait for a broker that is on its way to a stop: the controller gives it no leadership.
func TestDamagedLeaderDoesNotWaitForOneThatStops(t *testing.T) {
	st := partitionOf(1, 2, 1, 1, 2, 3)
	st.Replicas[1].Stopping, st.Replicas[2].Fenced = true, true
	r := leaderOf(t, new(modelLog).fill(1, 1), st)
	if out := r.FoundDamage(1, 0); out.GiveUp != nil || r.HandingOver() || r.CanHandOver() {
		t.Fatalf("%+v, handing over %v", out, r.HandingOver())
	}
	st.PartitionEpoch++
	st.Replicas[2].Fenced = false
	if out := r.Apply(st, 0); out.GiveUp == nil || !r.HandingOver() {
		t.Fatalf("%+v", out)
	}
}

// A follower without room drops its subscription, asks for none, and goes on where it was once there is room.
func TestFollowerWithoutRoomWaits(t *testing.T) {
	r := followerOf(t, new(modelLog).fill(1, 1), partitionOf(1, 2, 1, 1, 2, 3))
	subscribeNow(t, r, 0)
	r.NoRoom(0)
	if _, wanted := r.SubscribeDue(); wanted || !r.NeedsTick() {
		t.Fatal("it fetches on")
	}
	if out := r.Tick(time.Minute); out.HandOver != nil {
		t.Fatalf("%+v", out)
	}
	r.RoomAgain(time.Minute)
	if at, wanted := r.SubscribeDue(); !wanted || at > time.Minute+time.Second {
		t.Fatalf("from %v on (%v)", at, wanted)
	}
}

// A leader whose log has failed takes no role and asks to be relieved as soon as another could lead; once the failure is past, it leads
// and follows again in the next epoch, and where it is for good not even then.
func TestLeaderWhoseLogFailedIsRelieved(t *testing.T) {
	for _, forGood := range []bool{false, true} {
		log := new(modelLog).fill(1, 1)
		st := partitionOf(1, 2, 1, 1)
		r := leaderOf(t, log, st)
		if out := r.LogFailed(forGood, 0); out.GiveUp != nil || r.Role() != RoleOffline {
			t.Fatalf("alone: %+v", out)
		}
		st = partitionOf(1, 2, 2, 1, 2)
		out := r.Apply(st, 0)
		if out.GiveUp == nil || out.GiveUp.LeaderEpoch != 2 || r.Role() != RoleOffline {
			t.Fatalf("%+v", out)
		}
		r.GiveUpDone(out.GiveUp.Seq, false, 0)
		if !r.NeedsTick() {
			t.Fatal("time does not pass for it")
		}
		if out = r.Tick(time.Minute); out.GiveUp == nil {
			t.Fatal("it does not ask again")
		}
		r.GiveUpDone(out.GiveUp.Seq, true, time.Minute)
		out = r.Apply(partitionOf(2, 3, 3, 2), time.Minute)
		if want := map[bool]Role{false: RoleFollower, true: RoleOffline}[forGood]; r.Role() != want || out.GiveUp != nil {
			t.Fatalf("for good %v: %v, %+v", forGood, r, out)
		}
		if out := r.Tick(time.Hour); out.GiveUp != nil || (forGood && r.NeedsTick()) {
			t.Fatalf("%+v", out)
		}
	}
}
