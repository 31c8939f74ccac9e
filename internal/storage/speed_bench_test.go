package storage

import (
	"context"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/record"
)

// interleave runs ours and bare in turns, the same work each, and reports how much of the bare speed ours has: median, least
// and most of the rounds.
func interleave(b *testing.B, ours, bare func() time.Duration) {
	b.Helper()
	var ratios []float64
	for b.Loop() {
		mine := ours()
		ratios = append(ratios, float64(bare())/float64(mine))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "of-bare")
	b.ReportMetric(ratios[0], "least")
	b.ReportMetric(ratios[len(ratios)-1], "most")
}

// speedBatch is 64 KiB of records of 1 KiB.
func speedBatch(b *testing.B) ([]byte, record.Header) {
	b.Helper()
	return makeBatch(b, noProducer, 1, 64, 1024-12, 1000)
}

// bareFile grows as the active segment of a log under load does.
type bareFile struct {
	fsys.File
	allocated, step int64
}

func (f *bareFile) append(b *testing.B, data []byte) {
	if need := f.Position() + int64(len(data)); need > f.allocated {
		f.step = min(max(2*f.step, preallocateMin), preallocateMax)
		f.allocated = need + f.step
		must(b, f.Preallocate(f.allocated))
	}
	_, err := f.Append(data)
	must(b, err)
}

func newBareFile(b *testing.B, name string) *bareFile {
	b.Helper()
	f, err := fsys.OS().Create(name)
	must(b, err)
	return &bareFile{File: f}
}

// Append of 64 KiB, checked whole, against a loop that does CRC-32C and pwrite of the same bytes.
func BenchmarkSpeedAppend(b *testing.B) {
	const batches = 1500
	dir := b.TempDir()
	d, err := OpenDir(fsys.OS(), filepath.Join(dir, "data"), DirOptions{})
	must(b, err)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(b, err)
	data, _ := speedBatch(b)
	vec := [][]byte{data}
	round := 0
	interleave(b, func() time.Duration {
		must(b, l.Reset(l.LogEndOffset()+1, nil))
		began := time.Now()
		for range batches {
			h, err := record.Validate(vec, record.Limits{})
			if err == nil {
				_, err = l.AppendLeader(vec, h, 1, 1)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(began)
	}, func() time.Duration {
		round++
		name := filepath.Join(dir, fmt.Sprint("bare", round))
		f := newBareFile(b, name)
		began := time.Now()
		for range batches {
			if crc32.Checksum(data[21:], castagnoli) == 0 {
				b.Fatal("no checksum")
			}
			f.append(b, data)
		}
		took := time.Since(began)
		must(b, f.Close())
		must(b, fsys.OS().Remove(name))
		return took
	})
	must(b, d.Close())
}

// 16 writers with 64 KiB each waiting for their sync, against 16 pwrites and one fdatasync.
func BenchmarkSpeedSync(b *testing.B) {
	const rounds = 100
	dir := b.TempDir()
	d, err := OpenDir(fsys.OS(), filepath.Join(dir, "data"), DirOptions{})
	must(b, err)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(b, err)
	data, h := speedBatch(b)
	vec := [][]byte{data}
	w := &waitingLogs{waits: map[*Log][]durableWait{}}
	group := lifecycle.New(b.Context(), "bench", slog.New(slog.DiscardHandler))
	s := StartSyncer(group, 4, w.durable)
	f := newBareFile(b, filepath.Join(dir, "bare"))
	interleave(b, func() time.Duration {
		began := time.Now()
		var left atomic.Int64
		left.Store(16 * rounds)
		var writers sync.WaitGroup
		for range 16 {
			writers.Go(func() {
				for left.Add(-1) >= 0 {
					res, err := l.AppendLeader(vec, h, 1, 1)
					if err != nil {
						panic(err)
					}
					done := w.add(l, res.LogEndOffset)
					s.Request(l)
					<-done
				}
			})
		}
		writers.Wait()
		return time.Since(began)
	}, func() time.Duration {
		began := time.Now()
		for range rounds {
			for range 16 {
				f.append(b, data)
			}
			must(b, f.SyncData())
		}
		return time.Since(began)
	})
	must(b, f.Close())
	must(b, group.Stop(context.Background()))
	must(b, d.Close())
}

// Sequential read of a sealed segment with CRC, against pread and CRC of the same file, 1 MiB at a time.
func BenchmarkSpeedRead(b *testing.B) {
	d, err := OpenDir(fsys.OS(), b.TempDir(), DirOptions{})
	must(b, err)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(b, err)
	data, h := speedBatch(b)
	for range 2000 {
		_, err := l.AppendLeader([][]byte{data}, h, 1, 1)
		must(b, err)
	}
	sealed := l.active()
	must(b, l.Roll())
	_, err = l.Sync()
	must(b, err)
	f, err := fsys.OS().OpenRead(sealed.logName())
	must(b, err)
	buf := make([]byte, 1<<20)
	var before, after runtime.MemStats
	var reads, mallocs uint64
	interleave(b, func() time.Duration {
		runtime.ReadMemStats(&before)
		began := time.Now()
		for at := int64(0); at < l.LogEndOffset(); {
			res, err := l.Read(at, 1<<20, l.LogEndOffset(), buf)
			if err != nil || res.NextOffset <= at {
				b.Fatal(at, err)
			}
			at = res.NextOffset
			reads++
		}
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		mallocs += after.Mallocs - before.Mallocs
		return took
	}, func() time.Duration {
		began := time.Now()
		for at := int64(0); at < sealed.size; at += int64(len(buf)) {
			n, err := readFull(f, buf, at)
			if err != nil || crc32.Checksum(buf[:n], castagnoli) == 0 {
				b.Fatal(err)
			}
		}
		return time.Since(began)
	})
	b.ReportMetric(float64(mallocs)/float64(reads), "allocs/read")
	must(b, f.Close())
	must(b, d.Close())
}

// 10,000 small logs: what an idle one costs, and how long they take to open after a kill and after a clean stop.
func BenchmarkManyLogs(b *testing.B) {
	const partitions = 10_000
	dir := b.TempDir()
	var heap, killed, clean float64
	data, h := makeBatch(b, noProducer, 1, 1, 1000, 1000)
	open := func() (*Dir, []*Log, time.Duration) {
		d, err := OpenDir(fsys.OS(), dir, DirOptions{})
		must(b, err)
		must(b, d.ClearClean("boot"))
		logs := make([]*Log, partitions)
		began := time.Now()
		var next atomic.Int64
		var openers sync.WaitGroup
		for range 2 * runtime.GOMAXPROCS(0) {
			openers.Go(func() {
				for i := next.Add(1) - 1; i < partitions; i = next.Add(1) - 1 {
					l, report, err := d.OpenLog(testPartition(int32(i)), Config{}) //nolint:gosec // small
					if err != nil || report.LostData() || l.LogEndOffset() != 3 {
						panic(fmt.Sprint(report, err))
					}
					logs[i] = l
				}
			})
		}
		openers.Wait()
		return d, logs, time.Since(began)
	}
	for b.Loop() {
		must(b, fsys.OS().RemoveAll(dir))
		d, err := OpenDir(fsys.OS(), dir, DirOptions{})
		must(b, err)
		items := make([]LogCheckpoint, 0, partitions)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range int32(partitions) {
			l, err := d.CreateLog(testPartition(i), Config{})
			must(b, err)
			for range 3 {
				_, err = l.AppendLeader([][]byte{data}, h, 1, 1)
				must(b, err)
			}
			items = append(items, LogCheckpoint{Log: l})
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		heap = float64(after.HeapAlloc-before.HeapAlloc) / partitions
		must(b, d.Checkpoint(items...))
		must(b, d.Close())
		began := time.Now()
		d, logs, _ := open()
		killed = time.Since(began).Seconds()
		for _, l := range logs {
			must(b, l.Close(true))
		}
		must(b, d.MarkClean())
		must(b, d.Close())
		began = time.Now()
		d, _, _ = open()
		clean = time.Since(began).Seconds()
		must(b, d.Close())
	}
	b.ReportMetric(heap, "heap-B/partition")
	b.ReportMetric(killed, "s-to-open-after-kill")
	b.ReportMetric(clean, "s-to-open-after-stop")
}

// What the page cache costs: 96 MiB written in 64 KiB pieces to a file that grows, to one with space asked for ahead, and over
// pages that are in the cache already (zeroed before, or written before: the same to the kernel), each with and without a sync.
func BenchmarkPageCache(b *testing.B) {
	const pieces = 1536
	data, _ := speedBatch(b)
	write := func(f fsys.File) {
		for range pieces {
			_, err := f.Append(data)
			must(b, err)
		}
	}
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync-%t", sync), func(b *testing.B) {
			dir := b.TempDir()
			var grow, ahead, over []float64
			for round := 0; b.Loop(); round++ {
				for i, into := range []*[]float64{&grow, &ahead, &over} {
					name := filepath.Join(dir, fmt.Sprint(round, i))
					f := newBareFile(b, name)
					switch i {
					case 1:
						must(b, f.Preallocate(pieces*int64(len(data))))
					case 2:
						write(f)
						must(b, f.SyncData())
					}
					*into = append(*into, timed(b, f, data, pieces, i == 2, sync))
					must(b, f.Close())
					must(b, fsys.OS().Remove(name))
				}
			}
			for name, took := range map[string][]float64{"grow-s": grow, "ahead-s": ahead, "over-s": over} {
				slices.Sort(took)
				b.ReportMetric(took[len(took)/2], name)
			}
		})
	}
}

// timed writes the pieces, over what is there where again, and tells how many seconds it took.
func timed(b *testing.B, f *bareFile, data []byte, pieces int, again, sync bool) float64 {
	b.Helper()
	var over *os.File
	if again {
		var err error
		over, err = os.OpenFile(f.Name(), os.O_RDWR, 0) //nolint:gosec // the benchmark's own file
		must(b, err)
		defer func() { must(b, over.Close()) }()
	}
	began := time.Now()
	for i := range pieces {
		if again {
			_, err := over.WriteAt(data, int64(i)*int64(len(data)))
			must(b, err)
			continue
		}
		_, err := f.Append(data)
		must(b, err)
	}
	if sync {
		must(b, f.SyncData())
	}
	return time.Since(began).Seconds()
}
