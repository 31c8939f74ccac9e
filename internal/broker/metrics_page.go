package broker

import (
	"fmt"
	"strings"

	"github.com/penstock-io/penstock/internal/controller"
	"github.com/penstock-io/penstock/internal/membership"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/server"
	"github.com/penstock-io/penstock/internal/storage"
	"github.com/penstock-io/penstock/internal/telemetry"
	"github.com/penstock-io/penstock/internal/wire"
)

// MetricGroup is the metrics of one part of a node.
type MetricGroup struct {
	// Title and Text head the part on the page.
	Title, Text string
	// Metrics are declared there, by name.
	Metrics []telemetry.Metric
}

// MetricGroups are all metrics of Penstock; those of the Go runtime and the process come on top.
func MetricGroups() []MetricGroup {
	return []MetricGroup{
		{"Node", "", metricTable.Metrics()},
		{
			"gRPC servers", "`code` is `OK`, a name of the error table (docs of `ErrorCode` in the proto files), or `GRPC_` and the name of a status that gRPC made itself.",
			server.MetricDeclarations(),
		},
		{"Replication and topics", "Series of a topic are there while the broker holds a replica of it; counters count at the leader. " +
			"A broker shows at most 1,000 topics by name, in the order it met them, and the rest together as `(other)`.", replication.Metrics()},
		{"Storage", "", storage.Metrics()},
		{"Controllers", "On nodes with the role of a controller. Counters of elections and brokers count on the node that decided, and gauges of the " +
			"cluster are shown by the active controller alone: sum them over all nodes.", controller.Metrics()},
		{"Gossip", "Gossip gives hints alone; nothing is decided by it.", membership.Metrics()},
		{"Memory", "One pool serves all that a process sends and receives.", wire.Metrics()},
		{"Build", "", telemetry.Metrics()},
	}
}

const metricsHead = `# Metrics

<!-- Generated from the declarations of the metrics by "make generate". Do not edit. -->

Every node answers ` + "`GET /metrics`" + ` on its admin listener (127.0.0.1:9094 by default) in the text format of Prometheus. These
are all metrics, with their labels and when to look.

Names end in their unit. Counters begin at 0 when the process starts. No metric has a label for partitions, clients or
records: the number of series grows with topics and brokers alone. Those of the Go runtime and the process (` + "`go_*`, `process_*`" + `:
memory, goroutines, collections, CPU, descriptors, start time) come on top.
`

// MetricsPage is the reference page of the metrics, in Markdown.
func MetricsPage() string {
	var b strings.Builder
	b.WriteString(metricsHead)
	for _, group := range MetricGroups() {
		fmt.Fprintf(&b, "\n## %s\n\n", group.Title)
		if group.Text != "" {
			fmt.Fprintf(&b, "%s\n\n", group.Text)
		}
		b.WriteString("| metric | kind | labels | unit | meaning | look when |\n|---|---|---|---|---|---|\n")
		for _, m := range group.Metrics {
			labels := ""
			if len(m.Labels) > 0 {
				labels = "`" + strings.Join(m.Labels, "`, `") + "`"
			}
			fmt.Fprintf(&b, "| `%s%s` | %s | %s | %s | %s | %s |\n",
				telemetry.MetricPrefix, m.Name, m.Kind, labels, m.Unit(), m.Help, m.Alarm)
		}
	}
	return b.String()
}
