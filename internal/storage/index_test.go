package storage

import (
	"slices"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// The index has an entry for the first batch that begins more than the interval behind the one indexed before, and the time index with
// it, once a segment has a later time: where the batch begins that first had it.
func TestEntriesOfTheIndexes(t *testing.T) {
	const size = 100
	for _, c := range []struct {
		interval       int
		times          []int64
		offsets, found []indexEntry
	}{
		{size - 1, []int64{5, 5, 7, 7, 6}, []indexEntry{{1, 100}, {2, 200}, {3, 300}, {4, 400}}, []indexEntry{{5, 0}, {7, 2}}},
		{size, []int64{5, 5, 7, 7, 6, 9}, []indexEntry{{2, 200}, {4, 400}}, []indexEntry{{5, 0}, {7, 2}, {9, 5}}},
		{2*size - 1, []int64{5, 5, 7, 7, 6, 9}, []indexEntry{{2, 200}, {4, 400}}, []indexEntry{{5, 0}, {7, 2}, {9, 5}}},
		{2 * size, []int64{9, 5, 7, 9, 10, 10}, []indexEntry{{3, 300}}, []indexEntry{{9, 0}, {10, 4}}},
	} {
		x := newSegmentIndex(newSegment("/x", 0))
		x.offsets.stuck, x.times.stuck = true, true // all stay in memory
		for i, ts := range c.times {
			h := record.Header{BaseOffset: int64(i), Length: size - lengthBefore, MaxTimestamp: ts}
			x.note(nil, h, int64(i)*size, c.interval)
		}
		x.noteTime(nil)
		if !slices.Equal(x.offsets.pending, c.offsets) || !slices.Equal(x.times.pending, c.found) {
			t.Errorf("interval %d: offsets %v, times %v", c.interval, x.offsets.pending, x.times.pending)
		}
	}
}

// Entries of batches that a power loss took are not believed when the log goes on from the snapshot before them: a search for a time that
// only they had finds what was appended in their place.
func TestIndexEntriesBehindTheSnapshotAreDropped(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	cfg := Config{IndexIntervalBytes: 100}
	l, err := d.CreateLog(testPartition(0), cfg)
	must(t, err)
	put := func(ts int64) (offset int64) {
		data, h := makeBatch(t, noProducer, 1, 1, 200, ts)
		res, err := l.AppendLeader([][]byte{data}, h, 1, ts)
		must(t, err)
		return res.BaseOffset
	}
	for i := range int64(10) {
		put(1000 + i)
	}
	must(t, l.Close(true))
	name := l.active().timeIndexName()
	entries, err := l.loadIndex(name, indexKindTime)
	must(t, err)
	must(t, writeHint(mem, name, encodeIndex(append(entries, indexEntry{1500, 12}, indexEntry{9000, 40}), indexKindTime)))
	l, report, err := d.OpenLog(testPartition(0), cfg)
	if must(t, err); report.ScannedBytes != 0 || l.LogEndOffset() != 10 {
		t.Fatalf("ends at %d: %+v", l.LogEndOffset(), report)
	}
	want := put(9500)
	for range 60 {
		put(2000)
	}
	if got, _, found, err := l.OffsetForTime(9001); err != nil || !found || got != want {
		t.Fatalf("offset %d, %t, %v; want %d", got, found, err, want)
	}
}
