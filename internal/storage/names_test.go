package storage

import (
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// appendOne appends one record as leader of epoch 0.
func appendOne(t *testing.T, l *Log, seq int32) {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	if err := b.Add(record.Record{Timestamp: 1, Value: make([]byte, 100)}); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Finish(record.None, 1, 0, seq)
	if err != nil {
		t.Fatal(err)
	}
	h, err := record.ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.AppendLeader([][]byte{raw}, h, 0, 1); err != nil {
		t.Fatal(err)
	}
}

// A process that is killed before the first sync of a new log leaves its names to the page cache. What the next process has
// synced must be found after a power loss all the same.
func TestNamesLeftByADeadProcessBecomeDurable(t *testing.T) {
	tp := model.TopicPartition{TopicID: model.UUID{1}}
	for seed := range uint64(50) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		dir, err := OpenDir(mem, "/data", DirOptions{DirectoryID: model.UUID{2}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dir.CreateLog(tp, Config{}); err != nil {
			t.Fatal(err)
		}
		mem = mem.CrashProcess()
		if dir, err = OpenDir(mem, "/data", DirOptions{}); err != nil {
			t.Fatal(err)
		}
		log, _, err := dir.OpenLog(tp, Config{})
		if err != nil {
			t.Fatal(err)
		}
		appendOne(t, log, 0)
		if end, err := log.Sync(); err != nil || end != 1 {
			t.Fatalf("sync: %d, %v", end, err)
		}
		mem = mem.Crash()
		if dir, err = OpenDir(mem, "/data", DirOptions{}); err != nil {
			t.Fatal(err)
		}
		log, _, err = dir.OpenLog(tp, Config{})
		if err != nil || log.LogEndOffset() != 1 {
			t.Fatalf("seed %d: what was synced is gone: %v", seed, err)
		}
	}
}

// Nothing was synced, the power loss took the name of the first segment and left a later one: the log begins anew where it
// began, knows no producer, and says that it lost data.
func TestLogWithoutItsFirstSegmentBeginsAnew(t *testing.T) {
	tp, cfg := model.TopicPartition{TopicID: model.UUID{1}}, Config{SegmentBytes: 200}
	for seed := range uint64(200) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		dir, err := OpenDir(mem, "/data", DirOptions{DirectoryID: model.UUID{2}})
		if err != nil {
			t.Fatal(err)
		}
		log, err := dir.CreateLog(tp, cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i := range int32(6) {
			appendOne(t, log, i)
		}
		mem = mem.Crash()
		if dir, err = OpenDir(mem, "/data", DirOptions{}); err != nil {
			t.Fatal(err)
		}
		log, report, err := dir.OpenLog(tp, cfg)
		if err != nil {
			continue // the directory is gone as well
		}
		if log.LogStartOffset() != 0 {
			t.Fatalf("seed %d: the log begins at %d: %+v", seed, log.LogStartOffset(), report)
		}
		if log.LogEndOffset() == 0 && log.ProducerCount() != 0 {
			t.Fatalf("seed %d: an empty log knows %d producers: %+v", seed, log.ProducerCount(), report)
		}
	}
}
