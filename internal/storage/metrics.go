package storage

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/telemetry"
)

var (
	metricTable = &telemetry.MetricTable{}

	metricSyncSeconds = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_seconds", Kind: telemetry.KindHistogram, Buckets: telemetry.LatencyBuckets,
		Help:  "Syncs of logs to the disk, each of one log or of many together.",
		Alarm: "the 99th percentile above 100 ms: the disk is slow, and acknowledgements wait for it",
	})
	metricSyncLogs = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_logs", Kind: telemetry.KindHistogram, Buckets: telemetry.CountBuckets,
		Help: "Logs that one sync made durable: from 16 waiting ones on it is of the whole file system.",
	})
	metricSyncRunning = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_running_seconds", Kind: telemetry.KindGauge,
		Help:  "For how long the longest sync under way has been running; 0 while there is none.",
		Alarm: "above 1: the disk hangs; a call that never returns shows nowhere else",
	})
	metricSyncFailures = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_failures_total", Kind: telemetry.KindCounter, Help: "Syncs that failed.",
		Alarm: "above 0: the disk lost what it was given; the broker stops by itself",
	})
	metricSharedRounds = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_journal_rounds_total", Kind: telemetry.KindCounter, Help: "Syncs of many logs that went by the sync journal.",
	})
	metricSharedBytes = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_journal_bytes_total", Kind: telemetry.KindCounter, Help: "Bytes of batches that were written to the sync journal besides their logs.",
	})
	metricSharedFallbacks = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_journal_fallbacks_total", Kind: telemetry.KindCounter,
		Help:  "Syncs of many logs that the sync journal did not take: its files are not made yet, or full, and the file system was synced.",
		Alarm: "rising with the load: the disk does not keep up, or has no room for the journal; raise storage.sync.journal.bytes, or free space",
	})
	metricSharedReplayed = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_journal_replayed_bytes", Kind: telemetry.KindGauge, Help: "Bytes that this start has written to the logs from the sync journal.",
	})
	metricSharedDamage = metricTable.Add(telemetry.Metric{
		Name: "storage_sync_journal_damages", Kind: telemetry.KindGauge, Help: "Places of the sync journal that this start could not read.",
		Alarm: "above 0: acknowledged records may be lost on this broker; its replicas have given up their seats",
	})
	metricOpenFiles = metricTable.Add(telemetry.Metric{
		Name: "storage_open_segment_files", Kind: telemetry.KindGauge, Help: "Segment files kept open, idle ones up to a bound.",
	})
	metricFree = metricTable.Add(telemetry.Metric{
		Name: "storage_free_bytes", Kind: telemetry.KindGauge, Help: "Free space on the file system of the data directory.",
		Alarm: "near storage_min_free_bytes: appends are refused there",
	})
	metricMinFree = metricTable.Add(telemetry.Metric{
		Name: "storage_min_free_bytes", Kind: telemetry.KindGauge, Help: "Free space below which appends are refused; 0 looks at nothing.",
	})
	metricJournalDamaged = metricTable.Add(telemetry.Metric{
		Name: "storage_journal_damaged_bytes", Kind: telemetry.KindGauge,
		Help:  "Bytes of checkpoints.journal that were damaged when the directory was opened; an end that a crash cut short does not count.",
		Alarm: "above 0: the disk damages files; positions older than the truth were used, and more of the logs was checked",
	})
	metricBacklogWaiting = metricTable.Add(telemetry.Metric{
		Name: "storage_backlog_waiting_reads", Kind: telemetry.KindGauge,
		Help:  "Consumers far behind the end of a log that wait for their turn to read.",
		Alarm: "above 0 all the time: consumers catch up as fast as storage.backlog.reads lets them; raise it, or spread them over brokers",
	})
	metricBacklogReads = metricTable.Add(telemetry.Metric{
		Name: "storage_backlog_reads_total", Kind: telemetry.KindCounter, Help: "Reads of consumers far behind the end of a log.",
	})
	metricBacklogBytes = metricTable.Add(telemetry.Metric{
		Name: "storage_backlog_read_bytes_total", Kind: telemetry.KindCounter, Help: "Bytes that consumers far behind the end of a log have read.",
	})
	metricReserve = metricTable.Add(telemetry.Metric{
		Name: "storage_reserve_held", Kind: telemetry.KindGauge, Help: "1 while the reserve file is there, 0 once it was given up for bookkeeping.",
		Alarm: "0: the disk is full; delete or trim topics",
	})
)

// Metrics are the metrics of NewSyncMetrics and RegisterDir.
func Metrics() []telemetry.Metric { return metricTable.Metrics() }

// SyncMetrics count what a Syncer does; nil counts nothing.
type SyncMetrics struct {
	clock         lifecycle.Clock
	seconds, logs prometheus.Histogram
	failures      prometheus.Counter

	mu      sync.Mutex
	running []time.Time // when the syncs under way began; zero for a free place
}

// NewSyncMetrics registers the metrics of syncs; a nil registerer takes none.
func NewSyncMetrics(clock lifecycle.Clock, registerer prometheus.Registerer) (*SyncMetrics, error) {
	m := &SyncMetrics{
		clock: clock, seconds: metricSyncSeconds.Histogram(), logs: metricSyncLogs.Histogram(), failures: metricSyncFailures.Counter(),
	}
	return m, telemetry.RegisterAll(registerer, m.seconds, m.logs, m.failures, metricSyncRunning.GaugeFunc(func() float64 {
		return m.Longest().Seconds()
	}))
}

// syncMark is a sync under way.
type syncMark struct {
	began time.Time
	place int
}

func (m *SyncMetrics) begin() syncMark {
	if m == nil {
		return syncMark{}
	}
	mark := syncMark{began: m.clock.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	for mark.place < len(m.running) && !m.running[mark.place].IsZero() {
		mark.place++
	}
	if mark.place == len(m.running) {
		m.running = append(m.running, mark.began)
	} else {
		m.running[mark.place] = mark.began
	}
	return mark
}

func (m *SyncMetrics) end(mark syncMark, logs int, err error) {
	if m == nil {
		return
	}
	m.mu.Lock()
	m.running[mark.place] = time.Time{}
	m.mu.Unlock()
	switch {
	case err == nil:
		m.seconds.Observe(m.clock.Now().Sub(mark.began).Seconds())
		m.logs.Observe(float64(logs))
	case !errors.Is(err, ErrLogClosed):
		m.failures.Inc()
	}
}

// Longest is how long the oldest sync under way has been running; 0 where there is none.
func (m *SyncMetrics) Longest() (longest time.Duration) {
	now := m.clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, began := range m.running {
		if !began.IsZero() {
			longest = max(longest, now.Sub(began))
		}
	}
	return longest
}

// RegisterDir registers what there is to see of a data directory. A scrape waits for none of its locks.
func RegisterDir(registerer prometheus.Registerer, d *Dir) error {
	damaged := d.report.JournalDamagedBytes
	if d.report.JournalTorn {
		damaged = 0
	}
	replay := d.report.Replay
	return telemetry.RegisterAll(registerer,
		metricSharedRounds.CounterFunc(func() float64 { return float64(d.shared.written.Load()) }),
		metricSharedBytes.CounterFunc(func() float64 { return float64(d.shared.bytes.Load()) }),
		metricSharedFallbacks.CounterFunc(func() float64 { return float64(d.shared.fallbacks.Load()) }),
		metricSharedReplayed.GaugeFunc(func() float64 { return float64(replay.Bytes) }),
		metricSharedDamage.GaugeFunc(func() float64 { return float64(len(replay.Damage)) }),
		metricJournalDamaged.GaugeFunc(func() float64 { return float64(damaged) }),
		metricOpenFiles.GaugeFunc(func() float64 { return float64(d.files.open.Load()) }),
		metricFree.GaugeFunc(func() float64 {
			free, err := d.FreeBytes()
			if err != nil {
				return -1
			}
			return float64(free)
		}),
		metricMinFree.GaugeFunc(func() float64 { return float64(d.space.minFree) }),
		metricBacklogWaiting.GaugeFunc(func() float64 { return float64(d.backlog.Waiting()) }),
		metricBacklogReads.CounterFunc(func() float64 { return float64(d.backlog.reads.Load()) }),
		metricBacklogBytes.CounterFunc(func() float64 { return float64(d.backlog.bytes.Load()) }),
		metricReserve.GaugeFunc(func() float64 { return telemetry.Flag(d.space.held.Load()) }))
}
