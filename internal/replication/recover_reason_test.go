package replication

import (
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/storage"
)

// Why a seat is given up names the place and what was wrong there: it is all that an operator sees of it.
func TestTheReasonOfALostSeatNamesThePlace(t *testing.T) {
	cut := storage.RecoveryReport{Cut: storage.CutMore, CutFile: "7.log", CutPosition: 300, CutBytes: 90, LogEndOffset: 12}
	flipped := cut
	flipped.CutReason = "epoch 5 at offset 12, the journal was told of epoch 1"
	for want, report := range map[string]storage.RecoveryReport{
		"90 bytes from offset 12 on were cut, more than an unfinished batch, in 7.log at 300: what follows does not continue it": cut,
		"in 7.log at 300: epoch 5 at offset 12, the journal was told of epoch 1":                                                 flipped,
		"damaged from offset 3 on, in 2.log at 17: CRC":                                                                          {Damage: &storage.Damage{From: 3, File: "2.log", Position: 17, Reason: "CRC"}},
		"a sync failed, and what lies above offset 4 may not be what was written":                                                {SyncFailed: true, RecoveryPoint: 4},
		"the log ends at 3, below its recovery point 4":                                                                          {LogEndOffset: 3, RecoveryPoint: 4},
		"the log ends at 3, below its high watermark 4":                                                                          {LogEndOffset: 3, HighWatermark: 4},
		"an earlier start found that it had lost records":                                                                        {LostBefore: true},
	} {
		if got := dataLost(report); !report.LostData() || !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want %q", report, got, want)
		}
	}
}
