package server

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAdminHandler(t *testing.T) {
	var notReady error
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "metrics") })
	plain := AdminHandler(metrics, func() error { return notReady }, false)
	profiled := AdminHandler(metrics, func() error { return nil }, true)
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
	notReady = errors.New("recovering")
	if got := status(plain, "/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz of a node that does not serve: %d", got)
	}
	if got := status(profiled, "/debug/pprof/goroutine"); got != http.StatusOK {
		t.Errorf("profiles that were asked for: %d", got)
	}
}
