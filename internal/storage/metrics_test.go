package storage

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

// steppedClock stands still until it is told.
type steppedClock struct {
	lifecycle.Clock
	now time.Time
}

func (c *steppedClock) Now() time.Time { return c.now }

// gathered reads the value of a metric, or the number of observations and their sum.
func gathered(t *testing.T, registry *prometheus.Registry, name string) (value float64, count uint64) {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			if h := m.GetHistogram(); h != nil {
				return h.GetSampleSum(), h.GetSampleCount()
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue(), 1
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0, 0
}

// TestRunningSyncShowsBeforeItReturns: the gauge counts the time of a call that never comes back.
func TestRunningSyncShowsBeforeItReturns(t *testing.T) {
	registry, clock := prometheus.NewRegistry(), &steppedClock{now: time.Unix(1000, 0)}
	m, err := NewSyncMetrics(clock, registry)
	must(t, err)
	hung := m.begin()
	clock.now = clock.now.Add(2 * time.Second)
	quick := m.begin()
	clock.now = clock.now.Add(time.Second)
	m.end(quick, 3, nil)
	if seconds, _ := gathered(t, registry, metricSyncRunning.Name); seconds != 3 {
		t.Errorf("the hung sync shows %v s, want 3", seconds)
	}
	if sum, n := gathered(t, registry, metricSyncLogs.Name); n != 1 || sum != 3 {
		t.Errorf("%d syncs of %v logs, want 1 of 3", n, sum)
	}
	m.end(hung, 1, errors.New("gone"))
	if seconds, _ := gathered(t, registry, metricSyncRunning.Name); seconds != 0 {
		t.Errorf("after its end it still shows %v s", seconds)
	}
	if failures, _ := gathered(t, registry, metricSyncFailures.Name); failures != 1 {
		t.Errorf("%v failures, want 1", failures)
	}
}

// TestSyncsAreCounted: every sync of a log that had something to sync shows, and so does the state of the directory.
func TestSyncsAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := NewSyncMetrics(lifecycle.RealClock(), registry)
	must(t, err)
	group := lifecycle.New(t.Context(), "test", slog.New(slog.DiscardHandler))
	d := openTestDir(t, fsys.NewMem(1, fsys.MemOptions{}))
	must(t, RegisterDir(registry, d))
	synced := make(chan error, 10)
	s := StartMeasuredSyncer(group, 1, m, func(_ *Log, _ int64, err error) { synced <- err })
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	for i := range 5 {
		appendTo(t, l, 1, i, 1, 100)
		s.Request(l)
		must(t, <-synced)
	}
	if _, n := gathered(t, registry, metricSyncSeconds.Name); n < 5 {
		t.Errorf("%d syncs were counted, 5 were asked for one after another", n)
	}
	if files, _ := gathered(t, registry, metricOpenFiles.Name); files < 1 {
		t.Errorf("%v segment files are open, one was written just now", files)
	}
	if free, _ := gathered(t, registry, metricFree.Name); free <= 0 {
		t.Errorf("%v bytes are free", free)
	}
	must(t, group.Stop(context.Background()))
	must(t, d.Close())
}

// A damaged journal shows for as long as the process lives; an end that was cut short does not.
func TestDamagedJournalShows(t *testing.T) {
	for _, st := range []struct {
		tail []byte
		want float64
	}{{nil, 0}, {[]byte{0, 0, 0, 45}, 0}, {bytes.Repeat([]byte{0xa5}, 77), 77}} {
		mem := fsys.NewMem(1, fsys.MemOptions{})
		must(t, openTestDir(t, mem).Close())
		f, err := mem.Open("data/" + journalName)
		must(t, err)
		_, err = f.Append(st.tail)
		must(t, err)
		must(t, f.Close())
		registry := prometheus.NewRegistry()
		d := openTestDir(t, mem)
		must(t, RegisterDir(registry, d))
		if got, _ := gathered(t, registry, metricJournalDamaged.Name); got != st.want || d.Report().JournalDamagedBytes != int64(len(st.tail)) {
			t.Errorf("%d bytes more: %v of %+v", len(st.tail), got, d.Report())
		}
		must(t, d.Close())
	}
}
