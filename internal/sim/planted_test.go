//go:build planted

package sim

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// plantedSeeds bounds the schedules in which a planted bug must be found.
const plantedSeeds = 200

// outcomeSeeds bounds the schedules in which clients alone must notice it.
const outcomeSeeds = 3000

// rarelyLoses is the bug that lets a replica into the ISR that lacks records, which nobody notices unless that replica is then
// elected before it has fetched them, milliseconds later.
const rarelyLoses = "join-without-epoch-start"

// TestPlanted proves that the simulation finds each bug that is planted into the rules, and nothing where none is.
func TestPlanted(t *testing.T) {
	for _, bug := range core.PlantedBugs() {
		for _, mode := range []Mode{ModeCore, ModeStorage} {
			if bug == core.DiscardInSync && mode == ModeCore {
				continue // no bit flips there
			}
			t.Run(fmt.Sprintf("%s/%s", bug, mode), func(t *testing.T) {
				plant(t, bug)
				found, played := hunt(Run, mode, plantedSeeds)
				if found == nil {
					t.Fatalf("the planted bug %q was not found in %d schedules", bug, played)
				}
				t.Logf("found after %d schedules: %s", played, found)
			})
		}
	}
	for _, bug := range storage.PlantedBugs() {
		t.Run(bug, func(t *testing.T) {
			plantIn(t, storage.Plant, bug)
			found, played := hunt(Run, ModeStorage, plantedSeeds)
			if found == nil {
				t.Fatalf("the planted bug %q was not found in %d schedules", bug, played)
			}
			t.Logf("found after %d schedules: %s", played, found)
		})
	}
	for _, bug := range core.PlantedBugs() {
		if bug == rarelyLoses || bug == core.DiscardInSync {
			continue
		}
		t.Run(bug+"/outcomes", func(t *testing.T) {
			plant(t, bug)
			found, played := hunt(RunOutcomes, ModeCore, outcomeSeeds)
			if found == nil {
				t.Fatalf("clients did not notice the planted bug %q in %d schedules", bug, played)
			}
			t.Logf("found after %d schedules: %s", played, found)
		})
	}
	t.Run("control", func(t *testing.T) {
		plant(t, "")
		for _, mode := range []Mode{ModeCore, ModeStorage} {
			for _, run := range []func(Mode, uint64, io.Writer) Result{Run, RunOutcomes} {
				if found, _ := hunt(run, mode, 50); found != nil {
					t.Errorf("nothing is planted: %s", found)
				}
			}
		}
	})
}

// plant switches a bug of the rules of replication on until the test ends.
func plant(t *testing.T, bug string) {
	t.Helper()
	plantIn(t, core.Plant, bug)
}

// plantIn switches a bug on, by what a package plants its own with, until the test ends.
func plantIn(t *testing.T, plant func(string) error, bug string) {
	t.Helper()
	if err := plant(bug); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plant(""); err != nil {
			t.Error(err)
		}
	})
}

// hunt plays seeds until one fails.
func hunt(run func(Mode, uint64, io.Writer) Result, mode Mode, seeds uint64) (found *Result, played int) {
	var next, count atomic.Uint64
	var mu sync.Mutex
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for seed := next.Add(1); seed <= seeds; seed = next.Add(1) {
				mu.Lock()
				over := found != nil
				mu.Unlock()
				if over {
					return
				}
				res := run(mode, seed, nil)
				count.Add(1)
				if len(res.Failures) > 0 && !res.Void {
					mu.Lock()
					if found == nil || res.Seed < found.Seed {
						found = &res
					}
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	return found, int(count.Load())
}
