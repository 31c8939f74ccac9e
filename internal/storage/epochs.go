package storage

import (
	"fmt"
	"slices"
	"sort"

	"github.com/penstock-io/penstock/internal/model"
)

// EpochStart says where a leader epoch begins in a log.
type EpochStart struct {
	// Epoch is the leader epoch.
	Epoch model.LeaderEpoch
	// StartOffset is the LogEndOffset at which the epoch's leader began.
	StartOffset int64
}

// epochCache is the leader epoch cache: epochs strictly rise, start offsets never fall. Epochs without records stay.
type epochCache struct {
	starts []EpochStart
}

// latest returns the newest epoch, or model.NoLeaderEpoch.
func (c *epochCache) latest() model.LeaderEpoch {
	if len(c.starts) == 0 {
		return model.NoLeaderEpoch
	}
	return c.starts[len(c.starts)-1].Epoch
}

// assign notes that epoch begins at offset. It reports whether that was new; the latest epoch again is no change.
func (c *epochCache) assign(epoch model.LeaderEpoch, offset int64) (bool, error) {
	n := len(c.starts)
	switch {
	case epoch < 0:
		return false, fmt.Errorf("%w: epoch %d", ErrStaleLeaderEpoch, epoch)
	case n == 0:
	case epoch == c.starts[n-1].Epoch:
		return false, nil
	case epoch < c.starts[n-1].Epoch:
		return false, fmt.Errorf("%w: epoch %d after epoch %d", ErrStaleLeaderEpoch, epoch, c.starts[n-1].Epoch)
	case offset < c.starts[n-1].StartOffset:
		return false, fmt.Errorf("%w: epoch %d at offset %d after epoch %d at offset %d", ErrStaleLeaderEpoch,
			epoch, offset, c.starts[n-1].Epoch, c.starts[n-1].StartOffset)
	}
	// Readers hold the old slice: growing it must never overwrite what they see, and append only writes behind it.
	c.starts = append(c.starts, EpochStart{Epoch: epoch, StartOffset: offset})
	return true, nil
}

// fork returns a cache of the same epochs that grows on its own.
func (c *epochCache) fork() epochCache { return epochCache{starts: slices.Clip(c.starts)} }

// endOffset finds the largest epoch <= requested and where it ends: at the start of the next one, or at logEnd. With
// no such epoch it returns model.NoLeaderEpoch and the start of the oldest known one (or logEnd), below which the log
// knows nothing.
func (c *epochCache) endOffset(requested model.LeaderEpoch, logEnd int64) (model.LeaderEpoch, int64) {
	found, end := model.NoLeaderEpoch, logEnd
	for i := len(c.starts) - 1; i >= 0; i-- {
		if c.starts[i].Epoch <= requested {
			return c.starts[i].Epoch, end
		}
		end = c.starts[i].StartOffset
	}
	return found, end
}

// truncateEnd forgets epochs that begin at or above end: a truncation follows another leader's history, and what this
// log believed to begin there never did for that leader.
func (c *epochCache) truncateEnd(end int64) bool {
	n := len(c.starts)
	for n > 0 && c.starts[n-1].StartOffset >= end {
		n--
	}
	changed := n != len(c.starts)
	c.starts = slices.Clone(c.starts[:n])
	return changed
}

// truncateStart forgets epochs that ended at or before start; the one that holds start begins there from now on.
func (c *epochCache) truncateStart(start int64) bool {
	i := 0
	for i+1 < len(c.starts) && c.starts[i+1].StartOffset <= start {
		i++
	}
	if len(c.starts) == 0 || (i == 0 && c.starts[0].StartOffset >= start) {
		return false
	}
	c.starts = slices.Clone(c.starts[i:])
	c.starts[0].StartOffset = max(c.starts[0].StartOffset, start)
	return true
}

// merge adds the starts that a scan of the segments found to those of the journal. Where both know an epoch the
// segments are right; journal epochs that do not fit between are dropped.
func mergeEpochs(journal, scanned []EpochStart, logEnd int64) []EpochStart {
	all := make(map[model.LeaderEpoch]int64, len(journal)+len(scanned))
	for _, e := range journal {
		if e.StartOffset <= logEnd {
			all[e.Epoch] = e.StartOffset
		}
	}
	for _, e := range scanned {
		if old, ok := all[e.Epoch]; !ok || old > e.StartOffset {
			all[e.Epoch] = e.StartOffset
		}
	}
	merged := make([]EpochStart, 0, len(all))
	for epoch, start := range all {
		merged = append(merged, EpochStart{Epoch: epoch, StartOffset: start})
	}
	slices.SortFunc(merged, func(a, b EpochStart) int { return int(a.Epoch) - int(b.Epoch) })
	var c epochCache
	for _, e := range merged {
		for len(c.starts) > 0 && c.starts[len(c.starts)-1].StartOffset > e.StartOffset {
			c.starts = c.starts[:len(c.starts)-1]
		}
		c.starts = append(c.starts, e)
	}
	return c.starts
}

// believable drops the epochs of the journal behind whose start batches of an older epoch lie: a truncation has forgotten such
// an epoch since the journal was written, and what was fetched then has no place in it. scanned are the epochs whose
// batches were read, ends where the last batch of each of them ends.
func believable(journal, scanned []EpochStart, ends []int64) []EpochStart {
	return slices.DeleteFunc(slices.Clone(journal), func(e EpochStart) bool {
		for i, s := range scanned {
			if s.Epoch < e.Epoch && ends[i] > e.StartOffset && !knows(scanned, e.Epoch) {
				return true
			}
		}
		return false
	})
}

func knows(starts []EpochStart, epoch model.LeaderEpoch) bool {
	return slices.ContainsFunc(starts, func(e EpochStart) bool { return e.Epoch == epoch })
}

// at returns the epoch that an offset is of, model.NoLeaderEpoch where that is not known.
func (c *epochCache) at(offset int64) model.LeaderEpoch {
	i := sort.Search(len(c.starts), func(i int) bool { return c.starts[i].StartOffset > offset })
	if i == 0 {
		return model.NoLeaderEpoch
	}
	return c.starts[i-1].Epoch
}
