package storage

import (
	"bytes"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

func TestRollAged(t *testing.T) {
	fsy := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, fsy)
	l, err := d.CreateLog(testPartition(0), Config{})
	if err != nil {
		t.Fatal(err)
	}
	roll := func(l *Log, nowMs int64, want bool) {
		t.Helper()
		if rolled, err := l.RollAged(nowMs, 1000); err != nil || rolled != want {
			t.Fatalf("at %d: rolled %v, %v; want %v", nowMs, rolled, err, want)
		}
	}
	roll(l, 1_000_000, false) // nothing in it
	want, _ := appendTo(t, l, 1, 5000, 2, 10)
	roll(l, 6999, false) // appended at 6000
	more, _ := appendTo(t, l, 1, 5500, 2, 10)
	want = append(want, more...)
	roll(l, 7000, true)
	roll(l, 9000, false)
	more, _ = appendTo(t, l, 1, 8000, 2, 10)
	want = append(want, more...)
	if l.SegmentCount() != 2 || l.LogEndOffset() != 6 {
		t.Fatalf("%d segments, end %d", l.SegmentCount(), l.LogEndOffset())
	}

	// A follower does not see the leader's clock: what it has counts from when it is looked at.
	follower, err := d.CreateLog(testPartition(1), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := follower.AppendFollower(want, false); err != nil {
		t.Fatal(err)
	}
	roll(follower, 50_000, false)
	roll(follower, 50_999, false)
	roll(follower, 51_000, true)

	// After a restart the age is that of the first batch.
	for _, log := range []*Log{l, follower} {
		if err := log.Close(true); err != nil {
			t.Fatal(err)
		}
	}
	if l, _, err = d.OpenLog(testPartition(0), Config{}); err != nil {
		t.Fatal(err)
	}
	roll(l, 9999, false)
	roll(l, 10_000, true)
	if got := readAll(t, l, 1<<20); !bytes.Equal(got, want) {
		t.Error("rolling changed what can be read")
	}
	if n, size := l.TrimmedBy(4); n != 1 || size <= 0 || size >= int64(len(want)) {
		t.Errorf("trimming to 4 lets %d segments go, %d bytes", n, size)
	}
	if n, size := l.TrimmedBy(6); n != 2 || size != int64(len(want)) {
		t.Errorf("trimming to the end lets %d segments go, %d bytes of %d", n, size, len(want))
	}
}

// A segment that was found with a first batch from the future counts as begun now: it is rolled in its time.
func TestRollAgedFromTheFuture(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	data, h := makeBatch(t, noProducer, 1, 1, 100, 1_000_000)
	_, err = l.AppendLeader([][]byte{data}, h, 1, 1000)
	must(t, err)
	_, err = l.Sync()
	must(t, err)
	_, l, _ = reopened(t, mem.CrashProcess(), 0, Config{})
	for i, now := range []int64{5000, 5099, 5100} {
		if rolled, err := l.RollAged(now, 100); err != nil || rolled != (i == 2) {
			t.Fatalf("at %d: %t, %v", now, rolled, err)
		}
	}
}
