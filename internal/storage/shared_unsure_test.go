package storage

import (
	"errors"
	"testing"
)

// A log's own sync fails, and drops pages that the journal holds the only copy of: a sync of the file system that succeeds
// afterwards must not release them, nor must the opening or the removal of the log void them.
func TestFailedSyncKeepsTheJournal(t *testing.T) {
	for seed := range uint64(20) {
		mem, d, l, durable := failedBehindJournal(t, seed)
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
