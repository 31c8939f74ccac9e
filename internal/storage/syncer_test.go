package storage

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // models and sweeps make much garbage and hold little: a quarter of the CPU
	goleak.VerifyTestMain(m)
}

func TestSyncerCoversEveryRequest(t *testing.T) {
	group := lifecycle.New(t.Context(), "test", slog.New(slog.DiscardHandler))
	d := openTestDir(t, fsys.NewMem(1, fsys.MemOptions{}))
	var mu sync.Mutex
	ends := map[*Log]int64{}
	moved := make(chan struct{}, 1)
	s := StartSyncer(group, 2, func(l *Log, end int64, err error) {
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		ends[l] = max(ends[l], end)
		mu.Unlock()
		select {
		case moved <- struct{}{}:
		default:
		}
	})
	var logs []*Log
	for i := range int32(5) {
		l, err := d.CreateLog(testPartition(i), Config{SegmentBytes: 2000})
		must(t, err)
		logs = append(logs, l)
	}
	for i := range 50 {
		for _, l := range logs {
			appendTo(t, l, 1, i, 1, 100)
			s.Request(l)
		}
	}
	deadline := time.After(20 * time.Second)
	for _, l := range logs {
		for {
			mu.Lock()
			end := ends[l]
			mu.Unlock()
			if end == 50 && l.DurableEnd() == 50 {
				break
			}
			select {
			case <-moved:
			case <-deadline:
				t.Fatalf("log %s is durable up to %d of 50", l.TopicPartition(), end)
			}
		}
	}
	must(t, group.Stop(context.Background()))
	must(t, d.Close())
}

func TestFailedSyncIsForEver(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	appendTo(t, l, 1, 1, 2, 10)
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l}))
	appendTo(t, l, 1, 2, 2, 10)
	mem.FailAt(mem.Ops()+1, syscall.EIO)
	if _, err := l.Sync(); !errors.Is(err, ErrSyncFailed) || !errors.Is(err, fsys.ErrSyncFailed) {
		t.Fatalf("first: %v", err)
	}
	if end, err := l.Sync(); !errors.Is(err, ErrSyncFailed) || end != 2 || l.DurableEnd() != 2 {
		t.Fatalf("second: durable %d, %v", end, err)
	}
	data, h := makeBatch(t, noProducer, 1, 1, 10, 1)
	if _, err := l.AppendLeader([][]byte{data}, h, 1, 1); !errors.Is(err, ErrSyncFailed) {
		t.Fatalf("append: %v", err)
	}
	// The page cache may still show what the disk never got: after a restart it is written anew, and then counts.
	mem = mem.CrashProcess()
	d = openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if !d.Report().SyncFailed || !report.SyncFailed || !report.LostData() {
		t.Fatalf("%+v", report)
	}
	end := l.DurableEnd()
	must(t, d.LossesRecorded())
	mem = mem.Crash()
	d = openTestDir(t, mem)
	if l, report, err = d.OpenLog(testPartition(0), Config{}); err != nil || l.LogEndOffset() != end || report.LostData() {
		t.Fatalf("durable end %d was a lie: %+v, %v", end, report, err)
	}
}

func TestReadersBesideWriter(t *testing.T) {
	d := openTestDir(t, fsys.NewMem(1, fsys.MemOptions{}))
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 3000, IndexIntervalBytes: 200})
	must(t, err)
	appendTo(t, l, 1, 0, 1, 50)
	stop, done := make(chan struct{}), make(chan error, 3)
	for range 3 {
		go func() {
			buf := make([]byte, 4096)
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				from := l.LogEndOffset() / 2
				res, err := l.Read(from, 1000, l.LogEndOffset(), buf)
				if err == nil && len(res.Data) > 0 && res.NextOffset <= from {
					err = errors.New("a read went back")
				}
				var outside *RangeError
				if err != nil && !errors.As(err, &outside) { // truncated below from meanwhile
					done <- err
					return
				}
			}
		}()
	}
	for i := range 300 {
		appendTo(t, l, 1, i, 1+i%3, 100)
		if i%40 == 39 {
			_, err := l.TruncateTo(l.LogEndOffset() - 20)
			must(t, err)
		}
	}
	close(stop)
	for range 3 {
		must(t, <-done)
	}
	must(t, d.Close())
}
