package storage

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// A base offset lies outside the CRC of its batch. Where it was lowered, the batch overlaps the one before: a reader that reads on
// there, from one answer to the next or with an index, is told of the damage and is not given records at wrong offsets, nor left to
// wait for those that are missing at the end.
func TestReadOnMeetsALowerBaseOffset(t *testing.T) {
	for _, clean := range []bool{true, false} {
		for bad := 1; bad < 10; bad++ {
			for _, interval := range []int{1, 4096} {
				t.Run(fmt.Sprintf("clean %t batch %d interval %d", clean, bad, interval), func(t *testing.T) {
					readOnOverBase(t, clean, bad, interval, -1)
				})
			}
		}
	}
}

// Where it was raised, the batch overlaps the one behind, or the end of its segment: no reader is given its records at wrong offsets, also
// where it is the first of its segment and nothing before it tells.
func TestReadMeetsAHigherBaseOffset(t *testing.T) {
	for _, clean := range []bool{true, false} {
		for bad := range 10 {
			for _, interval := range []int{1, 4096} {
				for _, bit := range []int{0, 1, 2, 8, 40} {
					t.Run(fmt.Sprintf("clean %t batch %d interval %d bit %d", clean, bad, interval, bit), func(t *testing.T) {
						readOnOverBase(t, clean, bad, interval, bit)
					})
				}
			}
		}
	}
}

// readOnOverBase flips a bit of the base offset of a batch, its lowest one where that is negative, and reads on over it.
func readOnOverBase(t *testing.T, clean bool, bad, interval, bit int) {
	const perBatch = 8
	mem := fsys.NewMem(9, fsys.MemOptions{})
	d := openTestDir(t, mem)
	cfg := Config{SegmentBytes: 5 * 1100, IndexIntervalBytes: interval}
	l, err := d.CreateLog(testPartition(0), cfg)
	must(t, err)
	var file string
	var at int64
	for i := range 10 {
		appendTo(t, l, 1, i, perBatch, 100)
		if i == bad {
			data, err := l.Read(int64(bad*perBatch), 1, l.LogEndOffset(), nil)
			must(t, err)
			file, at = l.active().logName(), l.pos-int64(len(data.Data))
		}
	}
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l}))
	if clean {
		must(t, l.Close(true))
	}
	mem = mem.CrashProcess()
	b := int64(bad * perBatch)
	for lower := bit < 0; lower && (bit < 0 || b>>bit&1 == 0); {
		bit++
	}
	must(t, mem.Flip(file, at+7-int64(bit/8), uint(bit%8))) //nolint:gosec // below 8
	l, _, err = openTestDir(t, mem).OpenLog(testPartition(0), cfg)
	must(t, err)
	for next := int64(0); next < l.LogEndOffset(); {
		res, err := l.Read(next, 1, l.LogEndOffset(), nil)
		if errors.Is(err, ErrCorruptLog) {
			var c *CorruptError
			if !errors.As(err, &c) || c.File != file || c.Position != at || next != b {
				t.Fatalf("at offset %d: %v; the batch of offset %d at position %d of %s is bad", next, err, b, at, file)
			}
			return
		}
		must(t, err)
		if res.NextOffset == next {
			t.Fatalf("nothing at offset %d", next)
		}
		next = res.NextOffset
	}
	t.Fatal("the damage was not found")
}

// A segment that ends before the next one begins, or whose successor is gone, has lost records: reading on says so.
func TestReadOnMeetsMissingRecords(t *testing.T) {
	for _, gone := range []bool{true, false} {
		mem := fsys.NewMem(9, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 1500, IndexIntervalBytes: 1})
		must(t, err)
		var first []byte
		for i := range 15 {
			data, _ := appendTo(t, l, 1, i, 2, 100)
			if i == 0 {
				first = data
			}
		}
		_, err = l.Sync()
		must(t, err)
		must(t, d.Checkpoint(LogCheckpoint{Log: l}))
		mem, dir := mem.CrashProcess(), d.logDir(testPartition(0))
		bases := segmentBases(t, mem, dir)
		want := bases[1]
		if gone {
			must(t, mem.Remove(dir+"/"+fileName(bases[1], segmentSuffix)))
		} else {
			f, err := mem.Open(dir + "/" + fileName(bases[0], segmentSuffix))
			must(t, err)
			must(t, f.Truncate(int64(len(first))))
			must(t, f.Close())
			want = 2
		}
		l, _, err = openTestDir(t, mem).OpenLog(testPartition(0), Config{SegmentBytes: 1500, IndexIntervalBytes: 1})
		must(t, err)
		next := int64(0)
		for err == nil && next < l.LogEndOffset() {
			var res ReadResult
			if res, err = l.Read(next, 1, l.LogEndOffset(), nil); err == nil {
				next = res.NextOffset
			}
		}
		file := dir + "/" + fileName(bases[0], segmentSuffix)
		if err == nil || next != want || !strings.Contains(err.Error(), file) {
			t.Fatalf("gone %t: at offset %d: %v", gone, next, err)
		}
	}
}
