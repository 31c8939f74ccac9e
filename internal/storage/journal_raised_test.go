package storage

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// What the sync journal brought back is on record through every start, whoever opens the log at last: a log that has lost it says so, and
// so does one whose directory is gone.
func TestWhatWasReplayedIsRemembered(t *testing.T) {
	for _, gone := range []bool{false, true} {
		mem := fsys.NewMem(3, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l := journaledLog(t, d, 0, Config{})
		appendTo(t, l, 1, 1, 2, 100)
		must(t, d.SyncJournaled(l))
		onlyJournaled(t, l)
		for range 3 { // the first replays
			mem = mem.Crash()
			openTestDir(t, mem)
		}
		mem = mem.Crash()
		if gone {
			must(t, mem.RemoveAll(l.path))
		} else {
			f, err := mem.Open(l.active().logName())
			must(t, err)
			must(t, errors.Join(f.Truncate(0), f.Close()))
		}
		must(t, mem.SyncFS("data"))
		d = openTestDir(t, mem)
		lost := slices.Contains(d.Report().MissingLogs, l.tp)
		if !gone {
			_, report, err := d.OpenLog(l.tp, Config{})
			must(t, err)
			lost = report.LostData()
		}
		if !lost {
			t.Errorf("gone %t: nothing is said of the loss", gone)
		}
	}
}

// A log is deleted, and the disk has no room to note that; another one of its name knows nothing of it.
func TestALogOfAnOldNameKnowsNothing(t *testing.T) {
	mem := fsys.NewMem(4, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l := journaledLog(t, d, 0, Config{})
	appendTo(t, l, 1, 1, 3, 100)
	_, err := l.Sync()
	must(t, err)
	must(t, l.Trim(2))
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 4}))
	mem.SetInjector(func(op fsys.Op, name string) error {
		if op == fsys.OpAppend && strings.HasSuffix(name, journalName) {
			return fsys.ErrNoSpace
		}
		return nil
	})
	if err := d.DeleteLog(l.tp); !errors.Is(err, fsys.ErrNoSpace) {
		t.Fatal(err)
	}
	mem.SetInjector(nil)
	l, err = d.CreateLog(l.tp, Config{})
	must(t, err)
	if l.LogStartOffset() != 0 || l.LogEndOffset() != 0 || l.CheckpointedHighWatermark() != 0 || len(l.EpochStarts()) > 0 {
		t.Fatalf("[%d, %d), committed to %d, epochs %v", l.LogStartOffset(), l.LogEndOffset(), l.CheckpointedHighWatermark(), l.EpochStarts())
	}
}

// The name of a data directory that is made now is made durable.
func TestTheNameOfANewDirectoryIsDurable(t *testing.T) {
	mem := fsys.NewMem(5, fsys.MemOptions{})
	must(t, mem.MkdirAll("disk"))
	var synced []string
	mem.SetInjector(func(op fsys.Op, name string) error {
		if op == fsys.OpSyncDir {
			synced = append(synced, name)
		}
		return nil
	})
	d, err := OpenDir(mem, "disk/data", testDirOptions())
	must(t, err)
	if !slices.Contains(synced, "disk") {
		t.Errorf("synced: %q", synced)
	}
	must(t, d.Close())
}

// The empty file of a roll that failed lies at the recovery point, and the segment before went on: it ends where its batches do.
func TestALeftoverOfARollEndsNoSegment(t *testing.T) {
	mem := fsys.NewMem(6, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l := journaledLog(t, d, 0, Config{})
	must(t, d.Checkpoint(LogCheckpoint{Log: l})) // up to 1
	appendTo(t, l, 1, 1, 2, 100)
	_, err := l.Sync()
	must(t, err)
	mem = mem.CrashProcess()
	f, err := mem.Create(l.path + "/" + fileName(1, segmentSuffix))
	must(t, errors.Join(err, f.Close()))
	_, l, report := reopened(t, mem, 0, Config{})
	if l.LogEndOffset() != 3 || l.SegmentCount() != 1 || report.LostData() {
		t.Fatalf("it ends at %d with %d segments: %+v", l.LogEndOffset(), l.SegmentCount(), report)
	}
}

// A roll that the disk has no room for makes the directory full.
func TestARollWithoutRoomMakesTheDirectoryFull(t *testing.T) {
	mem := fsys.NewMem(7, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l := journaledLog(t, d, 0, Config{})
	mem.SetInjector(func(op fsys.Op, name string) error {
		if op == fsys.OpCreate && strings.HasSuffix(name, segmentSuffix) {
			return fsys.ErrNoSpace
		}
		return nil
	})
	if err := l.Roll(); !errors.Is(err, fsys.ErrNoSpace) || !d.space.full.Load() {
		t.Fatalf("full %t, %v", d.space.full.Load(), err)
	}
}
