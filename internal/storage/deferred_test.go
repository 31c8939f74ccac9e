package storage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// Where nothing makes room for what the journal brings back, the directory opens all the same, without the log, again and again. Once there
// is room it opens by itself, or at the next start, and all of it is there.
func TestReplayWithoutAnyRoom(t *testing.T) {
	for _, restart := range []bool{false, true} {
		mem, want := fullDisk(t, true)
		var d *Dir
		for range 3 {
			d = openTestDir(t, mem)
			var deferred *DeferredError
			_, _, err := d.OpenLog(testPartition(0), Config{})
			if !errors.As(err, &deferred) || !errors.Is(err, fsys.ErrNoSpace) || deferred.Restart || deferred.LackBytes < int64(len(want))/2 {
				t.Fatalf("opened on a disk without room: %v", err)
			}
			if r := d.Report().Replay; r.Deferred != 1 || r.DeferredBytes != deferred.LackBytes || r.Logs != 0 {
				t.Fatalf("%+v", r)
			}
			must(t, d.Settle())
			must(t, d.MarkClean())
			if restart {
				mem = mem.Crash()
				continue
			}
			break
		}
		if _, err := d.StrayLog(testPartition(0)); !restart && !errors.Is(err, fsys.ErrNoSpace) {
			t.Fatal(err)
		}
		must(t, mem.Remove("ballast"))
		if restart {
			d = openTestDir(t, mem)
		} else {
			must(t, d.Settle())
		}
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.LostData() || !bytes.Equal(readAll(t, l, 8<<20), want) {
			t.Fatalf("%+v", report)
		}
		if logs, lack := d.Deferred(); logs != 0 || lack != 0 {
			t.Fatalf("%d logs lack %d bytes", logs, lack)
		}
		must(t, d.shared.makeReady())
		appendTo(t, l, 1, 9, 1, 100)
		must(t, d.SyncJournaled(l))
		onlyJournaled(t, l) // the journal is in use again
	}
}

// Deleting a log that stays closed makes room, and lets go of what the journal holds of it: a new one of its name gets nothing of that.
func TestDeferredLogIsDeleted(t *testing.T) {
	for _, crash := range []bool{false, true} {
		mem, _ := fullDisk(t, true)
		d := openTestDir(t, mem)
		must(t, d.DeleteLog(testPartition(0)))
		if crash {
			mem = mem.Crash()
			d = openTestDir(t, mem)
		} else {
			must(t, d.Settle())
		}
		if logs, _ := d.Deferred(); logs != 0 || len(d.Report().MissingLogs) > 0 {
			t.Fatalf("%d logs are deferred, %v are missing", logs, d.Report().MissingLogs)
		}
		must(t, mem.Remove("ballast"))
		l, err := d.CreateLog(testPartition(0), Config{})
		must(t, err)
		data, _ := appendTo(t, l, 5, 1, 1, 100)
		_, err = l.Sync()
		must(t, err)
		_, l, report := reopened(t, mem.Crash(), 0, Config{})
		if report.LostData() || !bytes.Equal(readAll(t, l, 1<<20), data) {
			t.Fatalf("%+v", report)
		}
	}
}

// Where a sync has failed before, or the journal is damaged, it is not known what the next start finds: no log is opened, and none made,
// until all of it is put back.
func TestNothingIsOpenedWhereTheJournalIsUnsure(t *testing.T) {
	for _, what := range []string{"damage", "failed sync"} {
		mem, _ := fullDisk(t, true)
		if what == "damage" {
			must(t, mem.Flip("data/"+sharedName+"/1.journal", 4096+200, 1))
		} else {
			mem.SetCapacity(0)
			meta, err := readFile(mem, "data/"+metaFileName, maxMetaBytes)
			must(t, err)
			m, err := decodeMeta(meta)
			must(t, err)
			m.SyncFailed = true
			must(t, writeFileAtomic(mem, "data/"+metaFileName, encodeMeta(m)))
			mem.SetCapacity(4 << 20)
		}
		d := openTestDir(t, mem)
		var deferred *DeferredError
		if _, _, err := d.OpenLog(testPartition(0), Config{}); !errors.As(err, &deferred) || !deferred.Restart {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := d.CreateLog(testPartition(7), Config{}); !errors.As(err, &deferred) {
			t.Fatalf("%s: %v", what, err)
		}
		must(t, mem.Remove("ballast"))
		must(t, d.Settle())
		if _, _, err := d.OpenLog(testPartition(0), Config{}); !errors.As(err, &deferred) {
			t.Fatalf("%s: %v", what, err)
		}
		d = openTestDir(t, mem.Crash())
		if _, report, err := d.OpenLog(testPartition(0), Config{}); err != nil || !report.LostData() {
			t.Fatalf("%s: %v, %+v", what, err, report)
		}
	}
}

// deferredSweep is a disk after a power loss, filled by others: three logs lack batches that lie in both files of the sync journal, the
// first many, and it has room for so many bytes.
func deferredSweep(t *testing.T, seed uint64, room int64) *sharedSweep {
	t.Helper()
	x := &sharedSweep{t: t, mem: fsys.NewMem(seed, fsys.MemOptions{Capacity: 512 << 10})}
	x.dir = openTestDir(t, x.mem)
	var filed []int64
	for i := range x.logs {
		s := &x.logs[i]
		*s = sharedLog{epoch: 1, resetTo: -1}
		var err error
		s.log, err = x.dir.CreateLog(x.partition(i), Config{NoPreallocation: true})
		must(t, err)
		must(t, errors.Join(x.step('a', i), x.step('a', i), x.step('s', i)))
		info, err := x.mem.Stat(s.log.segs[0].logName())
		must(t, err)
		filed = append(filed, info.Size)
	}
	must(t, x.step('c', 0))
	for !x.dir.shared.behind() {
		must(t, x.append(&x.logs[0], 3000))
		must(t, x.step('a', 1))
		must(t, x.step('a', 2))
		must(t, x.step('J', 0))
	}
	x.mem = x.mem.Crash()
	for i := range x.logs {
		f, err := x.mem.Open(x.logs[i].log.segs[0].logName())
		must(t, err)
		must(t, errors.Join(f.Truncate(filed[i]), f.SyncData(), f.Close()))
	}
	ballast, err := x.mem.Create("ballast")
	must(t, err)
	for size := 4096; size > 0; {
		if _, err := ballast.Append(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	must(t, errors.Join(ballast.Truncate(ballast.Position()-room), ballast.SyncData(), ballast.Close(), x.mem.SyncDir("/")))
	x.dir = nil
	for i := range x.logs {
		x.logs[i].log = nil
	}
	return x.clone(seed)
}

// clone is the same disk and the same knowledge of it.
func (x *sharedSweep) clone(seed uint64) *sharedSweep {
	twin := *x
	twin.mem = x.mem.Clone(seed)
	for i := range twin.logs {
		twin.logs[i].batches = slices.Clone(twin.logs[i].batches)
	}
	return &twin
}

// take opens the directory and those of its logs that it can. Of the others it returns the numbers.
func (x *sharedSweep) take() (deferred []int, err error) {
	if x.dir, err = OpenDir(x.mem, "data", testDirOptions()); err != nil {
		return nil, err
	}
	return x.takeLogs()
}

func (x *sharedSweep) takeLogs() (deferred []int, err error) {
	for i := range x.logs {
		s := &x.logs[i]
		if s.log != nil {
			continue
		}
		var why *DeferredError
		var report RecoveryReport
		s.log, report, err = x.dir.OpenLog(x.partition(i), sharedConfig)
		switch {
		case errors.As(err, &why):
			deferred = append(deferred, i)
		case err != nil && !errors.Is(err, ErrNoLog):
			return nil, err
		case report.Damage != nil || report.LostBelowRecoveryPoint() || report.LostBefore:
			return nil, fmt.Errorf("log %d: %+v", i, report)
		}
	}
	return deferred, nil
}

// deferredScript is what happens while the first log is deferred: ! makes room, and ? some, of which the next w makes use.
type deferredScript struct {
	steps string
	room  int64
}

func deferredScripts() []deferredScript {
	const some = 55 << 10 // for all but the first
	return []deferredScript{
		{"a1 s1 a2 a2 s2 c w", some},
		{"t1 a1 a1 s1 t2 t2 a2 s2 c w t1 a1 s1", some},
		{"r1 a1 a1 s1 r2 a2 s2 c", some},
		{"a1 r1 a1 a1 s1 c ! w a0 s0 a1 j1", some},
		{"d1 a1 a1 s1 y2 a2 a2 s2 c w", some},
		{"m1 c m2 c o1 o2 w R1 s1 a1 s1", some},
		{"t1 a1 s1 ! w t0 a0 s0 a1 a0 J w a0 J", some},
		{"t2 a2 s2 d0 w a0 s0 a1 j1", some},
		{"c w ! w t0 a0 s0 a1 s1 J", 8 << 10},
		{"? w t1 a1 a1 s1 t2 t2 a2 s2 c ! w a0 s0", 8 << 10},
		{"d0 w c t1 a1 s1 J", 8 << 10},
		{"d1 w a1 s1 d2 a2 s2 w ! w a0 j0", 8 << 10},
	}
}

// play runs the steps of a script on what is open, up to the first error.
func (x *sharedSweep) play(script string) error {
	if _, err := x.take(); err != nil {
		return err
	}
	for step := range strings.FieldsSeq(script) {
		i := 0
		if len(step) > 1 {
			i = int(step[1] - '0')
		}
		closed := x.logs[i].log == nil
		var err error
		switch {
		case step == "!":
			err = x.mem.Remove("ballast")
		case step == "?":
			err = x.shrinkBallast(47 << 10)
		case step == "w":
			if err = x.step('w', 0); err == nil {
				_, err = x.takeLogs()
			}
		case step == "c":
			err = x.checkpointOpen()
		case step == "J":
			err = x.journalOpen()
		case closed && step[0] != 'd':
		default:
			err = x.step(step[0], i)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	return nil
}

func (x *sharedSweep) shrinkBallast(by int64) error {
	f, err := x.mem.Open("ballast")
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(f.Position()-by), f.Close())
}

// checkpointOpen is the step c of those logs that are open.
func (x *sharedSweep) checkpointOpen() error {
	var items []LogCheckpoint
	for i := range x.logs {
		if x.logs[i].log != nil {
			items = append(items, LogCheckpoint{Log: x.logs[i].log})
		}
	}
	if err := x.dir.Checkpoint(items...); err != nil {
		return err
	}
	for i := range x.logs {
		if x.logs[i].log != nil {
			x.logs[i].savedStart = x.logs[i].start
		}
	}
	return nil
}

func (x *sharedSweep) journalOpen() error {
	var logs []*Log
	for i := range x.logs {
		if x.logs[i].log != nil {
			logs = append(logs, x.logs[i].log)
		}
	}
	err := x.dir.SyncJournaled(logs...)
	for i := range x.logs {
		if s := &x.logs[i]; s.log != nil && s.log.Failed() == nil && s.log.DurableEnd() == s.end() {
			s.acknowledged()
		}
	}
	return err
}

// Whatever operation a crash hits while a log is deferred, and while it is put back: the directory opens, nothing that was acknowledged is
// lost, and of what was put back nothing comes back once the log has changed.
func TestDeferralSurvivesEveryCrash(t *testing.T) {
	for n, script := range deferredScripts() {
		t.Run(fmt.Sprintf("%d/%s", n, script.steps), func(t *testing.T) {
			t.Parallel()
			disk := deferredSweep(t, 1, script.room)
			count := disk.clone(1)
			begin := count.mem.Ops()
			if err := count.play(script.steps); err != nil {
				t.Fatal(err)
			}
			deferred := 0
			for k := begin + 1; k <= count.mem.Ops()+1; k++ {
				if testing.Short() && k%5 != int64(n%5) {
					continue
				}
				deferred += deferredSweepOnce(t, disk, script, k, false)
				if k%2 == 0 {
					deferred += deferredSweepOnce(t, disk, script, k, true)
				} else {
					deferredErrorOnce(t, disk, script, k, k%4 == 1)
				}
			}
			if deferred == 0 {
				t.Fatal("never was a log deferred after the crash")
			}
		})
	}
}

// deferredSweepOnce returns how many logs were deferred when the directory was opened after the crash.
func deferredSweepOnce(t *testing.T, disk *sharedSweep, script deferredScript, k int64, kill bool) int {
	t.Helper()
	x := disk.clone(uint64(k)) //nolint:gosec // positive
	x.mem.CrashAt(k)
	_ = x.play(script.steps) //nolint:errcheck // the crash
	crash := func() {
		if kill {
			x.mem = x.mem.CrashProcess()
		} else {
			x.mem = x.mem.Crash()
		}
		for i := range x.logs {
			x.logs[i].log = nil
		}
	}
	what := fmt.Sprintf("operation %d, kill %t", k, kill)
	crash()
	x.reopens(t, what)
	deferred, _ := x.dir.Deferred()
	if k%2 == 0 { // a second one, at once
		if !kill {
			must(t, x.dir.LossesRecorded())
		}
		crash()
		x.reopens(t, what+", again")
	}
	if k%3 == 0 {
		crash()
	}
	if _, err := x.mem.Stat("ballast"); err == nil {
		must(t, x.mem.Remove("ballast"))
	}
	if k%3 == 0 {
		x.dir = openTestDir(t, x.mem)
	}
	if !kill { // a power loss may leave whole batches behind a hole, none of them acknowledged
		must(t, x.dir.LossesRecorded())
	}
	if k%3 != 0 {
		must(t, x.dir.Settle())
		for i := range x.logs {
			if l := x.logs[i].log; l != nil {
				must(t, l.Close(true))
			}
		}
	}
	if err := x.verifyLogs(x.dir, true, kill); err != nil {
		t.Fatalf("%s: with room: %v", what, err)
	}
	x.goOn(t)
	crash()
	if err := x.verify(false, kill); err != nil {
		t.Fatalf("%s: and once more: %v", what, err)
	}
	return deferred
}

// deferredErrorOnce lets an operation fail, and the process or the machine die of it. The disk stays full for one more start.
func deferredErrorOnce(t *testing.T, disk *sharedSweep, script deferredScript, k int64, kill bool) {
	t.Helper()
	x := disk.clone(uint64(k)) //nolint:gosec // positive
	x.mem.FailAt(k, fmt.Errorf("injected: %w", syscall.EIO))
	_ = x.play(script.steps) //nolint:errcheck // the fault
	if x.dir != nil && len(x.dir.Report().Replay.Damage) > 0 {
		return // the journal could not be read: all give up their seats
	}
	crash := func() {
		if kill {
			x.mem = x.mem.CrashProcess()
		} else {
			x.mem = x.mem.Crash()
		}
		for i := range x.logs {
			x.logs[i].log = nil
		}
	}
	what := fmt.Sprintf("error at operation %d, kill %t", k, kill)
	crash()
	x.dir = openTestDir(t, x.mem)
	must(t, x.dir.Settle())
	crash()
	if _, err := x.mem.Stat("ballast"); err == nil {
		must(t, x.mem.Remove("ballast"))
	}
	if err := x.verify(false, kill); err != nil {
		t.Fatalf("%s: with room: %v", what, err)
	}
	x.goOn(t)
	crash()
	if err := x.verify(false, kill); err != nil {
		t.Fatalf("%s: and once more: %v", what, err)
	}
}

// reopens opens the directory on a disk that is as full as before. Logs that it opens must hold what they should.
func (x *sharedSweep) reopens(t *testing.T, what string) {
	t.Helper()
	deferred, err := x.take()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if damage := x.dir.Report().Replay.Damage; len(damage) > 0 {
		t.Fatalf("%s: %v", what, damage)
	}
	for i := range x.logs {
		s := &x.logs[i]
		if s.log == nil && !slices.Contains(deferred, i) && s.noted && !s.going {
			t.Fatalf("%s: log %d is gone", what, i)
		}
		if s.log == nil {
			continue
		}
		if err := s.verify(t, s.log); err != nil {
			t.Fatalf("%s: log %d: %v", what, i, err)
		}
	}
}

// A log that never fits keeps none of the others from opening, whichever lacks most.
func TestOnlyWhatDoesNotFitIsDeferred(t *testing.T) {
	x := deferredSweep(t, 3, 55<<10)
	o, err := OpenOffline(x.mem, "data") // which says the same
	must(t, err)
	var closed []string
	_, err = o.Verify(func(f Finding) {
		if strings.Contains(f.Recovery, "stays closed") {
			closed = append(closed, f.What)
		}
	})
	if must(t, err); len(closed) != 1 || !strings.Contains(closed[0], x.partition(0).String()) {
		t.Fatalf("%q", closed)
	}
	deferred, err := x.take()
	if err != nil || !slices.Equal(deferred, []int{0}) {
		t.Fatalf("%v, %v", deferred, err)
	}
	for i := 1; i < 3; i++ {
		must(t, x.logs[i].verify(t, x.logs[i].log))
		must(t, x.step('a', i))
		must(t, x.step('s', i))
	}
}

// The same on a real file system of 2 MiB, which others fill.
func TestRealDiskWithoutRoomForTheReplay(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no file system of its own: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil { //nolint:noctx // after the test's end
			t.Errorf("%v %s", err, out)
		}
	})
	path, ballast, options := filepath.Join(dir, "data"), filepath.Join(dir, "ballast"), testDirOptions()
	options.ReserveBytes = 40 << 10
	d, err := OpenDir(fsys.OS(), path, options)
	must(t, err)
	big, small := journaledLog(t, d, 0, Config{NoPreallocation: true}), journaledLog(t, d, 1, Config{NoPreallocation: true})
	filed, err := fsys.OS().Stat(big.segs[0].logName())
	must(t, err)
	for i := 0; !d.shared.behind(); i++ {
		appendTo(t, big, 1, 1+i, 1, 5000)
		appendTo(t, small, 1, 1+i, 1, 50)
		must(t, d.SyncJournaled(big, small))
	}
	want, wantSmall := readAll(t, big, 1<<20), readAll(t, small, 1<<20)
	for _, l := range []*Log{big, small} { // as a power loss does
		must(t, os.Truncate(l.segs[0].logName(), filed.Size))
	}
	must(t, errors.Join(d.lock.Close(), d.journal.file.Close(), d.shared.close()))
	fillUp(t, fsys.OS(), ballast)
	for range 2 {
		d, err = OpenDir(fsys.OS(), path, options)
		must(t, err)
		if logs, lack := d.Deferred(); logs == 0 || lack < 20<<10 {
			t.Fatalf("%d logs lack %d bytes", logs, lack)
		}
		must(t, d.Close())
	}
	d, err = OpenDir(fsys.OS(), path, options)
	must(t, err)
	must(t, os.Remove(ballast))
	must(t, d.Settle())
	for tp, want := range map[int32][]byte{0: want, 1: wantSmall} {
		l, report, err := d.OpenLog(testPartition(tp), Config{})
		must(t, err)
		if report.LostData() || !bytes.Equal(readAll(t, l, 1<<20), want) {
			t.Fatalf("%+v", report)
		}
	}
	must(t, d.Close())
}
