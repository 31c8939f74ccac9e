package broker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/telemetry"
	"github.com/penstock-io/penstock/internal/wire"
)

var (
	metricTable = &telemetry.MetricTable{}

	metricMetadataOffset = metricTable.Add(telemetry.Metric{
		Name: "metadata_offset", Kind: telemetry.KindGauge, Help: "Metadata offset of the image in force.",
		Alarm: "hundreds below the highest of all nodes: the node does not hear of changes",
	})
	metricActiveController = metricTable.Add(telemetry.Metric{
		Name: "active_controller", Kind: telemetry.KindGauge, Help: "1 on the node whose controller decides, else 0.",
		Alarm: "the sum over all nodes is not 1 for 10 seconds: there is no quorum of controllers",
	})
	metricFenced = metricTable.Add(telemetry.Metric{
		Name: "broker_fenced", Kind: telemetry.KindGauge, Help: "1 while the broker is fenced, else 0.",
		Alarm: "1 for a minute: the broker serves nobody; it is starting, stopping, or cut off from the controller",
	})
	metricEpoch = metricTable.Add(telemetry.Metric{
		Name: "broker_epoch", Kind: telemetry.KindGauge, Help: "Epoch of the broker's last registration; -1 before it.",
	})
	metricRecovery = metricTable.Add(telemetry.Metric{
		Name: "recovery_seconds", Kind: telemetry.KindGauge, Help: "How long the recovery of all logs took at the last start.",
	})
	metricRecoveredLogs = metricTable.Add(telemetry.Metric{
		Name: "recovered_logs", Kind: telemetry.KindGauge, Help: "Logs that were found at the last start.",
	})
	metricSeatsLost = metricTable.Add(telemetry.Metric{
		Name: "recovery_seats_lost", Kind: telemetry.KindGauge, Help: "Replicas that gave up their place in the in-sync set at the last start.",
		Alarm: "above 0: records had been lost or damaged on this disk; the log of the broker says where and why",
	})
	metricScrubDamages = metricTable.Add(telemetry.Metric{
		Name: "scrub_damages_total", Kind: telemetry.KindCounter, Help: "Places where the scrub found bytes that are not what was written.",
		Alarm: "above 0: the disk decays; the log of the broker says where",
	})
	metricScrubChecked = metricTable.Add(telemetry.Metric{
		Name: "scrub_checked_bytes_total", Kind: telemetry.KindCounter, Help: "Bytes that the scrub has checked, counted at the end of each round.",
	})
)

// recovered shows what the start has found.
func (n *Node) recovered(took time.Duration, logs, lost int) error {
	seconds, found, seatsLost := metricRecovery.Gauge(), metricRecoveredLogs.Gauge(), metricSeatsLost.Gauge()
	seconds.Set(took.Seconds())
	found.Set(float64(logs))
	seatsLost.Set(float64(lost))
	return n.registry.Register(seconds, found, seatsLost)
}

// registerMetrics registers what the node knows of itself.
func (n *Node) registerMetrics() error {
	metrics := []prometheus.Collector{
		metricMetadataOffset.GaugeFunc(func() float64 { return float64(n.cache.Image().Offset()) }),
		metricActiveController.GaugeFunc(func() float64 { return telemetry.Flag(n.ActiveController()) }),
	}
	if n.session != nil {
		metrics = append(metrics,
			metricFenced.GaugeFunc(func() float64 { return telemetry.Flag(n.session.Fenced()) }),
			metricEpoch.GaugeFunc(func() float64 { return float64(n.session.Epoch()) }))
	}
	if err := n.registry.Register(metrics...); err != nil {
		return err
	}
	return wire.RegisterPool(n.registry.Registerer(), wire.DefaultPool())
}
