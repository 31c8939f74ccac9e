package server

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/telemetry"
)

var (
	metricTable  = &telemetry.MetricTable{}
	methodLabels = []string{"service", "method"}
	codeLabels   = []string{"service", "method", "code"}

	metricRequests = metricTable.Add(telemetry.Metric{
		Name: "server_requests_total", Kind: telemetry.KindCounter, Labels: codeLabels, Help: "Unary calls answered, by outcome.",
		Alarm: "the rate of UNKNOWN_SERVER_ERROR or STORAGE_ERROR is above 0",
	})
	metricRequestSeconds = metricTable.Add(telemetry.Metric{
		Name: "server_request_seconds", Kind: telemetry.KindHistogram, Labels: methodLabels, Buckets: telemetry.CoarseBuckets,
		Help: "Time from a unary call to its answer, waiting for records or other nodes included.",
	})
	metricStreams = metricTable.Add(telemetry.Metric{
		Name: "server_streams_total", Kind: telemetry.KindCounter, Labels: codeLabels, Help: "Streaming calls that ended, by outcome.",
	})
	metricStreamsOpen = metricTable.Add(telemetry.Metric{
		Name: "server_streams_open", Kind: telemetry.KindGauge, Labels: methodLabels, Help: "Streaming calls under way.",
	})
	metricProduceBatches = metricTable.Add(telemetry.Metric{
		Name: "server_produce_batches_total", Kind: telemetry.KindCounter, Labels: []string{"code"},
		Help:  "Batches of producers answered, by outcome.",
		Alarm: "the rate of STORAGE_ERROR, NOT_ENOUGH_REPLICAS or REQUEST_TIMED_OUT is above 0",
	})
	metricProduceSeconds = metricTable.Add(telemetry.Metric{
		Name: "server_produce_seconds", Kind: telemetry.KindHistogram, Labels: []string{"acks"}, Buckets: telemetry.LatencyBuckets,
		Help:  "Time from a received batch to its acknowledgement, by what the producer waits for: none, leader, all.",
		Alarm: "the 99th percentile of acks=all is far above what it was under the same load",
	})
	metricProduceInFlight = metricTable.Add(telemetry.Metric{
		Name: "server_produce_in_flight_bytes", Kind: telemetry.KindGauge, Help: "Bytes of batches on produce streams whose answer was not sent yet.",
	})
	metricThrottled = metricTable.Add(telemetry.Metric{
		Name: "server_produce_throttled_total", Kind: telemetry.KindCounter,
		Help: "Batches that had to wait because their stream had limits.inflight.bytes unanswered.",
	})
	metricFetchRead = metricTable.Add(telemetry.Metric{
		Name: "server_fetch_read_seconds", Kind: telemetry.KindHistogram, Buckets: telemetry.LatencyBuckets,
		Help:  "Reading of batches from the log for a fetch stream, where there were any.",
		Alarm: "the 99th percentile above 50 ms: consumers read what is no longer in the page cache, faster than the disk can",
	})
	metricFetchSend = metricTable.Add(telemetry.Metric{
		Name: "server_fetch_send_seconds", Kind: telemetry.KindHistogram, Buckets: telemetry.LatencyBuckets,
		Help: "Handing of a frame with batches to the connection, waiting for a slow consumer included.",
	})
	metricConnections = metricTable.Add(telemetry.Metric{
		Name: "server_connections", Kind: telemetry.KindGauge, Labels: []string{"listener"}, Help: "gRPC connections open.",
	})
	metricAccepted = metricTable.Add(telemetry.Metric{
		Name: "server_connections_accepted_total", Kind: telemetry.KindCounter, Labels: []string{"listener"}, Help: "gRPC connections accepted.",
	})
	metricReceived = metricTable.Add(telemetry.Metric{
		Name: "server_received_bytes_total", Kind: telemetry.KindCounter, Labels: []string{"listener"}, Help: "Bytes received on gRPC connections.",
	})
	metricSent = metricTable.Add(telemetry.Metric{
		Name: "server_sent_bytes_total", Kind: telemetry.KindCounter, Labels: []string{"listener"}, Help: "Bytes sent on gRPC connections.",
	})
)

// MetricDeclarations are the metrics that NewMetrics registers.
func MetricDeclarations() []telemetry.Metric { return metricTable.Metrics() }

// Metrics count what the gRPC servers of one node do. Children of what happens to every batch are resolved beforehand.
type Metrics struct {
	clock lifecycle.Clock

	requests, streams                      *prometheus.CounterVec
	requestSeconds                         *prometheus.HistogramVec
	streamsOpen, connections               *prometheus.GaugeVec
	accepted, received, sent               *prometheus.CounterVec
	produceBatches                         *prometheus.CounterVec
	produceOK, throttled                   prometheus.Counter
	produceNone, produceLeader, produceAll prometheus.Observer
	fetchRead, fetchSend                   prometheus.Histogram

	mu        sync.Mutex
	producing map[*produceStream]struct{}
}

// NewMetrics registers the metrics of a node's servers; a nil registerer takes none.
func NewMetrics(clock lifecycle.Clock, registerer prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		clock: clock, requests: metricRequests.CounterVec(), streams: metricStreams.CounterVec(),
		requestSeconds: metricRequestSeconds.HistogramVec(), streamsOpen: metricStreamsOpen.GaugeVec(),
		connections: metricConnections.GaugeVec(), accepted: metricAccepted.CounterVec(),
		received: metricReceived.CounterVec(), sent: metricSent.CounterVec(),
		produceBatches: metricProduceBatches.CounterVec(), throttled: metricThrottled.Counter(),
		fetchRead: metricFetchRead.Histogram(), fetchSend: metricFetchSend.Histogram(),
		producing: map[*produceStream]struct{}{},
	}
	produceSeconds := metricProduceSeconds.HistogramVec()
	m.produceNone, m.produceLeader = produceSeconds.WithLabelValues("none"), produceSeconds.WithLabelValues("leader")
	m.produceAll = produceSeconds.WithLabelValues("all")
	m.produceOK = m.produceBatches.WithLabelValues(outcomeOK)
	return m, telemetry.RegisterAll(registerer,
		m.requests, m.streams, m.requestSeconds, m.streamsOpen, m.connections, m.accepted, m.received, m.sent,
		m.produceBatches, produceSeconds, m.throttled, m.fetchRead, m.fetchSend,
		metricProduceInFlight.GaugeFunc(m.inFlight))
}

const outcomeOK = "OK"

// outcome is the label of an outcome: OK, a stable name of the error table, or GRPC_ and the name of a status that gRPC made
// itself, such as GRPC_CANCELED.
func outcome(err error) string {
	if err == nil {
		return outcomeOK
	}
	if code := model.CodeOf(err); code != model.CodeUnknownServerError {
		return code.String()
	}
	if s, ok := status.FromError(err); ok {
		return "GRPC_" + strings.ToUpper(s.Code().String())
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "GRPC_" + strings.ToUpper(status.FromContextError(err).Code().String())
	}
	return model.CodeUnknownServerError.String()
}

// count returns the interceptors that count calls.
func (m *Metrics) count() []grpc.ServerOption {
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		began := m.clock.Now()
		resp, err := handler(ctx, req)
		service, method := splitMethod(info.FullMethod)
		m.requestSeconds.WithLabelValues(service, method).Observe(m.since(began))
		m.requests.WithLabelValues(service, method, outcome(err)).Inc()
		return resp, err
	}
	stream := func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		service, method := splitMethod(info.FullMethod)
		open := m.streamsOpen.WithLabelValues(service, method)
		open.Inc()
		defer open.Dec()
		err := handler(srv, stream)
		m.streams.WithLabelValues(service, method, outcome(err)).Inc()
		return err
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}

// splitMethod takes /package.Service/Method apart. gRPC hands nothing but registered methods to interceptors.
func splitMethod(full string) (service, method string) {
	service, method, _ = strings.Cut(strings.TrimPrefix(full, "/"), "/")
	return service, method
}

func (m *Metrics) since(began time.Time) float64 { return m.clock.Now().Sub(began).Seconds() }

// produced counts the outcome of one batch.
func (m *Metrics) produced(acks replication.Acks, began time.Time, err error) {
	if err != nil {
		m.produceBatches.WithLabelValues(outcome(err)).Inc()
		return
	}
	m.produceOK.Inc()
	seconds := m.produceAll
	switch acks {
	case replication.AcksNone:
		seconds = m.produceNone
	case replication.AcksLeader:
		seconds = m.produceLeader
	case replication.AcksAll:
	}
	seconds.Observe(m.since(began))
}

// opened shows a produce stream in the bytes in flight until closed.
func (m *Metrics) opened(p *produceStream) (closed func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.producing[p] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.producing, p)
	}
}

// inFlight adds up what the streams count for themselves, so that a batch costs nothing more.
func (m *Metrics) inFlight() float64 {
	m.mu.Lock()
	streams := make([]*produceStream, 0, len(m.producing))
	for p := range m.producing {
		streams = append(streams, p)
	}
	m.mu.Unlock()
	var bytes int64
	for _, p := range streams {
		p.mu.Lock()
		bytes += p.inFlight
		p.mu.Unlock()
	}
	return float64(bytes)
}

// Listener counts the connections of a listener and their bytes, under its name.
func (m *Metrics) Listener(name string, l net.Listener) net.Listener {
	return &countedListener{
		Listener: l, open: m.connections.WithLabelValues(name), accepted: m.accepted.WithLabelValues(name),
		received: m.received.WithLabelValues(name), sent: m.sent.WithLabelValues(name),
	}
}

type countedListener struct {
	net.Listener
	open                     prometheus.Gauge
	accepted, received, sent prometheus.Counter
}

// Accept implements net.Listener.
func (l *countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.accepted.Inc()
	l.open.Inc()
	return &countedConn{Conn: conn, of: l}, nil
}

type countedConn struct {
	net.Conn
	of     *countedListener
	closed sync.Once
}

// Read implements net.Conn.
func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.of.received.Add(float64(n))
	return n, err
}

// Write implements net.Conn.
func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.of.sent.Add(float64(n))
	return n, err
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.closed.Do(c.of.open.Dec)
	return c.Conn.Close()
}
