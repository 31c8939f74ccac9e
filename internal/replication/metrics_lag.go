package replication

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// worst is how far a follower is behind at most.
type worst struct {
	records int64
	behind  time.Duration
}

// lags is the last look at all followers of partitions led here: made with the checkpoints, which visit every partition
// anyway, so that a scrape waits for no partition whose disk hangs.
type lags map[model.NodeID]worst

// note takes in a partition. The caller holds its mu.
func (l lags) note(p *partition, now time.Duration) {
	p.replica.EachLag(now, func(id model.NodeID, records int64, behind time.Duration) {
		w := l[id]
		l[id] = worst{records: max(w.records, records), behind: max(w.behind, behind)}
	})
}

// lagCollector shows the last look.
type lagCollector struct {
	m                *Manager
	records, seconds *prometheus.Desc
}

func newLagCollector(m *Manager) *lagCollector {
	return &lagCollector{m: m, records: metricLag.Desc(), seconds: metricLagTime.Desc()}
}

// Describe implements prometheus.Collector.
func (c *lagCollector) Describe(to chan<- *prometheus.Desc) {
	to <- c.records
	to <- c.seconds
}

// Collect implements prometheus.Collector.
func (c *lagCollector) Collect(to chan<- prometheus.Metric) {
	latest := c.m.lags.Load()
	if latest == nil {
		return
	}
	for id, w := range *latest {
		follower := strconv.Itoa(int(id))
		to <- metricLag.Value(c.records, float64(w.records), follower)
		to <- metricLagTime.Value(c.seconds, w.behind.Seconds(), follower)
	}
}

// countISR counts who left and joined the in-sync sets of partitions that this broker leads by the newer of two images.
func (m *Manager) countISR(before, after *metadata.Image, changed []model.TopicPartition) {
	for _, tp := range changed {
		was, ok := before.Partition(tp)
		is, still := after.Partition(tp)
		if !ok || !still || is.Leader != m.opts.NodeID {
			continue
		}
		m.metrics.shrinks.Add(float64(missing(was.ISR, is.ISR)))
		m.metrics.expands.Add(float64(missing(is.ISR, was.ISR)))
	}
}

// missing counts the ids of a that b lacks.
func missing(a, b []model.NodeID) (n int) {
	for _, id := range a {
		if !slices.Contains(b, id) {
			n++
		}
	}
	return n
}
