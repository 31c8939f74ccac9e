package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/penstock-io/penstock/internal/lifecycle"
)

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func startMux(t *testing.T, protocols ...Protocol) (*Mux, string, *logBuffer) {
	t.Helper()
	logs := new(logBuffer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(logs, nil))
	group := lifecycle.New(context.Background(), "test", logger)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := group.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return NewMux(group, listener, logger, protocols...), listener.Addr().String(), logs
}

func TestMuxServesGRPCAndRaftOnOnePort(t *testing.T) {
	m, addr, _ := startMux(t, ProtocolHTTP2, ProtocolRaft)
	server := grpc.NewServer(ServerOptions(Limits{})...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(m.Listener(ProtocolHTTP2)) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient(addr, DialOptions(Limits{})...)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, conn)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	raft, err := DialRaft(ctx, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, raft)
	if _, err := io.WriteString(raft, "hello"); err != nil {
		t.Fatal(err)
	}
	accepted, err := m.Listener(ProtocolRaft).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, accepted)
	got := make([]byte, 5)
	if _, err := io.ReadFull(accepted, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

func closeAll(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// expectClosed waits until the other side closes.
func expectClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("read %d bytes, %v: the connection is not closed", n, err)
	}
}

func TestMuxClosesUnknownProtocols(t *testing.T) {
	for _, first := range []string{"GET / HTTP/1.1\r\n", "PENSTOCK-RAFT/2\n", "\x00\x00\x00\x10", "PRI * HTTP/1.1\r\n"} {
		_, addr, logs := startMux(t, ProtocolHTTP2, ProtocolRaft)
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, first); err != nil {
			t.Fatal(err)
		}
		expectClosed(t, conn)
		closeAll(t, conn)
		if !strings.Contains(logs.String(), "no protocol of this port") {
			t.Errorf("%q: log %q", first, logs.String())
		}
	}
}

func TestMuxClosesAProtocolThatIsNotServed(t *testing.T) {
	_, addr, logs := startMux(t, ProtocolHTTP2)
	conn, err := DialRaft(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, conn)
	expectClosed(t, conn)
	if !strings.Contains(logs.String(), "no protocol of this port") {
		t.Errorf("log %q", logs.String())
	}
}

func TestMuxClosesSilentConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("takes five seconds")
	}
	t.Parallel()
	_, addr, logs := startMux(t, ProtocolHTTP2, ProtocolRaft)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, conn)
	if _, err := io.WriteString(conn, "PENST"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	expectClosed(t, conn)
	if took := time.Since(start); took < firstBytesTimeout-time.Second {
		t.Errorf("closed after %v", took)
	}
	if !strings.Contains(logs.String(), "fell silent after 5 bytes") {
		t.Errorf("log %q", logs.String())
	}
}

// oneByteReader delivers single bytes, as a slow network may.
type oneByteReader struct{ io.Reader }

func (r oneByteReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }

func TestSniffNeverReadsBeyondThePrefix(t *testing.T) {
	m, _, _ := startMux(t, ProtocolHTTP2, ProtocolRaft)
	for text, want := range map[string]Protocol{raftPrefix + "rest": ProtocolRaft, http2Preface + "rest": ProtocolHTTP2} {
		for _, wrap := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, func(r io.Reader) io.Reader { return oneByteReader{r} },
		} {
			r := strings.NewReader(text)
			l, seen, err := m.sniff(wrap(r))
			if err != nil || l.protocol != want || string(seen) != string(l.prefix) || r.Len() != len("rest") {
				t.Errorf("%q: %v, %q, %v, %d bytes left", text, l, seen, err, r.Len())
			}
		}
	}
}

func TestMuxEndsWithItsGroup(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	group := lifecycle.New(context.Background(), "test", slog.New(slog.DiscardHandler))
	m := NewMux(group, listener, slog.New(slog.DiscardHandler), ProtocolHTTP2, ProtocolRaft)
	silent, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, silent)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := group.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Listener(ProtocolRaft).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	expectClosed(t, silent)
}
