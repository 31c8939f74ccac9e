package storage

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

// waitingLogs lets writers wait until their log is durable up to where they wrote.
type waitingLogs struct {
	mu    sync.Mutex
	waits map[*Log][]durableWait
}

type durableWait struct {
	end  int64
	done chan struct{}
}

func (w *waitingLogs) add(l *Log, end int64) chan struct{} {
	done := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waits[l] = append(w.waits[l], durableWait{end, done})
	return done
}

func (w *waitingLogs) durable(l *Log, end int64, err error) {
	if err != nil {
		panic(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rest := w.waits[l][:0]
	for _, x := range w.waits[l] {
		if x.end <= end {
			close(x.done)
		} else {
			rest = append(rest, x)
		}
	}
	w.waits[l] = rest
}

// syncLoad is what a turn of the load came to.
type syncLoad struct {
	batches int64
	waits   []time.Duration // from append to durable
}

// run writes batches of 16 KiB by 64 writers, round robin over the partitions, each durable before the next.
func (r *syncLoad) run(b *testing.B, x *syncBench, logs []*Log, d time.Duration) {
	data, h := makeBatch(b, noProducer, 1, 1, 16<<10-80, 1000)
	var n, next atomic.Int64
	var mu sync.Mutex
	deadline := time.Now().Add(d)
	var writers sync.WaitGroup
	for range 64 {
		writers.Go(func() {
			var waits []time.Duration
			for began := time.Now(); began.Before(deadline); began = time.Now() {
				l := logs[int(next.Add(1))%len(logs)]
				res, err := l.AppendLeader([][]byte{data}, h, 1, 1)
				if err != nil {
					panic(err)
				}
				done := x.waiting.add(l, res.LogEndOffset)
				x.syncer.Request(l)
				<-done
				n.Add(1)
				waits = append(waits, time.Since(began))
			}
			mu.Lock()
			r.waits = append(r.waits, waits...)
			mu.Unlock()
		})
	}
	writers.Wait()
	r.batches += n.Load()
}

func (r *syncLoad) p99() float64 {
	slices.Sort(r.waits)
	return float64(r.waits[len(r.waits)*99/100].Microseconds()) / 1000
}

// syncBench is a directory with logs and a syncer.
type syncBench struct {
	dir     *Dir
	logs    []*Log
	waiting *waitingLogs
	syncer  *Syncer
}

func newSyncBench(b *testing.B, group *lifecycle.Group, partitions int32, journalBytes int64, together int) *syncBench {
	d, err := OpenDir(fsys.OS(), b.TempDir(), DirOptions{SyncJournalBytes: journalBytes})
	must(b, err)
	x := &syncBench{dir: d, waiting: &waitingLogs{waits: map[*Log][]durableWait{}}}
	for i := range partitions {
		l, err := d.CreateLog(testPartition(i), Config{})
		must(b, err)
		x.logs = append(x.logs, l)
	}
	must(b, d.shared.makeReady())
	must(b, d.fs.SyncFS(d.path))
	x.syncer = newSyncer(4, x.waiting.durable)
	x.syncer.together = together
	x.syncer.start(group)
	var warm syncLoad
	warm.run(b, x, x.logs, 300*time.Millisecond) // the first append of each log syncs its names
	return x
}

// BenchmarkSyncManyPartitions compares many partitions with one, under the same writers, in turns: with a sync of each file, with one
// sync of the file system, and with the sync journal. A turn is 400 ms.
func BenchmarkSyncManyPartitions(b *testing.B) {
	ways := []struct {
		name     string
		journal  int64
		together int
	}{{"file", 0, 0}, {"syncfs", 0, syncTogether}, {"journal", DefaultSyncJournalBytes, syncTogether}}
	for _, partitions := range []int32{16, 64, 256, 1000} {
		b.Run(fmt.Sprintf("partitions-%d", partitions), func(b *testing.B) {
			group := lifecycle.New(b.Context(), "bench", slog.New(slog.DiscardHandler))
			var all []*syncBench
			for _, w := range ways {
				all = append(all, newSyncBench(b, group, partitions, w.journal, w.together))
			}
			var one syncLoad
			loads := make([]syncLoad, len(ways))
			for b.Loop() {
				one.run(b, all[1], all[1].logs[:1], 400*time.Millisecond)
				for i, x := range all {
					loads[i].run(b, x, x.logs, 400*time.Millisecond)
				}
			}
			b.ReportMetric(float64(one.batches)/(0.4*float64(b.N)), "one-batches/s")
			b.ReportMetric(one.p99(), "one-p99-ms")
			for i, w := range ways {
				b.ReportMetric(float64(loads[i].batches)/float64(one.batches), w.name+"-of-one")
				b.ReportMetric(loads[i].p99(), w.name+"-p99-ms")
			}
			must(b, group.Stop(context.Background()))
			for _, x := range all {
				must(b, x.dir.Close())
			}
		})
	}
}
