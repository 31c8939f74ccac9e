// Package telemetry is how a process tells what it does: structured logs (log/slog, with bridges for libraries that
// log through hclog or the standard log package), Prometheus metrics under the prefix penstock_, and the version
// stamp of the binary.
package telemetry
