package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// ScrubCursor says where the scrub of a log goes on. The zero value begins with the first segment.
type ScrubCursor struct {
	offset  int64 // nothing below is left to check
	segment *segment
	pos     int64
	sum     batchDigest
	bad     bool   // damage was found in the segment: its digest says nothing
	buf     []byte // room for what a step reads, kept from one to the next
}

// restart lets the cursor begin with the segment that holds offset.
func (c *ScrubCursor) restart(offset int64, s *segment) {
	*c = ScrubCursor{offset: offset, segment: s, buf: c.buf}
}

// ScrubFrom is a cursor that begins with the segment that holds offset.
func ScrubFrom(offset int64) ScrubCursor { return ScrubCursor{offset: offset} }

// Offset is where the scrub goes on: nothing below, from where it began, is left to check.
func (c *ScrubCursor) Offset() int64 { return c.offset }

// ScrubResult is what one step has done.
type ScrubResult struct {
	// Bytes were read and checked.
	Bytes int64
	// Done says that the end of the log was reached; the cursor is back at the beginning.
	Done bool
	// Damage is what is wrong, or nil. The rest of a segment behind a bad header is not looked at.
	Damage *Damage
}

// Scrub checks the next batches of the log, about maxBytes of them: lengths, CRC, that offsets rise within their segment, and
// that each has the leader epoch that the epoch cache knows for it; at the end of a sealed segment its digest, which
// is written where it is missing. It changes nothing else and runs beside everything. Errors are those of reading; they
// wrap ErrLogClosed for a closed log.
func (l *Log) Scrub(c *ScrubCursor, maxBytes int64) (ScrubResult, error) {
	gen := l.generation.Load()
	v := l.view.Load()
	if gen%2 != 0 {
		return ScrubResult{}, nil // a truncation is under way: another time
	}
	if v.closed {
		return ScrubResult{}, fmt.Errorf("scrub log %s: %w", l.tp, ErrLogClosed)
	}
	before := *c
	res, err := l.scrubSegment(v, c, maxBytes)
	now := l.view.Load()
	if l.generation.Load() != gen || (res.Damage != nil && !slices.Contains(now.segs, c.segment)) || errors.Is(err, errRetry) {
		c.restart(before.offset, nil) // the segment is another one now
		return ScrubResult{Bytes: res.Bytes}, nil
	}
	if err != nil {
		return res, fmt.Errorf("scrub log %s: %w", l.tp, err)
	}
	if res.Done {
		c.restart(0, nil)
	}
	return res, nil
}

func (l *Log) scrubSegment(v *view, c *ScrubCursor, maxBytes int64) (res ScrubResult, err error) {
	i := segmentOf(v.segs, max(c.offset, v.start))
	s := v.segs[i]
	if c.segment != s {
		c.restart(s.base, s)
	}
	f, err := s.open(l.fs)
	if err != nil && !isMediumError(err) {
		return res, l.openFailed(v, err)
	}
	if err == nil {
		err = l.scrubBatches(v, i, f, c, maxBytes, &res)
		if err = errors.Join(err, f.release()); err != nil {
			return res, err
		}
	} else {
		res.Damage = damageOf(v, i, 0, err.Error())
	}
	last := i == len(v.segs)-1
	switch {
	case res.Damage != nil && res.Damage.To >= v.segmentEnd(i), c.pos >= v.limit(i):
	default:
		return res, nil
	}
	if !c.bad && res.Damage == nil {
		res.Damage = endsEarly(v, i, c)
	}
	if !last && !c.bad && res.Damage == nil {
		res.Damage = l.scrubDigest(v, i, c)
	}
	if res.Done = last; !last {
		c.restart(v.segs[i+1].base, c.segment)
	}
	return res, nil
}

// endsEarly is the damage of a sealed segment whose file ends with a sound batch, and yet before the next segment begins: it was
// sealed where its last batch ended, and compaction keeps the header of that one.
func endsEarly(v *view, i int, c *ScrubCursor) *Damage {
	if i == len(v.segs)-1 || c.pos < v.limit(i) || max(c.offset, v.start) >= v.segmentEnd(i) {
		return nil
	}
	d := damageOf(v, i, c.pos, fmt.Sprintf("the file ends with offset %d, and the next segment begins at %d", c.offset-1, v.segmentEnd(i)))
	d.From = max(c.offset, v.start)
	return d
}

// segmentEnd is the exclusive end of the offsets of segment i.
func (v *view) segmentEnd(i int) int64 {
	if i == len(v.segs)-1 {
		return v.end
	}
	return v.segs[i].next
}

// damageOf is damage of segment i from a position to the segment's end; from is the first offset it may concern.
func damageOf(v *view, i int, position int64, reason string) *Damage {
	s := v.segs[i]
	return &Damage{From: max(s.base, v.start), To: v.segmentEnd(i), File: s.logName(), Position: position, Reason: reason, segment: s}
}

// scrubBatches checks batches of segment i from the cursor on: those of one read, even where they are less than maxBytes, for the
// rest of a batch that is cut there would be read twice.
func (l *Log) scrubBatches(v *view, i int, f fsys.File, c *ScrubCursor, maxBytes int64, res *ScrubResult) error {
	w := newWalkerIn(c.buf, f, c.pos, v.limit(i))
	defer func() { c.buf = w.buf }()
	for res.Bytes < maxBytes && (res.Bytes == 0 || w.holdsNext()) {
		at := w.pos
		h, ok, err := w.next()
		if errors.Is(err, fsys.ErrCrashed) {
			return err
		}
		if err != nil && !errors.Is(err, errBadBatch) && !isMediumError(err) {
			return err
		}
		if err == nil && !ok {
			return nil
		}
		if err == nil {
			err = l.misplaced(v, i, c, w, h)
		}
		if err != nil {
			return l.scrubDamage(v, i, f, c, at, err, res)
		}
		c.sum.add(h)
		c.pos, c.offset = w.pos, h.NextOffset()
		res.Bytes += int64(h.Size())
	}
	return nil
}

// misplaced says what is wrong with what lies outside a batch's CRC.
func (l *Log) misplaced(v *view, i int, c *ScrubCursor, w *walker, h record.Header) error {
	start := i == 0 && c.pos == 0 && h.NextOffset() > v.segs[i].base // the batch that holds the LogStartOffset
	if (h.BaseOffset < c.offset && !start) || h.NextOffset() > v.segmentEnd(i) || (h.BaseOffset > c.offset && w.overlaps(h, c.offset)) {
		return fmt.Errorf("offsets %d to %d where %d to %d are left", h.BaseOffset, h.LastOffset(), c.offset, v.segmentEnd(i)-1)
	}
	epochs := epochCache{starts: v.epochs}
	at := max(h.BaseOffset, v.start)
	if want := epochs.at(at); want != model.NoLeaderEpoch && h.LastOffset() >= v.start && want != model.LeaderEpoch(h.LeaderEpoch) {
		return fmt.Errorf("leader epoch %d, offset %d is of epoch %d", h.LeaderEpoch, at, want)
	}
	return nil
}

// scrubDamage notes a bad batch at a position and moves the cursor behind it: to the next one where its length is to be
// believed, else to the end of the segment.
func (l *Log) scrubDamage(v *view, i int, f fsys.File, c *ScrubCursor, at int64, why error, res *ScrubResult) error {
	d := damageOf(v, i, at, why.Error())
	d.From = max(c.offset, v.start)
	c.bad = true
	w := newWalker(f, at, v.limit(i), false)
	if h, ok, err := w.next(); err == nil && ok && w.pos < w.limit {
		behind, ok, err := w.next()
		if err == nil && ok && behind.BaseOffset > c.offset && behind.NextOffset() <= v.segmentEnd(i) {
			d.To, d.behind = behind.BaseOffset, at+int64(h.Size())
			res.Bytes += int64(h.Size())
			c.pos, c.offset = at+int64(h.Size()), d.To
		}
	}
	res.Damage = d
	return nil
}

// scrubDigest compares the digest of segment i, whose batches are all sound, with the one that was noted when it was sealed.
func (l *Log) scrubDigest(v *view, i int, c *ScrubCursor) *Damage {
	s := v.segs[i]
	noted, err := s.loadDigest(l.fs)
	if err == nil && noted.NextOffset == s.next && noted.SizeBytes == s.size {
		if noted.Sum == c.sum.sum && noted.Batches == c.sum.batches || s.gone.Load() {
			return nil
		}
		d := damageOf(v, i, 0, fmt.Sprintf("digest %016x of %d batches, %016x of %d when the segment was sealed: "+
			"an offset, a length or a leader epoch was altered", c.sum.sum, c.sum.batches, noted.Sum, noted.Batches))
		d.byDigest = true
		return d
	}
	if s.gone.Load() || !slices.Contains(l.view.Load().segs, s) {
		return nil
	}
	_ = writeHint(l.fs, s.digestName(), s.digestOf(c.sum).encode()) //nolint:errcheck // a hint; the next scrub tries again
	return nil
}
