package storage

import (
	"errors"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// syncedFS calls behind after each sync of the file system.
type syncedFS struct {
	fsys.FS
	behind func()
}

func (s *syncedFS) SyncFS(dir string) error {
	err := s.FS.SyncFS(dir)
	if s.behind != nil {
		s.behind()
	}
	return err
}

// endsAtLeast opens the log after power losses, each of which must leave at least end.
func endsAtLeast(t *testing.T, mem *fsys.Mem, end int64) {
	t.Helper()
	for seed := range uint64(20) {
		_, l, report := reopened(t, mem.Clone(seed).Crash(), 0, Config{})
		if l.LogEndOffset() < end || report.LostData() {
			t.Fatalf("power loss %d: it ends at %d, %d was durable: %+v", seed, l.LogEndOffset(), end, report)
		}
	}
}

// What is appended and made durable by the sync journal while a sync files what it holds stays in the journal, and what is only appended
// does not count as filed.
func TestWhatComesBesideAFilingIsNotFiled(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	spy := &syncedFS{FS: mem}
	d := openTestDir(t, spy)
	l, other := journaledLog(t, d, 0, Config{}), journaledLog(t, d, 1, Config{})
	appendTo(t, l, 1, 1, 1, 100)
	must(t, d.SyncJournaled(l))
	before := other.FiledEnd()
	spy.behind = func() {
		spy.behind = nil
		appendTo(t, l, 1, 2, 1, 100)
		must(t, d.SyncJournaled(l))
		appendTo(t, other, 1, 2, 1, 100)
	}
	must(t, errors.Join(d.Settle(), d.Settle()))
	if spy.behind != nil || l.DurableEnd() != 3 || l.FiledEnd() != 2 || other.FiledEnd() != before {
		t.Fatalf("durable to %d, filed to %d; the other to %d", l.DurableEnd(), l.FiledEnd(), other.FiledEnd())
	}
	endsAtLeast(t, mem, 3)
}

// A log is rolled while it is synced: where the segment that was active then was durable says nothing of the new one, whose bytes the
// sync journal takes from its beginning.
func TestARollBesideASyncBeginsAtZero(t *testing.T) {
	mem := fsys.NewMem(2, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l := journaledLog(t, d, 0, Config{})
	appendTo(t, l, 1, 1, 1, 100)
	l.syncMu.Lock()
	p, err := l.beginSync()
	must(t, errors.Join(err, l.Roll()))
	_, err = l.endSync(p, l.syncFiles(p))
	l.syncMu.Unlock()
	must(t, err)
	_, err = l.Sync() // of the name alone
	must(t, err)
	appendTo(t, l, 1, 2, 1, 5000)
	must(t, d.SyncJournaled(l))
	onlyJournaled(t, l)
	endsAtLeast(t, mem, 3)
}

// A log is rolled behind a sync that has not been taken over yet: the name of the new segment waits for the next one.
func TestTheNameOfARollBesideASyncWaits(t *testing.T) {
	mem := fsys.NewMem(3, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	appendTo(t, l, 1, 1, 1, 100)
	l.syncMu.Lock()
	p, err := l.beginSync()
	must(t, err)
	err = l.syncFiles(p)
	must(t, l.Roll())
	_, err = l.endSync(p, err)
	l.syncMu.Unlock()
	must(t, err)
	appendTo(t, l, 1, 2, 1, 100)
	_, err = l.Sync()
	must(t, err)
	endsAtLeast(t, mem, 2)
}

// A file is not closed for being idle while its log is durable in the sync journal alone: it may yet tell of an error.
func TestAFileStaysOpenUntilItIsFiled(t *testing.T) {
	d := openTestDir(t, fsys.NewMem(4, fsys.MemOptions{}))
	l := journaledLog(t, d, 0, Config{})
	appendTo(t, l, 1, 1, 1, 100)
	must(t, d.SyncJournaled(l))
	onlyJournaled(t, l)
	if l.closeIdle(l.active()) || l.active().file.Load() == nil {
		t.Fatal("it was closed")
	}
	_, err := l.Sync()
	must(t, err)
	if !l.closeIdle(l.active()) || l.active().file.Load() != nil {
		t.Fatal("it stays open")
	}
}

// A log that is opened again by the same process leaves the sync journal once its own files do without: a power loss at any operation
// of the opening loses nothing.
func TestReopenedLogsLeaveTheJournalOnceFiled(t *testing.T) {
	k := int64(1)
	for crashed := true; crashed; k++ {
		crashed = false
		for seed := range uint64(6) {
			mem := fsys.NewMem(seed, fsys.MemOptions{})
			d := openTestDir(t, mem)
			l := journaledLog(t, d, 0, Config{})
			for i := range 3 {
				appendTo(t, l, 1, 1+i, 1, 3000)
			}
			must(t, d.SyncJournaled(l))
			onlyJournaled(t, l)
			must(t, l.Close(false))
			mem.CrashAt(mem.Ops() + k)
			if _, _, err := d.OpenLog(l.tp, Config{}); errors.Is(err, fsys.ErrCrashed) {
				crashed = true
			} else {
				must(t, err)
			}
			if _, l, _ = reopened(t, mem.Crash(), 0, Config{}); l.LogEndOffset() != 4 {
				t.Fatalf("operation %d, seed %d: it ends at %d", k, seed, l.LogEndOffset())
			}
		}
	}
	if k < 8 {
		t.Fatalf("%d operations", k)
	}
}
