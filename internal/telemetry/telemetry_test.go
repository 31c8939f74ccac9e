package telemetry

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
)

func newTestLogger(t *testing.T, format LogFormat, level slog.Leveler) (*slog.Logger, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	logger, err := NewLogger(&out, format, level)
	if err != nil {
		t.Fatal(err)
	}
	return logger, &out
}

// takeLine returns what was logged, without its time.
func takeLine(out *bytes.Buffer) string {
	_, rest, _ := strings.Cut(strings.TrimSpace(out.String()), " ")
	out.Reset()
	return rest
}

func TestLevelChangesAtRunTime(t *testing.T) {
	level := new(slog.LevelVar)
	logger, out := newTestLogger(t, LogText, level)
	bridge := HCLog(logger)
	logger.Debug("hidden")
	bridge.Debug("hidden")
	if out.Len() != 0 || bridge.IsDebug() || bridge.GetLevel() != hclog.Info {
		t.Fatalf("logged below the level: %s", out)
	}
	level.Set(LevelTrace)
	bridge.Trace("seen")
	if got := takeLine(out); got != "level=TRACE msg=seen" {
		t.Fatalf("got %q", got)
	}
	if !bridge.IsTrace() || bridge.GetLevel() != hclog.Trace {
		t.Fatal("the bridge does not follow the level")
	}
	level.Set(slog.LevelError)
	if bridge.IsWarn() || !bridge.IsError() || bridge.GetLevel() != hclog.Error {
		t.Fatal("the bridge does not follow the level")
	}
	level.Set(slog.LevelError + 1)
	if bridge.GetLevel() != hclog.Off {
		t.Fatal("a silent logger is not off")
	}
}

func TestFormats(t *testing.T) {
	logger, out := newTestLogger(t, LogJSON, nil)
	logger.Info("started", "node_id", 3)
	if got := out.String(); !strings.Contains(got, `"msg":"started","node_id":3`) {
		t.Fatalf("got %s", got)
	}
	if _, err := NewLogger(io.Discard, "xml", nil); err == nil || !strings.Contains(err.Error(), `"json"`) {
		t.Fatalf("err = %v, want the known formats", err)
	}
}

func TestParseLevel(t *testing.T) {
	for name, want := range map[string]slog.Level{
		"trace": LevelTrace, "DEBUG": slog.LevelDebug, "Info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	} {
		if got, err := ParseLevel(name); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "verbose", "INFO+2"} {
		if _, err := ParseLevel(name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestHCLogBridge(t *testing.T) {
	logger, out := newTestLogger(t, LogText, LevelTrace)
	raft := HCLog(logger).Named("raft")
	sub := raft.With("node", 1).Named("net")
	for _, c := range []struct {
		log  func()
		want string
	}{
		{func() { raft.Warn("vote", "term", 7) }, "level=WARN msg=vote component=raft term=7"},
		{func() { raft.Error("sync", "error", errors.New("no disk")) }, `level=ERROR msg=sync component=raft error="no disk"`},
		{func() { raft.Error("read", "error", &net.OpError{Op: "read", Err: net.ErrClosed}) }, `level=DEBUG msg=read component=raft error="read: use of closed network connection"`},
		{func() { sub.Info("dial", "after", time.Second) }, "level=INFO msg=dial component=raft.net node_=1 after=1s"},
		{func() { sub.ResetNamed("x").Debug("d") }, "level=DEBUG msg=d component=x node_=1"},
		{func() { raft.Info("f", "v", hclog.Fmt("%d/%d", 1, 2), "h", hclog.Hex(255)) }, "level=INFO msg=f component=raft v=1/2 h=0xff"},
		{func() { raft.Info("q", "v", hclog.Quote("a"), "o", hclog.Octal(8), "b", hclog.Binary(2)) }, "level=INFO msg=q component=raft v=a o=010 b=0b10"},
		{func() { raft.Info("e", "v", hclog.Format{}) }, `level=INFO msg=e component=raft v=""`},
		{func() { raft.Info("odd", 12, "k", "lost") }, "level=INFO msg=odd component=raft 12=k EXTRA_VALUE_AT_END=lost"},
		{func() { raft.Log(hclog.NoLevel, "plain") }, "level=INFO msg=plain component=raft"},
		{func() { raft.Log(hclog.Off, "never") }, ""},
		{func() { raft.StandardLogger(nil).Print("[ERR] gone") }, "level=ERROR msg=gone component=raft"},
		{
			func() {
				raft.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}).Print("[ERR] gone")
			},
			"level=DEBUG msg=gone component=raft",
		},
	} {
		if c.log(); true {
			if got := takeLine(out); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		}
	}
	if sub.Name() != "raft.net" || len(sub.ImpliedArgs()) != 2 {
		t.Errorf("name %q, implied %v", sub.Name(), sub.ImpliedArgs())
	}
}

func TestStdLog(t *testing.T) {
	logger, out := newTestLogger(t, LogText, LevelTrace)
	std := StdLog(logger)
	for line, want := range map[string]string{
		"[DEBUG] memberlist: ping": `level=DEBUG msg="memberlist: ping"`,
		"[ERR] memberlist: gone":   `level=ERROR msg="memberlist: gone"`,
		"plain":                    "level=INFO msg=plain",
		"[other] text":             `level=INFO msg="[other] text"`,
		"[open":                    `level=INFO msg=[open`,
	} {
		std.Println(line)
		if got := takeLine(out); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestRegistry(t *testing.T) {
	r := NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "records_total", Help: "Records."})
	if err := r.Register(counter); err != nil {
		t.Fatal(err)
	}
	counter.Add(3)
	if err := r.Register(counter); err == nil {
		t.Fatal("a name was registered twice")
	}
	server := httptest.NewServer(r.Handler(slog.New(slog.DiscardHandler)))
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"penstock_records_total 3", "penstock_build_info{", "go_goroutines "} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the scrape has no %q", want)
		}
	}
	if families, err := r.Gatherer().Gather(); err != nil || len(families) == 0 {
		t.Fatalf("gather: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	recorded := &debug.BuildInfo{Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"},
	}}
	recorded.Main.Version = "v0.2.0"
	for _, c := range []struct {
		version, revision         string
		recorded                  *debug.BuildInfo
		wantVersion, wantRevision string
	}{
		{"v0.3.0", "def", recorded, "v0.3.0", "def"},
		{"", "", recorded, "v0.2.0", "abc-dirty"},
		{"", "", &debug.BuildInfo{}, "devel", unknown},
	} {
		got := describe(c.version, c.revision, c.recorded)
		if got.Version != c.wantVersion || got.Revision != c.wantRevision || got.GoVersion == "" || got.Platform == "" {
			t.Errorf("got %+v, want %s %s", got, c.wantVersion, c.wantRevision)
		}
	}
	if Version() == "" {
		t.Error("no version")
	}
}
