package storage

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// maxTimestampAt is where the field lies in a batch.
const maxTimestampAt = batchBodyAt + 14

// spiedFS tells of each file before it is opened for reading.
type spiedFS struct {
	fsys.FS
	opens func(name string)
}

func (s *spiedFS) OpenRead(name string) (fsys.File, error) {
	if s.opens != nil {
		s.opens(name)
	}
	return s.FS.OpenRead(name)
}

// segmentsOf makes a log with a segment for each of the times, one batch in each, and an active one for the last of them; all is
// committed and found by a new process. What it opens for reading is told to the spy.
func segmentsOf(t *testing.T, times ...int64) (*Log, *fsys.Mem, *spiedFS) {
	t.Helper()
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	for i, ts := range times {
		if i > 0 {
			must(t, l.Roll())
		}
		data, h := makeBatch(t, noProducer, i, 1, 100, max(ts, 0))
		if ts < 0 { // no builder makes such ones
			binary.BigEndian.PutUint64(data[maxTimestampAt:], uint64(ts)) //nolint:gosec // same bits
			h = sealed(t, data)
		}
		_, err := l.AppendLeader([][]byte{data}, h, 1, ts)
		must(t, err)
	}
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
	mem = mem.CrashProcess()
	spy := &spiedFS{FS: mem}
	l, report, err := openTestDir(t, spy).OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.LostData() || l.SegmentCount() != len(times) {
		t.Fatalf("%d segments: %+v", l.SegmentCount(), report)
	}
	return l, mem, spy
}

// A log in order with nothing to delete costs no I/O, but for the age of its oldest segment, once after each opening.
func TestRetentionWithNothingToDoReadsTheOldestAgeAlone(t *testing.T) {
	l, mem, _ := segmentsOf(t, 1000, 1000, 1000, 1000)
	step := func(p RetentionPolicy) (looked []string) {
		t.Helper()
		mem.SetInjector(func(_ fsys.Op, name string) error {
			if !slices.Contains(looked, name) {
				looked = append(looked, name)
			}
			return nil
		})
		defer mem.SetInjector(nil)
		res, err := l.RetentionStep(p, RetentionInput{NowMs: 2000, HighWatermark: 4})
		if err != nil || res.Segments != 0 || len(res.Kept) == 0 {
			t.Fatalf("%+v: %+v, %v", p, res, err)
		}
		return looked
	}
	for _, p := range []RetentionPolicy{
		{Delete: true, Ms: -1, Bytes: -1}, {Delete: true, Ms: -1, Bytes: 10_000}, {Ms: 1, Bytes: 1},
	} {
		if looked := step(p); len(looked) > 0 {
			t.Errorf("%+v looks at %q", p, looked)
		}
	}
	young := RetentionPolicy{Delete: true, Ms: 5000, Bytes: -1}
	if looked := step(young); !slices.Equal(looked, []string{l.snapshotName(1)}) {
		t.Errorf("by age it looks at %q", looked)
	}
	if looked := step(young); len(looked) > 0 {
		t.Errorf("the second time it looks at %q", looked)
	}
}

// Retention by time takes nothing whose age it has not looked at: neither because what lies before goes by size, nor because what
// lies behind is old.
func TestRetentionSparesWhatItHasNotLookedAt(t *testing.T) {
	l, _, _ := segmentsOf(t, 9000, 9000, 1000, 1000)
	size := l.SizeBytes() / 4
	res, err := l.RetentionStep(RetentionPolicy{Delete: true, Ms: 5000, Bytes: 3 * size}, RetentionInput{NowMs: 10_000, HighWatermark: 4})
	if err != nil || res.Start != 1 || l.LogStartOffset() != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
}

// A segment without timestamps goes with the next one that has some.
func TestRetentionLooksBehindWhatHasNoTimestamps(t *testing.T) {
	for _, none := range []int64{-1, math.MinInt64} {
		l, _, _ := segmentsOf(t, none, none, 1000, 9000, 9000)
		p, in := RetentionPolicy{Delete: true, Ms: 5000, Bytes: -1}, RetentionInput{NowMs: 6000, HighWatermark: 5}
		res, err := l.RetentionStep(p, in)
		if err != nil || res.Start != 0 || res.Kept[0].Reason != KeptNoTimestamp {
			t.Fatalf("%+v, %v", res, err)
		}
		in.NowMs++
		res, err = l.RetentionStep(p, in)
		if err != nil || res.Start != 3 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
}

// Above what the log holds a HighWatermark commits nothing, and what is not committed stays.
func TestRetentionAndAHighWatermarkBeyondTheEnd(t *testing.T) {
	l, _, _ := segmentsOf(t, 1000, 1000)
	res, err := l.RetentionStep(RetentionPolicy{Delete: true, Ms: 10, Bytes: -1}, RetentionInput{NowMs: 5000, HighWatermark: 1000})
	if err != nil || res.Start != 2 || l.LogStartOffset() != 2 || l.LogEndOffset() != 2 {
		t.Fatalf("%+v, %v", res, err)
	}
	appendTo(t, l, 1, 1, 1, 10)
	if res, err := l.RetentionStep(RetentionPolicy{Delete: true, Ms: 1e6, Bytes: -1}, RetentionInput{NowMs: 5000, HighWatermark: 1000}); err != nil || res.Start != 2 {
		t.Fatalf("%+v, %v", res, err)
	}
}

// What is appended while retention decides keeps the active segment as it is.
func TestAppendWhileRetentionDecides(t *testing.T) {
	l, _, spy := segmentsOf(t, 1000, 1000)
	spy.opens = func(name string) {
		spy.opens = nil
		if !strings.HasSuffix(name, producersSuffix) {
			t.Errorf("%s is looked at", name)
		}
		data, h := makeBatch(t, noProducer, 9, 1, 100, 9000)
		_, err := l.AppendLeader([][]byte{data}, h, 1, 9000)
		must(t, err)
	}
	p, in := RetentionPolicy{Delete: true, Ms: 5000, Bytes: -1}, RetentionInput{NowMs: 10_000, HighWatermark: 3}
	res, err := l.RetentionStep(p, in)
	if err != nil || spy.opens != nil || res.Rolled || res.Start != 1 || l.LogStartOffset() != 1 || l.SegmentCount() != 1 {
		t.Fatalf("%+v, %d segments, %v", res, l.SegmentCount(), err)
	}
	if res.Kept[0].Reason != KeptByTime || res.Kept[0].Base != 1 {
		t.Errorf("kept for %+v", res.Kept)
	}
}

// An active segment that somebody else has sealed meanwhile is not sealed once more: its empty successor stays what it is.
func TestRetentionSealsNoEmptySegment(t *testing.T) {
	l, _, _ := segmentsOf(t, 1000, 1000)
	for i, want := range []bool{true, false} {
		if rolled, err := l.rollAt(2); rolled != want || err != nil {
			t.Fatalf("round %d: %t, %v", i, rolled, err)
		}
	}
	if rolled, err := l.rollAt(1); rolled || err != nil {
		t.Fatalf("another end: %t, %v", rolled, err)
	}
	if l.SegmentCount() != 3 {
		t.Fatalf("%d segments", l.SegmentCount())
	}
	want, _ := appendTo(t, l, 1, 1, 1, 10)
	if res, err := l.Read(2, 1000, 3, nil); err != nil || fmt.Sprint(res.Data) != fmt.Sprint(want) {
		t.Fatalf("%d bytes, %v", len(res.Data), err)
	}
}
