package telemetry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// MetricKind is what a metric is to Prometheus.
type MetricKind string

// The kinds of metrics.
const (
	KindCounter   MetricKind = "counter"
	KindGauge     MetricKind = "gauge"
	KindHistogram MetricKind = "histogram"
)

// Bounds of buckets, in seconds: fine for what happens to each batch, coarse for what is counted by method.
var (
	LatencyBuckets = []float64{
		0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
	}
	CoarseBuckets = []float64{0.0005, 0.002, 0.01, 0.05, 0.25, 1, 5}
)

// CountBuckets are bounds for numbers of things that are handled together.
var CountBuckets = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 1024}

// Metric declares a metric. What is registered is made from its declaration, and so is docs/metrics.md.
type Metric struct {
	// Name is the name without MetricPrefix; its end says the unit, by the rules of Prometheus.
	Name string
	// Kind is what it is.
	Kind MetricKind
	// Help says what it means, in one sentence with a period.
	Help string
	// Alarm says when somebody should look; empty where it is no sign of trouble by itself.
	Alarm string
	// Labels are the names of its labels, each of few values.
	Labels []string
	// Buckets are the upper bounds of a histogram's buckets.
	Buckets []float64
}

// MetricTable holds the declarations of one package. Packages fill it in the initialisation of their variables.
type MetricTable struct{ rows []*Metric }

// Add declares a metric.
func (t *MetricTable) Add(m Metric) *Metric {
	t.rows = append(t.rows, &m)
	return &m
}

// Metrics returns the declarations, by name.
func (t *MetricTable) Metrics() []Metric {
	rows := make([]Metric, 0, len(t.rows))
	for _, m := range t.rows {
		rows = append(rows, *m)
	}
	slices.SortFunc(rows, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
	return rows
}

// Unit is what it counts in, by its name.
func (m *Metric) Unit() string {
	name := strings.TrimSuffix(m.Name, "_total")
	for _, unit := range []string{"seconds", "bytes"} {
		if strings.HasSuffix(name, "_"+unit) {
			return unit
		}
	}
	return ""
}

// Counter makes the counter of a metric without labels.
func (m *Metric) Counter() prometheus.Counter {
	m.is(KindCounter, 0)
	return prometheus.NewCounter(prometheus.CounterOpts{Name: m.Name, Help: m.Help})
}

// CounterFunc makes a counter that asks at each scrape.
func (m *Metric) CounterFunc(value func() float64) prometheus.Collector {
	m.is(KindCounter, 0)
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: m.Name, Help: m.Help}, value)
}

// CounterVec makes the counters of a metric with labels.
func (m *Metric) CounterVec() *prometheus.CounterVec {
	m.is(KindCounter, len(m.Labels))
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.Name, Help: m.Help}, m.Labels)
}

// Gauge makes the gauge of a metric without labels.
func (m *Metric) Gauge() prometheus.Gauge {
	m.is(KindGauge, 0)
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: m.Name, Help: m.Help})
}

// GaugeFunc makes a gauge that asks at each scrape.
func (m *Metric) GaugeFunc(value func() float64) prometheus.Collector {
	m.is(KindGauge, 0)
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: m.Name, Help: m.Help}, value)
}

// GaugeVec makes the gauges of a metric with labels.
func (m *Metric) GaugeVec() *prometheus.GaugeVec {
	m.is(KindGauge, len(m.Labels))
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: m.Name, Help: m.Help}, m.Labels)
}

// Histogram makes the histogram of a metric without labels.
func (m *Metric) Histogram() prometheus.Histogram {
	m.is(KindHistogram, 0)
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: m.Buckets})
}

// HistogramVec makes the histograms of a metric with labels.
func (m *Metric) HistogramVec() *prometheus.HistogramVec {
	m.is(KindHistogram, len(m.Labels))
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: m.Buckets}, m.Labels)
}

// Desc makes the descriptor for a collector that makes its metrics at each scrape.
func (m *Metric) Desc() *prometheus.Desc { return prometheus.NewDesc(m.Name, m.Help, m.Labels, nil) }

// Value makes one metric of a scrape; desc is of Desc, and labels are in the order of Labels.
func (m *Metric) Value(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	kind := prometheus.GaugeValue
	if m.Kind == KindCounter {
		kind = prometheus.CounterValue
	}
	return prometheus.MustNewConstMetric(desc, kind, value, labels...)
}

// is panics where a metric is made otherwise than it was declared.
func (m *Metric) is(kind MetricKind, labels int) {
	if m.Kind != kind || len(m.Labels) != labels {
		panic(fmt.Sprintf("telemetry: %s is declared as %s with labels %v", m.Name, m.Kind, m.Labels))
	}
}

// RegisterAll registers collectors; a nil registerer takes none.
func RegisterAll(registerer prometheus.Registerer, cs ...prometheus.Collector) error {
	if registerer == nil {
		return nil
	}
	for _, c := range cs {
		if err := registerer.Register(c); err != nil {
			return fmt.Errorf("register a metric: %w", err)
		}
	}
	return nil
}

// Flag is 1 for true, else 0.
func Flag(set bool) float64 {
	if set {
		return 1
	}
	return 0
}
