package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// The side files that only some directories have: each state here adds some to those that flipStates makes.

// compactedFlipState is a log that was compacted, in a directory with a reserve and the time that retention looked last.
func compactedFlipState(t testing.TB) *flipState {
	t.Helper()
	x := newKeyedLog(t, t.Fatalf, fsys.NewMem(6, fsys.MemOptions{}), flipConfig)
	o := testDirOptions()
	o.ReserveBytes, o.MinFreeBytes = 300, 1000
	var err error
	x.dir, err = OpenDir(x.mem, "data", o)
	must(t, err)
	x.log, err = x.dir.CreateLog(testPartition(0), x.cfg)
	must(t, err)
	_, err = x.log.Sync()
	must(t, err)
	for i := range 60 {
		value := bytes.Repeat([]byte{byte(i)}, 80)
		if i%7 == 0 {
			value = nil
		}
		x.put(t, int64(i%3-1), fmt.Sprintf("key-%d", i%25), value)
	}
	x.seal(t)
	must(t, x.clean(NewCleaner(CleanerOptions{}), x.end, math.MaxInt))
	must(t, x.checkpoint(x.end))
	const seen = 1_700_000_000_000
	must(t, x.dir.NoteSeenTime(seen))
	st := &flipState{name: "compacted", dir: x.log.path, want: readAll(t, x.log, 1<<20), end: x.end, compacted: x.end, seen: seen}
	st.mem = x.mem.CrashProcess()
	st.list(t)
	return st
}

// journaledFlipState is a log whose last batches are durable in the sync journal alone, the last of them in its last round.
func journaledFlipState(t testing.TB) *flipState {
	t.Helper()
	mem := fsys.NewMem(7, fsys.MemOptions{})
	d, err := OpenDir(mem, "data", testDirOptions())
	must(t, err)
	l, err := d.CreateLog(testPartition(0), flipConfig)
	must(t, err)
	st := &flipState{name: "journaled", dir: l.path}
	put := func(i int) {
		data, _ := appendTo(t, l, 1, i, 1+i%3, 60)
		st.want = append(st.want, data...)
	}
	for i := range 12 {
		put(i)
	}
	must(t, l.Roll()) // what follows fits one segment, and lies in the journal whole
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
	for i := range 5 {
		put(12 + i)
		must(t, d.SyncJournaled(l))
	}
	if l.DurableEnd() != l.LogEndOffset() || l.FiledEnd() >= l.DurableEnd() {
		t.Fatalf("durable to %d, filed to %d of %d", l.DurableEnd(), l.FiledEnd(), l.LogEndOffset())
	}
	st.mem, st.end = mem.Crash(), l.LogEndOffset()
	st.list(t)
	return st
}

// damagedFlipState is a log with a damaged batch that was marked, the loss of which is not on record elsewhere.
func damagedFlipState(t testing.TB) *flipState {
	t.Helper()
	st := flipStateOf(t)
	st.name, st.damaged, st.lost = "damaged", true, true
	d := openTestDir(t, st.mem)
	l, _, err := d.OpenLog(testPartition(0), flipConfig)
	must(t, err)
	must(t, st.mem.Flip(l.segs[1].logName(), 100, 3))
	found, _ := scrubAll(t, l, 1<<20)
	if len(found) != 1 {
		t.Fatalf("%+v", found)
	}
	_, err = l.MarkDamaged(found[0])
	must(t, err)
	st.mem = st.mem.CrashProcess()
	d = openTestDir(t, st.mem) // this one notes the loss
	_, report, err := d.OpenLog(testPartition(0), flipConfig)
	must(t, err)
	if report.Damage == nil || !report.LostData() {
		t.Fatalf("%+v", report)
	}
	st.mem = st.mem.CrashProcess()
	st.list(t)
	return st
}

// flipStateOf is a killed log of several segments.
func flipStateOf(t testing.TB) *flipState {
	t.Helper()
	mem := fsys.NewMem(8, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), flipConfig)
	must(t, err)
	st := &flipState{dir: l.path}
	for i := range 40 {
		data, _ := appendTo(t, l, 1, i, 1+i%3, 60)
		st.want = append(st.want, data...)
	}
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
	st.mem, st.end = mem.CrashProcess(), l.LogEndOffset()
	return st
}

// toldByReplay says whether the sync journal was found damaged: that names file and position, every log gives up its seat, at the next
// opening too, and what is read is a beginning of what was written.
func toldByReplay(d *Dir, l *Log, report RecoveryReport, st *flipState) (told bool, err error) {
	damage := d.Report().Replay.Damage
	if len(damage) == 0 {
		return false, nil
	}
	for _, e := range damage {
		if e.File == "" || e.Position < 0 || e.Reason == "" {
			return true, fmt.Errorf("it does not say where: %w", e)
		}
	}
	return true, checkBeginning(l, report, st)
}

// checkBeginning: the log says that it has lost something, and what is read is a beginning of what was written.
func checkBeginning(l *Log, report RecoveryReport, st *flipState) error {
	if !report.LostData() {
		return fmt.Errorf("a seat is kept: %+v", report)
	}
	got, bad, err := readAround(l, l.LogEndOffset())
	if err != nil || bad || !bytes.HasPrefix(st.want, got) {
		return errors.Join(err, fmt.Errorf("%d bytes are read, bad %t", len(got), bad))
	}
	return nil
}

// checkHints: what hints say is what they said, or nothing.
func checkHints(d *Dir, l *Log, st *flipState) error {
	l.mu.Lock()
	err := l.loadCleanPoint()
	compacted := l.cleaned.firstDirty
	l.mu.Unlock()
	if err != nil || (compacted != st.compacted && compacted != 0) {
		return fmt.Errorf("compacted to %d, it was %d: %w", compacted, st.compacted, err)
	}
	if _, err := d.SeenTime(); err != nil {
		return fmt.Errorf("the time that was seen: %w", err)
	}
	if d.space.held.Load() != (st.seen > 0) {
		return fmt.Errorf("a reserve is held: %t", d.space.held.Load())
	}
	return nil
}
