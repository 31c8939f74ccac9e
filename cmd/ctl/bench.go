package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) benchCmd() *cobra.Command {
	return group("bench", "Measure throughput and latency", a.benchProduceCmd(), a.benchConsumeCmd(), a.benchLatencyCmd())
}

// latencyJSON are percentiles in milliseconds.
type latencyJSON struct {
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// benchJSON is the result of a measurement.
type benchJSON struct {
	Name             string       `json:"name,omitempty"`
	Records          int64        `json:"records"`
	Bytes            int64        `json:"bytes"`
	Seconds          float64      `json:"seconds"`
	RecordsPerSecond float64      `json:"records_per_second"`
	MBPerSecond      float64      `json:"mb_per_second"`
	Latency          *latencyJSON `json:"latency_ms"`
	ToConsumer       *latencyJSON `json:"to_consumer_ms,omitempty"`
	Errors           int64        `json:"errors"`
}

func newBench(records, bytes int64, took time.Duration, errs int64) benchJSON {
	b := benchJSON{Records: records, Bytes: bytes, Seconds: took.Seconds(), Errors: errs}
	if s := took.Seconds(); s > 0 {
		b.RecordsPerSecond, b.MBPerSecond = float64(records)/s, float64(bytes)/s/1e6
	}
	return b
}

// percentiles sorts the samples and reads them off by the nearest rank; nil without samples.
func percentiles(samples []time.Duration) *latencyJSON {
	if len(samples) == 0 {
		return nil
	}
	slices.Sort(samples)
	at := func(p float64) float64 {
		i := min(int(p*float64(len(samples))), len(samples)-1)
		return float64(samples[i]) / float64(time.Millisecond)
	}
	return &latencyJSON{P50: at(.5), P95: at(.95), P99: at(.99), P999: at(.999), Max: at(1)}
}

func (a *app) printBench(b benchJSON) error {
	if err := a.print(b, func(w io.Writer, _ bool) error { return benchTable(w, b) }); err != nil {
		return err
	}
	if b.Errors > 0 {
		return errReported
	}
	return nil
}

func benchTable(w io.Writer, b benchJSON) error {
	err := row(w, fmt.Sprintf("%d records, %.1f MB in %.2f s: %.0f records/s, %.1f MB/s, %d errors",
		b.Records, float64(b.Bytes)/1e6, b.Seconds, b.RecordsPerSecond, b.MBPerSecond, b.Errors))
	show := func(name string, l *latencyJSON) {
		if l != nil && err == nil {
			err = row(w, fmt.Sprintf("%s ms: p50 %.3f  p95 %.3f  p99 %.3f  p99.9 %.3f  max %.3f", name, l.P50, l.P95, l.P99, l.P999, l.Max))
		}
	}
	show("latency to ack", b.Latency)
	show("latency to consumer", b.ToConsumer)
	return err
}

// payload returns n bytes that look like log lines: a generator of words with a fixed seed, so that codecs find in it what
// they find in logs.
func payload(n int) []byte {
	words := []string{"INFO", "WARN", "broker", "partition", "offset", "session", "0x", "closed", "127.0.0.1", "leader", "sync"}
	b := make([]byte, 0, n+32)
	for seed := uint64(1); len(b) < n; {
		seed = seed*6364136223846793005 + 1442695040888963407
		b = append(append(b, words[seed>>33%uint64(len(words))]...), ' ')
		b = fmt.Appendf(b, "%x ", seed>>40)
	}
	return b[:n]
}
