package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
)

// RangeCheck is what CheckRange has found sound.
type RangeCheck struct {
	// Digest sums up the whole batches within [BaseOffset, NextOffset); NextOffset is where the check ended: the end of the
	// range, or of a batch before it. Equal batches have equal digests, see RangeDigest.
	Digest SegmentDigest
	// Bytes is the size of the batches that were looked at.
	Bytes int64
	// Damage is the first thing that is wrong, or nil; the digest then ends before it.
	Damage *Damage
}

// CheckRange looks at the batches that hold the offsets [from, to), about maxBytes of them: with deep at every byte, as Scrub
// does, else at their headers alone. What Damages knows within the range is answered at once. It changes nothing and may run
// beside everything. Errors are those of Read, but that damage is in the answer.
func (l *Log) CheckRange(from, to, maxBytes int64, deep bool) (res RangeCheck, err error) {
	for {
		gen := l.generation.Load()
		if gen%2 != 0 {
			l.waitForWriter()
			continue
		}
		v := l.view.Load()
		res, err = l.checkView(v, from, to, maxBytes, deep)
		if l.generation.Load() != gen || errors.Is(err, errRetry) {
			continue
		}
		// A segment that compaction has replaced, or retention removed, says nothing about the log any more.
		if d := res.Damage; d != nil && d.segment != nil && !slices.Contains(l.view.Load().segs, d.segment) {
			continue
		}
		if err != nil {
			return res, fmt.Errorf("check log %s from offset %d to %d: %w", l.tp, from, to, err)
		}
		return res, nil
	}
}

func (l *Log) checkView(v *view, from, to, maxBytes int64, deep bool) (res RangeCheck, err error) {
	switch {
	case v.closed:
		return res, ErrLogClosed
	case from < v.start || to > v.end || from > to:
		return res, &RangeError{Offset: from, LogStartOffset: v.start, End: v.end}
	}
	res.Digest = SegmentDigest{BaseOffset: from, NextOffset: from, MaxTimestamp: noTimestamp}
	limit := to
	for i := range v.damages {
		if d := v.damages[i]; d.To > from && d.From < to {
			limit, res.Damage = min(limit, d.From), &d
			break
		}
	}
	k := rangeChecker{log: l, v: v, from: from, to: limit, maxBytes: max(maxBytes, 1), deep: deep, res: &res}
	for i := segmentOf(v.segs, from); i < len(v.segs) && v.segs[i].base < limit; i++ {
		damage, done, err := k.segment(i)
		if err != nil {
			return res, err
		}
		if damage != nil {
			res.Damage, done = damage, true
		} else if done {
			res.Damage = nil // what is known lies behind what was looked at
		}
		if done {
			res.Digest.Batches, res.Digest.Sum = k.sum.batches, k.sum.sum
			return res, nil
		}
	}
	res.Digest.Batches, res.Digest.Sum, res.Digest.NextOffset = k.sum.batches, k.sum.sum, max(limit, from)
	return res, nil
}

// rangeChecker is the state of one CheckRange.
type rangeChecker struct {
	log      *Log
	v        *view
	from, to int64
	maxBytes int64
	deep     bool
	sum      batchDigest
	res      *RangeCheck
}

// segment checks what of the range lies in segment i; done says that maxBytes were looked at.
func (k *rangeChecker) segment(i int) (damage *Damage, done bool, err error) {
	s := k.v.segs[i]
	f, err := s.open(k.log.fs)
	if isMediumError(err) {
		return damageOf(k.v, i, 0, err.Error()), true, nil
	}
	if err != nil {
		return nil, false, k.log.openFailed(k.v, err)
	}
	defer func() { err = errors.Join(err, f.release()) }()
	c, err := k.seek(i, f)
	if err != nil {
		return nil, false, err
	}
	w := newWalker(f, c.pos, k.v.limit(i), k.deep)
	for k.res.Bytes < k.maxBytes {
		at := w.pos
		h, ok, err := w.next()
		if err != nil && !errors.Is(err, errBadBatch) && !isMediumError(err) {
			return nil, false, err
		}
		if err == nil && !ok {
			damage := endsEarly(k.v, i, &c)
			return damage, damage != nil, nil
		}
		if err == nil && h.BaseOffset >= k.to && h.BaseOffset >= c.offset && h.NextOffset() <= k.v.segmentEnd(i) {
			return nil, false, nil
		}
		if err == nil {
			err = k.log.misplaced(k.v, i, &c, w, h)
		}
		if err != nil {
			var found ScrubResult
			if err = k.log.scrubDamage(k.v, i, f, &c, at, err, &found); err != nil || found.Damage.To > k.from {
				return found.Damage, true, err
			}
			w.pos = c.pos // it lies before the range: another's business
			continue
		}
		if h.BaseOffset >= k.from && h.NextOffset() <= k.to {
			k.sum.add(h)
			k.res.Digest.SizeBytes += int64(h.Size())
			k.res.Digest.MaxTimestamp = max(k.res.Digest.MaxTimestamp, h.MaxTimestamp)
		}
		c.pos, c.offset = w.pos, h.NextOffset()
		if c.offset > k.from {
			k.res.Digest.NextOffset = min(c.offset, k.to)
			k.res.Bytes += int64(h.Size())
		}
	}
	return nil, c.offset < k.to, nil
}

// seek finds the batch of segment i that holds the first offset of the range. Heads are followed from where the index says, or
// from the segment's beginning where the index leads astray.
func (k *rangeChecker) seek(i int, f fsys.File) (ScrubCursor, error) {
	s := k.v.segs[i]
	begin := ScrubCursor{offset: s.base, segment: s, bad: true}
	if s.base >= k.from {
		return begin, nil
	}
	pos, sure, err := k.log.position(k.v, i, readRequest{from: k.from})
	if err == nil && pos > 0 && sure >= 0 {
		c := begin
		c.pos, c.offset = pos, sure
		w := newWalker(f, pos, k.v.limit(i), false)
		if h, ok, err := w.next(); err == nil && ok && h.BaseOffset == sure {
			return k.skip(i, f, c), nil
		}
	} else if err != nil && !errors.Is(err, errIndexDoubt) {
		return begin, err
	}
	return k.skip(i, f, begin), nil
}

// skip follows heads from the cursor on up to the batch that holds the range's first offset, or the first that looks wrong.
func (k *rangeChecker) skip(i int, f fsys.File, c ScrubCursor) ScrubCursor {
	w := newWalker(f, c.pos, k.v.limit(i), false)
	for {
		h, ok, err := w.next()
		if err != nil || !ok || h.NextOffset() > k.from || h.BaseOffset < c.offset && c.pos > 0 {
			return c
		}
		c.pos, c.offset = w.pos, max(c.offset, h.NextOffset())
	}
}

// SegmentStart is the first offset, not below the LogStartOffset, of the segment that holds offset.
func (l *Log) SegmentStart(offset int64) int64 {
	v := l.view.Load()
	return max(v.segs[segmentOf(v.segs, offset)].base, v.start)
}

// SealedEnd is the offset up to which all segments are sealed: they change no more, but by compaction.
func (l *Log) SealedEnd() int64 {
	v := l.view.Load()
	return max(v.segs[len(v.segs)-1].base, v.start)
}

// EverCleaned says whether compaction has worked on the log, so that another replica may rightly hold other batches. Where
// that cannot be known it says yes.
func (l *Log) EverCleaned() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loadCleanPoint() != nil || l.cleaned.firstDirty > 0
}
