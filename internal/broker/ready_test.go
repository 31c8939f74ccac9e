package broker_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/server"
	"github.com/penstock-io/penstock/internal/testports"
)

// link is a way to an address that can be cut: connections stay, and nothing comes through.
type link struct {
	t        *testing.T
	listener net.Listener
	to       string
	group    *lifecycle.Group

	mu    sync.Mutex
	open  chan struct{} // closed while bytes pass
	conns []net.Conn
	bytes int // that were held back
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{t: t, listener: listener, to: to, group: lifecycle.New(context.Background(), "link", nil), open: make(chan struct{})}
	close(l.open)
	l.group.Go("accept", l.accept)
	t.Cleanup(func() {
		l.heal()
		_ = listener.Close()
		l.mu.Lock()
		for _, c := range l.conns {
			_ = c.Close()
		}
		l.mu.Unlock()
		if err := l.group.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *link) address() string { return l.listener.Addr().String() }

func (l *link) accept(context.Context) error {
	for {
		in, err := l.listener.Accept()
		if err != nil {
			return nil
		}
		out, err := net.Dial("tcp", l.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, in, out)
		l.mu.Unlock()
		l.group.Go("there", func(context.Context) error { return l.pass(in, out) })
		l.group.Go("back", func(context.Context) error { return l.pass(out, in) })
	}
}

func (l *link) pass(from, to net.Conn) error {
	defer func() { _, _ = from.Close(), to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return nil
		}
		l.mu.Lock()
		open := l.open
		select {
		case <-open:
		default:
			l.bytes += n
		}
		l.mu.Unlock()
		<-open
		if _, err := to.Write(buffer[:n]); err != nil {
			return nil
		}
	}
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.bytes = make(chan struct{}), 0
}

func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
	default:
		close(l.open)
	}
}

func (l *link) heldBack() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

func codes(reasons []server.Reason) []string {
	out := []string{}
	for _, r := range reasons {
		out = append(out, r.Code)
	}
	return out
}

// readyz asks the admin listener.
func readyz(t *testing.T, address string) (status int, answer server.Readiness) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/readyz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/json")
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Ready != (response.StatusCode == http.StatusOK) {
		t.Fatalf("/readyz: %d %s", response.StatusCode, body)
	}
	return response.StatusCode, answer
}

func awaitCodes(t *testing.T, address string, want ...string) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(time.Minute); ; {
		_, answer := readyz(t, address)
		if got = codes(answer.Reasons); slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz of %s says %v, want %v", address, got, want)
		}
		if err := lifecycle.Sleep(t.Context(), lifecycle.RealClock(), 10*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// twoNodes are a controller that is a broker, and a broker alone; both reach the controller through the link.
func twoNodes(t *testing.T) (l *link, first, second map[string]string) {
	t.Helper()
	first, second = settings(t, t.TempDir()), settings(t, t.TempDir())
	l = newLink(t, first["listen.peer"])
	for _, flags := range []map[string]string{first, second} {
		flags["controllers"], flags["session.timeout"], flags["heartbeat.interval"] = "1@"+l.address(), "1s", "100ms"
		flags["listen.admin"] = testports.Address(t)
	}
	first["advertised.peer"] = l.address()
	second["node.id"], second["roles"] = "2", "broker"
	return l, first, second
}

// A broker that is cut off from the controller is not ready, though nothing tells it so, and is again once it is back.
func TestANodeThatIsCutOffIsNotReady(t *testing.T) {
	l, first, second := twoNodes(t)
	one, two := mustStart(t, first), mustStart(t, second)
	defer stop(t, one)
	defer stop(t, two)
	awaitCodes(t, first["listen.admin"])
	awaitCodes(t, second["listen.admin"])
	l.cut()
	awaitCodes(t, second["listen.admin"], "SESSION_LOST", "METADATA_STALE")
	awaitCodes(t, first["listen.admin"], "SESSION_LOST") // its metadata comes from the controller in its own process
	if l.heldBack() == 0 {
		t.Error("the cut held nothing back: it did not bite")
	}
	l.heal()
	awaitCodes(t, second["listen.admin"])
	awaitCodes(t, first["listen.admin"])
}

// A controller that never hears of an active one holds no metadata, and is not ready.
func TestAControllerWithoutAQuorumIsNotReady(t *testing.T) {
	flags := settings(t, t.TempDir())
	flags["roles"], flags["controllers"] = "controller", "1@"+flags["listen.peer"]+",2@127.0.0.1:1,3@127.0.0.1:2"
	flags["listen.admin"] = testports.Address(t)
	node, err := start(t, flags)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, node)
	status, answer := readyz(t, flags["listen.admin"])
	if got := codes(answer.Reasons); status != http.StatusServiceUnavailable || !slices.Equal(got, []string{"NO_METADATA"}) {
		t.Errorf("%d %v", status, got)
	}
}

// A node that stops says so before it stops serving: whoever asks /readyz can send clients elsewhere in time.
func TestReadinessEndsBeforeServingEnds(t *testing.T) {
	l, first, second := twoNodes(t)
	second["listen.client"] = testports.Address(t)
	one, two := mustStart(t, first), mustStart(t, second)
	defer stop(t, one)
	awaitCodes(t, second["listen.admin"])
	conn, err := grpc.NewClient(second["listen.client"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	l.cut() // the stop asks the controller to move leaderships, and waits for an answer
	group := lifecycle.New(context.Background(), "stopping", nil)
	began := time.Now()
	group.Go("stop", func(context.Context) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return two.Stop(ctx)
	})
	defer func() {
		l.heal()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("stopping took %v", took)
		}
	}()
	for deadline := time.Now().Add(time.Minute); ; {
		_, answer := readyz(t, second["listen.admin"])
		if slices.Contains(codes(answer.Reasons), "STOPPING") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it never said that it stops: %+v", answer)
		}
	}
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("clients are served no more when /readyz says STOPPING: %v %v", answer.GetStatus(), err)
	}
}
