package storage

import (
	"errors"
	"slices"
	"testing"

	"github.com/penstock-io/penstock/internal/model"
)

func TestEpochEndOffset(t *testing.T) {
	c := epochCache{starts: []EpochStart{{1, 0}, {3, 10}, {4, 10}, {7, 25}}}
	const end = 40
	for _, tt := range []struct {
		requested, found model.LeaderEpoch
		at               int64
	}{
		{0, model.NoLeaderEpoch, 0}, // below the oldest: nothing is known below offset 0
		{1, 1, 10},
		{2, 1, 10}, // an unknown epoch: the largest below it
		{3, 3, 10}, // an epoch without records
		{4, 4, 25},
		{5, 4, 25},
		{7, 7, end}, // the latest ends at the log's end
		{9, 7, end},
	} {
		if found, at := c.endOffset(tt.requested, end); found != tt.found || at != tt.at {
			t.Errorf("epoch %d: %d ends at %d, want %d at %d", tt.requested, found, at, tt.found, tt.at)
		}
	}
	var empty epochCache
	if found, at := empty.endOffset(5, end); found != model.NoLeaderEpoch || at != end {
		t.Errorf("empty cache: %d at %d", found, at)
	}
}

func TestEpochAssign(t *testing.T) {
	var c epochCache
	for _, tt := range []struct {
		epoch   model.LeaderEpoch
		at      int64
		changed bool
		stale   bool
	}{
		{-1, 0, false, true},
		{2, 5, true, false},
		{2, 9, false, false}, // the latest again keeps its start
		{1, 9, false, true},
		{3, 4, false, true}, // an offset that falls
		{4, 5, true, false}, // without records for 2
		{6, 20, true, false},
	} {
		changed, err := c.assign(tt.epoch, tt.at)
		if changed != tt.changed || errors.Is(err, ErrStaleLeaderEpoch) != tt.stale {
			t.Errorf("epoch %d at %d: %t, %v", tt.epoch, tt.at, changed, err)
		}
	}
	if want := []EpochStart{{2, 5}, {4, 5}, {6, 20}}; !slices.Equal(c.starts, want) {
		t.Fatalf("%+v", c.starts)
	}
}

func TestEpochTruncation(t *testing.T) {
	all := []EpochStart{{1, 0}, {3, 10}, {4, 10}, {7, 25}}
	for _, tt := range []struct {
		name string
		cut  func(*epochCache) bool
		want []EpochStart
	}{
		{"end within the latest", func(c *epochCache) bool { return c.truncateEnd(30) }, all},
		{"end at a start forgets that epoch", func(c *epochCache) bool { return c.truncateEnd(25) }, all[:3]},
		{"end at a shared start", func(c *epochCache) bool { return c.truncateEnd(10) }, all[:1]},
		{"end at the beginning", func(c *epochCache) bool { return c.truncateEnd(0) }, nil},
		{"start at the beginning", func(c *epochCache) bool { return c.truncateStart(0) }, all},
		{"start within the first", func(c *epochCache) bool { return c.truncateStart(4) }, []EpochStart{{1, 4}, {3, 10}, {4, 10}, {7, 25}}},
		{"start at a shared start", func(c *epochCache) bool { return c.truncateStart(10) }, all[2:]},
		{"start behind the latest", func(c *epochCache) bool { return c.truncateStart(90) }, []EpochStart{{7, 90}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := epochCache{starts: slices.Clone(all)}
			changed := tt.cut(&c)
			if !slices.Equal(c.starts, tt.want) || changed == slices.Equal(c.starts, all) {
				t.Fatalf("%+v, changed %t", c.starts, changed)
			}
		})
	}
}

func TestMergeEpochs(t *testing.T) {
	journal := []EpochStart{{1, 0}, {2, 10}, {3, 10}, {5, 40}}
	scanned := []EpochStart{{2, 8}, {4, 20}}
	want := []EpochStart{{1, 0}, {2, 8}, {3, 10}, {4, 20}}
	if got := mergeEpochs(journal, scanned, 30); !slices.Equal(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
}
