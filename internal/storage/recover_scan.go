package storage

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// scanSegment checks segment i from its start (or, resumed, from the writer's position). done says that the log ends
// within it.
func (r *recovery) scanSegment(i int, resumed bool) (done bool, err error) {
	l := r.log
	s := l.segs[i]
	if !resumed {
		r.entries = l.soundIndex(s)
		l.beginActive(s)
		if err := l.index.removeFiles(l.fs); err != nil {
			return false, err
		}
	}
	f, size, err := openSized(l.fs, s)
	if isMediumError(err) {
		return i == len(l.segs)-1, r.giveUp(i, err)
	}
	if err != nil {
		return false, err
	}
	l.preallocated = size
	r.report.ScannedSegments++
	r.at = i
	last := i == len(l.segs)-1
	if !last {
		r.behind = l.segs[i+1].base
	}
	bad, err := r.walkBatches(f, size, last)
	for bad != nil && err == nil && (l.end < r.point || errors.Is(bad, errUnreadable) || r.keeps(l.end)) {
		found, err := r.goOnBehind(f, s, size, bad)
		if err != nil || !found {
			break
		}
		if bad, err = r.walkBatches(f, size, last); err != nil {
			return false, err
		}
	}
	if err != nil {
		return false, err
	}
	switch {
	case bad == nil && last:
		return true, nil
	case bad == nil:
		r.seal(i, l.end)
		return false, nil
	}
	return r.endAtBadBatch(i, f, size, bad)
}

// endAtBadBatch decides between a cut and damage.
func (r *recovery) endAtBadBatch(i int, f fsys.File, size int64, bad error) (done bool, err error) {
	l := r.log
	if errors.Is(bad, errUnreadable) {
		return i == len(l.segs)-1, r.giveUp(i, bad)
	}
	if errors.Is(bad, errNeverDurable) && l.end >= r.point {
		r.report.CutReason = bad.Error()
		return true, r.cut(i, CutUnfinishedBatch)
	}
	kind, err := classifyTail(f, l.pos, size, l.end)
	if isMediumError(err) {
		return i == len(l.segs)-1, r.giveUp(i, err)
	}
	if err != nil {
		return false, err
	}
	if kind != CutMore {
		data, err := holdData(l.fs, l.segs[i+1:])
		if err != nil {
			return false, err
		}
		if data {
			kind = CutMore
		}
	}
	kept, err := r.keepsBehind(i)
	if err != nil {
		return false, err
	}
	if kind == CutZeros || l.end >= r.point && !kept {
		r.report.CutReason = bad.Error()
		return true, r.cut(i, kind)
	}
	return i == len(l.segs)-1, r.giveUp(i, bad)
}

// giveUp notes that segment i is damaged from the writer's position to its end.
func (r *recovery) giveUp(i int, why error) error {
	l := r.log
	to := max(r.point, l.end)
	if i < len(l.segs)-1 {
		to = l.segs[i+1].base
	}
	r.damaged(l.segs[i], l.pos, l.end, to, why.Error())
	r.medium = r.medium || isMediumError(why) || errors.Is(why, errUnreadable)
	l.end = to
	if i < len(l.segs)-1 {
		r.seal(i, l.end)
	}
	return nil
}

// goOnBehind looks for the next batch that the index knows behind a bad one below the recovery point, or for a whole one where the
// place is one that keeps, and goes on there: what lies behind stays readable.
func (r *recovery) goOnBehind(f fsys.File, s *segment, size int64, bad error) (found bool, err error) {
	l := r.log
	limit := r.point
	if r.keeps(l.end) {
		bound, err := boundOf(l.fs, l.segs, r.at)
		if err != nil {
			return false, err
		}
		e, found, err := wholeBehind(f, l.pos, size, l.end, bound)
		if err != nil && !isMediumError(err) {
			return false, err
		}
		if found {
			r.goOnAt(s, e, bad)
			return true, nil
		}
		limit = bound
	}
	for _, e := range r.entries {
		if e.value > l.pos && e.key > l.end && e.key < limit && batchBegins(f, e, size) {
			r.goOnAt(s, e, bad)
			return true, nil
		}
	}
	return false, nil
}

// goOnAt notes as damage what lies before a batch, and goes on with that.
func (r *recovery) goOnAt(s *segment, e indexEntry, bad error) {
	l := r.log
	if n := len(l.damages); n > 0 && l.damages[n-1].To == l.end && l.damages[n-1].File == s.logName() { // bad ones side by side
		l.damages[n-1].To = e.key
	} else {
		r.damaged(s, l.pos, l.end, e.key, bad.Error())
	}
	l.damages[len(l.damages)-1].behind = e.value
	l.pos, l.end = e.value, e.key
	l.index.offsets.add(l.fs, e.key, e.value)
	l.index.since = 0
}

// batchBegins says whether the batch that an index entry promises is there.
func batchBegins(f fsys.File, e indexEntry, size int64) bool {
	var head [record.HeaderSize]byte
	if n, err := readFull(f, head[:], e.value); err != nil || n < len(head) {
		return false
	}
	h, err := record.ParseHeader(head[:])
	return err == nil && h.BaseOffset == e.key && int64(h.Size()) <= size-e.value
}

func openSized(fsy fsys.FS, s *segment) (fsys.File, int64, error) {
	f, err := fsy.Open(s.logName())
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	s.file.Store(shareFile(f))
	return f, size, nil
}

// errUnreadable says that the medium does not give the bytes back.
var errUnreadable = errors.New("cannot be read")

// isMediumError says whether an error means that bytes on the medium are lost, and not that the system is short of something.
func isMediumError(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EBADMSG)
}

// walkBatches takes the batches from the writer's position on into the writer's state. Those below the recovery point are
// walked by their headers, those above are checked whole, and so is the last one below where no batch follows it. bad says why it
// stopped before the end of the file.
func (r *recovery) walkBatches(f fsys.File, size int64, last bool) (bad, err error) {
	l := r.log
	point := r.saved.recoveryPoint
	w := newWalker(f, l.pos, size, l.end >= point)
	began := int64(-1)
	defer func() {
		if began >= 0 {
			r.report.ScannedBytes += l.pos - began
		}
	}()
	for {
		if w.crc && began < 0 && l.end >= point {
			began = l.pos
		}
		if err := r.heads.checkRow(f, l.pos, size, l.end); err != nil {
			return badOr(err)
		}
		h, ok, err := w.next()
		if err == nil && ok && !w.crc && (h.NextOffset() > point || w.contradicts(h) ||
			(h.NextOffset() == point && !continues(f, w.pos, size, point))) {
			if h.NextOffset() > point {
				began = l.pos
			}
			w = newWalker(f, l.pos, size, true) // from here on
			continue
		}
		switch {
		case errors.Is(err, errBadBatch):
			return err, nil
		case isMediumError(err):
			return fmt.Errorf("position %d %w: %w", w.pos, errUnreadable, err), nil
		case err != nil || !ok:
			return nil, err
		case h.BaseOffset > l.end && (w.overlaps(h, l.end) || (last && (skips(l.end, h, point) || skips(l.end, h, r.point)))):
			return fmt.Errorf("%w: base offset %d behind offset %d", errBadBatch, h.BaseOffset, l.end-1), nil
		case h.NextOffset() <= point && !r.ofEpoch(h):
			return fmt.Errorf("%w: epoch %d at offset %d is not that of the journal", errBadBatch, h.LeaderEpoch, h.BaseOffset), nil
		case r.oversteps(h):
			return fmt.Errorf("%w: offsets %d to %d, and the next segment begins at %d", errBadBatch, h.BaseOffset, h.LastOffset(), l.segs[r.at+1].base), nil
		case h.BaseOffset < l.end && !l.holdsStart(h):
			return fmt.Errorf("%w: base offset %d after offset %d", errBadBatch, h.BaseOffset, l.end-1), nil
		}
		if bad := r.heads.check(h, l.end, last || h.NextOffset() > r.behind); bad != nil {
			return bad, nil
		}
		if n := len(r.scanned); n == 0 || model.LeaderEpoch(h.LeaderEpoch) > r.scanned[n-1].Epoch {
			r.scanned = append(r.scanned, EpochStart{
				Epoch: model.LeaderEpoch(h.LeaderEpoch), StartOffset: max(h.BaseOffset, l.end),
			})
			r.ends = append(r.ends, 0)
		} else if model.LeaderEpoch(h.LeaderEpoch) < r.scanned[n-1].Epoch {
			return fmt.Errorf("%w: epoch %d after epoch %d", errBadBatch, h.LeaderEpoch, r.scanned[n-1].Epoch), nil
		}
		l.pos = w.pos
		l.noteBatch(h, h.MaxTimestamp)
		r.ends[len(r.ends)-1] = l.end
	}
}

// badOr returns an error as that of a batch or of the walk.
func badOr(err error) (bad, other error) {
	if errors.Is(err, errBadBatch) {
		return err, nil
	}
	return nil, err
}

// skips says whether a batch behind a gap at end lies on both sides of a point, where a batch has begun: its length may be wrong.
func skips(end int64, h record.Header, point int64) bool {
	return end < point && h.NextOffset() > point
}

// contradicts says whether what lies at the walker's position, behind the batch of h, cannot follow it: one of the two is not what was
// written, and perhaps it is h that says too much.
func (w *walker) contradicts(h record.Header) bool {
	ahead := *w
	next, ok, err := ahead.next()
	w.buf, w.bufAt, w.bufN = ahead.buf, ahead.bufAt, ahead.bufN
	return errors.Is(err, errBadBatch) || (err == nil && ok && next.BaseOffset < h.NextOffset())
}

// continues says whether the batch of offset next begins at a position. Where it does not the length of the batch before may be wrong.
func continues(f fsys.File, pos, size, next int64) bool {
	h, ok, err := newWalker(f, pos, size, false).next()
	return err == nil && ok && h.BaseOffset == next
}

// ofEpoch says whether a batch below the recovery point has the epoch that the journal knows for it: both were noted together.
func (r *recovery) ofEpoch(h record.Header) bool {
	c := epochCache{starts: r.saved.epochs}
	at := max(h.BaseOffset, r.log.end)
	if h.NextOffset() > r.log.start {
		at = max(at, r.log.start) // of what lies below nothing is known
	}
	want := c.at(at)
	return want == model.NoLeaderEpoch || want == model.LeaderEpoch(h.LeaderEpoch)
}

// seal makes scanned segment i a sealed one.
func (r *recovery) seal(i int, next int64) {
	l := r.log
	s := l.segs[i]
	l.index.finish(l.fs)
	s.next, s.size = next, l.pos
	s.maxTimestamp.Store(l.index.maxTs)
	if l.damage == nil {
		s.writeDigest(l.fs, &l.index)
	}
	if l.damage == nil && l.pos > 0 { // an empty segment's state has a snapshot already, which may be all there is
		l.producers = r.sealedProducers(s)
		info := snapshotInfo{offset: l.end, segmentBase: s.base, position: l.pos, maxTimestamp: l.index.maxTs}
		_ = writeHint(l.fs, l.snapshotName(l.end), l.producers.encode(info)) //nolint:errcheck // a hint
	}
}

// holdData says whether any of the segments holds anything but zeros.
func holdData(fsy fsys.FS, segs []*segment) (bool, error) {
	for _, s := range segs {
		zero, err := isZero(fsy, s)
		if isMediumError(err) {
			return true, nil
		}
		if err != nil || !zero {
			return !zero, err
		}
	}
	return false, nil
}

func isZero(fsy fsys.FS, s *segment) (zero bool, err error) {
	f, err := fsy.OpenRead(s.logName())
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return false, err
	}
	end, err := lastNonZero(f, 0, size)
	return end == 0, err
}

// cut ends the log behind the last good batch of segment i: later segments go, last first, then the segment's tail.
func (r *recovery) cut(i int, kind CutKind) error {
	l := r.log
	if kind == CutNone { // the end of segment i is whole, but what follows does not continue it
		kind = CutZeros
		data, err := holdData(l.fs, l.segs[i+1:])
		if err != nil {
			return err
		}
		if data {
			kind = CutMore
		}
	}
	if kind == CutMore {
		if err := r.confess(); err != nil {
			return err
		}
	}
	s := l.segs[i]
	r.report.Cut, r.report.CutFile, r.report.CutPosition = kind, s.logName(), l.pos
	r.touched = true
	for _, later := range slices.Backward(l.segs[i+1:]) {
		if info, err := l.fs.Stat(later.logName()); err == nil {
			r.report.CutBytes += info.Size
		}
		if err := later.remove(l.fs); err != nil {
			return err
		}
		r.report.RemovedSegments++
	}
	f := s.file.Load()
	r.report.CutBytes += l.preallocated - l.pos
	if err := f.Truncate(l.pos); err != nil {
		return err
	}
	l.preallocated = l.pos
	l.segs = l.segs[:i+1]
	return nil
}

const zeroChunk = 64 << 10

// lastNonZero returns the position behind the last byte in [from, to) that is not zero, or from.
func lastNonZero(f fsys.File, from, to int64) (int64, error) {
	buf := make([]byte, min(zeroChunk, max(to-from, 1)))
	for to > from {
		n := min(int64(len(buf)), to-from)
		got, err := readFull(f, buf[:n], to-n)
		if err != nil {
			return 0, err
		}
		for i := got - 1; i >= 0; i-- {
			if buf[i] != 0 {
				return to - n + int64(i) + 1, nil
			}
		}
		to -= n
	}
	return from, nil
}
