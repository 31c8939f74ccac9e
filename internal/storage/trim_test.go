package storage

import (
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// A trim that comes between the note of a checkpoint and its removals waits for the next one: of what goes the journal has said before
// that it may.
func TestATrimBesideACheckpointWaitsForTheNext(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	for i := range 4 {
		appendTo(t, l, 1, i, 1, 100)
		must(t, l.Roll())
	}
	_, err = l.Sync()
	must(t, err)
	must(t, l.Trim(1))
	must(t, d.note([]LogCheckpoint{{Log: l, HighWatermark: 4}}))
	must(t, l.Trim(3))
	must(t, l.removeTrimmed())
	for base := range int64(4) {
		if _, err := mem.Stat(l.path + "/" + fileName(base, segmentSuffix)); fsys.IsNotExist(err) != (base == 0) {
			t.Errorf("segment %d: %v", base, err)
		}
	}
	for seed := range uint64(10) {
		if _, _, report := reopened(t, mem.Clone(seed).Crash(), 0, Config{}); report.LostData() || report.LogStartOffset != 1 {
			t.Fatalf("power loss %d: %+v", seed, report)
		}
	}
}
