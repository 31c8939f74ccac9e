// Command metricsgen writes the reference page of the metrics, on standard output.
package main

import (
	"io"
	"os"

	"github.com/penstock-io/penstock/internal/broker"
)

func main() {
	if _, err := io.WriteString(os.Stdout, broker.MetricsPage()); err != nil {
		os.Exit(1)
	}
}
