package core

import (
	"testing"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// A damaged follower leaves ISR and ELR and the partition begins a new leader epoch, so that a position its leader knows of
// brings it back no more; a damaged leader hands over; the last one that surely has everything keeps its seat.
func TestGivenUpSeats(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", nil, 1, 2, 3)
	give := func(id model.NodeID, want model.ErrorCode) {
		t.Helper()
		before := w.partition(tp)
		if code := w.giveUpSeat(tp, id, false); code != want {
			t.Fatalf("broker %d: %s, want %s", id, code, want)
		}
		after := w.partition(tp)
		if moved := after.LeaderEpoch == before.LeaderEpoch+1 && after.PartitionEpoch == before.PartitionEpoch+1; moved != (want == model.CodeNone) {
			t.Fatalf("broker %d: %+v after %+v", id, after, before)
		}
	}
	give(3, model.CodeNone)
	w.expect(tp, 1, ids(1, 2), nil, nil)
	give(3, model.CodeNone) // it has fetched in the new epoch already and finds more
	w.expect(tp, 1, ids(1, 2), nil, nil)
	give(1, model.CodeNone)
	w.expect(tp, 2, ids(2), nil, ids(1))
	give(2, model.CodeIneligibleReplica)
	w.expect(tp, 2, ids(2), nil, ids(1))
	w.propose(tp, ids(2, 3))
	give(2, model.CodeNone) // another one is in sync
	w.expect(tp, 3, ids(3), nil, ids(2))
	w.propose(tp, ids(3, 1, 2))
	w.propose(tp, ids(3))
	w.expect(tp, 3, ids(3), ids(1, 2), nil)
	give(3, model.CodeNone) // a live member of the ELR takes over
	w.expect(tp, 1, ids(1), ids(2), ids(3))
	w.kill(1)
	w.kill(2)
	w.expect(tp, none, nil, ids(1, 2), ids(3))
	give(3, model.CodeIneligibleReplica)
}

// A replica whose log is whole and takes no more keeps the right to lead later; it leaves only an ISR that is large enough
// without it.
func TestStuckReplicasHandOver(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", nil, 1, 2, 3)
	if code := w.giveUpSeat(tp, 1, true); code != model.CodeNone {
		t.Fatal(code)
	}
	w.expect(tp, 2, ids(2, 3), nil, nil)
	if code := w.giveUpSeat(tp, 2, true); code != model.CodeIneligibleReplica {
		t.Fatal(code)
	}
	w.expect(tp, 2, ids(2, 3), nil, nil)
}

// Brokers tell with heartbeats that their disks are full: leaderships go to those that have room, stay where nobody has, and an
// election takes a full one where it must.
func TestLeadershipGoesWhereThereIsRoom(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", map[string]string{"min.insync.replicas": "1"}, 1, 2, 3)
	full := func(id model.NodeID, is bool) {
		w.heartbeat(id, func(r *internalv1.HeartbeatRequest) {
			if is {
				r.Disk = &internalv1.DiskState{Full: true}
			}
		})
	}
	full(1, true)
	full(2, true)
	if code := w.giveUpSeat(tp, 1, true); code != model.CodeNone {
		t.Fatal(code)
	}
	w.expect(tp, 3, ids(2, 3), nil, nil)
	full(3, true)
	if code := w.giveUpSeat(tp, 3, true); code != model.CodeIneligibleReplica {
		t.Fatal(code)
	}
	w.expect(tp, 3, ids(2, 3), nil, nil)
	full(2, false)
	if code := w.giveUpSeat(tp, 3, true); code != model.CodeNone {
		t.Fatal(code)
	}
	w.expect(tp, 2, ids(2), nil, nil)
	full(2, true)
	full(3, false)
	w.propose(tp, ids(1, 2, 3))
	w.kill(2)
	w.expect(tp, 3, ids(1, 3), nil, nil) // 1 is preferred, and full
	w.kill(3)
	w.expect(tp, 1, ids(1), nil, nil)
}

func TestR8StaleSurrendersAreRefused(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3, 4)
	tp := w.topic("t", nil, 1, 2, 3)
	for name, c := range map[string]struct {
		id   model.NodeID
		want model.ErrorCode
		tune func(*internalv1.GiveUpSeatsRequest)
	}{
		"an earlier incarnation": {2, model.CodeStaleBrokerEpoch, func(r *internalv1.GiveUpSeatsRequest) { r.BrokerEpoch-- }},
		"an epoch that is over":  {2, model.CodeFencedLeaderEpoch, func(r *internalv1.GiveUpSeatsRequest) { r.Seats[0].LeaderEpoch-- }},
		"an epoch to come":       {2, model.CodeUnknownLeaderEpoch, func(r *internalv1.GiveUpSeatsRequest) { r.Seats[0].LeaderEpoch++ }},
		"no replica":             {4, model.CodeReplicaNotAvailable, func(*internalv1.GiveUpSeatsRequest) {}},
		"no partition":           {2, model.CodeUnknownTopicOrPartition, func(r *internalv1.GiveUpSeatsRequest) { r.Seats[0].Partition = 7 }},
		"no topic": {2, model.CodeUnknownTopicID, func(r *internalv1.GiveUpSeatsRequest) {
			r.Seats[0].TopicId = w.uuid().Bytes()
		}},
	} {
		if code := w.giveUpSeat(tp, c.id, false, c.tune); code != c.want {
			t.Errorf("%s: %s, want %s", name, code, c.want)
		}
		w.expect(tp, 1, ids(1, 2, 3), nil, nil)
	}
}
