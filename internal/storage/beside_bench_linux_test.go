package storage

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/record"
)

// scrubRate is the default of scrub.bytes.per.second.
const scrubRate = 8 << 20

// latencies gathers how long something took alone, alone again (what the machine does by itself), and with what runs beside it.
type latencies struct {
	all    [3][]time.Duration
	ratios [3][2][]float64 // of the rounds, against alone: p50, p99
}

func percentile(sorted []time.Duration, percent int) time.Duration {
	return sorted[len(sorted)*percent/100]
}

// round takes over one round.
func (l *latencies) round(took [3][]time.Duration) {
	for i := range took {
		slices.Sort(took[i])
		l.all[i] = append(l.all[i], took[i]...)
		for j, percent := range []int{50, 99} {
			l.ratios[i][j] = append(l.ratios[i][j], float64(percentile(took[i], percent))/float64(percentile(took[0], percent)))
		}
	}
}

// report gives microseconds of all rounds together, and the ratios of the rounds: median, and the quarters around it.
func (l *latencies) report(b *testing.B, name string) {
	b.Helper()
	for i, how := range []string{"alone", "again", "beside"} {
		slices.Sort(l.all[i])
		for j, percent := range []int{50, 99} {
			what := fmt.Sprintf("%s-p%d-%s", name, percent, how)
			b.ReportMetric(float64(percentile(l.all[i], percent).Nanoseconds())/1e3, what+"-us")
			if r := l.ratios[i][j]; i > 0 {
				slices.Sort(r)
				b.ReportMetric(r[len(r)/2], what+"-median")
				b.ReportMetric(r[len(r)/4], what+"-q1")
				b.ReportMetric(r[len(r)*3/4], what+"-q3")
			}
		}
	}
}

// coldLog is a sealed log of so many MiB whose bytes are on the disk.
func coldLog(b *testing.B, d *Dir, partition int32, mib int) *Log {
	b.Helper()
	l, err := d.CreateLog(testPartition(partition), Config{})
	must(b, err)
	data, h := speedBatch(b)
	for l.SizeBytes() < int64(mib)<<20 {
		_, err := l.AppendLeader([][]byte{data}, h, 1, 1)
		must(b, err)
	}
	must(b, l.Roll())
	_, err = l.Sync()
	must(b, err)
	return l
}

// dropCached drops the first segment of the log from the page cache.
func dropCached(l *Log) {
	f, err := os.Open(l.segs[0].logName())
	if err == nil {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) //nolint:gosec // a descriptor
		_ = f.Close()                                             //nolint:errcheck // read only
	}
	if err != nil {
		panic(err)
	}
}

// tailLoad appends 64 KiB, checked whole, and reads it back, n times, every so often or without a pause.
func tailLoad(b *testing.B, l *Log, n int, every time.Duration) (appends, reads []time.Duration) {
	b.Helper()
	data, _ := speedBatch(b)
	vec, buf := [][]byte{data}, make([]byte, 1<<20)
	due := time.Now()
	for range n {
		must(b, lifecycle.Sleep(b.Context(), lifecycle.RealClock(), time.Until(due))) // keeps the rate
		due = due.Add(every)
		began := time.Now()
		h, err := record.Validate(vec, record.Limits{})
		must(b, err)
		res, err := l.AppendLeader(vec, h, 1, 1)
		must(b, err)
		appended := time.Now()
		got, err := l.Read(res.BaseOffset, len(buf), res.LogEndOffset, buf)
		if err != nil || len(got.Data) != len(data) {
			b.Fatal(len(got.Data), err)
		}
		appends, reads = append(appends, appended.Sub(began)), append(reads, time.Since(appended))
	}
	return appends, reads
}

// besides runs rounds of the load, twice alone and once beside something that start begins and its stop ends, in turns.
func besides(b *testing.B, l *Log, n int, every time.Duration, start func() (stop func())) {
	b.Helper()
	var appends, reads latencies
	for round := 0; b.Loop(); round++ {
		var took [2][3][]time.Duration
		for turn := range 3 {
			how := (round + turn) % 3
			must(b, l.Reset(l.LogEndOffset()+1, nil))
			stop := func() {}
			if how == 2 {
				stop = start()
			}
			took[0][how], took[1][how] = tailLoad(b, l, n, every)
			stop()
		}
		appends.round(took[0])
		reads.round(took[1])
	}
	appends.report(b, "append")
	reads.report(b, "read")
}

// Appends of 64 KiB, 200 a second and without a pause, beside the scrub of another log that is not in the page cache.
func BenchmarkAppendBesideScrub(b *testing.B) {
	for _, c := range []struct {
		name  string
		n     int
		every time.Duration
	}{{"paced", 400, 5 * time.Millisecond}, {"unpaced", 12_000, 0}} {
		b.Run(c.name, func(b *testing.B) {
			d, err := OpenDir(fsys.OS(), b.TempDir(), DirOptions{})
			must(b, err)
			cold := coldLog(b, d, 0, 128)
			l, err := d.CreateLog(testPartition(1), Config{})
			must(b, err)
			besides(b, l, c.n, c.every, func() func() {
				dropCached(cold)
				group := lifecycle.New(b.Context(), "bench", slog.New(slog.DiscardHandler))
				StartScrubber(group, d, ScrubOptions{
					BytesPerSecond: scrubRate, Clock: lifecycle.RealClock(), OnDamage: func(_ *Log, d Damage) { panic(d.Reason) },
				})
				return func() { must(b, group.Stop(context.Background())) }
			})
			must(b, d.Close())
		})
	}
}

// Appends and reads of the tail, 200 a second, beside 32 readers of logs that are not in the page cache: 4 MiB a second each, and
// as fast as they can.
func BenchmarkTailBesideColdReaders(b *testing.B) {
	const readers = 32
	for _, c := range []struct {
		name  string
		pause time.Duration // from one read of 256 KiB to the next
	}{{"4MiB-each", time.Second / 16}, {"unpaced", 0}} {
		b.Run(c.name, func(b *testing.B) {
			d, err := OpenDir(fsys.OS(), b.TempDir(), DirOptions{})
			must(b, err)
			l, err := d.CreateLog(testPartition(readers), Config{})
			must(b, err)
			logs := make([]*Log, readers)
			for i := range logs {
				logs[i] = coldLog(b, d, int32(i), 32) //nolint:gosec // small
			}
			var read, span atomic.Int64
			besides(b, l, 400, 5*time.Millisecond, func() func() {
				began := time.Now()
				ctx, cancel := context.WithCancel(b.Context())
				var running sync.WaitGroup
				for _, cold := range logs {
					running.Go(func() { read.Add(readCold(ctx, cold, c.pause)) })
				}
				return func() {
					cancel()
					running.Wait()
					span.Add(int64(time.Since(began)))
				}
			})
			b.ReportMetric(float64(read.Load())/(1<<20)/time.Duration(span.Load()).Seconds(), "cold-MiB/s")
			must(b, d.Close())
		})
	}
}

// readCold reads the log from its start, again and again, dropped from the page cache before each time.
func readCold(ctx context.Context, l *Log, pause time.Duration) (read int64) {
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		dropCached(l)
		for at := int64(0); at < l.LogEndOffset() && ctx.Err() == nil; {
			res, err := l.Read(at, len(buf), l.LogEndOffset(), buf)
			if err != nil || res.NextOffset <= at {
				panic(fmt.Sprint(at, err))
			}
			at = res.NextOffset
			read += int64(len(res.Data))
			_ = lifecycle.Sleep(ctx, lifecycle.RealClock(), pause) //nolint:errcheck // looked at above
		}
	}
	return read
}

// A log that is not in the page cache, read from start to end 256 KiB at a time by one reader and by 8 of 8 logs, with the kernel's
// read-ahead as it is, without any, and with twice as much.
func BenchmarkReadAhead(b *testing.B) {
	advices := []struct {
		name   string
		advice int
	}{{"default", unix.FADV_NORMAL}, {"none", unix.FADV_RANDOM}, {"double", unix.FADV_SEQUENTIAL}}
	for _, readers := range []int{1, 8} {
		b.Run(fmt.Sprint(readers), func(b *testing.B) {
			d, err := OpenDir(fsys.OS(), b.TempDir(), DirOptions{})
			must(b, err)
			logs := make([]*Log, readers)
			for i := range logs {
				logs[i] = coldLog(b, d, int32(i), 128/readers) //nolint:gosec // small
			}
			speeds := make([][]float64, len(advices))
			for round := 0; b.Loop(); round++ {
				for turn := range advices {
					i := (round + turn) % len(advices)
					speeds[i] = append(speeds[i], readAdvised(b, logs, advices[i].advice))
				}
			}
			for i, a := range advices {
				ratios := make([]float64, len(speeds[i]))
				for round := range ratios {
					ratios[round] = speeds[i][round] / speeds[0][round]
				}
				slices.Sort(ratios)
				slices.Sort(speeds[i])
				b.ReportMetric(speeds[i][len(ratios)/2], a.name+"-MiB/s")
				b.ReportMetric(ratios[len(ratios)/2], a.name+"-median")
				b.ReportMetric(ratios[0], a.name+"-least")
				b.ReportMetric(ratios[len(ratios)-1], a.name+"-most")
			}
			must(b, d.Close())
		})
	}
}

// readAdvised reads every log once, each by a reader of its own, and returns MiB a second.
func readAdvised(b *testing.B, logs []*Log, advice int) float64 {
	b.Helper()
	var bytes atomic.Int64
	for _, l := range logs {
		_, err := l.Read(0, 1, l.LogEndOffset(), nil) // opens the file
		must(b, err)
		must(b, unix.Fadvise(descriptorOf(b, l.segs[0].logName()), 0, 0, advice))
		dropCached(l)
	}
	began := time.Now()
	var running sync.WaitGroup
	for _, l := range logs {
		running.Go(func() {
			buf := make([]byte, 256<<10)
			for at := int64(0); at < l.LogEndOffset(); {
				res, err := l.Read(at, len(buf), l.LogEndOffset(), buf)
				if err != nil || res.NextOffset <= at {
					panic(fmt.Sprint(at, err))
				}
				at = res.NextOffset
				bytes.Add(int64(len(res.Data)))
			}
		})
	}
	running.Wait()
	return float64(bytes.Load()) / (1 << 20) / time.Since(began).Seconds()
}

// descriptorOf finds the descriptor that this process has open for the file.
func descriptorOf(b *testing.B, name string) int {
	b.Helper()
	open, err := filepath.Glob("/proc/self/fd/*")
	must(b, err)
	for _, link := range open {
		var fd int
		if target, err := os.Readlink(link); err != nil || target != name {
			continue
		}
		_, err := fmt.Sscan(strings.TrimPrefix(link, "/proc/self/fd/"), &fd)
		must(b, err)
		return fd
	}
	b.Fatal(name, "is not open")
	return -1
}

// 10,000 idle logs in an open directory with its syncer and its scrub: how much of one core the process takes in 5 seconds, with the
// scrub and without, and how long a checkpoint of them all takes that changes nothing.
func BenchmarkIdleLogs(b *testing.B) {
	const partitions = 10_000
	d, logs := idleLogs(b, b.TempDir(), partitions, 3, false)
	items := make([]LogCheckpoint, partitions)
	for i, l := range logs {
		items[i] = LogCheckpoint{Log: l}
	}
	must(b, d.Checkpoint(items...))
	var alone, scrubbed, checkpoint []float64
	for b.Loop() {
		for _, rate := range []int64{0, scrubRate} {
			group := lifecycle.New(b.Context(), "bench", slog.New(slog.DiscardHandler))
			StartSyncer(group, 4, func(*Log, int64, error) {})
			StartScrubber(group, d, ScrubOptions{
				BytesPerSecond: rate, Clock: lifecycle.RealClock(), OnDamage: func(_ *Log, d Damage) { panic(d.Reason) },
			})
			before, began := processTime(b), time.Now()
			must(b, lifecycle.Sleep(b.Context(), lifecycle.RealClock(), 5*time.Second)) // what is measured is that nothing happens
			share := 100 * (processTime(b) - before).Seconds() / time.Since(began).Seconds()
			if rate == 0 {
				alone = append(alone, share)
			} else {
				scrubbed = append(scrubbed, share)
			}
			must(b, group.Stop(context.Background()))
		}
		before := processTime(b)
		must(b, d.Checkpoint(items...))
		checkpoint = append(checkpoint, float64((processTime(b)-before).Microseconds())/1e3)
	}
	for name, x := range map[string][]float64{"%-of-a-core": alone, "%-of-a-core-scrubbed": scrubbed, "checkpoint-ms": checkpoint} {
		slices.Sort(x)
		b.ReportMetric(x[len(x)/2], name)
		b.ReportMetric(x[len(x)-1], name+"-most")
	}
	must(b, d.Close())
}

// processTime is the processor time of this process, user and system.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
