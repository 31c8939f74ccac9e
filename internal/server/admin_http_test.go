package server

import (
	"net/http"
	"net/http/httptest"
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
