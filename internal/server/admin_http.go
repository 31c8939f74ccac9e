package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"
)

// Reason is why a node does not serve.
type Reason struct {
	Code    string `json:"code"` // such as BROKER_FENCED; stable
	Message string `json:"message"`
}

// Admin is what the admin listener tells of a node.
type Admin struct {
	Metrics  http.Handler
	Unready  func() []Reason // why the node does not serve; empty where it does
	Profiles bool            // Go's profiles, below /debug/pprof/

	// LogLevel returns the level of the process' log by name, and SetLogLevel sets it on behalf of the address; its errors say
	// what is allowed. Where they are nil, /loglevel is not there.
	LogLevel    func() string
	SetLogLevel func(level, remote string) error
}

// Readiness is the answer of /readyz in JSON.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []Reason `json:"reasons"` // empty where it is ready
}

// AdminHandler answers on the admin listener: /metrics, /healthz (the process runs) and /readyz (the node serves, or 503 with
// the reasons, one a line, or in JSON where that is accepted), and /loglevel, which PUT changes.
func AdminHandler(admin Admin) http.Handler {
	mux := http.NewServeMux()
	if admin.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	mux.Handle("GET /metrics", admin.Metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		answerReadiness(w, r, admin.Unready())
	})
	if admin.LogLevel != nil && admin.SetLogLevel != nil {
		mux.HandleFunc("GET /loglevel", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusOK, admin.LogLevel())
		})
		mux.HandleFunc("PUT /loglevel", admin.putLogLevel)
	}
	return mux
}

// maxLevelBytes is more than the longest name of a level.
const maxLevelBytes = 64

func (a Admin) putLogLevel(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLevelBytes))
	if err == nil {
		err = a.SetLogLevel(strings.TrimSpace(string(body)), r.RemoteAddr)
	}
	if err != nil {
		answer(w, http.StatusBadRequest, err.Error())
		return
	}
	answer(w, http.StatusOK, a.LogLevel())
}

func answerReadiness(w http.ResponseWriter, r *http.Request, reasons []Reason) {
	status, lines := http.StatusOK, []string{"ready"}
	if len(reasons) > 0 {
		status, lines = http.StatusServiceUnavailable, nil
		for _, reason := range reasons {
			lines = append(lines, reason.Code+": "+reason.Message)
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	if !strings.Contains(r.Header.Get("Accept"), "application/json") {
		answer(w, status, strings.Join(lines, "\n"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has gone needs no answer.
	_ = json.NewEncoder(w).Encode(Readiness{Ready: len(reasons) == 0, Reasons: append([]Reason{}, reasons...)}) //nolint:errcheck // see above
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	// A client that has gone needs no answer.
	_, _ = io.WriteString(w, fmt.Sprintln(text))
}

// NewAdminServer returns the HTTP server of the admin listener, bounded in time and size.
func NewAdminServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
}
