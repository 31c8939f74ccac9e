package storage

import (
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// A reset to where the log has been makes it empty: whatever a power loss has taken of what was not durable, it has lost nothing by that.
func TestResetBackwardsClaimsNothing(t *testing.T) {
	k := int64(1)
	for crashed := true; crashed; k++ {
		crashed = false
		for seed := range uint64(10) {
			mem := fsys.NewMem(seed, fsys.MemOptions{})
			d := openTestDir(t, mem)
			l := journaledLog(t, d, 0, Config{SegmentBytes: 500})
			for i := range 8 {
				appendTo(t, l, 1, i, 1, 200)
			}
			mem.CrashAt(mem.Ops() + k)
			err := l.Reset(6, nil)
			if crashed = crashed || err != nil; err != nil && mem.Ops() == 0 {
				t.Fatal(err)
			}
			_, l, report := reopened(t, mem.Crash(), 0, Config{SegmentBytes: 500})
			if report.LostBelowRecoveryPoint() || report.Damage != nil {
				t.Fatalf("operation %d, seed %d: [%d, %d): %+v, %+v", k, seed, l.LogStartOffset(), l.LogEndOffset(), report, report.Damage)
			}
			if err == nil && (l.LogStartOffset() != 6 || l.LogEndOffset() != 6) {
				t.Fatalf("seed %d: [%d, %d) after a reset to 6", seed, l.LogStartOffset(), l.LogEndOffset())
			}
		}
	}
	if k < 20 {
		t.Fatalf("%d operations", k)
	}
}
