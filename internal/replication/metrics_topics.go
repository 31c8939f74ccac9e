package replication

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/telemetry"
)

const (
	// maxTopicSeries bounds the topics that have series of their own on one broker.
	maxTopicSeries = 1000
	// otherTopics stands for all topics beyond. No topic can have that name.
	otherTopics = "(other)"
)

func ofTopic(kind telemetry.MetricKind, name, help string) *telemetry.Metric {
	return metricTable.Add(telemetry.Metric{Name: "topic_" + name, Kind: kind, Help: help, Labels: []string{"topic"}})
}

var (
	metricTopicBatchesIn  = ofTopic(telemetry.KindCounter, "in_batches_total", "Batches appended as leader, duplicates not counted.")
	metricTopicRecordsIn  = ofTopic(telemetry.KindCounter, "in_records_total", "Records in these batches.")
	metricTopicBytesIn    = ofTopic(telemetry.KindCounter, "in_bytes_total", "Bytes of these batches, compressed as they are.")
	metricTopicBatchesOut = ofTopic(telemetry.KindCounter, "out_batches_total", "Batches sent to consumers.")
	metricTopicRecordsOut = ofTopic(telemetry.KindCounter, "out_records_total",
		"Records in these batches, those included that a consumer skips at the beginning of its first batch.")
	metricTopicBytesOut = ofTopic(telemetry.KindCounter, "out_bytes_total", "Bytes of these batches.")
	metricTopicBytes    = ofTopic(telemetry.KindGauge, "log_bytes", "Size of the logs of the replicas on this broker, preallocated space not counted.")
	metricTopicSegments = ofTopic(telemetry.KindGauge, "log_segments", "Segments of these logs.")
	metricTopicReplicas = ofTopic(telemetry.KindGauge, "replicas", "Replicas of the topic on this broker.")
)

// traffic counts what goes in and out of the partitions of one topic. It is shared by them and takes no lock.
type traffic struct {
	name string
	refs int // partitions that count here; guarded by topicTraffic.mu

	batchesIn, recordsIn, bytesIn    atomic.Int64
	_                                [64]byte // producers and consumers are served by different cores
	batchesOut, recordsOut, bytesOut atomic.Int64
}

func (t *traffic) in(records, bytes int64) {
	t.batchesIn.Add(1)
	t.recordsIn.Add(records)
	t.bytesIn.Add(bytes)
}

func (t *traffic) out(batches, records, bytes int64) {
	t.batchesOut.Add(batches)
	t.recordsOut.Add(records)
	t.bytesOut.Add(bytes)
}

// topicTraffic holds the counters of all topics with a replica here. Those of a topic go with its last replica.
type topicTraffic struct {
	mu     sync.Mutex
	byName map[string]*traffic
}

// join returns the counters for a partition of the topic.
func (t *topicTraffic) join(topic string) *traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName == nil {
		t.byName = map[string]*traffic{}
	}
	c := t.byName[topic]
	named := len(t.byName)
	if t.byName[otherTopics] != nil {
		named--
	}
	if c == nil && named >= maxTopicSeries {
		topic = otherTopics
		c = t.byName[topic]
	}
	if c == nil {
		c = &traffic{name: topic}
		t.byName[topic] = c
	}
	c.refs++
	return c
}

// leave takes back one join.
func (t *topicTraffic) leave(c *traffic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// What was counted for other topics stays: a counter must not fall.
	if c.refs--; c.refs == 0 && c.name != otherTopics {
		delete(t.byName, c.name)
	}
}

func (t *topicTraffic) all() []*traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*traffic, 0, len(t.byName))
	for _, c := range t.byName {
		all = append(all, c)
	}
	return all
}

// topicCollector reads the counters, and the sizes of the logs, which need no lock of a partition.
type topicCollector struct {
	m     *Manager
	descs map[*telemetry.Metric]*prometheus.Desc
}

func newTopicCollector(m *Manager) *topicCollector {
	c := &topicCollector{m: m, descs: map[*telemetry.Metric]*prometheus.Desc{}}
	for _, metric := range []*telemetry.Metric{
		metricTopicBatchesIn, metricTopicRecordsIn, metricTopicBytesIn, metricTopicBatchesOut, metricTopicRecordsOut, metricTopicBytesOut,
		metricTopicBytes, metricTopicSegments, metricTopicReplicas,
	} {
		c.descs[metric] = metric.Desc()
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *topicCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *topicCollector) Collect(to chan<- prometheus.Metric) {
	type size struct{ bytes, segments, replicas int64 }
	sizes := map[*traffic]*size{}
	for _, p := range c.m.allPartitions() {
		s := sizes[p.traffic]
		if s == nil {
			s = &size{}
			sizes[p.traffic] = s
		}
		s.bytes += p.log.SizeBytes()
		s.segments += int64(p.log.SegmentCount())
		s.replicas++
	}
	for _, t := range c.m.topics.all() {
		give := func(m *telemetry.Metric, value int64) { to <- m.Value(c.descs[m], float64(value), t.name) }
		give(metricTopicBatchesIn, t.batchesIn.Load())
		give(metricTopicRecordsIn, t.recordsIn.Load())
		give(metricTopicBytesIn, t.bytesIn.Load())
		give(metricTopicBatchesOut, t.batchesOut.Load())
		give(metricTopicRecordsOut, t.recordsOut.Load())
		give(metricTopicBytesOut, t.bytesOut.Load())
		s := sizes[t]
		if s == nil {
			s = &size{}
		}
		give(metricTopicBytes, s.bytes)
		give(metricTopicSegments, s.segments)
		give(metricTopicReplicas, s.replicas)
	}
}
