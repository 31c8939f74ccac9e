package syncjournal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// held is a frame that is live, and the generation that holds it.
type held struct {
	frame      string
	log        model.TopicPartition
	generation uint64
}

// history is what a journal must bring back. possible are the states that a crash may show now: the one before the
// operation under way, and the one after it, never a mixture.
type history struct {
	disk     fsys.FS
	rng      *rand.Rand
	possible [][]held
	number   int
	turns    int
	forgot   int  // frames that a process forgot before it cleared the journal
	failed   bool // a sync has failed: what is found may not be on the disk
}

// now is the state while no operation is under way.
func (h *history) now() []held { return h.possible[len(h.possible)-1] }

// without are the frames that stay when some go.
func (h *history) without(goes func(held) bool) []held {
	return slices.DeleteFunc(slices.Clone(h.now()), goes)
}

// do runs one operation that leads to a state.
func (h *history) do(after []held, op func() error) error {
	h.possible = append(h.possible, after)
	if err := op(); err != nil {
		return err
	}
	h.possible = [][]held{after}
	return nil
}

// life is a process: it replays, clears, prepares, writes, forgets and releases, and stops cleanly or not at all. Some can put
// back only a part of what they find, and some of these not the rest either.
func (h *history) life(operations int) error {
	for !h.failed && h.rng.IntN(2) == 0 {
		if ends, err := h.putBackSome(); err != nil || ends {
			return err
		}
	}
	j, err := Open(h.disk, testDir, Options{FileBytes: testFile, Salt: h.rng.Uint64()})
	if err != nil {
		return err
	}
	if err := h.do(nil, j.Clear); err != nil {
		return err
	}
	if err := h.do(nil, j.Prepare); err != nil {
		return err
	}
	for range operations {
		if err := h.step(j); err != nil {
			return err
		}
	}
	h.turns += int(j.Generation()) //nolint:gosec // small
	if h.rng.IntN(2) == 0 {
		return nil // without a word
	}
	if err := h.do(nil, j.Clear); err != nil {
		return err
	}
	return j.Close()
}

// putBackSome forgets some of the logs that are found, once it is durable that they are.
func (h *history) putBackSome() (ends bool, err error) {
	if err := h.disk.SyncFS(path.Dir(testDir)); err != nil {
		return false, err
	}
	c, err := Read(h.disk, testDir)
	if err != nil {
		return false, err
	}
	if len(c.Damage) > 0 {
		return false, c.Damage[0]
	}
	var names []string
	if err := c.Each(func(f Frame) error { names = append(names, describe(f)); return nil }); err != nil {
		return false, err
	}
	at := slices.IndexFunc(h.possible, func(s []held) bool {
		return slices.EqualFunc(s, names, func(f held, name string) bool { return f.frame == name })
	})
	if at < 0 {
		return false, fmt.Errorf("found %q, of the states %v", names, h.possible)
	}
	h.possible = h.possible[at : at+1]
	for range 1 + h.rng.IntN(2) {
		logs := []model.TopicPartition{logOf(h.rng.IntN(6)), logOf(h.rng.IntN(6)), logOf(9)}
		before := len(h.now())
		after := h.without(func(f held) bool { return slices.Contains(logs, f.log) })
		err := h.do(after, func() error { return c.Forget(logs) })
		if errors.Is(err, ErrFull) {
			h.possible = h.possible[:len(h.possible)-1]
			continue
		}
		if err != nil {
			return false, err
		}
		h.forgot += before - len(after)
		left := 0
		if err := c.Each(func(Frame) error { left++; return nil }); err != nil {
			return false, err
		}
		if left != len(after) {
			return false, fmt.Errorf("%d frames are left of %d, after %q was forgotten %d are", before, left, logs, len(after))
		}
	}
	return h.rng.IntN(3) == 0, nil
}

// step is one operation of a process.
func (h *history) step(j *Journal) error {
	switch h.rng.IntN(10) {
	case 0:
		logs := []model.TopicPartition{logOf(h.rng.IntN(6)), logOf(h.rng.IntN(6))}
		return h.orRelease(j, h.do(h.without(func(f held) bool { return slices.Contains(logs, f.log) }), func() error {
			return j.Forget(logs)
		}))
	case 1:
		return h.release(j, j.OldestLive()+uint64(h.rng.IntN(2))) //nolint:gosec // 0 or 1
	default:
		return h.orRelease(j, h.write(j))
	}
}

// release releases generations.
func (h *history) release(j *Journal, g uint64) error {
	return h.do(h.without(func(f held) bool { return f.generation <= g }), func() error { return j.Release(g) })
}

// orRelease releases the oldest generation where an operation found no room.
func (h *history) orRelease(j *Journal, err error) error {
	if !errors.Is(err, ErrFull) {
		return err
	}
	h.possible = h.possible[:len(h.possible)-1]
	return h.release(j, j.OldestLive())
}

// write writes a round.
func (h *history) write(j *Journal) error {
	frames := make([]Frame, 1+h.rng.IntN(4))
	old := len(h.now())
	after := slices.Clone(h.now())
	for i := range frames {
		h.number++
		frames[i] = frame(h.rng.IntN(6), h.number, 1+h.rng.IntN([]int{100, 4000, 9000}[h.rng.IntN(3)]))
		after = append(after, held{frame: describe(frames[i]), log: frames[i].Log})
	}
	var generation uint64
	return h.do(after, func() (err error) {
		generation, err = j.Write(frames)
		for i := old; i < len(after); i++ {
			after[i].generation = generation
		}
		return err
	})
}

// check compares what is found with what may be. What a loss of power has shown is settled.
func (h *history) check(t *testing.T, what string, disk fsys.FS, settled bool) {
	t.Helper()
	frames, c := found(t, disk)
	at := slices.IndexFunc(h.possible, func(s []held) bool {
		return slices.EqualFunc(s, frames, func(f held, name string) bool { return f.frame == name })
	})
	if at < 0 {
		t.Fatalf("%s: found %d frames %q\nof the states\n%v", what, len(frames), frames, h.possible)
	}
	if len(c.Damage) > 0 {
		t.Fatalf("%s: damage %v", what, c.Damage)
	}
	if settled {
		h.possible = h.possible[at : at+1]
	}
}

// runHistory goes through several processes until an operation fails.
func runHistory(disk fsys.FS, seed uint64) (*history, error) {
	h := &history{disk: disk, rng: rand.New(rand.NewPCG(seed, 1)), possible: [][]held{nil}}
	for range 3 {
		if err := h.life(10 + h.rng.IntN(15)); err != nil {
			return h, err
		}
	}
	return h, nil
}

// Every operation of a history fails once: by an error, by the end of the process and by a loss of power within it. What
// was acknowledged comes back exactly, unless it was forgotten or released, and the next process goes on from there.
func TestEveryOperationFailsOnce(t *testing.T) {
	histories := 4
	if testing.Short() {
		histories = 2
	}
	for seed := range uint64(histories) { //nolint:gosec // small
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			count := newDisk(t, seed)
			begin := count.Ops()
			h, err := runHistory(count, seed)
			must(t, err)
			if h.turns < 3 {
				t.Logf("only %d generations", h.turns)
			}
			for k := begin + 1; k <= count.Ops(); k++ {
				for _, fault := range []string{"error", "process", "power"} {
					sweepOnce(t, seed, k, fault)
				}
			}
		})
	}
}

func sweepOnce(t *testing.T, seed uint64, k int64, fault string) {
	t.Helper()
	what := fmt.Sprintf("operation %d, %s", k, fault)
	disk := newDisk(t, uint64(k)) //nolint:gosec // positive
	if fault == "error" {
		disk.FailAt(k, fmt.Errorf("injected: %w", syscall.EIO))
	} else {
		disk.CrashAt(k)
	}
	h, err := runHistory(disk, seed)
	if fault != "error" && !errors.Is(err, fsys.ErrCrashed) {
		t.Fatalf("%s: the history ended with %v", what, err)
	}
	// Where a sync failed, the directory or the file may be past saving, as far as a loss of power goes.
	power := fault == "power" || fault == "error" && k%2 == 0
	if power {
		disk = disk.Crash()
	} else {
		disk = disk.CrashProcess()
	}
	h.check(t, what, disk, power)
	h.disk, h.failed = disk, fault == "error"
	if err := h.life(8); err != nil {
		t.Fatalf("%s: the next process: %v", what, err)
	}
	if fault == "error" {
		disk = disk.CrashProcess()
	} else {
		disk = disk.Crash()
	}
	h.check(t, what+", the next process", disk, false)
}

// After any number of operations any loss of power leaves what was acknowledged.
func TestCrashesOfRandomHistories(t *testing.T) {
	const seed = 11
	rng := rand.New(rand.NewPCG(seed, 0))
	runs := 300
	if testing.Short() {
		runs = 30
	}
	t.Logf("%d histories, seed %d", runs, seed)
	generations, crashes, forgot := 0, int64(0), 0
	for run := range runs {
		disk := newDisk(t, rng.Uint64())
		h := &history{disk: disk, rng: rng, possible: [][]held{nil}}
		for life := range 4 {
			what := fmt.Sprintf("run %d, life %d", run, life)
			if life > 0 {
				twin := disk.Clone(rng.Uint64())
				h.check(t, what+", twin", twin.Crash(), false)
				disk.CrashAt(disk.Ops() + 1 + rng.Int64N(120))
			}
			h.disk = disk
			if err := h.life(rng.IntN(50)); err != nil && !errors.Is(err, fsys.ErrCrashed) {
				t.Fatal(err)
			}
			power := rng.IntN(3) > 0
			if power {
				disk = disk.Crash()
			} else {
				disk = disk.CrashProcess()
			}
			h.check(t, what, disk, power)
		}
		generations += h.turns
		crashes += disk.Stats().Crashes
		forgot += h.forgot
	}
	if generations < 3*runs || crashes < int64(runs) || forgot < runs/2 {
		t.Fatalf("%d generations, %d crashes, %d frames forgotten before the journal was cleared: too few to prove anything",
			generations, crashes, forgot)
	}
}
