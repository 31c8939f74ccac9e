package replication

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/replication/core"
)

// metrics are the manager's own; each manager has its set.
type metrics struct {
	appendedBytes, fetchedBytes, truncations, diverged prometheus.Counter

	retentionSegments, retentionBytes, clockJumps            prometheus.Counter
	retentionPaused                                          prometheus.Gauge
	cleanings, cleaningsFailed, cleanedBytes, cleanedRecords prometheus.Counter
}

func newMetrics(m *Manager, registerer prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "replication_" + name, Help: help})
	}
	s := &metrics{
		appendedBytes: counter("appended_bytes_total", "Bytes of batches appended as leader."),
		fetchedBytes:  counter("fetched_bytes_total", "Bytes of batches appended as follower."),
		truncations:   counter("truncations_total", "Logs cut to agree with their leader."),
		diverged:      counter("diverged_partitions_total", "Partitions stopped because committed records differ from the leader's."),

		retentionSegments: counter("retention_segments_total", "Segments deleted by retention, as leader."),
		retentionBytes:    counter("retention_bytes_total", "Bytes deleted by retention, as leader."),
		clockJumps:        counter("clock_jumps_total", "Jumps ahead of the wall clock, which pause deletions by age."),
		retentionPaused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "replication_retention_paused_partitions", Help: "Partitions whose old records are kept because the clock is not believed.",
		}),
		cleanings:       counter("compactions_total", "Compactions of logs that came to their end."),
		cleaningsFailed: counter("compactions_failed_total", "Compactions that failed."),
		cleanedBytes:    counter("compaction_read_bytes_total", "Bytes read by compactions."),
		cleanedRecords:  counter("compaction_dropped_records_total", "Records removed by compactions."),
	}
	if registerer == nil {
		return s, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "replication_" + name, Help: help}, value)
	}
	for _, c := range []prometheus.Collector{
		s.appendedBytes, s.fetchedBytes, s.truncations, s.diverged, s.retentionSegments, s.retentionBytes, s.clockJumps,
		s.retentionPaused, s.cleanings, s.cleaningsFailed, s.cleanedBytes, s.cleanedRecords,
		gauge("pending_bytes", "Bytes appended and not yet acknowledged.", func() float64 { return float64(m.pending.Load()) }),
		gauge("partitions", "Replicas on this broker.", func() float64 { return float64(len(m.allPartitions())) }),
		gauge("leaders", "Partitions that this broker leads.", func() float64 { return float64(m.countLeaders(false)) }),
		gauge("under_replicated_partitions", "Led partitions with replicas out of sync.", func() float64 { return float64(m.countLeaders(true)) }),
	} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// countLeaders counts the partitions led, or those of them that have replicas out of sync.
func (m *Manager) countLeaders(underReplicated bool) (n int) {
	for _, p := range m.allPartitions() {
		if p.seen.Load().role != core.RoleLeader {
			continue
		}
		p.mu.Lock()
		if !underReplicated || p.replica.UnderReplicated() {
			n++
		}
		p.mu.Unlock()
	}
	return n
}
