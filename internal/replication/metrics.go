package replication

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/telemetry"
)

var metricTable = &telemetry.MetricTable{}

// declared shortens the declarations of what has no labels.
func declared(kind telemetry.MetricKind, name, help, alarm string) *telemetry.Metric {
	return metricTable.Add(telemetry.Metric{Name: "replication_" + name, Kind: kind, Help: help, Alarm: alarm})
}

var (
	metricAppendedBytes = declared(telemetry.KindCounter, "appended_bytes_total", "Bytes of batches appended as leader.", "")
	metricFetchedBytes  = declared(telemetry.KindCounter, "fetched_bytes_total", "Bytes of batches appended as follower.", "")
	metricSentBytes     = declared(telemetry.KindCounter, "sent_bytes_total", "Bytes of batches sent to followers.", "")
	metricTruncations   = declared(telemetry.KindCounter, "truncations_total", "Logs cut to agree with their leader.", "")
	metricDiverged      = declared(telemetry.KindCounter, "diverged_partitions_total",
		"Partitions stopped because committed records differ from the leader's.",
		"above 0: the replica has stopped for good; see the log of the broker")
	metricAppend = metricTable.Add(telemetry.Metric{
		Name: "replication_append_seconds", Kind: telemetry.KindHistogram, Buckets: telemetry.LatencyBuckets,
		Help:  "Writing of one batch to the log of its leader, without its sync.",
		Alarm: "the 99th percentile above 50 ms: writes to the page cache are throttled, the disk is too slow for the load",
	})
	metricWaiting = declared(telemetry.KindGauge, "waiting_appends", "Appended batches that wait for the HighWatermark or their sync.", "")
	metricExpired = declared(telemetry.KindCounter, "expired_appends_total",
		"Batches that were appended and not acknowledged before their deadline.",
		"it rises: followers or disks do not keep up, or too few replicas are in sync")
	metricPending     = declared(telemetry.KindGauge, "pending_bytes", "Bytes appended and not yet acknowledged.", "")
	metricPartitions  = declared(telemetry.KindGauge, "partitions", "Replicas on this broker.", "")
	metricLeaders     = declared(telemetry.KindGauge, "leaders", "Partitions that this broker leads.", "")
	metricUnderReplic = declared(telemetry.KindGauge, "under_replicated_partitions", "Led partitions with replicas out of sync.",
		"above 0 for longer than a restart takes: a broker is down or does not keep up")
	metricUnderMinISR = declared(telemetry.KindGauge, "under_min_isr_partitions",
		"Led partitions with fewer replicas in sync than min.insync.replicas.",
		"above 0: produce requests with acks=all are refused")
	metricLeaderless = declared(telemetry.KindGauge, "leaderless_partitions", "Partitions with a replica here and no leader.",
		"above 0: they can be neither written nor read")
	metricShrinks = declared(telemetry.KindCounter, "isr_shrinks_total", "Members that left in-sync sets of partitions led here.",
		"it rises while no broker was stopped: followers do not keep up")
	metricExpands = declared(telemetry.KindCounter, "isr_expands_total", "Members that joined in-sync sets of partitions led here.", "")
	metricLag     = metricTable.Add(telemetry.Metric{
		Name: "replication_follower_lag_records", Kind: telemetry.KindGauge, Labels: []string{"follower"},
		Help: "How far a follower is behind in the partition led here in which it is most behind, as of the last checkpoint (every 5 s).",
	})
	metricLagTime = metricTable.Add(telemetry.Metric{
		Name: "replication_follower_lag_seconds", Kind: telemetry.KindGauge, Labels: []string{"follower"},
		Help:  "For how long a follower has been behind in the partition led here in which it was so longest, as of the last checkpoint.",
		Alarm: "above replica.lag.time.max (3 s): it leaves the in-sync sets; look at its disk and network",
	})

	metricRetentionSegments = declared(telemetry.KindCounter, "retention_segments_total", "Segments deleted by retention, as leader.", "")
	metricRetentionBytes    = declared(telemetry.KindCounter, "retention_bytes_total", "Bytes deleted by retention, as leader.", "")
	metricClockJumps        = declared(telemetry.KindCounter, "clock_jumps_total", "Jumps ahead of the wall clock, which pause deletions by age.",
		"it rises: the clock of the machine is set by hand, or badly")
	metricRetentionPaused = declared(telemetry.KindGauge, "retention_paused_partitions",
		"Partitions whose old records are kept because the clock is not believed.", "above 0 for a day: see the log of the broker")
	metricCleanings       = declared(telemetry.KindCounter, "compactions_total", "Compactions of logs that came to their end.", "")
	metricCleaningsFailed = declared(telemetry.KindCounter, "compactions_failed_total", "Compactions that failed.", "it rises: see the log of the broker")
	metricCleanedBytes    = declared(telemetry.KindCounter, "compaction_read_bytes_total", "Bytes read by compactions.", "")
	metricCleanedRecords  = declared(telemetry.KindCounter, "compaction_dropped_records_total", "Records removed by compactions.", "")

	metricDamages = metricTable.Add(telemetry.Metric{
		Name: "replication_damages_total", Kind: telemetry.KindCounter, Labels: []string{"found_by"},
		Help:  "Places where the bytes of a log were found not to be what was written, by who found them.",
		Alarm: "it rises: a disk or memory of the machine decays; see the log of the broker",
	})
	metricDamaged = declared(telemetry.KindGauge, "damaged_partitions", "Replicas here whose log is damaged.",
		"above 0 for longer than fetching anew takes: no other replica has all of it; see cluster health")
	metricDiffering = declared(telemetry.KindGauge, "differing_partitions",
		"Replicas here that differ from their leader's in committed records, each sound by itself.",
		"above 0: compare the replicas and decide which to keep; nothing is deleted")
	metricDiscards     = declared(telemetry.KindCounter, "discarded_damages_total", "Damaged logs that were cut, with the files kept aside, to be fetched anew.", "")
	metricSeatsGivenUp = declared(telemetry.KindCounter, "given_up_seats_total", "Seats in ISR and ELR, and leaderships, given up by replicas that are damaged or have no room.", "")
	metricBadFrames    = declared(telemetry.KindCounter, "bad_frames_total", "Frames of leaders whose batches failed their checks and were not appended.",
		"it rises: a leader's memory or the network alters bytes")
	metricComparisons = declared(telemetry.KindCounter, "digest_comparisons_total", "Ranges whose digest a follower has compared with its leader's.", "")
	metricMismatches  = declared(telemetry.KindCounter, "digest_mismatches_total", "Ranges whose digest differed from the leader's.",
		"it rises: see the log of the broker")
)

// Metrics are the metrics that a manager registers.
func Metrics() []telemetry.Metric { return metricTable.Metrics() }

// metrics are the manager's own; each manager has its set.
type metrics struct {
	appendedBytes, fetchedBytes, sentBytes, truncations, diverged prometheus.Counter

	append                       prometheus.Histogram
	expired, shrinks, expands    prometheus.Counter
	retentionSegments            prometheus.Counter
	retentionBytes, clockJumps   prometheus.Counter
	retentionPaused              prometheus.Gauge
	cleanings, cleaningsFailed   prometheus.Counter
	cleanedBytes, cleanedRecords prometheus.Counter
	damages                      *prometheus.CounterVec
	discards, seatsGivenUp       prometheus.Counter
	badFrames                    prometheus.Counter
	comparisons, mismatches      prometheus.Counter
}

func newMetrics(m *Manager, registerer prometheus.Registerer) (*metrics, error) {
	s := &metrics{
		appendedBytes: metricAppendedBytes.Counter(), fetchedBytes: metricFetchedBytes.Counter(), sentBytes: metricSentBytes.Counter(),
		truncations: metricTruncations.Counter(), diverged: metricDiverged.Counter(),
		append: metricAppend.Histogram(), expired: metricExpired.Counter(),
		shrinks: metricShrinks.Counter(), expands: metricExpands.Counter(),
		retentionSegments: metricRetentionSegments.Counter(), retentionBytes: metricRetentionBytes.Counter(),
		clockJumps: metricClockJumps.Counter(), retentionPaused: metricRetentionPaused.Gauge(),
		cleanings: metricCleanings.Counter(), cleaningsFailed: metricCleaningsFailed.Counter(),
		cleanedBytes: metricCleanedBytes.Counter(), cleanedRecords: metricCleanedRecords.Counter(),
		damages: metricDamages.CounterVec(), discards: metricDiscards.Counter(), seatsGivenUp: metricSeatsGivenUp.Counter(),
		badFrames: metricBadFrames.Counter(), comparisons: metricComparisons.Counter(), mismatches: metricMismatches.Counter(),
	}
	for _, by := range allFoundBy {
		s.damages.WithLabelValues(string(by))
	}
	return s, telemetry.RegisterAll(registerer,
		s.appendedBytes, s.fetchedBytes, s.sentBytes, s.truncations, s.diverged, s.append, s.expired, s.shrinks, s.expands,
		s.retentionSegments, s.retentionBytes, s.clockJumps, s.retentionPaused, s.cleanings, s.cleaningsFailed, s.cleanedBytes, s.cleanedRecords,
		s.damages, s.discards, s.seatsGivenUp, s.badFrames, s.comparisons, s.mismatches,
		metricDamaged.GaugeFunc(func() float64 { return float64(m.countTroubles(internalv1.TroubleKind_TROUBLE_KIND_DAMAGED)) }),
		metricDiffering.GaugeFunc(func() float64 { return float64(m.countTroubles(internalv1.TroubleKind_TROUBLE_KIND_DIFFERS)) }),
		metricPending.GaugeFunc(func() float64 { return float64(m.pending.Load()) }),
		metricWaiting.GaugeFunc(func() float64 { return float64(m.waitingAppends.Load()) }),
		metricPartitions.GaugeFunc(func() float64 { return float64(m.countPartitions()) }),
		newImageCollector(m), newLagCollector(m), newTopicCollector(m))
}

func (m *Manager) countPartitions() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.partitions)
}

// imageCollector counts partitions in the image in force: it takes no lock of a partition, which a slow disk may hold.
type imageCollector struct {
	m                                                 *Manager
	leaders, underReplicated, underMinISR, leaderless *prometheus.Desc
}

func newImageCollector(m *Manager) *imageCollector {
	return &imageCollector{
		m: m, leaders: metricLeaders.Desc(), underReplicated: metricUnderReplic.Desc(),
		underMinISR: metricUnderMinISR.Desc(), leaderless: metricLeaderless.Desc(),
	}
}

// Describe implements prometheus.Collector.
func (c *imageCollector) Describe(to chan<- *prometheus.Desc) {
	to <- c.leaders
	to <- c.underReplicated
	to <- c.underMinISR
	to <- c.leaderless
}

// Collect implements prometheus.Collector.
func (c *imageCollector) Collect(to chan<- prometheus.Metric) {
	n := c.m.countRoles()
	to <- metricLeaders.Value(c.leaders, float64(n.leaders))
	to <- metricUnderReplic.Value(c.underReplicated, float64(n.underReplicated))
	to <- metricUnderMinISR.Value(c.underMinISR, float64(n.underMinISR))
	to <- metricLeaderless.Value(c.leaderless, float64(n.leaderless))
}

// roleCounts are numbers of partitions.
type roleCounts struct{ leaders, underReplicated, underMinISR, leaderless int }

func (m *Manager) countRoles() (n roleCounts) {
	m.mu.RLock()
	image, caughtUp := m.image, m.caughtUp
	m.mu.RUnlock()
	if !caughtUp {
		return n
	}
	for t := range image.Topics() {
		for _, p := range t.AllPartitions() {
			switch {
			case !p.HasReplica(m.opts.NodeID):
			case p.Leader < 0:
				n.leaderless++
			case p.Leader == m.opts.NodeID:
				n.leaders++
				if len(p.ISR) < len(p.Replicas) {
					n.underReplicated++
				}
				if len(p.ISR) < t.Settings().EffectiveMinISR(len(p.Replicas)) {
					n.underMinISR++
				}
			}
		}
	}
	return n
}
