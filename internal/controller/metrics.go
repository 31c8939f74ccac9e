package controller

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/telemetry"
)

var metricTable = &telemetry.MetricTable{}

func declared(kind telemetry.MetricKind, name, help, alarm string, labels ...string) *telemetry.Metric {
	return metricTable.Add(telemetry.Metric{Name: "controller_" + name, Kind: kind, Help: help, Alarm: alarm, Labels: labels})
}

var (
	metricElections = declared(telemetry.KindCounter, "elections_total",
		"Leaders that this controller has given to partitions, first ones left out, by reason: clean (the old one is gone, the new one was "+
			"in sync), handover (the old one is about to stop), elr (from the eligible leader replicas), unclean (records may be lost).",
		"unclean rises: acknowledged records may be gone; clean rises without a restart: brokers fail", "reason")
	metricFencings = declared(telemetry.KindCounter, "fencings_total", "Brokers that this controller took out, stopped ones included.",
		"it rises without a restart: a broker died or was cut off")
	metricUnfencings    = declared(telemetry.KindCounter, "unfencings_total", "Brokers that this controller let in.", "")
	metricRegistrations = declared(telemetry.KindCounter, "registrations_total", "Registrations of brokers that this controller took.", "")
	metricBrokers       = declared(telemetry.KindGauge, "brokers", "Registered brokers by state: online, fenced, stopping.",
		"fenced is above 0 for longer than a restart takes", "state")
	metricTopics      = declared(telemetry.KindGauge, "topics", "Topics of the cluster.", "")
	metricPartitions  = declared(telemetry.KindGauge, "partitions", "Partitions of the cluster.", "")
	metricLeaderless  = declared(telemetry.KindGauge, "leaderless_partitions", "Partitions of the cluster without a leader.", "above 0: they can be neither written nor read")
	metricUnderReplic = declared(telemetry.KindGauge, "under_replicated_partitions", "Partitions of the cluster with replicas out of sync.",
		"above 0 for longer than a restart takes")
	metricUnderMinISR = declared(telemetry.KindGauge, "under_min_isr_partitions",
		"Partitions of the cluster with fewer replicas in sync than min.insync.replicas.", "above 0: produce requests with acks=all are refused")
	metricEntries = declared(telemetry.KindCounter, "applied_entries_total", "Entries of the metadata log applied since the start, those read back included.", "")
	metricQueue   = declared(telemetry.KindGauge, "queued_requests", "Requests that wait for the next entry.",
		"above 1000: the controller does not keep up")
	metricBatch = metricTable.Add(telemetry.Metric{
		Name: "controller_batch_seconds", Kind: telemetry.KindHistogram, Buckets: telemetry.LatencyBuckets,
		Help:  "Time from the decision on an entry until a majority holds it and it is applied.",
		Alarm: "the 99th percentile above 250 ms: a controller's disk or the network between them is slow",
	})
	metricBatchRecords = metricTable.Add(telemetry.Metric{
		Name: "controller_batch_records", Kind: telemetry.KindHistogram, Buckets: telemetry.CountBuckets, Help: "Records in one entry.",
	})

	metricRaftState = declared(telemetry.KindGauge, "raft_state", "1 for the state this voter is in, else 0: follower, candidate, leader, shutdown.",
		"candidate for 10 seconds: no quorum can be reached", "state")
	metricRaftTerm        = declared(telemetry.KindGauge, "raft_term", "Term of Raft.", "it rises often: leaders do not last; look at disks and network")
	metricRaftCommit      = declared(telemetry.KindGauge, "raft_commit_index", "Last index known to be held by a majority.", "")
	metricRaftApplied     = declared(telemetry.KindGauge, "raft_applied_index", "Last index handed to the state machine.", "far below the commit index for a minute")
	metricRaftLast        = declared(telemetry.KindGauge, "raft_last_index", "Last index in this voter's log.", "")
	metricRaftSnapshot    = declared(telemetry.KindGauge, "raft_snapshot_index", "Last index in this voter's newest snapshot.", "")
	metricRaftPending     = declared(telemetry.KindGauge, "raft_fsm_pending", "Batches that wait for the state machine.", "")
	metricRaftContact     = declared(telemetry.KindGauge, "raft_last_contact_seconds", "Since when this voter has not heard of the leader; 0 on the leader, -1 where it never did.", "above 1")
	metricRaftCandidacies = declared(telemetry.KindCounter, "raft_candidacies_total", "How often this voter stood for election.", "it rises: the leader is not heard in time")
	metricRaftLeaderships = declared(telemetry.KindCounter, "raft_leaderships_total", "How often this voter came to lead the quorum.", "")
	metricRaftInstalls    = declared(telemetry.KindCounter, "raft_snapshots_installed_total", "Snapshots of the leader installed here, because its log did not reach back so far.", "")
	metricRaftWrite       = metricTable.Add(telemetry.Metric{
		Name: "controller_raft_write_seconds", Kind: telemetry.KindHistogram, Buckets: telemetry.LatencyBuckets,
		Help:  "Durable writes to this voter's Raft log.",
		Alarm: "the 99th percentile above 100 ms: the disk is slow; above 2 s the voter gives leadership up, after 5 s it exits",
	})
)

// Metrics are the metrics that Start registers.
func Metrics() []telemetry.Metric { return metricTable.Metrics() }

// The reasons of elections.
const (
	electedClean    = "clean"
	electedHandover = "handover"
	electedELR      = "elr"
	electedUnclean  = "unclean"
)

// metrics are those of one controller.
type metrics struct {
	elections                                   map[string]prometheus.Counter
	fencings, unfencings, registrations         prometheus.Counter
	entries, candidacies, leaderships, installs prometheus.Counter
	batch, batchRecords, write                  prometheus.Histogram
	queued                                      atomic.Int64 // as the loop saw it last
}

func newMetrics(c *Controller) (*metrics, error) {
	elections := metricElections.CounterVec()
	m := &metrics{
		elections: map[string]prometheus.Counter{}, fencings: metricFencings.Counter(), unfencings: metricUnfencings.Counter(),
		registrations: metricRegistrations.Counter(), entries: metricEntries.Counter(), candidacies: metricRaftCandidacies.Counter(),
		leaderships: metricRaftLeaderships.Counter(), installs: metricRaftInstalls.Counter(),
		batch: metricBatch.Histogram(), batchRecords: metricBatchRecords.Histogram(), write: metricRaftWrite.Histogram(),
	}
	for _, reason := range []string{electedClean, electedHandover, electedELR, electedUnclean} {
		m.elections[reason] = elections.WithLabelValues(reason)
	}
	return m, telemetry.RegisterAll(c.cfg.Metrics, elections, m.fencings, m.unfencings, m.registrations, m.entries, m.candidacies,
		m.leaderships, m.installs, m.batch, m.batchRecords, m.write,
		metricQueue.GaugeFunc(func() float64 { return float64(m.queued.Load() + int64(len(c.requests))) }),
		newCollector(c))
}

// committed counts what an entry of this controller has changed. before is the image that it was decided on.
func (m *metrics) committed(before *metadata.Image, entry *internalv1.MetadataEntry) {
	m.batchRecords.Observe(float64(len(entry.GetRecords())))
	seen := map[model.TopicPartition]*metadata.Partition{} // as earlier records of the entry left them
	for _, r := range entry.GetRecords() {
		switch {
		case r.GetBrokerFenced() != nil:
			m.fencings.Inc()
		case r.GetBrokerUnfenced() != nil:
			m.unfencings.Inc()
		case r.GetBrokerRegistration() != nil:
			m.registrations.Inc()
		case r.GetPartitionChange() != nil:
			m.changed(before, seen, r.GetPartitionChange())
		}
	}
}

func (m *metrics) changed(before *metadata.Image, seen map[model.TopicPartition]*metadata.Partition, r *internalv1.PartitionChangeRecord) {
	id, err := model.UUIDFromBytes(r.GetTopicId())
	if err != nil {
		return
	}
	tp := model.TopicPartition{TopicID: id, Partition: r.GetPartition()}
	p, ok := seen[tp]
	if !ok {
		if p, ok = before.Partition(tp); !ok {
			return
		}
	}
	next := *p
	if r.Isr != nil {
		next.ISR = idsOf(r.GetIsr())
	}
	if r.Elr != nil {
		next.ELR = idsOf(r.GetElr())
	}
	if r.Leader != nil {
		next.Leader = model.NodeID(r.GetLeader())
		if next.Leader != model.NoNode {
			m.elections[reasonOf(p, &next, r.GetPossiblyLossy())].Inc()
		}
	}
	seen[tp] = &next
}

// reasonOf says why a partition got its new leader.
func reasonOf(old, next *metadata.Partition, lossy bool) string {
	switch {
	case lossy:
		return electedUnclean
	case !old.InISR(next.Leader):
		return electedELR
	case old.Leader != model.NoNode && next.InISR(old.Leader):
		return electedHandover
	default:
		return electedClean
	}
}

func idsOf(ids *internalv1.NodeIDs) []model.NodeID {
	out := make([]model.NodeID, 0, len(ids.GetIds()))
	for _, id := range ids.GetIds() {
		out = append(out, model.NodeID(id))
	}
	return out
}

// observes counts candidacies; it is called by Raft and does not wait.
func (m *metrics) observes(o *raft.Observation) {
	if state, ok := o.Data.(raft.RaftState); ok && state == raft.Candidate {
		m.candidacies.Inc()
	}
}

// collector shows Raft on every voter, and the cluster on the active controller alone, so that a sum over nodes is right.
type collector struct {
	c     *Controller
	descs map[*telemetry.Metric]*prometheus.Desc

	mu     sync.Mutex
	image  *metadata.Image // that latest is of
	latest counts
}

// counts are numbers of what there is in the cluster.
type counts struct {
	online, fenced, stopping                                     int
	topics, partitions, leaderless, underReplicated, underMinISR int
}

func newCollector(c *Controller) *collector {
	k := &collector{c: c, descs: map[*telemetry.Metric]*prometheus.Desc{}}
	for _, m := range []*telemetry.Metric{
		metricBrokers, metricTopics, metricPartitions, metricLeaderless, metricUnderReplic, metricUnderMinISR,
		metricRaftState, metricRaftTerm, metricRaftCommit, metricRaftApplied, metricRaftLast, metricRaftSnapshot, metricRaftPending, metricRaftContact,
	} {
		k.descs[m] = m.Desc()
	}
	return k
}

// Describe implements prometheus.Collector.
func (k *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range k.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (k *collector) Collect(to chan<- prometheus.Metric) {
	give := func(m *telemetry.Metric, value float64, labels ...string) {
		to <- m.Value(k.descs[m], value, labels...)
	}
	if k.c.Active() {
		n := k.count(k.c.Image())
		give(metricBrokers, float64(n.online), "online")
		give(metricBrokers, float64(n.fenced), "fenced")
		give(metricBrokers, float64(n.stopping), "stopping")
		give(metricTopics, float64(n.topics))
		give(metricPartitions, float64(n.partitions))
		give(metricLeaderless, float64(n.leaderless))
		give(metricUnderReplic, float64(n.underReplicated))
		give(metricUnderMinISR, float64(n.underMinISR))
	}
	r := k.c.raft.Load()
	if r == nil {
		return
	}
	state, stats := r.State(), r.Stats()
	for _, s := range []raft.RaftState{raft.Follower, raft.Candidate, raft.Leader, raft.Shutdown} {
		give(metricRaftState, telemetry.Flag(s == state), strings.ToLower(s.String()))
	}
	give(metricRaftTerm, float64(r.CurrentTerm()))
	give(metricRaftCommit, float64(r.CommitIndex()))
	give(metricRaftApplied, float64(r.AppliedIndex()))
	give(metricRaftLast, float64(r.LastIndex()))
	for m, key := range map[*telemetry.Metric]string{metricRaftSnapshot: "last_snapshot_index", metricRaftPending: "fsm_pending"} {
		if n, err := strconv.ParseUint(stats[key], 10, 64); err == nil {
			give(m, float64(n))
		}
	}
	give(metricRaftContact, lastContact(state, r.LastContact(), k.c.cfg.Clock.Now()))
}

func lastContact(state raft.RaftState, last, now time.Time) float64 {
	switch {
	case state == raft.Leader:
		return 0
	case last.IsZero():
		return -1
	default:
		return max(now.Sub(last).Seconds(), 0)
	}
}

// count counts an image, once.
func (k *collector) count(image *metadata.Image) counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.image == image {
		return k.latest
	}
	var n counts
	for _, b := range image.Brokers() {
		switch {
		case b.Fenced:
			n.fenced++
		case b.Stopping:
			n.stopping++
		default:
			n.online++
		}
	}
	for t := range image.Topics() {
		n.topics++
		for _, p := range t.AllPartitions() {
			n.partitions++
			if p.Leader == model.NoNode {
				n.leaderless++
			}
			if len(p.ISR) < len(p.Replicas) {
				n.underReplicated++
			}
			if len(p.ISR) < t.Settings().EffectiveMinISR(len(p.Replicas)) {
				n.underMinISR++
			}
		}
	}
	k.image, k.latest = image, n
	return n
}
