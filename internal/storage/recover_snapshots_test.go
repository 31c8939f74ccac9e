package storage

import (
	"strings"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// A snapshot above the end of what a power loss left is removed for good: were it to come back after the next power loss,
// it would stand for batches that were appended at the same offsets since.
func TestSnapshotAboveTheEndIsRemovedDurably(t *testing.T) {
	for seed := range uint64(32) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		dir := openTestDir(t, mem)
		l, err := dir.CreateLog(testPartition(0), Config{})
		must(t, err)
		appendTo(t, l, 0, 1, 2, 10)
		_, err = l.Sync()
		must(t, err)
		stale := newProducerState()
		stale.apply(header(1, 2, 0, 2, 2), 1)
		must(t, writeFileAtomic(mem, l.snapshotName(4), stale.encode(snapshotInfo{offset: 4, position: 1, maxTimestamp: 1})))
		mem = mem.Crash()
		l, _, err = openTestDir(t, mem).OpenLog(testPartition(0), Config{})
		must(t, err)
		mem = mem.Crash()
		if _, err := mem.Stat(l.snapshotName(4)); err == nil {
			t.Fatalf("seed %d: the snapshot came back", seed)
		}
	}
}

// Producers stay known when the segments that hold their batches are removed unread: the snapshot at the new beginning is bad,
// and the medium does not give back what it would be rebuilt from.
func TestProducersOutliveTheUnreadableSegmentsThatWereTrimmed(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	dir := openTestDir(t, mem)
	l, err := dir.CreateLog(testPartition(0), Config{})
	must(t, err)
	appendAs := func(p producerRef) (batch []byte) {
		batch, h := makeBatch(t, p, int(p.sequence), 1, 10, 1000)
		_, err := l.AppendLeader([][]byte{batch}, h, 0, 1000)
		must(t, err)
		return batch
	}
	appendAs(producerRef{1, 0, 0})
	last := appendAs(producerRef{1, 0, 1})
	appendAs(producerRef{2, 0, 0})
	must(t, l.Roll())
	appendAs(producerRef{2, 0, 1})
	appendAs(producerRef{3, 0, 0})
	_, err = l.Sync()
	must(t, err)
	must(t, removeIfExists(mem, l.snapshotName(3)))
	must(t, l.Trim(3))
	unread := 0
	mem.SetInjector(func(op fsys.Op, path string) error {
		if op == fsys.OpRead && strings.HasSuffix(path, fileName(0, segmentSuffix)) {
			unread++
			return syscall.EIO
		}
		return nil
	})
	must(t, dir.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 5}))
	mem.SetInjector(nil)
	if _, err := mem.Stat(l.path + "/" + fileName(0, segmentSuffix)); !fsys.IsNotExist(err) || unread == 0 {
		t.Fatalf("nothing was removed unread: %d reads failed, %v", unread, err)
	}
	want := describeProducers(l.producers)
	l, _, err = openTestDir(t, mem.CrashProcess()).OpenLog(testPartition(0), Config{})
	must(t, err)
	if got := describeProducers(l.producers); got != want {
		t.Fatalf("opened again it knows %s, before %s", got, want)
	}
	h, err := record.Validate([][]byte{last}, record.Limits{})
	must(t, err)
	if res, err := l.AppendLeader([][]byte{last}, h, 0, 2000); err != nil || !res.Duplicate || res.BaseOffset != 1 {
		t.Fatalf("sent again: %+v, %v", res, err)
	}
}
