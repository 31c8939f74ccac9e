package main

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/internal/server"
)

// TestReady asks the handler that brokers serve: ready is 0, not ready is 3 with the reason, no broker is 1.
func TestReady(t *testing.T) {
	var reasons []server.Reason
	node := httptest.NewServer(server.AdminHandler(server.Admin{
		Metrics: http.NotFoundHandler(), Unready: func() []server.Reason { return reasons },
	}))
	defer node.Close()
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	ask := func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := run(t.Context(), append([]string{"broker", "ready"}, args...), streams{in: strings.NewReader(""), out: &out, err: &errOut})
		return code, out.String(), errOut.String()
	}
	address := strings.TrimPrefix(node.URL, "http://")
	if code, out, _ := ask("--admin", address); code != exitOK || out != "ready\n" {
		t.Errorf("a ready node: %d %q", code, out)
	}
	reasons = []server.Reason{{Code: "BROKER_FENCED", Message: "the broker is fenced"}}
	if code, out, _ := ask("--admin", address, "-o", "json"); code != exitUnhealthy || !strings.Contains(out, "the broker is fenced") {
		t.Errorf("a fenced node: %d %q", code, out)
	}
	if code, _, text := ask("--admin", strings.TrimPrefix(stranger.URL, "http://")); code != exitFailed || !strings.Contains(text, "no admin listener") {
		t.Errorf("another server: %d %q", code, text)
	}
	stranger.Close()
	if code, _, text := ask("--admin", strings.TrimPrefix(stranger.URL, "http://")); code != exitFailed || !strings.Contains(text, "see that it runs") {
		t.Errorf("no server: %d %q", code, text)
	}
	// A client listener, which begins with a frame of HTTP/2.
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broker := grpc.NewServer()
	served := make(chan error, 1)
	go func() { served <- broker.Serve(other) }()
	if code, _, text := ask("--admin", other.Addr().String()); code != exitFailed || !strings.Contains(text, "no admin listener") || strings.Contains(text, `\x00`) {
		t.Errorf("a client listener: %d %q", code, text)
	}
	broker.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if code, _, _ := ask("--admin", "127.0.0.1:x y"); code != exitUsage {
		t.Errorf("no address: %d", code)
	}
}
