package storage

import (
	"bytes"
	"errors"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// What was prepared is not done where the damage is another one by then, and leaves nothing behind; without damage there is nothing
// to prepare.
func TestDiscardOfDamageThatMoved(t *testing.T) {
	mem := fsys.NewMem(9, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 1 << 20, IndexIntervalBytes: 1})
	must(t, err)
	var batches [][]byte
	for i := range 10 {
		data, _ := appendTo(t, l, 1, i, 2, 100)
		batches = append(batches, data)
	}
	if p, err := l.PrepareDiscard(); p != nil || err != nil {
		t.Fatalf("without damage: %+v, %v", p, err)
	}
	size := int64(len(batches[0]))
	mark := func(batch int64) {
		marked, err := l.MarkDamaged(Damage{From: 2 * batch, To: 2*batch + 2, File: l.active().logName(), Position: batch * size})
		if err != nil || !marked {
			t.Fatalf("%v, %v", marked, err)
		}
	}
	mark(6)
	moved, err := l.PrepareDiscard()
	must(t, err)
	mark(3)
	if _, err := moved.Commit(); !errors.Is(err, errDamageMoved) {
		t.Fatal(err)
	}
	if _, err := mem.Stat(l.active().logName() + tempSuffix); !fsys.IsNotExist(err) {
		t.Fatalf("the copy is left: %v", err)
	}
	if l.LogEndOffset() != 20 || l.Failed() != nil {
		t.Fatalf("ends at %d, %v", l.LogEndOffset(), l.Failed())
	}
	if end, err := l.DiscardDamage(); err != nil || end != 6 {
		t.Fatalf("ends at %d, %v", end, err)
	}
	if got := readAll(t, l, 1<<20); !bytes.Equal(got, bytes.Join(batches[:3], nil)) {
		t.Fatalf("%d bytes", len(got))
	}
	must(t, d.Close())
}

// A copy that does not fit leaves the log as it is: the damage stays, and is discarded once there is room.
func TestDiscardOnAFullDisk(t *testing.T) {
	mem := fsys.NewMem(9, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 1 << 20, IndexIntervalBytes: 1})
	must(t, err)
	data, _ := appendTo(t, l, 1, 0, 2, 100)
	appendTo(t, l, 1, 1, 2, 100)
	_, err = l.MarkDamaged(Damage{From: 2, To: 4, File: l.active().logName(), Position: int64(len(data))})
	must(t, err)
	mem.SetCapacity(1)
	if _, err := l.DiscardDamage(); !errors.Is(err, fsys.ErrNoSpace) || l.Failed() != nil || l.LogEndOffset() != 4 || l.Damage() == nil {
		t.Fatalf("%v, failed %v, ends at %d", err, l.Failed(), l.LogEndOffset())
	}
	mem.SetCapacity(0)
	if end, err := l.DiscardDamage(); err != nil || end != 2 {
		t.Fatalf("ends at %d, %v", end, err)
	}
	must(t, d.Close())
}

// headerLog is ten batches of two records in one segment, of which the head of one says that it holds far more.
func headerLog(t *testing.T) (mem *fsys.Mem, d *Dir, l *Log, batches [][]byte) {
	t.Helper()
	mem = fsys.NewMem(9, fsys.MemOptions{})
	d = openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 1 << 20, IndexIntervalBytes: 1})
	must(t, err)
	for i := range 10 {
		data, _ := appendTo(t, l, 1, i, 2, 100)
		batches = append(batches, data)
	}
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 10}))
	// The lowest byte but one of the last offset's delta, of the batch at offset 6.
	must(t, mem.Flip(l.active().logName(), int64(3*len(batches[0]))+25, 4))
	return mem, d, l, batches
}

// A flipped bit in the head of a batch does not move a cut that lies behind it, down to what the batch begins with: nothing is cut, and
// the place is named.
func TestCutBehindAFlippedHead(t *testing.T) {
	_, d, l, batches := headerLog(t)
	var bad *CorruptError
	if end, err := l.TruncateTo(16); !errors.As(err, &bad) || end != 20 || l.LogEndOffset() != 20 || l.Failed() != nil {
		t.Fatalf("ends at %d: %v, failed %v", end, err, l.Failed())
	}
	res, err := l.CheckRange(max(0, bad.Offset-1), 20, 1<<20, true)
	if err != nil || res.Damage == nil || res.Damage.From != 6 || res.Damage.Position != int64(3*len(batches[0])) {
		t.Fatalf("%+v, %v", res.Damage, err)
	}
	must(t, d.Close())
}

// Below the recovery point heads alone are read: a batch whose head claims what lies behind it is the damaged one, not the next.
func TestRecoveryBlamesTheHeadThatClaimsTooMuch(t *testing.T) {
	mem, _, _, batches := headerLog(t)
	d := openTestDir(t, mem.CrashProcess())
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.Damage == nil || report.Damage.From != 6 || !report.LostData() {
		t.Fatalf("%+v", report)
	}
	if end, err := l.DiscardDamage(); err != nil || end != 6 {
		t.Fatalf("ends at %d, %v", end, err)
	}
	if got := readAll(t, l, 1<<20); !bytes.Equal(got, bytes.Join(batches[:3], nil)) {
		t.Fatalf("%d bytes", len(got))
	}
	must(t, d.Close())
}
