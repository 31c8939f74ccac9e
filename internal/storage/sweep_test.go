package storage

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// sweepScripts are 20 rows of letters of machineSteps: some by hand for what is rare, the others drawn once and for all.
func sweepScripts() []string {
	scripts := []string{
		"aaasaaaacaaasx",
		"asctaaascuix",
		"aaoaaoasckkxaasp",
		"fffscodrtcxafzsaxfaskp",
		"aaomascaoasckbxymaskcdnx",
		"eeaseuaseecxaaesuuwafsei",
	}
	rng := rand.New(rand.NewPCG(7, 7))
	var bag []byte
	for _, s := range machineSteps() {
		if s.run != nil {
			bag = append(bag, strings.Repeat(string(s.letter), s.weight)...)
		}
	}
	for len(scripts) < 20 {
		length := 60 + 10*len(scripts) // up to 250
		script := make([]byte, 0, length)
		for len(script) < min(length, 199) {
			if rng.IntN(8) == 0 {
				script = append(script, "xwip"[rng.IntN(4)])
			} else {
				script = append(script, bag[rng.IntN(len(bag))])
			}
		}
		scripts = append(scripts, string(append(script, 'x')))
	}
	return scripts
}

// sweepFault is how the k-th operation fails.
type sweepFault struct {
	name string
	err  error // nil for a crash within the operation
	hits func(op fsys.Op) bool
}

func sweepFaults() []sweepFault {
	changes := func(op fsys.Op) bool {
		switch op {
		case fsys.OpOpen, fsys.OpList, fsys.OpStat, fsys.OpLock, fsys.OpFreeBytes, fsys.OpRead, fsys.OpSize:
			return false
		default:
			return true
		}
	}
	return []sweepFault{
		// A failed append may have written a part, a failed sync drops pages for good and may leave a directory deaf.
		{"error", syscall.EIO, func(fsys.Op) bool { return true }},
		{"full", fsys.ErrNoSpace, func(op fsys.Op) bool { return changes(op) && op != fsys.OpRemove && op != fsys.OpTruncate }},
		// What does not change the file system leaves the same behind as a crash within the next operation that does.
		{"power loss", nil, changes},
		{"kill", nil, changes},
	}
}

// sweepEvery thins the operations that fail; make sim lets it be 1.
var sweepEvery = flag.Int("storage.sweep", 8, "of longer scripts every n-th operation fails in TestEveryOperationFailsOnce; 1 for all")

// sweepWhole is the length of a script up to which every operation fails always.
const sweepWhole = 30

// sweepAfter bounds how many steps of a script go on behind a failure.
const sweepAfter = 8

// Every operation of every script fails once, in each way: by an I/O error, short writes and failed syncs among them, for want of
// space, by a power loss and by the end of the process within it. Whatever comes of it the log goes on as its model says, or says that
// it has failed; opened again it holds what was durable and nothing that was not appended.
func TestEveryOperationFailsOnce(t *testing.T) {
	var runs atomic.Int64
	t.Run("scripts", func(t *testing.T) {
		for i, script := range sweepScripts() {
			t.Run(fmt.Sprintf("%d-%d", i, len(script)), func(t *testing.T) {
				t.Parallel()
				runs.Add(sweepScript(t, uint64(i), script)) //nolint:gosec // small
			})
		}
	})
	t.Logf("%d operations failed: every one of scripts of less than %d steps, one in %d of the others", runs.Load(), sweepWhole, *sweepEvery)
}

// sweeper plays one script.
type sweeper struct {
	t      *testing.T
	number uint64
	script string
	at     string // where it is, for failures
}

// sweepScript plays a script piece by piece: each begins by opening the log and ends by closing it. Every operation of a piece
// fails in a machine of its own, which begins where the piece does. Between pieces another process looks at everything.
func sweepScript(t *testing.T, number uint64, script string) (runs int64) {
	w := &sweeper{t: t, number: number, script: script}
	x := newLogMachine(newSeededDraws(number, 0), machineHooks{w.fatalf, func(string, ...any) {}, t})
	x.sizes = []int{0, 10, 100, 600}
	x.endProcess("kill")
	every := *sweepEvery
	if len(script) < sweepWhole && !testing.Short() {
		every = 1
	}
	for from := 0; from < len(script); {
		to := from + 1 + strings.IndexAny(script[from:], "xwip")
		w.at = fmt.Sprintf("steps %d to %d", from, to)
		begin := x.fork(number)
		begin.swept = true
		var ops []fsys.Op
		x.swept = true
		x.mem.SetInjector(func(op fsys.Op, _ string) error {
			ops = append(ops, op)
			return nil
		})
		w.play(x, from, to)
		w.look(x, pick(newSeededDraws(number, uint64(from)), "how", "clean", "kill")) //nolint:gosec // small
		for _, fault := range sweepFaults() {
			for k, op := range ops {
				if !fault.hits(op) || (k+from)%every != 0 {
					continue
				}
				w.at = fmt.Sprintf("steps %d to %d, operation %d (%s), %s", from, to, k+1, op, fault.name)
				w.fail(begin.fork(uint64(k)), from, to, int64(k+1), fault) //nolint:gosec // small
				runs++
			}
		}
		from = to
	}
	return runs
}

// fail plays a piece whose k-th operation fails, and looks at what is left of it, also after a power loss.
func (w *sweeper) fail(x *logMachine, from, to int, k int64, fault sweepFault) {
	if fault.err == nil {
		x.mem.CrashAt(k)
	} else {
		n := int64(0)
		x.mem.SetInjector(func(op fsys.Op, path string) error {
			if n++; n != k {
				return nil
			}
			x.forgot = strings.HasSuffix(path, producersSuffix)
			return x.bite(op, fault.err)
		})
	}
	w.play(x, from, to)
	switch {
	case x.mem.Ops() < k || (fault.err != nil && !x.bitten):
		w.fatalf("it did not fail")
	case fault.name == "power loss" || x.deaf:
		x.mem, x.next = x.mem.Crash(), found{}
	case fault.err == nil:
		x.mem, x.next = x.mem.CrashProcess(), found{}
	}
	x.bitten, x.fails = true, 0
	w.look(x, "power")
	w.look(x, "kill")
}

// look opens the log in a process without failures, compares everything, and ends the process.
func (w *sweeper) look(x *logMachine, how string) {
	x.d = newSeededDraws(w.number, 1<<40)
	x.swept, x.crashed, x.forgot = false, false, false
	x.calm()
	x.reopen()
	x.check()
	x.endProcess(how)
}

func (w *sweeper) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("script %d, %s of %s: "+format, append([]any{w.number, w.at, w.script}, args...)...)
}

// play opens the log, runs the steps [from, to), the last of which ends the process, and stops early some steps after a failure.
func (w *sweeper) play(x *logMachine, from, to int) {
	x.d = newSeededDraws(w.number, uint64(from)<<32) //nolint:gosec // small
	x.reopen()
	left := sweepAfter
	for i := from; i < to && left > 0 && !x.crashed && !x.forgot; i++ {
		x.d = newSeededDraws(w.number, uint64(i+1)) //nolint:gosec // small
		step := stepOf(w.script[i])
		if step.run == nil {
			x.endProcess(step.name)
			return
		}
		x.step(step, x.bitten)
		if x.bitten {
			left--
		}
	}
	if !x.crashed {
		x.endProcess("kill")
	}
}

func stepOf(letter byte) machineStep {
	for _, s := range machineSteps() {
		if s.letter == letter {
			return s
		}
	}
	panic("no step " + string(letter))
}
