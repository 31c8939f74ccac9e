package storage

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

var (
	modelOps  = flag.Int64("storage.model", 5_000, "how many operations TestModelBySeed plays at least")
	modelFrom = flag.Uint64("storage.model.first", 1, "the first seed of TestModelBySeed")
	modelSeed = flag.Uint64("storage.model.seed", 0, "play this seed of TestModelBySeed alone, with its steps")
)

// playMachine runs steps of a fresh machine, some with a failure within, and ends with two power losses.
func playMachine(d draws, on machineHooks) *logMachine {
	x := newLogMachine(d, on)
	steps := machineSteps()
	var bag []int
	for i, s := range steps {
		bag = append(bag, slices.Repeat([]int{i}, s.weight)...)
	}
	for range d.between("steps", 1, 60) {
		faulty := d.between("faulty", 0, 7) == 0
		s := steps[pick(d, "step", bag...)]
		if faulty {
			x.faulty = true // hints may be missing from now on
			x.inject()
		}
		x.step(s, true)
	}
	x.restart("power")
	x.check()
	end := x.m.end
	x.restart("power") // recovery is idempotent
	if x.m.end != end {
		x.fatalf("a second recovery moved the end from %d to %d", end, x.m.end)
	}
	return x
}

// A log does what its model does, whatever comes: 100,000 operations.
func TestLogAgainstModel(t *testing.T) {
	least := int64(100_000)
	if testing.Short() {
		least = 1000
	}
	var ops atomic.Int64
	t.Run("ops", func(t *testing.T) {
		for i := range 2 * runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				for ops.Load() < least && !t.Failed() {
					rapid.Check(t, func(rt *rapid.T) {
						if ops.Load() < least {
							ops.Add(playMachine(rapidDraws{rt}, machineHooks{rt.Fatalf, rt.Logf, t}).ops)
						}
					})
				}
			})
		}
	})
	t.Logf("%d operations", ops.Load())
	if ops.Load() < least && !t.Failed() {
		t.Errorf("%d operations were run, %d are to be", ops.Load(), least)
	}
}

// errModel is what a machine that was played by seed found.
var errModel = errors.New("the log is not what its model is")

// playSeed plays one seed and returns how many operations it took.
func playSeed(t *testing.T, seed uint64, logf func(string, ...any)) (ops int64, err error) {
	defer func() {
		if r := recover(); r != nil {
			failure, ok := r.(error)
			if !ok || !errors.Is(failure, errModel) {
				panic(fmt.Sprintf("seed %d: %v", seed, r))
			}
			err = failure
		}
	}()
	fatalf := func(format string, args ...any) {
		panic(fmt.Errorf("%w: "+format, append([]any{errModel}, args...)...))
	}
	return playMachine(newSeededDraws(seed, 1), machineHooks{fatalf, logf, t}).ops, nil
}

// TestModelBySeed plays as many operations as it is told, by seed; a failure names its seed and how to see it again.
func TestModelBySeed(t *testing.T) {
	if *modelSeed != 0 {
		if _, err := playSeed(t, *modelSeed, t.Logf); err != nil {
			t.Fatal(err)
		}
		return
	}
	var next, ops atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for ops.Load() < *modelOps && !t.Failed() {
				seed := *modelFrom + uint64(next.Add(1)) - 1 //nolint:gosec // small
				n, err := playSeed(t, seed, func(string, ...any) {})
				ops.Add(n)
				if err != nil {
					t.Errorf("seed %d: %v\nsee it again: go test ./internal/storage -run '^TestModelBySeed$' -v -storage.model.seed=%d", seed, err, seed)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d operations, seeds %d to %d", ops.Load(), *modelFrom, *modelFrom+uint64(next.Load())-1) //nolint:gosec // small
}
