package replication

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

func quickCheckpoints(o *Options) { o.CheckpointInterval = 30 * time.Millisecond }

// startsAt waits until a replica's log begins there.
func (c *cluster) startsAt(tp model.TopicPartition, start int64, ids ...model.NodeID) {
	c.t.Helper()
	for _, id := range ids {
		eventually(c.t, fmt.Sprintf("broker %d begins at %d", id, start), func() bool {
			state, err := c.nodes[id].mgr.PartitionState(tp)
			return err == nil && state.LogStartOffset == start
		})
	}
}

func TestTrim(t *testing.T) {
	for _, mode := range []string{"fsync", "os"} {
		t.Run(mode, func(t *testing.T) {
			c := newCluster(t, 3, quickCheckpoints)
			tp := c.topic(1, map[string]string{"segment.bytes": "16384", "flush.mode": mode}, 1, 2, 3)
			var want []string
			for i := range 60 {
				value := fmt.Sprintf("%d-%01000d", i, i)
				want = append(want, value)
				mustAck(t, c.send(1, tp, AcksAll, value))
			}
			leader := c.nodes[1].mgr
			size := func(id model.NodeID) int64 { s, _ := c.nodes[id].mgr.PartitionState(tp); return s.SizeBytes }
			before := size(1)
			plan, err := leader.Trim(tp, 40, true)
			if err != nil || plan.Start != 40 || plan.Before != 0 || plan.HighWatermark != 60 || plan.RemovedSegments < 1 || size(1) != before {
				t.Fatalf("%+v, %v", plan, err)
			}
			for id, code := range map[model.NodeID]model.ErrorCode{2: model.CodeNotLeaderForPartition} {
				if _, err := c.nodes[id].mgr.Trim(tp, 40, false); !model.IsCode(err, code) {
					t.Errorf("broker %d: %v", id, err)
				}
			}
			if _, err := leader.Trim(tp, -2, false); !model.IsCode(err, model.CodeOffsetOutOfRange) {
				t.Error(err)
			}
			done, err := leader.Trim(tp, 40, false)
			if err != nil || done != plan || size(1) != before-plan.RemovedBytes {
				t.Fatalf("%+v, %v; %d bytes left of %d", done, err, size(1), before)
			}
			if again, err := leader.Trim(tp, 10, false); err != nil || again.Start != 40 || again.Before != 40 {
				t.Fatalf("%+v, %v", again, err)
			}
			if _, err := leader.OpenReader(tp, 39, model.NoLeaderEpoch); !model.IsCode(err, model.CodeOffsetOutOfRange) {
				t.Errorf("reading below the start: %v", err)
			}
			c.startsAt(tp, 40, 1, 2, 3)
			eventually(t, "followers let go of their segments", func() bool { return size(2) < before && size(3) < before })
			for id := model.NodeID(1); id <= 3; id++ {
				if got := c.nodes[id].values(tp); !slices.Equal(got[len(got)-20:], want[40:]) {
					t.Errorf("broker %d holds %d records", id, len(got))
				}
			}
			c.nodes[1].stop(false)
			c.nodes[1].start()
			c.startsAt(tp, 40, 1)
			mustAck(t, c.send(1, tp, AcksAll, "more"))
		})
	}
}

// Everything goes but what is not committed; followers, and those that lead later, begin where the leader does.
func TestTrimToTheHighWatermark(t *testing.T) {
	c := newCluster(t, 3, quickCheckpoints)
	tp := c.topic(1, nil, 1, 2, 3)
	for i := range 5 {
		mustAck(t, c.send(1, tp, AcksAll, fmt.Sprint(i), "x"))
	}
	c.link(1, 2, false)
	c.link(1, 3, false)
	pending := c.send(1, tp, AcksAll, "not committed")
	if res, err := c.nodes[1].mgr.Trim(tp, TrimToHighWatermark, false); err != nil || res.Start != 10 {
		t.Fatalf("%+v, %v", res, err)
	}
	c.link(1, 2, true)
	c.link(1, 3, true)
	mustAck(t, pending)
	c.startsAt(tp, 10, 1, 2, 3)
	if res, err := c.nodes[1].mgr.Trim(tp, 12, false); !model.IsCode(err, model.CodeOffsetOutOfRange) {
		t.Fatalf("beyond the end: %+v, %v", res, err)
	}
	if res, err := c.nodes[1].mgr.Trim(tp, 11, false); err != nil || res.Start != 11 {
		t.Fatalf("%+v, %v", res, err)
	}
	c.startsAt(tp, 11, 1, 2, 3)
	c.lead(tp, 3, 1, 2, 3)
	mustAck(t, c.send(3, tp, AcksAll, "after"))
	for id := model.NodeID(1); id <= 3; id++ {
		eventually(t, "the record after the trim is everywhere", func() bool { return slices.Equal(c.nodes[id].values(tp), []string{"after"}) })
	}
}

// A leader that takes over before it heard of a trim leads a follower that has trimmed everything.
func TestFollowerThatHasTrimmedMoreThanItsLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	tp := c.topic(1, nil, 1, 2, 3)
	mustAck(t, c.send(1, tp, AcksAll, "a", "b"))
	c.agree(tp, []string{"a", "b"}, 1, 2, 3)
	c.link(1, 3, false)
	c.link(2, 3, false)
	c.fence(3)
	if _, err := c.nodes[1].mgr.Trim(tp, TrimToHighWatermark, false); err != nil {
		t.Fatal(err)
	}
	c.startsAt(tp, 2, 1, 2)
	c.link(1, 3, true)
	c.link(2, 3, true)
	c.nodes[3].stop(true)
	c.nodes[3].start()
	c.lead(tp, 3, 3)
	mustAck(t, c.send(3, tp, AcksLeader, "c"))
	for id := model.NodeID(1); id <= 3; id++ {
		eventually(t, "all have the record", func() bool {
			got := c.nodes[id].values(tp)
			return len(got) > 0 && got[len(got)-1] == "c"
		})
	}
}

// R12: a replica that begins above offset 0 has its leader's producers: duplicates stay duplicates when it leads.
func TestR12NewReplicaKnowsTheProducers(t *testing.T) {
	c := newCluster(t, 3, quickCheckpoints)
	tp := c.topic(1, nil, 1, 2, 3)
	mustAck(t, c.send(1, tp, AcksAll, "old"))
	c.link(1, 3, false)
	c.link(2, 3, false)
	c.fence(3)
	first, firstHeader := batchOf(t, 7, 0, "a", "b", "c")
	original := mustAck(t, c.produce(1, tp, AcksAll, 0, first, firstHeader))
	second, secondHeader := batchOf(t, 8, 0, "d", "e", "f", "g")
	inside := mustAck(t, c.produce(1, tp, AcksAll, 0, second, secondHeader))
	// The new start lies within the second batch.
	if res, err := c.nodes[1].mgr.Trim(tp, inside.BaseOffset+1, false); err != nil || res.Start != inside.BaseOffset+1 {
		t.Fatalf("%+v, %v", res, err)
	}
	c.mu.Lock()
	c.failSnapshots = 2 // and it is asked for again
	c.mu.Unlock()
	c.link(1, 3, true)
	c.link(2, 3, true)
	c.nodes[3].stop(true)
	c.nodes[3].start()
	eventually(t, "broker 3 is in sync", func() bool { return c.partition(tp).InISR(3) })
	c.startsAt(tp, inside.BaseOffset+1, 3)
	c.lead(tp, 3, 1, 2, 3)
	for what, x := range map[string]struct {
		batch  []byte
		header func() <-chan answer
		want   Receipt
	}{
		"from the snapshot": {header: func() <-chan answer { return c.produce(3, tp, AcksAll, 0, first, firstHeader) }, want: original},
		"from the batch":    {header: func() <-chan answer { return c.produce(3, tp, AcksAll, 0, second, secondHeader) }, want: inside},
	} {
		if got := mustAck(t, x.header()); !got.Duplicate || got.BaseOffset != x.want.BaseOffset || got.LeaderEpoch != x.want.LeaderEpoch {
			t.Errorf("%s: %+v, want the receipt of %+v", what, got, x.want)
		}
	}
	next, nextHeader := batchOf(t, 7, 3, "h")
	if got := mustAck(t, c.produce(3, tp, AcksAll, 0, next, nextHeader)); got.Duplicate || got.BaseOffset != inside.BaseOffset+4 {
		t.Errorf("the next batch: %+v", got)
	}
}

func TestSegmentsAreClosedByAge(t *testing.T) {
	c := newCluster(t, 2, quickCheckpoints)
	tp := c.topic(1, nil, 1, 2)
	mustAck(t, c.send(1, tp, AcksAll, "a"))
	log := func(id model.NodeID) *storage.Log {
		p, err := c.nodes[id].mgr.lookup(tp)
		if err != nil {
			t.Fatal(err)
		}
		return p.log
	}
	c.configure(tp, "segment.ms", "1000")
	for id := model.NodeID(1); id <= 2; id++ {
		eventually(t, "the segment is closed", func() bool { return log(id).SegmentCount() == 2 })
	}
	mustAck(t, c.send(1, tp, AcksAll, "b"))
	c.agree(tp, []string{"a", "b"}, 1, 2)
}

func TestProducerSnapshotIsRefused(t *testing.T) {
	c := newCluster(t, 2, nil)
	tp := c.topic(1, nil, 1, 2)
	mustAck(t, c.send(1, tp, AcksAll, "a"))
	follower := c.nodes[2].mgr
	r := restart{leader: 1, epoch: c.partition(tp).LeaderEpoch, at: 0}
	p, err := follower.lookup(tp)
	if err != nil {
		t.Fatal(err)
	}
	r.p = p
	fetch := func(change func(*restart), want model.ErrorCode) {
		t.Helper()
		changed := r
		change(&changed)
		if data, err := follower.fetchSnapshot(t.Context(), changed); !model.IsCode(err, want) || data != nil {
			t.Errorf("%d bytes, %v; want %v", len(data), err, want)
		}
	}
	fetch(func(r *restart) { r.at = 5 }, model.CodeOffsetOutOfRange)
	fetch(func(r *restart) { r.epoch = 9 }, model.CodeUnknownLeaderEpoch)
	fetch(func(r *restart) { r.leader = 9 }, model.CodeBrokerIDNotRegistered)
	fetch(func(r *restart) { r.leader = 2 }, model.CodeNotLeaderForPartition)
	if data, err := follower.fetchSnapshot(t.Context(), r); err != nil || len(data) == 0 {
		t.Error(err)
	}
	if p.replica.Role() != core.RoleFollower {
		t.Error("asking changed the role")
	}
}
