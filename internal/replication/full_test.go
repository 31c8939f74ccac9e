package replication

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// fullTest is three brokers and a topic that is written as a client writes it: at whoever leads, again after a refusal that may pass.
type fullTest struct {
	*cluster
	tp   model.TopicPartition
	want []string
}

func newFullTest(t *testing.T) *fullTest {
	t.Helper()
	return newFullTestOf(t, 100*time.Millisecond)
}

// newFullTestOf is newFullTest where a leader's disk may be full for that long.
func newFullTestOf(t *testing.T, fullTimeMax time.Duration) *fullTest {
	t.Helper()
	f := &fullTest{cluster: newCluster(t, 3, func(o *Options) { o.Core.FullTimeMax = fullTimeMax })}
	f.tp = f.topic(1, nil, 1, 2, 3)
	f.write()
	return f
}

// try sends one record to the leader, again where that has changed, and returns what it says in the end: nil, or an error other than that
// it does not lead. What is sent again is known again.
func (f *fullTest) try() error {
	f.t.Helper()
	value := fmt.Sprintf("%d-%s", len(f.want), strings.Repeat("x", 1000))
	batch, header := batchOf(f.t, 7, int32(len(f.want)), value) //nolint:gosec // small
	for {
		a := mustAnswer(f.t, f.produce(f.partition(f.tp).Leader, f.tp, AcksAll, 10*time.Second, batch, header))
		switch {
		case a.err == nil:
			f.want = append(f.want, value)
			return nil
		case !model.IsCode(a.err, model.CodeNotLeaderForPartition):
			return a.err
		}
	}
}

func (f *fullTest) write() {
	f.t.Helper()
	if err := f.try(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fullTest) fill(id model.NodeID)  { f.nodes[id].mem.SetCapacity(1) }
func (f *fullTest) empty(id model.NodeID) { f.nodes[id].mem.SetCapacity(0) }

// TestLeaderOnAFullDiskHandsOver: the producer never sees NO_SPACE, the replica leaves the ISR with its leadership and comes back
// by itself once there is room.
func TestLeaderOnAFullDiskHandsOver(t *testing.T) {
	f := newFullTest(t)
	f.fill(1)
	f.write()
	if p := f.partition(f.tp); p.Leader == 1 || len(p.ISR) != 2 {
		t.Fatalf("%+v", p)
	}
	for range 5 {
		f.write()
	}
	if disk := f.mgrOf(1).Disk(); !disk.GetFull() {
		t.Fatalf("broker 1 tells %v of its disk", disk)
	}
	f.empty(1)
	eventually(t, "broker 1 is in sync again", func() bool { return len(f.partition(f.tp).ISR) == 3 })
	f.write()
	f.agree(f.tp, f.want, 1, 2, 3)
	if disk := f.mgrOf(1).Disk(); disk != nil {
		t.Fatalf("broker 1 tells %v of its disk", disk)
	}
}

// Where every disk is full the leader says so, and the leadership does not go round: wishes come ever less often. Writes go on as
// soon as any disk has room.
func TestEveryDiskIsFull(t *testing.T) {
	f := newFullTest(t)
	for id := model.NodeID(1); id <= 3; id++ {
		f.fill(id)
	}
	eventually(t, "writes are refused for lack of space", func() bool { return model.IsCode(f.try(), model.CodeNoSpace) })
	moved := f.partition(f.tp).LeaderEpoch
	if moved > 3 {
		t.Fatalf("leader epoch %d", moved)
	}
	pause(t, 700*time.Millisecond)
	f.mu.Lock()
	asked := f.surrenders
	f.mu.Unlock()
	if asked > 18 { // six of one replica last for 6 s
		t.Fatalf("%d wishes", asked)
	}
	if p := f.partition(f.tp); p.LeaderEpoch > moved+2 {
		t.Fatalf("leader epoch %d after %d", p.LeaderEpoch, moved)
	}
	for id := model.NodeID(1); id <= 3; id++ {
		f.empty(id)
	}
	eventually(t, "writes go on", func() bool { return f.try() == nil })
	eventually(t, "all are in sync", func() bool { return len(f.partition(f.tp).ISR) == 3 })
	f.agree(f.tp, f.want, 1, 2, 3)
}

// A disk that was full for a moment costs nothing: the leader leads on. The moment may be long on a busy machine; how long it may last
// the tests of the core have.
func TestDiskFullForAMoment(t *testing.T) {
	f := newFullTestOf(t, 20*time.Second)
	before := f.partition(f.tp).LeaderEpoch
	f.fill(1)
	mustFail(t, f.send(1, f.tp, AcksAll, strings.Repeat("x", 1000)), model.CodeNotLeaderForPartition)
	f.empty(1)
	f.write()
	eventually(t, "broker 1 has seen that there is room", func() bool {
		p := f.mgrOf(1).partitions[f.tp]
		p.mu.Lock()
		defer p.mu.Unlock()
		return !p.replica.Full()
	})
	pause(t, 200*time.Millisecond)
	if p := f.partition(f.tp); p.LeaderEpoch != before || p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
}

// Nobody could take over: NO_SPACE at once, and no wish goes to the controller.
func TestFullDiskOfAnISRThatIsNoLarger(t *testing.T) {
	f := newFullTest(t)
	f.nodes[3].stop(false)
	f.fence(3)
	eventually(t, "two are in sync", func() bool { return len(f.partition(f.tp).ISR) == 2 })
	f.fill(1)
	mustFail(t, f.send(1, f.tp, AcksAll, strings.Repeat("x", 1000)), model.CodeNoSpace)
	pause(t, 300*time.Millisecond)
	f.mu.Lock()
	asked := f.surrenders
	f.mu.Unlock()
	if p := f.partition(f.tp); p.Leader != 1 || asked != 0 {
		t.Fatalf("%+v, %d wishes", p, asked)
	}
	f.empty(1)
	f.write()
}

// A log whose file could not be cut back after an append that did not fit has failed: its leader is relieved at once, and leads again
// after a restart.
func TestLeaderWhoseLogFailedHandsOver(t *testing.T) {
	f := newFullTest(t)
	f.nodes[1].mem.SetInjector(func(op fsys.Op, name string) error {
		if strings.HasSuffix(name, ".log") && (op == fsys.OpAppend || op == fsys.OpTruncate) {
			return fsys.ErrNoSpace
		}
		return nil
	})
	mustFail(t, f.send(1, f.tp, AcksAll, "lost"), model.CodeStorageError)
	eventually(t, "another one leads", func() bool { return f.partition(f.tp).Leader != 1 })
	if f.mgrOf(1).failed.Load() != nil {
		t.Fatal("the whole disk is taken for failed")
	}
	f.write()
	f.nodes[1].mem.SetInjector(nil)
	f.nodes[1].stop(false)
	f.fence(1)
	f.nodes[1].start()
	eventually(t, "all are in sync", func() bool { return len(f.partition(f.tp).ISR) == 3 })
	f.lead(f.tp, 1, 1, 2, 3)
	f.write()
	f.agree(f.tp, f.want, 1, 2, 3)
}

// A disk that does not answer a sync is told of, and no lock is waited for.
func TestStalledDiskIsToldOf(t *testing.T) {
	var stall atomic.Int64
	c := newCluster(t, 1, func(o *Options) { o.Stalled = func() time.Duration { return time.Duration(stall.Load()) } })
	tp := c.topic(1, nil, 1)
	mustAck(t, c.send(1, tp, AcksAll, "x"))
	p := c.mgrOf(1).partitions[tp]
	p.mu.Lock() // an append that hangs
	defer p.mu.Unlock()
	for _, s := range []time.Duration{0, stalledAfter - 1, stalledAfter, 0} {
		stall.Store(int64(s))
		want := uint32(0)
		if s >= stalledAfter {
			want = uint32(s.Milliseconds())
		}
		if disk := c.mgrOf(1).Disk(); disk.GetStalledMs() != want || (want == 0) != (disk == nil) {
			t.Errorf("stalled for %v: %v", s, disk)
		}
	}
}
