// Package telemetry is how a process tells what it does: structured logs (log/slog, with bridges for libraries that
// log through hclog, grpclog or the standard log package, and a limit on what they repeat), Prometheus metrics under the prefix penstock_, and the version
// stamp of the binary.
package telemetry
