package storage

import (
	"context"
	"fmt"
	"log/slog"
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

// syncLoad writes batches of 16 KiB by 64 writers, round robin over the partitions, each durable before the next.
func syncLoad(b *testing.B, logs []*Log, s *Syncer, w *waitingLogs, d time.Duration) (batches int64) {
	data, h := makeBatch(b, noProducer, 1, 1, 16<<10-80, 1000)
	var n, next atomic.Int64
	deadline := time.Now().Add(d)
	var writers sync.WaitGroup
	for range 64 {
		writers.Go(func() {
			for time.Now().Before(deadline) {
				l := logs[int(next.Add(1))%len(logs)]
				res, err := l.AppendLeader([][]byte{data}, h, 1, 1)
				if err != nil {
					panic(err)
				}
				done := w.add(l, res.LogEndOffset)
				s.Request(l)
				<-done
				n.Add(1)
			}
		})
	}
	writers.Wait()
	return n.Load()
}

// BenchmarkSyncManyPartitions compares 1,000 partitions with one, under the same writers, interleaved.
func BenchmarkSyncManyPartitions(b *testing.B) {
	for _, workers := range []int{4, 8} {
		for _, together := range []int{0, 8, 16, 32} {
			b.Run(fmt.Sprintf("workers-%d/together-%d", workers, together), func(b *testing.B) {
				d, err := OpenDir(fsys.OS(), b.TempDir(), DirOptions{})
				must(b, err)
				var logs []*Log
				for i := range int32(1000) {
					l, err := d.CreateLog(testPartition(i), Config{})
					must(b, err)
					logs = append(logs, l)
				}
				must(b, d.fs.SyncFS(d.path))
				w := &waitingLogs{waits: map[*Log][]durableWait{}}
				group := lifecycle.New(b.Context(), "bench", slog.New(slog.DiscardHandler))
				s := newSyncer(workers, w.durable)
				s.together = together
				s.start(group)
				syncLoad(b, logs, s, w, 300*time.Millisecond) // the first append of each log syncs its names
				var one, many int64
				for b.Loop() {
					one += syncLoad(b, logs[:1], s, w, 200*time.Millisecond)
					many += syncLoad(b, logs, s, w, 200*time.Millisecond)
				}
				b.ReportMetric(float64(many)/float64(one), "of-one-partition")
				b.ReportMetric(float64(many)/(0.2*float64(b.N)), "batches/s")
				must(b, group.Stop(context.Background()))
				must(b, d.Close())
			})
		}
	}
}
