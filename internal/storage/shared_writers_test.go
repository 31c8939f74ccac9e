package storage

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

var (
	writerSeeds = flag.Int("storage.writers", 60, "how many seeds TestConcurrentWritersSurviveCrashes plays")
	writersFrom = flag.Uint64("storage.writers.first", 1, "the first seed of TestConcurrentWritersSurviveCrashes")
)

// syncAcks keeps what a syncer reports of each log.
type syncAcks struct {
	mu     sync.Mutex
	moved  *sync.Cond
	ends   map[*Log]int64
	failed map[*Log]error
}

func newSyncAcks() *syncAcks {
	a := &syncAcks{ends: map[*Log]int64{}, failed: map[*Log]error{}}
	a.moved = sync.NewCond(&a.mu)
	return a
}

// durable is the syncer's callback. A log may have been cut since: what it says itself bounds what is reported.
func (a *syncAcks) durable(l *Log, end int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.failed[l] = err
	} else {
		a.ends[l] = max(a.ends[l], min(end, l.DurableEnd()))
	}
	a.moved.Broadcast()
}

// wait waits for a report that the log is durable up to end, or has failed.
func (a *syncAcks) wait(l *Log, end int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.ends[l] < end && a.failed[l] == nil {
		a.moved.Wait()
	}
	if a.ends[l] >= end {
		return nil
	}
	return a.failed[l]
}

// reported is up to where a log was reported durable, and not cut since.
func (a *syncAcks) reported(l *Log) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ends[l] = min(a.ends[l], l.DurableEnd())
	return a.ends[l]
}

// logWriter is one goroutine with logs of its own, in a directory that others write to as well. Besides the steps of sharedSweep it
// knows: q ask the syncer for a log, Q ask it for all and wait.
type logWriter struct {
	sharedSweep
	rng  *rand.Rand
	acks *syncAcks
	sync *Syncer
}

// work takes steps at random until one fails; changing is the log that it cut or removed then, or -1.
func (w *logWriter) work(steps int) (changing int, err error) {
	const letters = "aaaaaaaaaaaaaaaaaaaaaaaaqqqqQQQQQQQQjjJJJJJsctrdymRRow"
	for range steps {
		op, i := letters[w.rng.IntN(len(letters))], w.rng.IntN(len(w.logs))
		switch op {
		case 'q':
			w.sync.Request(w.logs[i].log)
		case 'Q':
			err = w.syncAll()
		default:
			err = w.step(op, i)
		}
		if err == nil {
			w.acks.reported(w.logs[i].log) // it may have been cut
			continue
		}
		err = fmt.Errorf("%c%d: %w", op, i, err)
		if strings.ContainsRune("trdyo", rune(op)) {
			return i, err
		}
		return -1, err
	}
	return -1, nil
}

// syncAll waits until the syncer has reported all logs.
func (w *logWriter) syncAll() error {
	for i := range w.logs {
		w.sync.Request(w.logs[i].log)
	}
	for i := range w.logs {
		s := &w.logs[i]
		if err := w.acks.wait(s.log, s.end()); err != nil {
			return err
		}
		s.acknowledged()
	}
	return nil
}

// note takes over what was reported and nobody has waited for.
func (w *logWriter) note(changing int) {
	for i := range w.logs {
		s := &w.logs[i]
		if i == changing {
			continue
		}
		if end := min(w.acks.reported(s.log), s.end()); end > s.durable {
			s.durable, s.noted = end, true
		}
	}
}

// writersTally says what the seeds came to; a test that crashed nothing, or never used the journal, proves nothing.
type writersTally struct {
	cut, rounds, turns, replays, frames atomic.Int64
}

// writersLife has writers at work until the file system stops at some operation, and returns what is found then.
func writersLife(t *testing.T, rng *rand.Rand, d *Dir, mem *fsys.Mem, writers []*logWriter, tally *writersTally) *fsys.Mem {
	t.Helper()
	group := lifecycle.New(t.Context(), "test", slog.New(slog.DiscardHandler))
	acks := newSyncAcks()
	s := newSyncer(1+rng.IntN(3), acks.durable)
	s.together = 2 + rng.IntN(6)
	s.start(group)
	stop := mem.Ops() + 1 + rng.Int64N(3000)
	mem.CrashAt(stop)
	changing := make([]int, len(writers))
	var running sync.WaitGroup
	for i, w := range writers {
		w.mem, w.dir, w.acks, w.sync = mem, d, acks, s
		running.Go(func() {
			var err error
			if changing[i], err = w.work(100); err != nil && mem.Ops() < stop {
				t.Errorf("writer %d, before the crash: %v", i, err)
			}
		})
	}
	running.Wait()
	if mem.Ops() >= stop {
		tally.cut.Add(1)
	}
	must(t, group.Stop(context.Background()))
	for i, w := range writers {
		w.note(changing[i])
	}
	tally.rounds.Add(d.shared.written.Load())
	tally.turns.Add(int64(d.shared.journal.Generation())) //nolint:gosec // small
	if rng.IntN(3) == 0 {
		return mem.CrashProcess()
	}
	return mem.Crash()
}

func playWriters(t *testing.T, seed uint64, tally *writersTally) {
	rng := rand.New(rand.NewPCG(seed, 0x6a6f75726e616c))
	mem := fsys.NewMem(seed, fsys.MemOptions{})
	d := openTestDir(t, mem)
	writers := make([]*logWriter, 3+rng.IntN(5))
	for i := range writers {
		w := &logWriter{rng: rand.New(rand.NewPCG(seed, uint64(i)))}                       //nolint:gosec // small
		w.sharedSweep = sharedSweep{t: t, mem: mem, dir: d, first: int32(i * len(w.logs))} //nolint:gosec // small
		for k := range w.logs {
			must(t, w.create(k))
		}
		writers[i] = w
	}
	for life := range 3 {
		mem = writersLife(t, rng, d, mem, writers, tally)
		d = openTestDir(t, mem)
		replay := d.Report().Replay
		if len(replay.Damage) > 0 {
			t.Fatalf("life %d: damage in the sync journal: %v", life, replay.Damage[0])
		}
		if tally.frames.Add(replay.Frames); replay.Frames > 0 {
			tally.replays.Add(1)
		}
		for i, w := range writers {
			if err := w.verifyLogs(d, true, false); err != nil {
				t.Fatalf("life %d, writer %d: %v", life, i, err)
			}
		}
		for _, w := range writers {
			w.takeOver(t)
		}
	}
}

// Many goroutines append to logs of one directory, cut, reset, delete and roll them, while syncs go by the journal: wherever a
// crash hits, what was reported durable is there, byte for byte, and what was changed otherwise does not come back. A seed
// decides what each goroutine does, where the crash hits and what it leaves, and not how the goroutines take turns.
func TestConcurrentWritersSurviveCrashes(t *testing.T) {
	seeds := *writerSeeds
	if testing.Short() {
		seeds /= 4
	}
	t.Logf("seeds %d to %d (-storage.writers.first)", *writersFrom, *writersFrom+uint64(seeds)-1) //nolint:gosec // small
	var tally writersTally
	t.Run("seeds", func(t *testing.T) {
		for i := range seeds {
			seed := *writersFrom + uint64(i) //nolint:gosec // small
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				playWriters(t, seed, &tally)
			})
		}
	})
	t.Logf("%d crashes amid an operation, %d rounds of the journal in %d generations, %d replays of %d frames", tally.cut.Load(),
		tally.rounds.Load(), tally.turns.Load(), tally.replays.Load(), tally.frames.Load())
	if n := int64(seeds); tally.cut.Load() < n || tally.rounds.Load() < 10*n || tally.turns.Load() < 2*n || tally.replays.Load() < n {
		t.Error("that is too little to prove anything")
	}
}
