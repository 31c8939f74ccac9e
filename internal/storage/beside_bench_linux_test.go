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

// beside is something that runs beside a load, from start to the stop that it returns.
type beside struct {
	name  string
	start func() (stop func())
}

// nothing runs beside: what the machine does by itself.
func nothing() func() { return func() {} }

// latencies gathers how long something took alone, which is the first way, and beside other things.
type latencies struct {
	ways   []beside
	all    [][]time.Duration
	ratios [][2][]float64 // of the rounds, against alone: p50, p99
}

func newLatencies(ways []beside) *latencies {
	return &latencies{ways: ways, all: make([][]time.Duration, len(ways)), ratios: make([][2][]float64, len(ways))}
}

func percentile(sorted []time.Duration, percent int) time.Duration {
	return sorted[len(sorted)*percent/100]
}

// round takes over one round.
func (l *latencies) round(took [][]time.Duration) {
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
	for i, way := range l.ways {
		slices.Sort(l.all[i])
		for j, percent := range []int{50, 99} {
			what := fmt.Sprintf("%s-p%d-%s", name, percent, way.name)
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

// tailLoad is what runs alone and beside other things: so many appends of 64 KiB, checked whole, each synced if so asked and read back,
// every so often or without a pause.
type tailLoad struct {
	log   *Log
	n     int
	every time.Duration
	sync  bool
}

func (t tailLoad) run(b *testing.B) (appends, reads []time.Duration) {
	b.Helper()
	data, _ := speedBatch(b)
	vec, buf := [][]byte{data}, make([]byte, 1<<20)
	due := time.Now()
	for range t.n {
		must(b, lifecycle.Sleep(b.Context(), lifecycle.RealClock(), time.Until(due))) // keeps the rate
		due = due.Add(t.every)
		began := time.Now()
		h, err := record.Validate(vec, record.Limits{})
		must(b, err)
		res, err := t.log.AppendLeader(vec, h, 1, 1)
		must(b, err)
		if t.sync {
			_, err = t.log.Sync()
			must(b, err)
		}
		appended := time.Now()
		got, err := t.log.Read(res.BaseOffset, len(buf), res.LogEndOffset, buf)
		if err != nil || len(got.Data) != len(data) {
			b.Fatal(len(got.Data), err)
		}
		appends, reads = append(appends, appended.Sub(began)), append(reads, time.Since(appended))
	}
	return appends, reads
}

// besides runs rounds of the load: alone, alone again, and beside each of the others, in turns.
func besides(b *testing.B, load tailLoad, others ...beside) {
	b.Helper()
	ways := append([]beside{{"alone", nothing}, {"again", nothing}}, others...)
	appends, reads := newLatencies(ways), newLatencies(ways)
	for round := 0; b.Loop(); round++ {
		appended, read := make([][]time.Duration, len(ways)), make([][]time.Duration, len(ways))
		for turn := range ways {
			how := (round + turn) % len(ways)
			must(b, load.log.Reset(load.log.LogEndOffset()+1, nil))
			stop := ways[how].start()
			appended[how], read[how] = load.run(b)
			stop()
		}
		appends.round(appended)
		reads.round(read)
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
			besides(b, tailLoad{log: l, n: c.n, every: c.every}, beside{"scrub", func() func() {
				dropCached(cold)
				group := lifecycle.New(b.Context(), "bench", slog.New(slog.DiscardHandler))
				StartScrubber(group, d, ScrubOptions{
					BytesPerSecond: scrubRate, Clock: lifecycle.RealClock(), OnDamage: func(_ *Log, d Damage) { panic(d.Reason) },
				})
				return func() { must(b, group.Stop(context.Background())) }
			}})
			must(b, d.Close())
		})
	}
}

// Appends and reads of the tail, 200 a second, each append synced or not, beside readers of logs that are not in the page cache, as
// many GiB together: at 4 MiB a second each; and as fast as they can, a MiB at a time, through the gate of the backlog and without it.
func BenchmarkTailBesideColdReaders(b *testing.B) {
	for _, sync := range []bool{false, true} {
		for _, readers := range []int{8, 32, 128} {
			b.Run(fmt.Sprintf("sync-%t/%d", sync, readers), func(b *testing.B) {
				d, err := OpenDir(fsys.OS(), b.TempDir(), DirOptions{})
				must(b, err)
				l, err := d.CreateLog(testPartition(int32(readers)), Config{}) //nolint:gosec // small
				must(b, err)
				logs := make([]*Log, readers)
				for i := range logs {
					logs[i] = coldLog(b, d, int32(i), 1024/readers) //nolint:gosec // small
				}
				paced := coldReaders{logs: logs, size: 256 << 10, pause: time.Second / 16}
				gated, open := coldReaders{logs: logs, size: 1 << 20, gate: d.Backlog()}, coldReaders{logs: logs, size: 1 << 20}
				n := 400
				if sync {
					n = 200 // without the gate each waits for a tenth of a second
				}
				besides(b, tailLoad{log: l, n: n, every: 5 * time.Millisecond, sync: sync},
					beside{"4MiB-each", paced.start}, beside{"gated", gated.start}, beside{"open", open.start})
				b.ReportMetric(paced.rate(), "cold-4MiB-each-MiB/s")
				b.ReportMetric(gated.rate(), "cold-gated-MiB/s")
				b.ReportMetric(open.rate(), "cold-open-MiB/s")
				must(b, d.Close())
			})
		}
	}
}

// coldReaders read a log each.
type coldReaders struct {
	logs  []*Log
	size  int           // of one read, in bytes
	pause time.Duration // from one read to the next
	gate  *BacklogGate  // nil for none

	read, span atomic.Int64
}

func (c *coldReaders) start() (stop func()) {
	began := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, l := range c.logs {
		running.Go(func() { c.run(ctx, l) })
	}
	return func() {
		cancel()
		running.Wait()
		c.span.Add(int64(time.Since(began)))
	}
}

// rate is how many MiB a second all have read together.
func (c *coldReaders) rate() float64 {
	return float64(c.read.Load()) / (1 << 20) / time.Duration(c.span.Load()).Seconds()
}

// run reads the log from its start, again and again, dropped from the page cache before each time. The dropping is part of the first
// turn: no reader of a broker does that beside the gate.
func (c *coldReaders) run(ctx context.Context, l *Log) {
	buf := make([]byte, c.size)
	for at := int64(0); ; {
		if c.gate != nil && c.gate.Enter(ctx) != nil {
			return
		}
		if at == 0 {
			dropCached(l)
		}
		res, err := l.Read(at, len(buf), l.LogEndOffset(), buf)
		if c.gate != nil {
			c.gate.Leave(len(res.Data))
		}
		if err != nil || res.NextOffset <= at {
			panic(fmt.Sprint(at, err))
		}
		if at = res.NextOffset; at == l.LogEndOffset() {
			at = 0
		}
		c.read.Add(int64(len(res.Data)))
		if lifecycle.Sleep(ctx, lifecycle.RealClock(), c.pause) != nil {
			return
		}
	}
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
	var rounds, checked atomic.Int64 // of the scrub that came to their end within the 5 seconds
	for b.Loop() {
		for _, rate := range []int64{0, scrubRate} {
			group := lifecycle.New(b.Context(), "bench", slog.New(slog.DiscardHandler))
			StartSyncer(group, 4, func(*Log, int64, error) {})
			StartScrubber(group, d, ScrubOptions{
				BytesPerSecond: rate, Clock: lifecycle.RealClock(), OnDamage: func(_ *Log, d Damage) { panic(d.Reason) },
				OnRound: func(bytes int64) { rounds.Add(1); checked.Add(bytes) },
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
	b.ReportMetric(float64(rounds.Load())/float64(len(scrubbed)), "whole-scrubs")
	b.ReportMetric(float64(checked.Load())/(1<<20)/float64(max(rounds.Load(), 1)), "MiB/scrub")
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
