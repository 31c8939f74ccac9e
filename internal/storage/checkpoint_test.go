package storage

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// A checkpoint asks a log for its state, and the log is cut, begun anew or deleted before that is written: what it was asked for
// says nothing any more.
func TestCheckpointIsOvertakenByACut(t *testing.T) {
	for name, cut := range map[string]func(t *testing.T, d *Dir, l *Log){
		"truncate": func(t *testing.T, _ *Dir, l *Log) {
			_, err := l.TruncateTo(3)
			must(t, err)
		},
		"reset":  func(t *testing.T, _ *Dir, l *Log) { must(t, l.Reset(2, nil)) },
		"delete": func(t *testing.T, d *Dir, l *Log) { must(t, d.DeleteLog(l.tp)) },
		"set aside": func(t *testing.T, d *Dir, l *Log) {
			_, err := d.StrayLog(l.tp)
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := fsys.NewMem(1, fsys.MemOptions{})
			d := openTestDir(t, mem)
			l, err := d.CreateLog(testPartition(0), Config{})
			must(t, err)
			for i := range 8 {
				appendTo(t, l, model.LeaderEpoch(1+i), i, 1, 100)
			}
			_, err = l.Sync()
			must(t, err)
			asked, ok := l.checkpoint(0)
			if !ok {
				t.Fatal("the log has no state")
			}
			cut(t, d, l)
			must(t, d.journal.commit(asked))
			d = openTestDir(t, mem.Crash())
			if missing := d.Report().MissingLogs; len(missing) > 0 {
				t.Fatalf("the deleted log is missing: %v", missing)
			}
			l, report, err := d.OpenLog(testPartition(0), Config{})
			if errors.Is(err, ErrNoLog) && (name == "delete" || name == "set aside") {
				return
			}
			must(t, err)
			if report.LostData() || report.RecoveryPoint > l.LogEndOffset() {
				t.Fatalf("%+v", report)
			}
		})
	}
}

// cutWriter appends to a log, syncs it, cuts it and trims it.
type cutWriter struct {
	log *Log

	mu      sync.Mutex
	durable [][]byte // surely there
	cuts    int      // odd while a cut is under way
}

func (w *cutWriter) run(t *testing.T, seed uint64, stop *atomic.Bool) {
	rng := rand.New(rand.NewPCG(seed, 5))
	var all [][]byte
	var bases []int64
	epoch := model.LeaderEpoch(1)
	for i := 0; !stop.Load() && !t.Failed(); i++ {
		if rng.IntN(8) == 0 && len(all) > 4 {
			k := len(all) - 1 - rng.IntN(3)
			w.cut(func() { w.durable = w.durable[:min(k, len(w.durable))] })
			if _, err := w.log.TruncateTo(bases[k]); err != nil {
				t.Error(err)
				return
			}
			w.cut(func() {})
			all, bases, epoch = all[:k:k], bases[:k:k], epoch+1
		}
		batch, res := appendTo(t, w.log, epoch, i, 1, 50+rng.IntN(300))
		all, bases = append(all, batch), append(bases, res.BaseOffset)
		if _, err := w.log.Sync(); err != nil {
			t.Error(err)
			return
		}
		w.mu.Lock()
		w.durable = append(slices.Clip(w.durable), all[len(w.durable):]...)
		w.mu.Unlock()
	}
}

func (w *cutWriter) cut(note func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts++
	note()
}

func (w *cutWriter) now() (durable [][]byte, cuts int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.durable), w.cuts
}

// Checkpoints of all logs beside writers that append, sync and cut: a crash at any moment finds what was durable, and says of
// nothing that it is lost or damaged.
func TestCrashesBesideCheckpoints(t *testing.T) {
	const seed = 21
	t.Logf("seed %d", seed)
	mem := fsys.NewMem(seed, fsys.MemOptions{})
	d := openTestDir(t, mem)
	var writers []*cutWriter
	var items []LogCheckpoint
	for i := range int32(6) {
		l, err := d.CreateLog(testPartition(i), Config{SegmentBytes: 4000})
		must(t, err)
		writers, items = append(writers, &cutWriter{log: l}), append(items, LogCheckpoint{Log: l})
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for n, w := range writers {
		wg.Go(func() { w.run(t, uint64(n), &stop) }) //nolint:gosec // small
	}
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				if err := d.Checkpoint(items...); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	checked := 0
	for crash := range uint64(60) {
		checked += crashBesideCheckpoints(t, mem, writers, crash)
		if t.Failed() {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
	must(t, d.Close())
	if checked == 0 {
		t.Error("every log was being cut at every crash")
	}
}

// crashBesideCheckpoints loses power in a copy, and returns how many logs it has compared.
func crashBesideCheckpoints(t *testing.T, mem *fsys.Mem, writers []*cutWriter, seed uint64) (checked int) {
	t.Helper()
	durable, cuts := make([][][]byte, len(writers)), make([]int, len(writers))
	for i, w := range writers {
		durable[i], cuts[i] = w.now()
	}
	twin := mem.Clone(seed)
	cutting := make([]bool, len(writers))
	for i, w := range writers {
		_, now := w.now()
		cutting[i] = now != cuts[i] || now%2 == 1
	}
	d := openTestDir(t, twin.Crash())
	for i, w := range writers {
		l, report, err := d.OpenLog(w.log.tp, Config{SegmentBytes: 4000})
		if errors.Is(err, ErrNoLog) && len(durable[i]) == 0 {
			continue
		}
		must(t, err)
		if report.Damage != nil || report.LostBelowRecoveryPoint() || report.LostBefore {
			t.Errorf("crash %d, log %d: %+v, damage %+v", seed, i, report, report.Damage)
			continue
		}
		if cutting[i] {
			continue
		}
		checked++
		if want := bytes.Join(durable[i], nil); !bytes.HasPrefix(readAll(t, l, 1<<20), want) {
			t.Errorf("crash %d, log %d: %d durable batches are not there", seed, i, len(durable[i]))
		}
	}
	must(t, d.Close())
	return checked
}
