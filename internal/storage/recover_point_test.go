package storage

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// After a kill only what lies above the recovery point is checked, and the walk below begins at the newest snapshot within the
// segment: producers, indexes and positions are what they were.
func TestRecoveryBeginsAtTheSnapshotWithin(t *testing.T) {
	for _, power := range []bool{false, true} {
		mem := fsys.NewMem(3, fsys.MemOptions{})
		d := openTestDir(t, mem)
		cfg := Config{IndexIntervalBytes: 100, MaxBatchBytes: 1000}
		l, err := d.CreateLog(testPartition(0), cfg)
		must(t, err)
		p := producerRef{id: 7}
		var want []byte
		put := func(n int) {
			for i := range n {
				data, h := makeBatch(t, p, i, 2, 100, int64(1000+l.LogEndOffset()))
				res, err := l.AppendLeader([][]byte{data}, h, 1, 1)
				must(t, err)
				p.sequence += 2
				want = append(want, stamped(data, res.BaseOffset, 1)...)
			}
		}
		durable := func() {
			_, err := l.Sync()
			must(t, err)
			must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
		}
		put(300)
		l.mu.Lock()
		l.snapshotWithin()
		l.mu.Unlock()
		put(20)
		durable()
		below := int64(len(want))
		put(10)
		if power {
			_, err := l.Sync() // durable, and above the recovery point on file
			must(t, err)
			must(t, mem.SyncFS("data"))
			mem = mem.Crash()
		} else {
			mem = mem.CrashProcess()
		}
		d = openTestDir(t, mem)
		l, report, err := d.OpenLog(testPartition(0), cfg)
		must(t, err)
		if report.LostData() || report.ScannedBytes != int64(len(want))-below || l.LogEndOffset() != 660 {
			t.Fatalf("power %t: checked %d bytes of %d: %+v", power, report.ScannedBytes, int64(len(want))-below, report)
		}
		if !l.index.partial {
			t.Fatal("it was walked from its start")
		}
		if got := readAll(t, l, 500); !bytes.Equal(got, want) {
			t.Fatalf("power %t: %d bytes of %d", power, len(got), len(want))
		}
		for _, at := range []int64{0, 10, 598, 600, 640, 659} {
			if got, _, found, err := l.OffsetForTime(1000 + at&^1); err != nil || !found || got != at&^1 {
				t.Fatalf("time of offset %d: %d, %t, %v", at, got, found, err)
			}
		}
		data, h := makeBatch(t, producerRef{id: 7, sequence: p.sequence - 2}, 9, 2, 100, 1)
		if res, err := l.AppendLeader([][]byte{data}, h, 1, 1); err != nil || !res.Duplicate || res.BaseOffset != 658 {
			t.Fatalf("the last batch again: %+v, %v", res, err)
		}
		put(1)
		if found, _ := scrubAll(t, l, 1<<20); len(found) > 0 {
			t.Fatalf("%+v", found)
		}
		must(t, d.Close())
	}
}

// Whatever a segment holds: it opens without a panic, what is served are whole batches in order, and opening again changes
// nothing more.
func FuzzSegmentRecovery(f *testing.F) {
	good, _ := makeBatch(f, noProducer, 1, 2, 20, 1000)
	f.Add(stamped(good, 0, 0), int64(0))
	f.Add(append(stamped(good, 0, 0), stamped(good, 2, 0)...), int64(2))
	f.Add(append(stamped(good, 0, 0), make([]byte, 100)...), int64(2))
	f.Add(append(stamped(good, 0, 0), stamped(good, 7, 1)[:50]...), int64(9))
	f.Fuzz(func(t *testing.T, data []byte, point int64) {
		mem := fsys.NewMem(1, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), Config{})
		must(t, err)
		_, err = l.active().file.Load().Append(data)
		must(t, err)
		must(t, mem.SyncFS("data"))
		must(t, d.journal.commit(logUpdate{tp: testPartition(0), state: logState{recoveryPoint: max(point, 0)}}))
		mem = mem.CrashProcess()
		var end int64
		for round := range 2 {
			d = openTestDir(t, mem)
			l, report, err := d.OpenLog(testPartition(0), Config{})
			must(t, err)
			if round == 1 && l.LogEndOffset() != end {
				t.Fatalf("it ended at %d, and now at %d: %+v", end, l.LogEndOffset(), report)
			}
			end = l.LogEndOffset()
			for at, reads := int64(0), 0; at < end && reads < 1000; reads++ {
				res, err := l.Read(at, 1<<20, end, nil)
				if err != nil || len(res.Data) == 0 {
					break
				}
				if res.NextOffset <= at {
					t.Fatalf("read at %d goes back to %d", at, res.NextOffset)
				}
				at = res.NextOffset
			}
			var c ScrubCursor
			for range 10 {
				res, err := l.Scrub(&c, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if res.Done {
					break
				}
			}
			mem = mem.CrashProcess()
		}
	})
}

func FuzzDigest(f *testing.F) {
	f.Add(SegmentDigest{BaseOffset: 1, NextOffset: 5, SizeBytes: 100, Batches: 2, Sum: 7}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := decodeDigest(data); err == nil && !bytes.Equal(d.encode(), data) {
			t.Fatalf("%+v does not encode to what it was read from", d)
		}
	})
}

// One flipped bit in the length or the last offset of a batch below the recovery point, where only headers are walked: the walk goes
// on at another place, or expects another offset. What that batch says is never taken over what lies behind: it is found as damage,
// or the loss is confessed, and the good batches above the recovery point are not cut.
func TestFlippedHeadersBelowTheRecoveryPoint(t *testing.T) {
	for _, interval := range []int{100, 1 << 20} { // with index entries to go on at, and without
		base := fsys.NewMem(9, fsys.MemOptions{})
		d := openTestDir(t, base)
		cfg := Config{IndexIntervalBytes: interval}
		l, err := d.CreateLog(testPartition(0), cfg)
		must(t, err)
		var starts []int64
		var want []byte
		put := func(n int) {
			for i := range n {
				starts = append(starts, int64(len(want)))
				data, _ := appendTo(t, l, 1, i, 1+i%3, 60)
				want = append(want, data...)
			}
			_, err := l.Sync()
			must(t, err)
		}
		put(12)
		point := l.LogEndOffset()
		must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: point}))
		put(8)
		end, file := l.LogEndOffset(), l.active().logName()
		base = base.CrashProcess()
		for _, behind := range []int64{starts[13], starts[19], int64(len(want))} { // a length that skips whole batches
			mem := base.Clone(1)
			said, wrong := starts[12]-starts[11]-lengthBefore, behind-starts[11]-lengthBefore
			for bit := range int64(32) {
				if (said^wrong)>>bit&1 != 0 {
					must(t, mem.Flip(file, starts[11]+batchLengthAt+3-bit/8, uint(bit%8)))
				}
			}
			checkFlippedHeader(t, mem, cfg, fmt.Sprintf("interval %d, behind at %d", interval, behind), file, point, end, want)
		}
		for _, batch := range []int{5, 11} {
			for _, field := range []int64{batchLengthAt, batchBodyAt + 2} { // the length, and lastOffsetDelta
				for bit := range int64(32) {
					what := fmt.Sprintf("interval %d, batch %d, field at %d, bit %d", interval, batch, field, bit)
					mem := base.Clone(uint64(bit)) //nolint:gosec // positive
					must(t, mem.Flip(file, starts[batch]+field+bit/8, uint(bit%8)))
					checkFlippedHeader(t, mem, cfg, what, file, point, end, want)
				}
			}
		}
	}
}

func checkFlippedHeader(t *testing.T, mem *fsys.Mem, cfg Config, what, file string, point, end int64, want []byte) {
	t.Helper()
	d := openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(0), cfg)
	must(t, err)
	info, err := mem.Stat(file)
	must(t, err)
	switch {
	case report.Cut != CutNone || info.Size < int64(len(want)):
		t.Errorf("%s: good batches were cut: %+v", what, report)
	case report.Damage == nil && l.LogEndOffset() != end:
		t.Errorf("%s: fewer records in silence: %+v", what, report)
	case report.Damage == nil: // the walk did not see it: reading tells, or the scrub does
		if found, _ := scrubAll(t, l, 1<<20); len(found) == 0 {
			t.Errorf("%s: nobody saw it", what)
		}
	case report.Damage.From >= point || !report.LostData() || l.LogEndOffset() < point:
		t.Errorf("%s: damage %+v, end %d: %+v", what, report.Damage, l.LogEndOffset(), report)
	}
	must(t, d.Close())
}

// The epoch of the batch that holds the LogStartOffset is held against the journal like that of any other.
func TestEpochOfTheFirstBatchIsChecked(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	dir := openTestDir(t, mem)
	l, err := dir.CreateLog(testPartition(0), Config{})
	must(t, err)
	appendTo(t, l, 5, 1, 4, 10)
	appendTo(t, l, 6, 2, 4, 10)
	_, err = l.Sync()
	must(t, err)
	must(t, l.Trim(1))
	must(t, dir.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 8}))
	file := l.segs[0].logName()
	mem = mem.CrashProcess()
	must(t, mem.Flip(file, 14, 1)) // epoch 5 is 517 now
	l, report, err := openTestDir(t, mem).OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.Damage == nil || report.Damage.From > 1 || report.Damage.File != file {
		t.Fatalf("damage %+v, epochs %+v", report.Damage, l.EpochStarts())
	}
}
