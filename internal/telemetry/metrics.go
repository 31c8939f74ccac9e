package telemetry

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// MetricPrefix stands before the name of every metric of Penstock.
const MetricPrefix = "penstock_"

var (
	metricTable = &MetricTable{}

	buildInfo = metricTable.Add(Metric{
		Name: "build_info", Kind: KindGauge, Labels: []string{"version", "revision", "go_version"},
		Help: "Always 1; the labels tell the version of the binary.",
	})
)

// Metrics are the metrics that NewRegistry registers itself, those of the runtime and the process left out.
func Metrics() []Metric { return metricTable.Metrics() }

// Registry holds the metrics of one node. Nodes that share a process have one each. It is safe for concurrent use.
type Registry struct {
	registry *prometheus.Registry
	prefixed prometheus.Registerer
}

// NewRegistry returns a registry with the metrics of the Go runtime and the process, and penstock_build_info.
func NewRegistry() *Registry {
	registry := prometheus.NewRegistry()
	r := &Registry{
		registry: registry,
		prefixed: prometheus.WrapRegistererWithPrefix(MetricPrefix, registry),
	}
	build := Build()
	info := buildInfo.GaugeVec()
	info.WithLabelValues(build.Version, build.Revision, build.GoVersion).Set(1)
	registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.prefixed.MustRegister(info)
	return r
}

// Register adds collectors; their names get MetricPrefix. It fails when a name is taken or not valid, and keeps those
// that were added before.
func (r *Registry) Register(cs ...prometheus.Collector) error {
	return RegisterAll(r.prefixed, cs...)
}

// Registerer adds MetricPrefix to the names of what is registered through it. It is what promauto.With takes.
func (r *Registry) Registerer() prometheus.Registerer { return r.prefixed }

// Gatherer reads all metrics at once.
func (r *Registry) Gatherer() prometheus.Gatherer { return r.registry }

// Handler answers scrapes. A collector that fails is logged and left out of the answer.
func (r *Registry) Handler(logger *slog.Logger) http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError,
		ErrorLog:      slog.NewLogLogger(logger.Handler(), slog.LevelError),
	})
}
