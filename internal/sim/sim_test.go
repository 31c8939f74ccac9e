package sim

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
)

var (
	coreSchedules    = flag.Int("sim.core", 300, "how many schedules of the core mode TestSim plays")
	storageSchedules = flag.Int("sim.storage", 20, "how many schedules of the storage mode TestSim plays")
	firstSeed        = flag.Uint64("sim.first", 1, "the first seed that TestSim plays")
	oneSeed          = flag.Uint64("sim.seed", 0, "play this seed alone, in the mode of -sim.mode, with a trace on standard output")
	oneMode          = flag.String("sim.mode", "core", "the mode of -sim.seed: core or storage")
)

// TestSim plays schedules by seed. A failure names its seed and how to see it again.
func TestSim(t *testing.T) {
	if *oneSeed != 0 {
		replay(t)
		return
	}
	for _, run := range []struct {
		mode  Mode
		count int
	}{{ModeCore, *coreSchedules}, {ModeStorage, *storageSchedules}} {
		t.Run(run.mode.String(), func(t *testing.T) { playMany(t, run.mode, run.count) })
	}
}

func replay(t *testing.T) {
	mode := ModeCore
	if *oneMode == ModeStorage.String() {
		mode = ModeStorage
	}
	res := Run(mode, *oneSeed, os.Stdout)
	t.Log(res)
	if len(res.Failures) > 0 {
		t.Fail()
	}
}

// playMany plays count seeds, in ranges side by side; each schedule is a thread of its own.
func playMany(t *testing.T, mode Mode, count int) {
	var mu sync.Mutex
	var all Summary
	t.Run("seeds", func(t *testing.T) {
		workers := min(runtime.GOMAXPROCS(0), max(count, 1))
		for worker := range workers {
			t.Run(fmt.Sprintf("range-%d", worker), func(t *testing.T) {
				t.Parallel()
				var sum Summary
				for i := worker; i < count; i += workers {
					res := Run(mode, *firstSeed+uint64(i), nil)
					sum.Add(res)
					if len(res.Failures) > 0 {
						t.Errorf("%s\nsee it again: go test ./internal/sim -run '^TestSim$' -sim.mode=%s -sim.seed=%d", res, mode, res.Seed)
					}
					if sum.Failed >= 5 {
						t.Fatal("too many failures")
					}
				}
				mu.Lock()
				defer mu.Unlock()
				all.Merge(sum)
			})
		}
	})
	t.Logf("%s mode, from seed %d: %s", mode, *firstSeed, all)
}

// TestSameSeedSameSchedule proves that a seed decides everything.
func TestSameSeedSameSchedule(t *testing.T) {
	for _, mode := range []Mode{ModeCore, ModeStorage} {
		for seed := range uint64(5) {
			a, b := Run(mode, 1000+seed, nil), Run(mode, 1000+seed, nil)
			if a.Trace != b.Trace || a.Steps != b.Steps || a.Virtual != b.Virtual || !maps.Equal(a.Faults, b.Faults) ||
				!slices.Equal(a.Failures, b.Failures) {
				t.Errorf("the same seed gave two schedules:\n%s\n%s", a, b)
			}
		}
	}
}

// TestSchedulesWithASyncJournal plays those in which processes find something in their sync journal.
func TestSchedulesWithASyncJournal(t *testing.T) {
	replays := 0
	for seed := uint64(3); seed <= 12; seed += 3 {
		res := Run(ModeStorage, seed, nil)
		if len(res.Failures) > 0 {
			t.Errorf("%s\nsee it again: go test ./internal/sim -run '^TestSim$' -sim.mode=storage -sim.seed=%d", res, seed)
		}
		replays += res.Replays
	}
	t.Logf("%d replays", replays)
	if replays < 4 {
		t.Error("the sync journal was hardly used")
	}
}
