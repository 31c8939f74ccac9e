package server

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAdminHandler(t *testing.T) {
	var unready []Reason
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "metrics") })
	plain := AdminHandler(Admin{Metrics: metrics, Unready: func() []Reason { return unready }})
	profiled := AdminHandler(Admin{Metrics: metrics, Unready: func() []Reason { return nil }, Profiles: true})
	status := func(h http.Handler, path string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code
	}
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/readyz": 200, "/debug/pprof/": 404, "/": 404} {
		if got := status(plain, path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	unready = []Reason{{Code: "STARTING", Message: "recovering"}, {Code: "STOPPING", Message: "at once"}}
	if got := status(plain, "/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz of a node that does not serve: %d", got)
	}
	if got := status(profiled, "/debug/pprof/goroutine"); got != http.StatusOK {
		t.Errorf("profiles that were asked for: %d", got)
	}
	if got := get(plain, "/readyz", ""); got != "STARTING: recovering\nSTOPPING: at once\n" {
		t.Errorf("the reasons: %q", got)
	}
	if got := get(plain, "/readyz", "application/json"); got != `{"ready":false,"reasons":[{"code":"STARTING","message":"recovering"},{"code":"STOPPING","message":"at once"}]}`+"\n" {
		t.Errorf("the reasons in JSON: %s", got)
	}
	if got := get(profiled, "/readyz", "application/json"); got != `{"ready":true,"reasons":[]}`+"\n" {
		t.Errorf("ready in JSON: %s", got)
	}
}

func get(h http.Handler, path, accept string) string {
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Accept", accept)
	h.ServeHTTP(w, r)
	return w.Body.String()
}

func TestLogLevelOverHTTP(t *testing.T) {
	level, by := "info", ""
	admin := Admin{
		Metrics: http.NotFoundHandler(), Unready: func() []Reason { return nil },
		LogLevel: func() string { return level },
		SetLogLevel: func(name, remote string) error {
			if name == "loud" {
				return errors.New("use trace, debug, info, warn or error")
			}
			level, by = name, remote
			return nil
		},
	}
	h := AdminHandler(admin)
	for _, c := range []struct {
		method, body string
		status       int
		answer       string
		after        string
	}{
		{http.MethodGet, "", 200, "info\n", "info"},
		{http.MethodPut, "debug\n", 200, "debug\n", "debug"},
		{http.MethodPut, "loud", 400, "use trace, debug, info, warn or error\n", "debug"},
		{http.MethodPut, strings.Repeat("x", 100), 400, "", "debug"},
		{http.MethodPost, "warn", 405, "", "debug"}, // other sites can make a browser post
		{http.MethodDelete, "", 405, "", "debug"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, "/loglevel", strings.NewReader(c.body)))
		if w.Code != c.status || (c.answer != "" && w.Body.String() != c.answer) || level != c.after {
			t.Errorf("%s %q: %d %q, the level is %s; want %+v", c.method, c.body, w.Code, w.Body, level, c)
		}
	}
	if by == "" {
		t.Error("who asked is not passed on")
	}
	admin.LogLevel = nil
	if w := httptest.NewRecorder(); true {
		if AdminHandler(admin).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/loglevel", nil)); w.Code != http.StatusNotFound {
			t.Errorf("a level that cannot be changed: %d", w.Code)
		}
	}
}
