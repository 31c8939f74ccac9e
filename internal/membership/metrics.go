package membership

import (
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/telemetry"
)

var (
	metricTable = &telemetry.MetricTable{}

	metricMembers = metricTable.Add(telemetry.Metric{
		Name: "gossip_members", Kind: telemetry.KindGauge,
		Help:  "Nodes that seem alive to this one, itself included; 0 before it knows its cluster.",
		Alarm: "fewer than there are nodes, while these are in service: gossip (UDP and TCP) does not get through",
	})
	metricHealthScore = metricTable.Add(telemetry.Metric{
		Name: "gossip_health_score", Kind: telemetry.KindGauge,
		Help:  "How badly this node keeps up with the gossip, from 0 (well) on.",
		Alarm: "above 0 for minutes: the machine is starved, or its network loses packets",
	})
	metricEvents = metricTable.Add(telemetry.Metric{
		Name: "gossip_events_total", Kind: telemetry.KindCounter, Labels: []string{"event"},
		Help: "What was seen of nodes, this one included: joined, left (or silent), changed (its address).",
	})
	metricJoins = metricTable.Add(telemetry.Metric{
		Name: "gossip_join_attempts_total", Kind: telemetry.KindCounter, Labels: []string{"outcome"},
		Help: "Visits to the configured seeds, every 15 seconds, by outcome: ok where one answered at least, else failed.",
	})
	metricPings = metricTable.Add(telemetry.Metric{
		Name: "gossip_ping_seconds", Kind: telemetry.KindHistogram, Buckets: telemetry.CoarseBuckets,
		Help: "Round trips of pings that were answered directly.",
	})
	metricPackets = metricTable.Add(telemetry.Metric{
		Name: "gossip_packets_sent_total", Kind: telemetry.KindCounter, Help: "Packets sent.",
	})
)

// Metrics are the metrics that Start registers.
func Metrics() []telemetry.Metric { return metricTable.Metrics() }

// metrics are those of one Gossip.
type metrics struct {
	joined, left, changed, joins, joinsFailed, packets prometheus.Counter
	pings                                              prometheus.Histogram
}

func (g *Gossip) newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	events, joins := metricEvents.CounterVec(), metricJoins.CounterVec()
	m := &metrics{
		joined: events.WithLabelValues(HintJoined.String()), left: events.WithLabelValues(HintLeft.String()),
		changed: events.WithLabelValues(HintChanged.String()),
		joins:   joins.WithLabelValues("ok"), joinsFailed: joins.WithLabelValues("failed"),
		packets: metricPackets.Counter(), pings: metricPings.Histogram(),
	}
	ofList := func(value func(*memberlist.Memberlist) int) func() float64 {
		return func() float64 {
			if list := g.list.Load(); list != nil {
				return float64(value(list))
			}
			return 0
		}
	}
	return m, telemetry.RegisterAll(registerer, events, joins, m.packets, m.pings,
		metricMembers.GaugeFunc(ofList((*memberlist.Memberlist).NumMembers)),
		metricHealthScore.GaugeFunc(ofList((*memberlist.Memberlist).GetHealthScore)))
}

func (m *metrics) event(kind HintKind) {
	switch kind {
	case HintJoined:
		m.joined.Inc()
	case HintLeft:
		m.left.Inc()
	case HintChanged:
		m.changed.Inc()
	}
}

// pings is memberlist.PingDelegate.
type pings struct{ m *metrics }

func (pings) AckPayload() []byte { return nil }

func (p pings) NotifyPingComplete(_ *memberlist.Node, rtt time.Duration, _ []byte) {
	p.m.pings.Observe(rtt.Seconds())
}

// countedTransport counts the packets that memberlist sends.
type countedTransport struct {
	*memberlist.NetTransport
	m *metrics
}

var _ memberlist.NodeAwareTransport = countedTransport{}

func (t countedTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	t.m.packets.Inc()
	return t.NetTransport.WriteTo(b, addr)
}

func (t countedTransport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	t.m.packets.Inc()
	return t.NetTransport.WriteToAddress(b, addr)
}
