package storage

import (
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// The mark is there after a power loss, from the moment MarkOSMode returns, also where nothing else of the log was ever synced.
func TestOSModeMarkSurvivesPowerLoss(t *testing.T) {
	for seed := range uint64(20) {
		fsy := fsys.NewMem(seed, fsys.MemOptions{})
		d := openTestDir(t, fsy)
		l, err := d.CreateLog(testPartition(0), Config{})
		if err != nil {
			t.Fatal(err)
		}
		if marked, err := l.OSMode(); err != nil || marked {
			t.Fatal(marked, err)
		}
		for range 2 {
			if err := l.MarkOSMode(); err != nil {
				t.Fatal(err)
			}
		}
		appendTo(t, l, 1, 1, 2, 100)
		fsy = fsy.Crash()
		d = openTestDir(t, fsy)
		if l, _, err = d.OpenLog(testPartition(0), Config{}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if marked, err := l.OSMode(); err != nil || !marked {
			t.Fatalf("seed %d: the mark is lost: %v", seed, err)
		}
		if err := l.ClearOSMode(); err != nil {
			t.Fatal(err)
		}
		fsy = fsy.Crash()
		d = openTestDir(t, fsy)
		if l, _, err = d.OpenLog(testPartition(0), Config{}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if marked, err := l.OSMode(); err != nil || marked {
			t.Fatalf("seed %d: the mark came back: %v", seed, err)
		}
	}
}

// A process dies between making the mark and syncing its name. The next one finds the mark, and it is durable once that has asked for it.
func TestOSModeMarkOfADeadProcessBecomesDurable(t *testing.T) {
	for seed := range uint64(20) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l := journaledLog(t, d, 0, Config{})
		must(t, d.Checkpoint(LogCheckpoint{Log: l})) // nothing is left to be synced at the opening
		must(t, l.Close(false))
		f, err := mem.Create(l.osModeName())
		must(t, err)
		must(t, f.Close())
		l, _, err = d.OpenLog(testPartition(0), Config{})
		must(t, err)
		must(t, l.MarkOSMode())
		_, l, _ = reopened(t, mem.Crash(), 0, Config{})
		if marked, err := l.OSMode(); err != nil || !marked {
			t.Fatalf("seed %d: the mark is lost: %v", seed, err)
		}
	}
}
