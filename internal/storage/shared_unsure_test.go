package storage

import (
	"errors"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// A log's own sync fails, and drops pages that the journal holds the only copy of: a sync of the file system that succeeds
// afterwards must not release them, nor must the opening or the removal of the log void them.
func TestFailedSyncKeepsTheJournal(t *testing.T) {
	for seed := range uint64(20) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l := journaledLog(t, d, 0, Config{})
		for i := range 4 {
			appendTo(t, l, 1, 1+i, 2, 1500)
		}
		must(t, d.SyncJournaled(l))
		onlyJournaled(t, l)
		durable := l.DurableEnd()
		appendTo(t, l, 1, 9, 1, 100)
		mem.FailAt(mem.Ops()+1, syscall.EIO)
		if _, err := l.Sync(); !errors.Is(err, ErrSyncFailed) {
			t.Fatal(err)
		}
		if err := errors.Join(d.Settle(), d.Settle()); !errors.Is(err, ErrSyncFailed) {
			t.Fatal(err)
		}
		if err := d.DeleteLog(l.tp); !errors.Is(err, ErrSyncFailed) {
			t.Fatal(err)
		}
		if err := d.MarkClean(); !errors.Is(err, ErrSyncFailed) {
			t.Fatal(err)
		}
		must(t, l.Close(false))
		if _, _, err := d.OpenLog(l.tp, Config{}); !errors.Is(err, ErrSyncFailed) {
			t.Fatal(err)
		}
		if _, l, _ = reopened(t, mem.Crash(), 0, Config{}); l.LogEndOffset() < durable {
			t.Fatalf("seed %d: it ends at %d, %d was acknowledged", seed, l.LogEndOffset(), durable)
		}
	}
}
