package replication

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage/syncjournal"
)

// onlyJournaled moves the last bytes of a log from its first segment into the sync journal, as after a power loss that took them, and
// fills the disk but for so many bytes.
func (n *testNode) onlyJournaled(tp model.TopicPartition, end, last, room int64) {
	t := n.c.t
	t.Helper()
	name := fmt.Sprintf("%s/topics/%s/%d/%020d.log", n.path, tp.TopicID, tp.Partition, 0)
	f, err := n.mem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size := f.Position()
	zeros := make([]byte, 1)
	for at := size - 1; at >= 0; at-- { // without what was preallocated
		if _, err := f.ReadAt(zeros, at); err != nil {
			t.Fatal(err)
		}
		if zeros[0] != 0 {
			size = at + 2 // a record without headers ends with a zero
			break
		}
	}
	data := make([]byte, last)
	if _, err := f.ReadAt(data, size-last); err != nil {
		t.Fatal(err)
	}
	j, err := syncjournal.Open(n.mem, n.path+"/sync-journal", syncjournal.Options{FileBytes: syncjournal.MinFileBytes, Salt: 7})
	if err == nil {
		err = errors.Join(j.Clear(), j.Prepare())
	}
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < last; at += last / 2 { // in both of its files: an idle one would be room
		if _, err := j.Write([]syncjournal.Frame{{Log: tp, Position: size - last + at, EndOffset: end, Data: data[at:min(at+last/2, last)]}}); err != nil {
			t.Fatal(err)
		}
	}
	if j.OldestLive() == j.Generation() {
		t.Fatal("one file of the sync journal is idle")
	}
	if err = errors.Join(j.Close(), f.Truncate(size-last), f.SyncData(), f.Close()); err != nil {
		t.Fatal(err)
	}
	free, err := n.mem.FreeBytes(n.path)
	if err != nil {
		t.Fatal(err)
	}
	n.mem.SetCapacity(1<<40 - free + room)
}

// A broker that starts on a disk without room for what its sync journal holds of one log starts all the same: it hands that
// partition over and keeps its place in it, serves the others, and takes part again, without a restart, once there is room.
func TestStartWithoutRoomForOneLog(t *testing.T) {
	f := &fullTest{cluster: newCluster(t, 3, func(o *Options) { o.CheckpointInterval = 50 * time.Millisecond })}
	f.tp = f.topic(1, nil, 1, 2, 3)
	other := f.topic(2, nil, 1)
	for range 80 {
		f.write()
	}
	if err := mustAnswer(t, f.send(1, other, AcksAll, "before")).err; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the records are in order", func() bool {
		state, err := f.mgrOf(1).PartitionState(f.tp)
		return err == nil && state.HighWatermark == 80 && state.DurableEnd == 80
	})
	n := f.nodes[1]
	n.stop(false)
	n.onlyJournaled(f.tp, 80, 60<<10, 70<<10)
	n.start()
	for _, r := range n.lost {
		if r.GetSeatLostReason() != "" || (len(r.GetTopicId()) > 0 && string(r.GetTopicId()) == string(f.tp.TopicID.Bytes())) {
			t.Fatalf("it tells the controller of %v", r)
		}
	}
	if _, err := f.mgrOf(1).PartitionState(f.tp); !model.IsCode(err, model.CodeNoSpace) || !strings.Contains(err.Error(), "stays closed") {
		t.Fatal(err)
	}
	if disk := f.mgrOf(1).Disk(); !disk.GetFull() {
		t.Fatalf("it tells %v of its disk", disk)
	}
	eventually(t, "another one leads", func() bool { p := f.partition(f.tp); return p.Leader != 1 && p.Leader != model.NoNode })
	f.write()
	eventually(t, "the other log is served", func() bool { return len(n.values(other)) == 1 })
	n.mem.SetCapacity(0)
	eventually(t, "broker 1 is in sync again", func() bool { return len(f.partition(f.tp).ISR) == 3 })
	f.write()
	f.agree(f.tp, f.want, 1, 2, 3)
	if disk := f.mgrOf(1).Disk(); disk != nil {
		t.Fatalf("it tells %v of its disk", disk)
	}
}

// What a topic's data on such a broker is deleted by does not wait for room, and its last replica leads again once there is some.
func TestDeletionAndLastReplicaWithoutRoom(t *testing.T) {
	c := newCluster(t, 1, func(o *Options) { o.CheckpointInterval = 50 * time.Millisecond })
	gone, last := c.topic(1, nil, 1), c.topic(2, nil, 1)
	var want []string
	for i := range 60 {
		want = append(want, fmt.Sprint(i, strings.Repeat("x", 1000)))
		for _, tp := range []model.TopicPartition{gone, last} {
			if err := mustAnswer(t, c.send(1, tp, AcksAll, want[i])).err; err != nil {
				t.Fatal(err)
			}
		}
	}
	n := c.nodes[1]
	n.stop(false)
	n.onlyJournaled(last, 60, 50<<10, 40<<10)
	n.start()
	mustFail(t, c.send(1, last, AcksAll, "refused"), model.CodeNoSpace)
	if p := c.partition(last); p.Leader != 1 || len(p.ISR) != 1 {
		t.Fatalf("%+v", p)
	}
	c.change(&rec{Kind: &internalv1.MetadataRecord_DeletedTopic{ // that is the room
		DeletedTopic: &internalv1.DeletedTopicRecord{TopicId: gone.TopicID.Bytes(), Name: "topic-1", Holders: []int32{1}},
	}})
	eventually(t, "the last replica leads again", func() bool {
		state, err := c.mgrOf(1).PartitionState(last)
		return err == nil && state.HighWatermark == 60 && state.Role == "leader"
	})
	c.agree(last, want, 1)
}
