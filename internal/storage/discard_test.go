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
