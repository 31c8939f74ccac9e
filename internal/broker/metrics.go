package broker

import (
	"github.com/prometheus/client_golang/prometheus"
)

// registerMetrics registers what the node knows of itself.
func (n *Node) registerMetrics() error {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	flag := func(set bool) float64 {
		if set {
			return 1
		}
		return 0
	}
	metrics := []prometheus.Collector{
		gauge("metadata_offset", "Metadata offset of the image in force.", func() float64 { return float64(n.cache.Image().Offset()) }),
		gauge("active_controller", "1 on the node whose controller decides, else 0.", func() float64 { return flag(n.ActiveController()) }),
	}
	if n.session != nil {
		metrics = append(metrics,
			gauge("broker_fenced", "1 while the broker is fenced, else 0.", func() float64 { return flag(n.session.Fenced()) }),
			gauge("broker_epoch", "Epoch of the broker's last registration; -1 before it.", func() float64 { return float64(n.session.Epoch()) }))
	}
	return n.registry.Register(metrics...)
}
