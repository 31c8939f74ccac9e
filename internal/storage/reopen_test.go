package storage

import (
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// A log that was closed without a sync and is opened again by the same process is durable only once it was synced: what OpenDir
// has made durable is what it found, not what came after.
func TestReopenedInTheSameProcess(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(t *testing.T, l *Log, d *Dir, mem *fsys.Mem) *fsys.Mem // of the first process
		work func(t *testing.T, l *Log)                                  // before the unclean close
	}{
		{"records after a kill", killed, func(t *testing.T, l *Log) {
			t.Helper()
			appendTo(t, l, 1, 1, 2, 100)
		}},
		{"a segment's name after a kill", killed, rollAfterSync},
		{"a segment's name after a clean shutdown", shutDown, rollAfterSync},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mem := fsys.NewMem(3, fsys.MemOptions{})
			d := openTestDir(t, mem)
			l, err := d.CreateLog(testPartition(0), Config{})
			must(t, err)
			appendTo(t, l, 1, 0, 2, 100)
			_, err = l.Sync()
			must(t, err)
			mem = tc.end(t, l, d, mem)

			d = openTestDir(t, mem)
			l, _, err = d.OpenLog(testPartition(0), Config{})
			must(t, err)
			tc.work(t, l)
			must(t, l.Close(false))
			l, _, err = d.OpenLog(testPartition(0), Config{})
			must(t, err)
			if l.SegmentCount() == 2 {
				appendTo(t, l, 1, 2, 2, 100)
				_, err = l.Sync()
				must(t, err)
			}
			durable := l.DurableEnd()
			if durable != 4 {
				t.Fatalf("durable up to %d", durable)
			}
			for seed := range uint64(20) {
				crashed := mem.Clone(seed).Crash()
				l, report, err := openTestDir(t, crashed).OpenLog(testPartition(0), Config{})
				must(t, err)
				if l.LogEndOffset() < durable {
					t.Fatalf("power loss %d: it ends at %d, %d was durable: %+v", seed, l.LogEndOffset(), durable, report)
				}
			}
		})
	}
}

func killed(_ *testing.T, _ *Log, _ *Dir, mem *fsys.Mem) *fsys.Mem { return mem.CrashProcess() }

func shutDown(t *testing.T, l *Log, d *Dir, mem *fsys.Mem) *fsys.Mem {
	t.Helper()
	must(t, l.Close(true))
	must(t, d.MarkClean())
	must(t, d.Close())
	return mem.CrashProcess()
}

func rollAfterSync(t *testing.T, l *Log) {
	t.Helper()
	if l.LogEndOffset() != l.DurableEnd() {
		t.Fatal("not durable")
	}
	must(t, l.Roll())
}

// A damaged log says of no more that it is durable than what is: what lies behind the damage is synced at the opening as in any
// log, and what recovery has cut there does not come back.
func TestDamagedLogIsSyncedAtTheOpening(t *testing.T) {
	mem := fsys.NewMem(4, fsys.MemOptions{})
	d := openTestDir(t, mem)
	cfg := Config{SegmentBytes: 1000, IndexIntervalBytes: 100}
	l, err := d.CreateLog(testPartition(0), cfg)
	must(t, err)
	for i := range 7 {
		appendTo(t, l, 1, i, 2, 150)
	}
	point, err := l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: point}))
	first := l.segs[len(l.segs)-1].logName()
	for i := range 3 {
		appendTo(t, l, 1, 7+i, 2, 150)
	}
	end := l.LogEndOffset()
	must(t, l.Close(false))
	must(t, mem.Flip(first, batchMagicAt, 0)) // below the recovery point, in the segment that holds it

	l, report, err := d.OpenLog(testPartition(0), cfg)
	must(t, err)
	if report.Damage == nil || l.LogEndOffset() != end {
		t.Fatalf("end %d: %+v", l.LogEndOffset(), report)
	}
	durable := l.DurableEnd()
	for seed := range uint64(20) {
		l, report, err := openTestDir(t, mem.Clone(seed).Crash()).OpenLog(testPartition(0), cfg)
		must(t, err)
		if l.LogEndOffset() < durable {
			t.Fatalf("power loss %d: it ends at %d, %d was durable: %+v", seed, l.LogEndOffset(), durable, report)
		}
	}
}

// A clean close tells the journal where the log begins, without a sync. Opened again by the same process, it loses no segment below that
// before the journal is durable: after a power loss the log would begin before its first segment.
func TestReopeningDropsNothingThatTheJournalMayForget(t *testing.T) {
	mem := fsys.NewMem(5, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l := journaledLog(t, d, 0, Config{})
	must(t, d.Checkpoint(LogCheckpoint{Log: l}))
	must(t, l.Roll())
	appendTo(t, l, 1, 1, 2, 100)
	must(t, l.Trim(1))
	must(t, l.Close(true))
	l, _, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if _, err := mem.Stat(l.path + "/" + fileName(0, segmentSuffix)); !fsys.IsNotExist(err) {
		t.Fatalf("the trimmed segment: %v", err)
	}
	for seed := range uint64(20) {
		_, report, err := openTestDir(t, mem.Clone(seed).Crash()).OpenLog(testPartition(0), Config{})
		if must(t, err); report.Damage != nil || report.LogStartOffset > 1 {
			t.Fatalf("power loss %d: %+v, %+v", seed, report, report.Damage)
		}
	}
}
