package storage

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

// scrubAll runs one scrub over a log and returns the damage found and the bytes checked.
func scrubAll(t testing.TB, l *Log, step int64) (found []Damage, checked int64) {
	t.Helper()
	var c ScrubCursor
	for range 10_000 {
		res, err := l.Scrub(&c, step)
		if err != nil {
			t.Fatal(err)
		}
		checked += res.Bytes
		if res.Damage != nil {
			found = append(found, *res.Damage)
		}
		if res.Done {
			return found, checked
		}
	}
	t.Fatal("the scrub does not end")
	return nil, 0
}

// Flips that no CRC covers are found: offsets and lengths by the row they must form, epochs by the epoch cache and
// the digest.
func TestScrubFindsWhatNoCRCCovers(t *testing.T) {
	for name, c := range map[string]struct {
		at  int64 // within the second batch of the segment
		bit uint
	}{
		"base offset, up": {6, 4}, "base offset, down": {7, 1}, "length": {11, 0}, "leader epoch": {15, 1}, "magic": {16, 0},
		"CRC": {17, 7}, "record": {90, 0},
	} {
		for _, sealed := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				mem, batches, dir := damagedLog(t, 10)
				d := openTestDir(t, mem)
				l, _, err := d.OpenLog(testPartition(0), Config{SegmentBytes: 5 * 300, IndexIntervalBytes: 1})
				must(t, err)
				if found, checked := scrubAll(t, l, 300); len(found) > 0 || checked != int64(len(bytes.Join(batches, nil))) {
					t.Fatalf("%d bytes of %d are sound: %+v", checked, len(bytes.Join(batches, nil)), found)
				}
				bases := segmentBases(t, mem, dir)
				base := bases[0]
				if !sealed {
					base = bases[len(bases)-1]
				}
				must(t, mem.Flip(dir+"/"+fileName(base, segmentSuffix), int64(len(batches[0]))+c.at, c.bit))
				found, _ := scrubAll(t, l, 300)
				if len(found) == 0 || found[0].File != dir+"/"+fileName(base, segmentSuffix) || found[0].From > base+4 || found[0].To <= base {
					t.Fatalf("sealed %t: %+v", sealed, found)
				}
				_, err = l.MarkDamaged(found[0])
				must(t, err)
				if _, err := l.Read(found[0].From, 1, 20, nil); !errors.Is(err, ErrCorruptLog) {
					t.Fatalf("read within: %v", err)
				}
				end, err := l.DiscardDamage()
				must(t, err)
				_, err = l.AppendFollower(bytes.Join(batches[end/2:], nil), false)
				must(t, err)
				if got := readAll(t, l, 1<<20); !bytes.Equal(got, bytes.Join(batches, nil)) {
					t.Fatalf("%d bytes after fetching anew", len(got))
				}
				must(t, d.Close())
			})
		}
	}
}

// Without a digest the scrub writes one; a damaged one is written anew; equal batches have equal sums.
func TestDigests(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 2000, IndexIntervalBytes: 100})
	must(t, err)
	other, err := d.CreateLog(testPartition(1), Config{SegmentBytes: 700})
	must(t, err)
	for i := range 30 {
		data, _ := appendTo(t, l, 1, i, 1, 200)
		_, err := other.AppendFollower(data, false)
		must(t, err)
	}
	digests := l.SegmentDigests()
	if len(digests) != l.SegmentCount()-1 || len(digests) < 3 {
		t.Fatalf("%d digests of %d segments", len(digests), l.SegmentCount())
	}
	for _, want := range digests {
		for _, from := range []*Log{l, other} {
			got, err := from.RangeDigest(want.BaseOffset, want.NextOffset)
			if err != nil || got != want {
				t.Fatalf("%+v, want %+v, %v", got, want, err)
			}
		}
	}
	must(t, mem.Remove(l.segs[0].digestName()))
	must(t, mem.Flip(l.segs[1].digestName(), 30, 3))
	if found, _ := scrubAll(t, l, 1<<20); len(found) > 0 {
		t.Fatalf("%+v", found)
	}
	if again := l.SegmentDigests(); len(again) != len(digests) || again[0] != digests[0] || again[1] != digests[1] {
		t.Fatalf("%+v, want %+v", again, digests)
	}
	_, err = l.TruncateTo(digests[1].BaseOffset + 1)
	must(t, err)
	if again := l.SegmentDigests(); len(again) != 1 {
		t.Fatalf("%+v after a truncation", again)
	}
	must(t, l.Close(true))
	l, _, err = d.OpenLog(testPartition(0), Config{SegmentBytes: 700})
	must(t, err)
	for i := range 5 {
		appendTo(t, l, 2, i, 1, 200)
	}
	if found, _ := scrubAll(t, l, 1<<20); len(found) > 0 {
		t.Fatalf("%+v", found)
	}
	if again := l.SegmentDigests(); len(again) != l.SegmentCount()-1 {
		t.Fatalf("%d digests of %d segments", len(again), l.SegmentCount())
	}
	must(t, d.Close())
}

func TestScrubber(t *testing.T) {
	mem, batches, dir := damagedLog(t, 10)
	d := openTestDir(t, mem)
	_, _, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	must(t, mem.Flip(dir+"/"+fileName(0, segmentSuffix), int64(len(batches[0]))+100, 0))
	found, rounds := make(chan Damage, 10), make(chan int64, 10)
	group := lifecycle.New(t.Context(), "test", slog.New(slog.DiscardHandler))
	StartScrubber(group, d, ScrubOptions{
		BytesPerSecond: 1 << 30, OnDamage: func(_ *Log, d Damage) { found <- d }, OnRound: func(n int64) { rounds <- n },
		Clock: lifecycle.RealClock(),
	})
	select {
	case n := <-rounds:
		if damage := <-found; damage.From != 2 || damage.To != 4 || n == 0 {
			t.Fatalf("%+v, %d bytes", damage, n)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no round was finished")
	}
	must(t, group.Stop(context.Background()))
	must(t, d.Close())
}
