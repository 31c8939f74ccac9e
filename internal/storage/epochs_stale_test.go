package storage

import (
	"slices"
	"testing"
)

// A broker led epoch 4 without a record, truncated to follow, fetched more of epoch 2, and died before a checkpoint: epoch 4
// did not begin among the batches of epoch 2, and no leader may say so.
func TestEpochsOfTheJournalYieldToBatches(t *testing.T) {
	for name, c := range map[string]struct {
		journal, scanned []EpochStart
		ends             []int64
		want             []EpochStart
	}{
		"within the last epoch": {
			[]EpochStart{{0, 0}, {2, 7}, {4, 92}}, []EpochStart{{0, 0}, {2, 7}}, []int64{7, 96}, []EpochStart{{0, 0}, {2, 7}},
		},
		"within an earlier epoch": {
			[]EpochStart{{1, 50}, {2, 60}}, []EpochStart{{0, 0}, {5, 90}}, []int64{90, 96}, []EpochStart{{0, 0}, {5, 90}},
		},
		"at the end": {
			[]EpochStart{{0, 0}, {4, 96}}, []EpochStart{{0, 0}}, []int64{96}, []EpochStart{{0, 0}, {4, 96}},
		},
		"between two epochs": {
			[]EpochStart{{3, 40}}, []EpochStart{{2, 0}, {5, 40}}, []int64{40, 96}, []EpochStart{{2, 0}, {3, 40}, {5, 40}},
		},
		"in a gap that compaction has left": {
			[]EpochStart{{3, 40}}, []EpochStart{{2, 0}, {5, 60}}, []int64{40, 96}, []EpochStart{{2, 0}, {3, 40}, {5, 60}},
		},
		"below what was scanned": {
			[]EpochStart{{0, 0}, {1, 10}}, []EpochStart{{3, 80}}, []int64{96}, []EpochStart{{0, 0}, {1, 10}, {3, 80}},
		},
	} {
		if got := mergeEpochs(believable(c.journal, c.scanned, c.ends), c.scanned, 96); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
