package telemetry

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// MetricPrefix stands before the name of every metric of Penstock.
const MetricPrefix = "penstock_"

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
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "build_info",
		Help: "Always 1; the labels tell the version of the binary.",
		ConstLabels: prometheus.Labels{
			"version": build.Version, "revision": build.Revision, "go_version": build.GoVersion,
		},
	})
	info.Set(1)
	registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.prefixed.MustRegister(info)
	return r
}

// Register adds collectors; their names get MetricPrefix. It fails when a name is taken or not valid, and keeps those
// that were added before.
func (r *Registry) Register(cs ...prometheus.Collector) error {
	for _, c := range cs {
		if err := r.prefixed.Register(c); err != nil {
			return fmt.Errorf("register a metric: %w", err)
		}
	}
	return nil
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
