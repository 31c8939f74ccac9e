package storage

import (
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
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
