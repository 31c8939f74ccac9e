package storage

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/record"
)

// Reads of a log while it is compacted at 64 MiB a second, and while it is not: the 99th percentile of a read of 64 KiB.
func BenchmarkReadBesideCleaning(b *testing.B) {
	for _, cleaning := range []bool{false, true} {
		name := "idle"
		if cleaning {
			name = "cleaning"
		}
		b.Run(name, func(b *testing.B) {
			x := benchKeyedLog(b, record.None)
			stop, stopped := make(chan struct{}), make(chan struct{})
			var passes int
			go func() { //nolint:forbidigo // a benchmark without the lifecycle package, which lies above
				defer close(stopped)
				ticker := time.NewTicker(time.Second / 64)
				defer ticker.Stop()
				for cleaning {
					x.log.mu.Lock()
					x.log.cleaned = cleanPoint{loaded: true, horizon: math.MaxInt64}
					x.log.mu.Unlock()
					cl, err := NewCleaner(CleanerOptions{}).Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end})
					if err != nil || cl == nil {
						b.Error(err)
						return
					}
					for done := false; !done; {
						select {
						case <-stop:
							must(b, cl.Close())
							return
						case <-ticker.C:
						}
						if _, done, err = cl.Step(1 << 20); err != nil {
							b.Error(err)
							return
						}
					}
					passes++
					must(b, cl.Close())
				}
			}()
			r := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // a benchmark
			buf := make([]byte, 128<<10)
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := x.log.Read(r.Int64N(x.end), 64<<10, math.MaxInt64, buf); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			close(stop)
			<-stopped
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64(passes), "passes")
			must(b, x.dir.Close())
		})
	}
}
