package broker

import (
	"os"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/telemetry"
)

func TestMetricsPageIsCurrent(t *testing.T) {
	have, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != MetricsPage() {
		t.Error("docs/metrics.md is not what the declarations say; run make generate")
	}
}

// TestMetricsAreDeclaredWell: every metric stands in one place, says what it is, and its kind and unit show in its name.
func TestMetricsAreDeclaredWell(t *testing.T) {
	seen := map[string]bool{}
	for _, group := range MetricGroups() {
		for _, m := range group.Metrics {
			if seen[m.Name] {
				t.Errorf("%s is declared twice", m.Name)
			}
			seen[m.Name] = true
			if !strings.HasSuffix(m.Help, ".") || strings.Contains(m.Help+m.Alarm, "|") {
				t.Errorf("%s: the help is no sentence, or has a bar: %q, %q", m.Name, m.Help, m.Alarm)
			}
			if total := strings.HasSuffix(m.Name, "_total"); total != (m.Kind == telemetry.KindCounter) {
				t.Errorf("%s is a %s: names of counters, and no others, end in _total", m.Name, m.Kind)
			}
			if (len(m.Buckets) > 0) != (m.Kind == telemetry.KindHistogram) {
				t.Errorf("%s: histograms, and no others, have buckets", m.Name)
			}
			for _, label := range m.Labels {
				if label == "partition" || label == "client" || label == "offset" {
					t.Errorf("%s has the label %s, which has too many values", m.Name, label)
				}
			}
		}
	}
}
