package storage

import (
	"bytes"
	"errors"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// markedLog is a log whose second batch, below the recovery point in a segment that no start looks at, was found damaged and marked.
func markedLog(t *testing.T) (mem *fsys.Mem, batches [][]byte) {
	t.Helper()
	mem, batches, dir := damagedLog(t, 10)
	l, _, err := openTestDir(t, mem).OpenLog(testPartition(0), Config{})
	must(t, err)
	must(t, mem.Flip(dir+"/"+fileName(0, segmentSuffix), int64(len(batches[0]))+100, 0))
	found, _ := scrubAll(t, l, 1<<20)
	if len(found) != 1 || found[0].From != 2 {
		t.Fatalf("%+v", found)
	}
	marked, err := l.MarkDamaged(found[0])
	if must(t, err); !marked {
		t.Fatal("not marked")
	}
	return mem, batches
}

// What was marked damaged is known after a power loss too.
func TestMarksSurvivePowerLoss(t *testing.T) {
	mem, _ := markedLog(t)
	for seed := range uint64(20) {
		_, l, report := reopened(t, mem.Clone(seed).Crash(), 0, Config{})
		if report.Damage == nil || len(l.Damages()) != 1 || l.Damages()[0].From != 2 {
			t.Fatalf("seed %d: %+v", seed, l.Damages())
		}
	}
}

// The process or the machine dies at any operation of giving damage up: the damage is known until the log ends before it, and nothing
// that lies before it is lost.
func TestDeathWithinTheDiscarding(t *testing.T) {
	marked, batches := markedLog(t)
	k := int64(1)
	for crashed := true; crashed; k++ {
		crashed = false
		for seed := range uint64(6) {
			mem := marked.Clone(seed)
			_, l, _ := reopened(t, mem, 0, Config{})
			mem.CrashAt(mem.Ops() + k)
			if _, err := l.DiscardDamage(); errors.Is(err, fsys.ErrCrashed) {
				crashed = true
			} else {
				must(t, err)
			}
			if seed%2 == 0 {
				mem = mem.Crash()
			} else {
				mem = mem.CrashProcess()
			}
			_, l, _ = reopened(t, mem, 0, Config{})
			if l.LogEndOffset() > 2 && (l.Damage() == nil || l.Damage().From != 2) {
				t.Fatalf("operation %d, seed %d: it ends at %d, damaged %+v", k, seed, l.LogEndOffset(), l.Damages())
			}
			if res, err := l.Read(0, 1, 2, nil); err != nil || !bytes.Equal(res.Data, batches[0]) {
				t.Fatalf("operation %d, seed %d: %d bytes before the damage, %v", k, seed, len(res.Data), err)
			}
		}
	}
	if k < 20 {
		t.Fatalf("%d operations", k)
	}
}
