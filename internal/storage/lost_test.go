package storage

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// R6: what an opening finds lost is told again by every later one, wherever in between the process or the machine dies, until
// it is on record.
func TestR6LossesAreToldUntilTheyAreRecorded(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, mem *fsys.Mem, d *Dir, l *Log) *fsys.Mem{
		"cut": func(t *testing.T, mem *fsys.Mem, _ *Dir, l *Log) *fsys.Mem {
			mem = mem.CrashProcess()
			f, err := mem.Open(l.active().logName())
			must(t, err)
			must(t, f.Truncate(l.pos)) // without what was preallocated
			_, err = f.Append(slices.Repeat([]byte{0xa5}, 300))
			must(t, errors.Join(err, f.SyncData(), f.Close()))
			return mem
		},
		"below the recovery point": func(t *testing.T, mem *fsys.Mem, d *Dir, l *Log) *fsys.Mem {
			must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 4}))
			mem = mem.CrashProcess()
			f, err := mem.Open(l.active().logName())
			must(t, err)
			must(t, errors.Join(f.Truncate(0), f.SyncData(), f.Close()))
			return mem
		},
		"first segment": func(t *testing.T, mem *fsys.Mem, _ *Dir, l *Log) *fsys.Mem {
			must(t, l.Roll())
			appendTo(t, l, 1, 3, 2, 10)
			_, err := l.Sync()
			must(t, err)
			mem = mem.CrashProcess()
			must(t, errors.Join(mem.Remove(l.segs[0].logName()), mem.SyncDir(l.path)))
			return mem
		},
		"failed sync": func(t *testing.T, mem *fsys.Mem, _ *Dir, l *Log) *fsys.Mem {
			appendTo(t, l, 1, 3, 2, 10)
			mem.FailAt(mem.Ops()+1, syscall.EIO)
			if _, err := l.Sync(); !errors.Is(err, ErrSyncFailed) {
				t.Fatal(err)
			}
			return mem.CrashProcess()
		},
		"gone": func(t *testing.T, mem *fsys.Mem, d *Dir, l *Log) *fsys.Mem {
			must(t, d.Checkpoint(LogCheckpoint{Log: l}))
			mem = mem.CrashProcess()
			must(t, errors.Join(mem.RemoveAll(l.path), mem.SyncDir("data/topics/"+l.tp.TopicID.String())))
			return mem
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := fsys.NewMem(1, fsys.MemOptions{})
			d := openTestDir(t, mem)
			l, err := d.CreateLog(testPartition(0), Config{})
			must(t, err)
			appendTo(t, l, 1, 1, 2, 10)
			appendTo(t, l, 1, 2, 2, 10)
			_, err = l.Sync()
			must(t, err)
			other, err := d.CreateLog(testPartition(1), Config{})
			must(t, err)
			appendTo(t, other, 1, 1, 2, 10)
			_, err = other.Sync()
			must(t, err)
			mem = lose(t, mem, d, l)
			for k, crashed := int64(1), true; crashed; k++ {
				for _, power := range []bool{false, true} {
					dying := mem.Clone(uint64(k)) //nolint:gosec // a count
					dying.CrashAt(dying.Ops() + k)
					_, _, err := findLost(dying)
					if crashed = errors.Is(err, fsys.ErrCrashed); !crashed {
						must(t, err)
					}
					next := dying.CrashProcess
					if power {
						next = dying.Crash
					}
					if told, _, err := findLost(next()); err != nil || !told {
						t.Fatalf("dead at operation %d (power %t): told %t, %v", k, power, told, err)
					}
				}
			}
			told, d, err := findLost(mem)
			if err != nil || !told {
				t.Fatalf("told %t, %v", told, err)
			}
			must(t, d.LossesRecorded())
			if told, _, err := findLost(mem.Crash()); err != nil || told {
				t.Fatalf("on record: told %t, %v", told, err)
			}
		})
	}
}

// findLost opens the directory and its logs, and says whether partition 0 is told lost.
func findLost(mem *fsys.Mem) (told bool, d *Dir, err error) {
	if d, err = OpenDir(mem, "data", testDirOptions()); err != nil {
		return false, nil, err
	}
	told = slices.Contains(d.Report().MissingLogs, testPartition(0))
	tps, err := d.Logs()
	if err != nil {
		return false, nil, err
	}
	for _, tp := range tps {
		_, report, err := d.OpenLog(tp, Config{})
		if err != nil {
			return false, nil, fmt.Errorf("open %s: %w", tp, err)
		}
		told = told || (tp == testPartition(0) && report.LostData())
	}
	return told, d, nil
}

// A write of the journal that a crash has cut short was promised to nobody: that a log lacks its first segment shows beside one, too.
func TestATornJournalHidesNoLostBeginning(t *testing.T) {
	for _, torn := range []bool{false, true} {
		mem := fsys.NewMem(1, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), Config{})
		must(t, err)
		appendTo(t, l, 1, 1, 2, 10)
		must(t, l.Roll())
		appendTo(t, l, 1, 2, 2, 10)
		_, err = l.Sync()
		must(t, err)
		must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 4}))
		mem = mem.CrashProcess()
		must(t, mem.Remove(l.segs[0].logName()))
		if torn {
			f, err := mem.Open("data/" + journalName)
			must(t, err)
			_, err = f.Append(appendFrame(nil, journalFrameLost, testPartition(1))[:20])
			must(t, errors.Join(err, f.Close()))
		}
		d, l, report := reopened(t, mem, 0, Config{})
		if d.Report().JournalTorn != torn || report.Damage == nil || report.Damage.From != 0 || report.Damage.To != 2 || l.LogStartOffset() != 0 {
			t.Errorf("torn %t: [%d, %d), damaged %+v", torn, l.LogStartOffset(), l.LogEndOffset(), report.Damage)
		}
	}
}
