package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage/syncjournal"
)

// journaledLog makes a log whose names are durable.
func journaledLog(t *testing.T, d *Dir, partition int32, cfg Config) *Log {
	t.Helper()
	l, err := d.CreateLog(testPartition(partition), cfg)
	must(t, err)
	appendTo(t, l, 1, 0, 1, 50)
	_, err = l.Sync()
	must(t, err)
	return l
}

// onlyJournaled checks that the log is durable, and that its own files are not what makes it so.
func onlyJournaled(t *testing.T, l *Log) {
	t.Helper()
	if l.DurableEnd() != l.LogEndOffset() || l.FiledEnd() >= l.DurableEnd() {
		t.Fatalf("durable to %d, filed to %d of %d", l.DurableEnd(), l.FiledEnd(), l.LogEndOffset())
	}
}

// reopened opens directory and log after a crash; nothing may be lost.
func reopened(t *testing.T, mem *fsys.Mem, partition int32, cfg Config) (*Dir, *Log, RecoveryReport) {
	t.Helper()
	d := openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(partition), cfg)
	must(t, err)
	return d, l, report
}

// What the checkpoints say is older than what the journal brings back: batches of epochs that they do not know are no damage, and
// the starts of the epochs are those of their first batches, also in segments that were sealed since.
func TestReplayReachesBehindTheCheckpoint(t *testing.T) {
	for _, roll := range []bool{false, true} {
		mem := fsys.NewMem(3, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l := journaledLog(t, d, 0, Config{})
		must(t, d.Checkpoint(LogCheckpoint{Log: l}))
		for i := range 6 {
			appendTo(t, l, 2+model.LeaderEpoch(i), 1+i, 2, 100)
			if i == 2 {
				_, err := l.Sync() // filed, and not in the checkpoints
				must(t, err)
				if roll {
					must(t, l.Roll())
					_, err := l.Sync()
					must(t, err)
				}
			}
			appendTo(t, l, 3+model.LeaderEpoch(i), 10+i, 1, 100)
		}
		appendTo(t, l, 9, 20, 2, 100)
		if roll {
			_, err := l.Sync()
			must(t, err)
			must(t, l.Roll())
			appendTo(t, l, 10, 21, 1, 100)
			_, err = l.Sync()
			must(t, err)
		}
		appendTo(t, l, 11, 22, 2, 100)
		must(t, d.SyncJournaled(l))
		onlyJournaled(t, l)
		want, epochs := readAll(t, l, 1<<20), l.EpochStarts()
		_, l, report := reopened(t, mem.Crash(), 0, Config{})
		if report.LostData() || !bytes.Equal(readAll(t, l, 1<<20), want) || report.RecoveryPoint != l.LogEndOffset() {
			t.Fatalf("roll %t: %+v", roll, report)
		}
		if got := l.EpochStarts(); fmt.Sprint(got) != fmt.Sprint(epochs) {
			t.Fatalf("roll %t: epochs %v, want %v", roll, got, epochs)
		}
	}
}

// Where something below what the journal vouches for is gone, the log says so, at every opening until that is on record.
func TestReplayFindsWhatIsMissing(t *testing.T) {
	for _, what := range []string{"segment", "earlier segment", "log", "byte"} {
		t.Run(what, func(t *testing.T) {
			mem := fsys.NewMem(5, fsys.MemOptions{})
			d := openTestDir(t, mem)
			l := journaledLog(t, d, 0, Config{})
			if what == "earlier segment" {
				for range 2 {
					must(t, l.Roll())
					appendTo(t, l, 1, 1, 1, 100)
					_, err := l.Sync()
					must(t, err)
				}
			}
			appendTo(t, l, 1, 2, 2, 100)
			must(t, d.SyncJournaled(l))
			onlyJournaled(t, l)
			mem = mem.Crash()
			switch what {
			case "segment":
				must(t, mem.Remove(l.active().logName()))
			case "earlier segment":
				must(t, mem.Remove(l.segs[1].logName()))
			case "byte":
				must(t, mem.Flip(l.active().logName(), 30, 3))
			case "log":
				must(t, mem.RemoveAll(l.path))
			}
			must(t, mem.SyncFS("data"))
			for range 2 {
				d := openTestDir(t, mem)
				lost := len(d.Report().MissingLogs) == 1
				if what != "log" {
					_, report, err := d.OpenLog(testPartition(0), Config{})
					must(t, err)
					lost = report.LostData()
				}
				if !lost {
					t.Fatalf("nothing is said of the loss: %+v", d.Report())
				}
				mem = mem.Crash()
			}
		})
	}
}

// A damaged journal may have held anything: every log gives up its seats, once.
func TestDamagedJournalCostsSeats(t *testing.T) {
	mem := fsys.NewMem(7, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, other := journaledLog(t, d, 0, Config{}), journaledLog(t, d, 1, Config{})
	for i := range 3 {
		appendTo(t, l, 1, 1+i, 2, 100)
		must(t, d.SyncJournaled(l))
	}
	mem = mem.Crash()
	name := "data/" + sharedName + "/1.journal"
	if _, err := mem.Stat(name); err != nil {
		t.Fatal(err)
	}
	must(t, mem.Flip(name, 4096+100, 1)) // in the first of three rounds
	d = openTestDir(t, mem)
	if len(d.Report().Replay.Damage) != 1 {
		t.Fatalf("%+v", d.Report())
	}
	for i := range int32(2) {
		if _, report, err := d.OpenLog(testPartition(i), Config{}); err != nil || !report.LostData() {
			t.Fatalf("log %d: %+v, %v", i, report, err)
		}
	}
	must(t, d.LossesRecorded())
	if _, _, report := reopened(t, mem.Crash(), 1, Config{}); report.LostData() {
		t.Fatalf("after the loss was recorded: %+v of %s", report, other.tp)
	}
}

// A failed sync of the journal is a failed sync of all logs that waited for it, for ever.
func TestFailedJournalFailsItsLogs(t *testing.T) {
	mem := fsys.NewMem(9, fsys.MemOptions{})
	d := openTestDir(t, mem)
	a, b, idle := journaledLog(t, d, 0, Config{}), journaledLog(t, d, 1, Config{}), journaledLog(t, d, 2, Config{})
	appendTo(t, a, 1, 1, 1, 100)
	must(t, d.SyncJournaled(a))
	appendTo(t, a, 1, 2, 1, 100)
	appendTo(t, b, 1, 2, 1, 100)
	durable := a.DurableEnd()
	mem.SetInjector(func(op fsys.Op, path string) error {
		if op == fsys.OpSyncData && bytes.Contains([]byte(path), []byte(sharedName)) {
			return fsys.ErrSyncFailed
		}
		return nil
	})
	if err := d.SyncJournaled(a, b, idle); !errors.Is(err, syncjournal.ErrFailed) {
		t.Fatal(err)
	}
	mem.SetInjector(nil)
	for _, l := range []*Log{a, b} {
		if !errors.Is(l.Failed(), ErrSyncFailed) {
			t.Errorf("%s: %v", l.tp, l.Failed())
		}
	}
	if a.DurableEnd() != durable || idle.Failed() != nil {
		t.Errorf("durable to %d, was to %d; %v", a.DurableEnd(), durable, idle.Failed())
	}
	appendTo(t, idle, 1, 3, 1, 100)
	if err := d.SyncJournaled(idle); !errors.Is(err, syncjournal.ErrFailed) || !errors.Is(idle.Failed(), ErrSyncFailed) {
		t.Errorf("a failed journal took more: %v, %v", err, idle.Failed())
	}
	d = openTestDir(t, mem.CrashProcess())
	if _, report, err := d.OpenLog(testPartition(0), Config{}); err != nil || !report.LostData() || report.LogEndOffset < durable {
		t.Errorf("%+v, %v", report, err)
	}
}

// failedBehindJournal has a log that only the journal makes durable, up to the end returned, and whose own sync has failed then.
func failedBehindJournal(t *testing.T, seed uint64) (mem *fsys.Mem, d *Dir, l *Log, durable int64) {
	t.Helper()
	mem = fsys.NewMem(seed, fsys.MemOptions{})
	d = openTestDir(t, mem)
	l = journaledLog(t, d, 0, Config{})
	for i := range 4 {
		appendTo(t, l, 1, 1+i, 2, 1500)
	}
	must(t, d.SyncJournaled(l))
	onlyJournaled(t, l)
	durable = l.DurableEnd()
	appendTo(t, l, 1, 9, 1, 100)
	mem.FailAt(mem.Ops()+1, syscall.EIO)
	if _, err := l.Sync(); !errors.Is(err, ErrSyncFailed) {
		t.Fatal(err)
	}
	return mem, d, l, durable
}

// After a failed sync the page cache may show what the disk does not have: what the journal holds is written in any case.
func TestReplayBelievesNoPageAfterAFailedSync(t *testing.T) {
	for seed := range uint64(20) {
		mem, _, _, durable := failedBehindJournal(t, seed)
		mem = mem.CrashProcess() // all pages show what was written
		_, l, _ := reopened(t, mem, 0, Config{})
		if l.LogEndOffset() < durable {
			t.Fatalf("seed %d: it ends at %d of %d", seed, l.LogEndOffset(), durable)
		}
		end := l.DurableEnd()
		if _, l, _ = reopened(t, mem.Crash(), 0, Config{}); l.LogEndOffset() < end {
			t.Fatalf("seed %d: %d was no durable end, it was %d", seed, end, l.LogEndOffset())
		}
	}
}

// On a disk that others have filled to the last byte the reserve makes room for what the journal brings back.
func TestReplayOnAFullDisk(t *testing.T) {
	mem := fsys.NewMem(11, fsys.MemOptions{Capacity: 1 << 20})
	options := testDirOptions()
	options.ReserveBytes = spaceReserve
	d, err := OpenDir(mem, "data", options)
	must(t, err)
	l := journaledLog(t, d, 0, Config{NoPreallocation: true})
	must(t, mem.SyncFS("data")) // the reserve too
	for i := range 5 {
		appendTo(t, l, 1, 1+i, 1, 5000)
		must(t, d.SyncJournaled(l))
	}
	onlyJournaled(t, l)
	want := readAll(t, l, 1<<20)
	mem = mem.Crash()
	ballast, err := mem.Create("ballast")
	must(t, err)
	for size := 4096; size > 0; {
		if _, err := ballast.Append(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	must(t, ballast.SyncData())
	d, err = OpenDir(mem, "data", options)
	must(t, err)
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.LostData() || !bytes.Equal(readAll(t, l, 1<<20), want) {
		t.Fatalf("%+v", report)
	}
}

// fullDisk is a disk after a power loss that took all that was not synced of a log, and that others have filled since: its batches lie in
// the sync journal alone, in both of its files or in one.
func fullDisk(t *testing.T, both bool) (mem *fsys.Mem, want []byte) {
	t.Helper()
	mem = fsys.NewMem(12, fsys.MemOptions{Capacity: 4 << 20})
	d, err := OpenDir(mem, "data", testDirOptions())
	must(t, err)
	l := journaledLog(t, d, 0, Config{NoPreallocation: true})
	name := l.segs[0].logName()
	filed, err := mem.Stat(name)
	must(t, err)
	for i := 0; i < 5 || d.shared.behind() != both; i++ {
		if i == 1000 {
			t.Fatal("the journal never turned to its other file")
		}
		appendTo(t, l, 1, 1+i, 1, 5000)
		must(t, d.SyncJournaled(l))
	}
	onlyJournaled(t, l)
	want = readAll(t, l, 8<<20)
	mem = mem.Crash()
	f, err := mem.Open(name)
	must(t, err)
	must(t, f.Truncate(filed.Size))
	must(t, f.SyncData())
	ballast, err := mem.Create("ballast")
	must(t, err)
	for size := 4096; size > 0; {
		if _, err := ballast.Append(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	must(t, ballast.Truncate(ballast.Position()-8<<10)) // for checkpoints.journal
	must(t, errors.Join(ballast.SyncData(), ballast.Close()))
	return mem, want
}

// Where there is no reserve, the journal's idle file makes room for what its other one brings back; a crash at any operation of that
// loses nothing.
func TestReplayIntoTheRoomOfTheIdleFile(t *testing.T) {
	disk, want := fullDisk(t, false)
	crashes := int64(0)
	for crashed := true; crashed; crashes++ {
		k := crashes + 1
		mem := disk.Clone(uint64(k)) //nolint:gosec // positive
		mem.CrashAt(k)
		_, err := OpenDir(mem, "data", testDirOptions())
		if crashed = errors.Is(err, fsys.ErrCrashed); err != nil && !crashed {
			t.Fatalf("operation %d: %v", k, err)
		}
		d, err := OpenDir(mem.Crash(), "data", testDirOptions())
		must(t, err)
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.LostData() || !bytes.Equal(readAll(t, l, 8<<20), want) {
			t.Fatalf("crashed at operation %d: %+v", k, report)
		}
	}
	if crashes < 50 {
		t.Fatalf("%d crashes", crashes)
	}
}

// Many writers on many logs, by the syncer: what it has acknowledged is there after a loss of power, while the journal turned often;
// and once nobody writes, all of it lies in the logs' own files.
func TestSyncerByTheJournal(t *testing.T) {
	mem := fsys.NewMem(13, fsys.MemOptions{})
	d := openTestDir(t, mem)
	must(t, d.shared.makeReady())
	group := lifecycle.New(t.Context(), "test", slog.New(slog.DiscardHandler))
	waiting := &waitingLogs{waits: map[*Log][]durableWait{}}
	s := newSyncer(2, waiting.durable)
	s.together = 4
	s.start(group)
	var logs []*Log
	for i := range int32(40) {
		logs = append(logs, journaledLog(t, d, i, Config{SegmentBytes: 5000}))
	}
	for round := range 40 {
		waits := make([]chan struct{}, len(logs))
		for i, l := range logs {
			_, res := appendTo(t, l, 1, round, 1, 100+i)
			waits[i] = waiting.add(l, res.LogEndOffset)
			s.Request(l)
		}
		for _, w := range waits {
			<-w
		}
	}
	if d.shared.written.Load() == 0 || d.shared.journal.Generation() < 3 {
		t.Fatalf("%d rounds, generation %d: the journal was hardly used", d.shared.written.Load(), d.shared.journal.Generation())
	}
	must(t, group.Stop(context.Background()))
	crashed := openTestDir(t, mem.Crash())
	for _, l := range logs {
		again, report, err := crashed.OpenLog(l.tp, Config{})
		if must(t, err); again.LogEndOffset() != l.DurableEnd() || report.Damage != nil || report.LostBelowRecoveryPoint() {
			t.Fatalf("log %s ends at %d of %d: %+v", l.tp, again.LogEndOffset(), l.DurableEnd(), report)
		}
	}
}

// Nothing is left to the journal of a directory that has become quiet, or that was closed cleanly.
func TestQuietDirectoryLeavesTheJournal(t *testing.T) {
	mem := fsys.NewMem(17, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l := journaledLog(t, d, 0, Config{})
	appendTo(t, l, 1, 1, 1, 100)
	must(t, d.SyncJournaled(l))
	must(t, d.Settle())
	onlyJournaled(t, l) // a round has come since the last look
	must(t, d.Settle())
	if l.FiledEnd() != l.LogEndOffset() || d.shared.live() {
		t.Fatalf("filed to %d of %d, live %t", l.FiledEnd(), l.LogEndOffset(), d.shared.live())
	}
	ops := mem.Ops()
	must(t, d.Settle())
	if mem.Ops() != ops {
		t.Error("a quiet directory costs I/O")
	}
	for i := range settleWait + 2 { // never quiet
		appendTo(t, l, 1, 2+i, 1, 100)
		must(t, d.SyncJournaled(l))
		must(t, d.Settle())
	}
	if l.FiledEnd() < 10 {
		t.Errorf("filed to %d: a busy directory never files", l.FiledEnd())
	}
	appendTo(t, l, 1, 40, 1, 100)
	must(t, d.SyncJournaled(l))
	onlyJournaled(t, l)
	must(t, l.Close(true))
	must(t, d.MarkClean())
	must(t, d.Close())
	d = openTestDir(t, mem)
	if r := d.Report(); r.Replay.Frames != 0 || !r.CleanShutdown {
		t.Fatalf("%+v", r)
	}
}

// A look at the directory without a broker tells what would be replayed, and takes what the segments lack for no damage.
func TestVerifyKnowsTheJournal(t *testing.T) {
	for seed := range uint64(10) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l := journaledLog(t, d, 0, Config{})
		for i := range 3 {
			appendTo(t, l, 1, 1+i, 2, 2500)
			must(t, d.SyncJournaled(l))
		}
		must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
		onlyJournaled(t, l)
		mem = mem.Crash()
		verify := func() (notes, faults []Finding) {
			o, err := OpenOffline(mem, "data")
			must(t, err)
			_, err = o.Verify(func(f Finding) {
				if f.Severity == SeverityFault {
					faults = append(faults, f)
				} else if f.File == "data/"+sharedName {
					notes = append(notes, f)
				}
			})
			must(t, err)
			return notes, faults
		}
		if notes, faults := verify(); len(notes) != 1 || len(faults) > 0 || notes[0].Offset != l.LogEndOffset()-1 {
			t.Fatalf("seed %d: %+v, %+v", seed, notes, faults)
		}
		o, err := OpenOffline(mem, "data")
		must(t, err)
		if logs, size, err := o.ToReplay(); err != nil || logs != 1 || size < 3*5000 {
			t.Fatalf("%d bytes of %d logs, %v", size, logs, err)
		}
		must(t, mem.Flip("data/"+sharedName+"/1.journal", 4096+200, 1))
		if _, faults := verify(); len(faults) == 0 {
			t.Fatalf("seed %d: nothing is said of the damage", seed)
		}
	}
}

// A cleaned segment takes the place of another under the same name: what the journal holds of that one must not come back into it.
func TestCompactionLeavesTheJournal(t *testing.T) {
	for seed := range uint64(10) {
		x := newKeyedLog(t, t.Fatalf, fsys.NewMem(seed, fsys.MemOptions{}), Config{})
		must(t, x.create())
		for i := range 8 {
			x.put(t, -1, fmt.Sprint("key", i%2), []byte(fmt.Sprint("value", i)))
		}
		must(t, x.dir.SyncJournaled(x.log))
		onlyJournaled(t, x.log)
		x.durable = x.log.DurableEnd()
		must(t, x.checkpoint(x.end))
		must(t, x.log.Roll())
		must(t, x.clean(NewCleaner(CleanerOptions{}), x.end, math.MaxInt))
		x.check()
		want := x.keysOf()
		x.mem = x.mem.Crash()
		x.reopen(true)
		x.check()
		if got := x.keysOf(); len(got) != 2 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("seed %d: %q, want %q", seed, got, want)
		}
	}
}

// A file system that does not say how much room it has does without the journal; no log has failed by that.
func TestNoRoomKnownIsNoFailure(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l := journaledLog(t, d, 0, Config{})
	asked := 0
	mem.SetInjector(func(op fsys.Op, _ string) error {
		if op == fsys.OpFreeBytes {
			asked++
			return syscall.EIO
		}
		return nil
	})
	appendTo(t, l, 1, 1, 1, 100)
	must(t, d.SyncJournaled(l))
	if l.Failed() != nil || l.FiledEnd() != l.LogEndOffset() || asked == 0 {
		t.Fatalf("%v, filed to %d of %d; asked %d times", l.Failed(), l.FiledEnd(), l.LogEndOffset(), asked)
	}
	mem.SetInjector(nil)
	appendTo(t, l, 1, 2, 1, 100)
	must(t, d.SyncJournaled(l))
	onlyJournaled(t, l)
}
