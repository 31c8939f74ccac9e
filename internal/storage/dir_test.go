package storage

import (
	"errors"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

func TestDirMeta(t *testing.T) {
	mem := fsys.NewMem(3, fsys.MemOptions{})
	d := openTestDir(t, mem)
	if r := d.Report(); !r.Created || r.CleanShutdown || d.LostPageCache("boot-1") {
		t.Fatalf("a new directory: %+v", r)
	}
	if _, err := OpenDir(mem, "data", DirOptions{}); !errors.Is(err, fsys.ErrLocked) {
		t.Fatalf("opened twice: %v", err)
	}
	want := d.Meta()
	want.ClusterID, want.NodeID, want.BrokerEpoch, want.BootID = model.NewUUID(), 4, 99, "boot \"1\"\n"
	if err := d.UpdateMeta(func(m *Meta) { *m = want; m.DirectoryID = model.NewUUID() }); err != nil {
		t.Fatal(err)
	}
	mem = mem.Crash()
	d = openTestDir(t, mem)
	if d.Meta() != want || d.Report().Created {
		t.Fatalf("%+v, want %+v", d.Meta(), want)
	}
	if !d.LostPageCache("boot 2") || !d.LostPageCache("") || d.LostPageCache(want.BootID) {
		t.Fatal("a changed boot without a clean shutdown may have lost the page cache")
	}
	if err := d.MarkClean(); err != nil {
		t.Fatal(err)
	}
	mem = mem.Crash()
	d = openTestDir(t, mem)
	if !d.Report().CleanShutdown || d.LostPageCache("boot 2") {
		t.Fatal("a clean shutdown was forgotten")
	}
	if err := d.ClearClean("boot 2"); err != nil {
		t.Fatal(err)
	}
	mem = mem.Crash()
	if d = openTestDir(t, mem); d.Report().CleanShutdown || d.Meta().BootID != "boot 2" {
		t.Fatalf("%+v", d.Meta())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDirRefusesDoubtfulMeta(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, mem *fsys.Mem)
		want  error
	}{
		"flipped bit": {func(t *testing.T, mem *fsys.Mem) { must(t, mem.Flip("data/meta.properties", 30, 2)) }, ErrMetaDamaged},
		"empty": {func(t *testing.T, mem *fsys.Mem) {
			must(t, mem.Remove("data/meta.properties"))
			must(t, writeHint(mem, "data/meta.properties", nil))
		}, ErrMetaDamaged},
		"gone beside topics": {func(t *testing.T, mem *fsys.Mem) { must(t, mem.Remove("data/meta.properties")) }, ErrMetaMissing},
	} {
		t.Run(name, func(t *testing.T) {
			mem := fsys.NewMem(3, fsys.MemOptions{})
			d := openTestDir(t, mem)
			if _, err := d.CreateLog(testPartition(0), Config{}); err != nil {
				t.Fatal(err)
			}
			must(t, d.Close())
			tt.spoil(t, mem)
			if _, err := OpenDir(mem, "data", DirOptions{}); !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if _, err := OpenDir(mem, "data", DirOptions{}); errors.Is(err, fsys.ErrLocked) {
				t.Fatal("a refused directory stays locked")
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The directory of a topic goes with its last log, at the next opening where the deletion was cut short; it stays beside anything else.
func TestDeletedTopicsLeaveNoDirectory(t *testing.T) {
	mem := fsys.NewMem(5, fsys.MemOptions{})
	d := openTestDir(t, mem)
	create := func(i int32) {
		t.Helper()
		l, err := d.CreateLog(testPartition(i), Config{})
		must(t, err)
		_, err = l.Sync()
		must(t, err)
	}
	topic := path.Dir(d.logDir(testPartition(0)))
	gone := func(want bool) {
		t.Helper()
		if _, err := mem.Stat(topic); fsys.IsNotExist(err) != want {
			t.Fatalf("the directory of the topic: %v, to be gone: %v", err, want)
		}
	}
	create(0)
	create(1)
	must(t, d.DeleteLog(testPartition(0)))
	gone(false)
	must(t, d.DeleteLog(testPartition(1)))
	gone(true)
	create(0)
	_, err := d.StrayLog(testPartition(0))
	must(t, err)
	create(1)
	must(t, d.DeleteLog(testPartition(1)))
	gone(false)
	must(t, d.Close())
	must(t, mem.RemoveAll(topic))
	must(t, mem.MkdirAll(path.Join(topic, "3"+deletedSuffix)))
	d = openTestDir(t, mem)
	gone(true)
	must(t, d.Close())
}

func TestDeleteAndStray(t *testing.T) {
	mem := fsys.NewMem(5, fsys.MemOptions{})
	d := openTestDir(t, mem)
	for i := range int32(3) {
		l, err := d.CreateLog(testPartition(i), Config{})
		must(t, err)
		appendTo(t, l, 1, int(i), 2, 10)
		_, err = l.Sync()
		must(t, err)
		must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 2}))
	}
	if _, err := d.CreateLog(testPartition(1), Config{}); !errors.Is(err, ErrLogExists) {
		t.Fatalf("created twice: %v", err)
	}
	if _, _, err := d.OpenLog(testPartition(9), Config{}); !errors.Is(err, ErrNoLog) {
		t.Fatalf("opened what is not there: %v", err)
	}
	must(t, d.DeleteLog(testPartition(0)))
	must(t, d.DeleteLog(testPartition(0)))
	aside, err := d.StrayLog(testPartition(1))
	if err != nil || !strings.HasSuffix(aside, straySuffix) {
		t.Fatalf("%q, %v", aside, err)
	}
	mem = mem.Crash()
	d = openTestDir(t, mem)
	logs, err := d.Logs()
	if err != nil || !slices.Equal(logs, []model.TopicPartition{testPartition(2)}) || len(d.Report().MissingLogs) != 0 {
		t.Fatalf("%v, %v, %+v", logs, err, d.Report())
	}
	if _, err := mem.Stat(aside); err != nil {
		t.Fatalf("the stray data is gone: %v", err)
	}
	// A log of the same name begins anew: nothing is remembered of the old one.
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	if l.LogEndOffset() != 0 || l.CheckpointedHighWatermark() != 0 || len(l.EpochStarts()) != 0 {
		t.Fatalf("the new log is [%d,%d)", l.LogStartOffset(), l.LogEndOffset())
	}
	must(t, d.Close())
	must(t, mem.RemoveAll(d.logDir(testPartition(2))))
	if d = openTestDir(t, mem); !slices.Equal(d.Report().MissingLogs, []model.TopicPartition{testPartition(2)}) {
		t.Fatalf("a lost log was not noticed: %+v", d.Report())
	}
}

func TestJournalSurvivesDamage(t *testing.T) {
	states := map[model.TopicPartition]logState{}
	data := journalHeader()
	var ends []int
	for i := range int32(6) {
		tp := testPartition(i % 3)
		s := logState{recoveryPoint: int64(10 * i), highWatermark: int64(9 * i), logStart: int64(i), epochs: []EpochStart{{1, 0}, {2, int64(i)}}}
		states[tp] = s
		data = appendEpochsFrame(data, tp, s)
		ends = append(ends, len(data))
	}
	if got, good := decodeJournal(data); good != len(data) || len(got) != 3 || !got[testPartition(2)].samePositions(states[testPartition(2)]) {
		t.Fatalf("%+v, %d of %d", got, good, len(data))
	}
	for cut := range len(data) {
		got, good := decodeJournal(data[:cut])
		want := 0
		if cut >= journalHeaderSize {
			want = journalHeaderSize
		}
		for _, end := range ends {
			if end <= cut {
				want = end
			}
		}
		if good != want || len(got) > 3 {
			t.Fatalf("cut to %d: believed %d, want %d", cut, good, want)
		}
	}
	for at := range data {
		bad := slices.Clone(data)
		bad[at] ^= 0x10
		if _, good := decodeJournal(bad); good > at {
			t.Fatalf("damage at %d: believed %d", at, good)
		}
	}
}

func TestJournalCompactsAndForgets(t *testing.T) {
	mem := fsys.NewMem(5, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	appendTo(t, l, 1, 1, 100, 1)
	_, err = l.Sync()
	must(t, err)
	for i := range 30_000 {
		must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: int64(i % 101)}))
	}
	info, err := mem.Stat("data/" + journalName)
	if err != nil || info.Size > journalCompactMin+1000 {
		t.Fatalf("the journal has %d bytes (%v)", info.Size, err)
	}
	before := mem.Ops()
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: int64(29_999 % 101)}))
	if mem.Ops() != before {
		t.Fatal("a checkpoint without news touches the disk")
	}
	mem = mem.Crash()
	d = openTestDir(t, mem)
	if s, ok := d.journal.state(testPartition(0)); !ok || s.highWatermark != 29_999%101 || s.recoveryPoint != 100 {
		t.Fatalf("%+v", s)
	}
}
