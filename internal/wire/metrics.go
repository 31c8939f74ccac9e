package wire

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/telemetry"
)

var (
	metricTable = &telemetry.MetricTable{}

	metricPoolGets = metricTable.Add(telemetry.Metric{
		Name: "buffer_pool_gets_total", Kind: telemetry.KindCounter, Help: "Buffers of 2 KiB to 16 MiB handed out by the pool of the process.",
	})
	metricPoolMisses = metricTable.Add(telemetry.Metric{
		Name: "buffer_pool_misses_total", Kind: telemetry.KindCounter, Help: "Those among them that had to be allocated.",
	})
	metricPoolOutstanding = metricTable.Add(telemetry.Metric{
		Name: "buffer_pool_outstanding_buffers", Kind: telemetry.KindGauge, Help: "Buffers handed out and not yet given back.",
		Alarm: "it grows without the traffic growing: a leak; please report it",
	})
	metricPoolUnpooled = metricTable.Add(telemetry.Metric{
		Name: "buffer_pool_oversize_total", Kind: telemetry.KindCounter, Help: "Buffers above 16 MiB, which are never pooled.",
	})
)

// Metrics are the metrics of RegisterPool.
func Metrics() []telemetry.Metric { return metricTable.Metrics() }

// RegisterPool registers the counters of a pool. Several registries may show the same pool.
func RegisterPool(registerer prometheus.Registerer, p *Pool) error {
	return telemetry.RegisterAll(registerer,
		metricPoolGets.CounterFunc(func() float64 { return float64(p.Stats().Gets) }),
		metricPoolMisses.CounterFunc(func() float64 { return float64(p.Stats().Misses) }),
		metricPoolOutstanding.GaugeFunc(func() float64 {
			s := p.Stats() // puts are counted first, so that it is never negative
			return float64(s.Gets - min(s.Puts, s.Gets))
		}),
		metricPoolUnpooled.CounterFunc(func() float64 { return float64(p.Stats().Oversize) }))
}
