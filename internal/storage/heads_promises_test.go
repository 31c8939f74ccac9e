package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// refuse makes an operation fail on files whose names end so, as on a full disk.
func refuse(mem *fsys.Mem, refused fsys.Op, suffix string) {
	mem.SetInjector(func(op fsys.Op, path string) error {
		if op == refused && strings.HasSuffix(path, suffix) {
			return fsys.ErrNoSpace
		}
		return nil
	})
}

// What a log that is closed without a sync has told the journal is durable before another opening calls the batches durable.
func TestWhatIsFoundAtAReopeningIsToldDurably(t *testing.T) {
	for seed := range uint64(8) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), Config{})
		must(t, err)
		appendTo(t, l, 1, 1, 2, 40)
		_, err = l.Sync()
		must(t, err)
		appendTo(t, l, 4, 2, 2, 40)
		must(t, l.Close(false))
		l, _, err = d.OpenLog(testPartition(0), Config{})
		must(t, err)
		durable := l.DurableEnd()
		d = openTestDir(t, mem.Crash())
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.LostData() || l.LogEndOffset() < durable {
			t.Errorf("seed %d: it was durable up to %d and ends at %d: %+v", seed, durable, l.LogEndOffset(), report)
		}
		must(t, d.Close())
	}
}

// A truncation that ends between the journal and the files has lost nothing that anybody is to be told of: what was to be cut is still known.
func TestATruncationThatIsInterruptedIsNoLoss(t *testing.T) {
	epochs := func(t *testing.T) (*fsys.Mem, *Log, int64) {
		mem := fsys.NewMem(1, fsys.MemOptions{})
		l, err := openTestDir(t, mem).CreateLog(testPartition(0), Config{})
		must(t, err)
		appendTo(t, l, 2, 1, 2, 40)
		_, last := appendTo(t, l, 3, 2, 2, 40)
		_, err = l.Sync()
		must(t, err)
		return mem, l, last.BaseOffset
	}
	row := func(t *testing.T) (*fsys.Mem, *Log, int64) {
		mem, _, l, all, _ := gappedLog(t)
		h, at := lastBatch(t, all)
		before, _ := lastBatch(t, all[:at]) // a gap lies before it
		if before.NextOffset() != h.BaseOffset {
			t.Fatal("another log than expected")
		}
		return mem, l, before.BaseOffset
	}
	for name, log := range map[string]func(*testing.T) (*fsys.Mem, *Log, int64){"epochs": epochs, "row": row} {
		mem, l, offset := log(t)
		end := l.LogEndOffset()
		refuse(mem, fsys.OpTruncate, segmentSuffix)
		if _, err := l.TruncateTo(offset); !errors.Is(err, ErrLogFailed) {
			t.Fatalf("%s: %v", name, err)
		}
		mem.SetInjector(nil)
		d := openTestDir(t, mem.CrashProcess())
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.LostData() || l.LogEndOffset() != end {
			t.Errorf("%s: it ends at %d of %d: %+v", name, l.LogEndOffset(), end, report)
		}
		must(t, d.Close())
	}
}

// Compaction never changes a row of batches whose heads the journal would know after a loss of power.
func TestACleaningIsOfNoRowThatTheJournalKnows(t *testing.T) {
	for seed := range uint64(12) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), Config{})
		must(t, err)
		batch := func(key string, base int64) []byte {
			b := record.NewBuilder(record.BuilderOptions{})
			must(t, b.Add(record.Record{Key: []byte(key), Value: []byte("value"), Timestamp: 1}))
			data, err := b.Finish(record.None, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
			must(t, err)
			return stamped(data, base, 1)
		}
		_, err = l.AppendFollower(slices.Concat(batch("a", 0), batch("a", 3), batch("b", 6)), true)
		must(t, err)
		must(t, l.Roll())
		for i := range 5 {
			_, err = l.AppendFollower(batch(fmt.Sprint(i), l.LogEndOffset()), true)
			must(t, err)
		}
		must(t, l.Roll())
		must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
		end, err := l.Sync()
		must(t, err)
		appendTo(t, l, 6, 1, 1, 10) // the recovery point goes with its epoch, and is not durable
		cl, err := NewCleaner(CleanerOptions{}).Begin(l, CompactionPolicy{}, CleaningInput{NowMs: 1, HighWatermark: end, LowestPosition: end})
		must(t, err)
		if cl == nil {
			t.Fatal("nothing to clean")
		}
		for done := false; !done; {
			_, done, err = cl.Step(math.MaxInt)
			must(t, err)
		}
		if cl.Stats().RecordsDropped != 1 {
			t.Fatalf("%+v", cl.Stats())
		}
		must(t, cl.Close())
		again := openTestDir(t, mem.Crash())
		l, report, err := again.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.LostData() || l.LogEndOffset() < end {
			t.Errorf("seed %d: it ends at %d of %d: %+v", seed, l.LogEndOffset(), end, report)
		}
		must(t, again.Close())
	}
}

// A damaged journal that a full disk keeps from being written anew is not gone on with: the opening after that would take it for whole, and
// what it was told of for never written.
func TestADamagedJournalOnAFullDiskIsNotTakenForWhole(t *testing.T) {
	mem, _, l, all, _ := gappedLog(t)
	end, left := l.LogEndOffset(), mem.CrashProcess()
	_, good := decodeJournal(journalOf(t, left))
	must(t, left.Flip("data/"+journalName, int64(good)-300, 3))
	refuse(left, fsys.OpAppend, "")
	if _, err := OpenDir(left, "data", testDirOptions()); !errors.Is(err, fsys.ErrNoSpace) {
		t.Fatal(err)
	}
	left.SetInjector(nil)
	d := openTestDir(t, left.CrashProcess())
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if got := readAll(t, l, 1<<20); report.Cut != CutNone || l.LogEndOffset() != end || !bytes.Equal(got, all) {
		t.Errorf("%d bytes of %d up to %d: %+v", len(got), len(all), l.LogEndOffset(), report)
	}
	must(t, d.Close())
}

// An append that a full disk keeps from telling its epoch does not void what a checkpoint has collected: nothing else says that.
func TestAnAppendThatTellsNothingVoidsNoCheckpoint(t *testing.T) {
	mem := fsys.NewMem(3, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	appendTo(t, l, 1, 1, 2, 40)
	_, err = l.Sync()
	must(t, err)
	must(t, l.Trim(2))
	collected, ok := l.checkpoint(2)
	if !ok {
		t.Fatal("nothing to note")
	}
	refuse(mem, fsys.OpAppend, journalName)
	data, h := makeBatch(t, producerRef{}, 1, 2, 40, 1000)
	if _, err := l.AppendLeader([][]byte{data}, h, 8, 1); !errors.Is(err, fsys.ErrNoSpace) {
		t.Fatal(err)
	}
	mem.SetInjector(nil)
	must(t, d.journal.commit(collected))
	states, _ := decodeJournal(journalOf(t, mem.Crash()))
	if s := states[testPartition(0)]; s.logStart != 2 {
		t.Errorf("%+v", s)
	}
}

// A checkpoint that was collected between two attempts of an append never takes back what the first has told and the second relies on.
func TestACheckpointBetweenTwoAttemptsIsVoid(t *testing.T) {
	mem := fsys.NewMem(3, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	appendTo(t, l, 1, 1, 2, 40)
	refuse(mem, fsys.OpAppend, segmentSuffix)
	data, h := makeBatch(t, producerRef{}, 1, 2, 40, 1000)
	if _, err := l.AppendLeader([][]byte{data}, h, 8, 1); !errors.Is(err, fsys.ErrNoSpace) {
		t.Fatal(err)
	}
	mem.SetInjector(nil)
	collected, ok := l.checkpoint(0)
	if !ok {
		t.Fatal("nothing to note")
	}
	appendTo(t, l, 8, 1, 2, 40)
	must(t, d.journal.commit(collected))
	again := openTestDir(t, mem.CrashProcess())
	found, report, err := again.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.LostData() || found.LogEndOffset() != l.LogEndOffset() {
		t.Errorf("it ends at %d of %d: %+v", found.LogEndOffset(), l.LogEndOffset(), report)
	}
	must(t, again.Close())
}

// Where a full disk keeps the journal from forgetting what a truncation has cut, the log goes on, and the next append says it.
func TestATruncationWithoutRoomToForget(t *testing.T) {
	mem, _, l, all, _ := gappedLog(t)
	h, last := lastBatch(t, all)
	told := 0
	mem.SetInjector(func(op fsys.Op, path string) error {
		if op == fsys.OpAppend && strings.HasSuffix(path, journalName) {
			if told++; told > 1 {
				return fsys.ErrNoSpace
			}
		}
		return nil
	})
	end, err := l.TruncateTo(h.BaseOffset)
	must(t, err)
	mem.SetInjector(nil)
	if told < 2 {
		t.Fatal("the journal was not told")
	}
	found := func(want []byte) {
		t.Helper()
		d := openTestDir(t, mem.Clone(7).CrashProcess())
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if got := readAll(t, l, 1<<20); report.LostData() || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d: %+v", len(got), len(want), report)
		}
		must(t, d.Close())
	}
	found(all[:last])
	data, _ := makeBatch(t, producerRef{}, 9, 4, 10, 1000)
	data = stamped(data, end+1, 6) // other bytes, within the offsets of the row
	_, err = l.AppendFollower(data, true)
	must(t, err)
	found(append(bytes.Clone(all[:last]), data...))
}
