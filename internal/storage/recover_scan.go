package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// scanSegment checks segment i from its start (or, resumed, from the writer's position). done says that the log ends
// within it.
func (r *recovery) scanSegment(i int, resumed bool) (done bool, err error) {
	l := r.log
	s := l.segs[i]
	f, err := l.fs.Open(s.logName())
	if err != nil {
		return false, err
	}
	s.file.Store(shareFile(f))
	size, err := f.Size()
	if err != nil {
		return false, err
	}
	if !resumed {
		l.beginActive(s)
		if err := l.index.removeFiles(l.fs); err != nil {
			return false, err
		}
	}
	l.preallocated = size
	bad, err := r.walkBatches(f, size)
	if err != nil {
		return false, err
	}
	r.report.ScannedSegments++
	last := i == len(l.segs)-1
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
	kind, err := classifyTail(f, l.pos, size, l.end)
	if err != nil {
		return false, err
	}
	if kind != CutMore {
		data, err := r.dataBehind(i)
		if err != nil {
			return false, err
		}
		if data {
			kind = CutMore
		}
	}
	if kind != CutMore || l.end >= r.saved.recoveryPoint {
		return true, r.cut(i, kind)
	}
	r.damaged(l.segs[i], l.pos, l.end, bad.Error())
	if i == len(l.segs)-1 {
		l.end = r.saved.recoveryPoint
		return true, nil
	}
	l.end = l.segs[i+1].base
	r.seal(i, l.end)
	return false, nil
}

// walkBatches checks the batches from the writer's position on and takes each into the writer's state. bad says why it
// stopped before the end of the file.
func (r *recovery) walkBatches(f fsys.File, size int64) (bad, err error) {
	l := r.log
	w := newWalker(f, l.pos, size, true)
	began := l.pos
	defer func() { r.report.ScannedBytes += l.pos - began }()
	for {
		h, ok, err := w.next()
		switch {
		case errors.Is(err, errBadBatch):
			return err, nil
		case err != nil || !ok:
			return nil, err
		case h.BaseOffset < l.end && !l.holdsStart(h):
			return fmt.Errorf("%w: base offset %d after offset %d", errBadBatch, h.BaseOffset, l.end-1), nil
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

// seal makes scanned segment i a sealed one.
func (r *recovery) seal(i int, next int64) {
	l := r.log
	s := l.segs[i]
	l.index.finish(l.fs)
	s.next, s.size = next, l.pos
	s.maxTimestamp.Store(l.index.maxTs)
	if l.damage == nil && l.pos > 0 { // an empty segment's state has a snapshot already, which may be all there is
		info := snapshotInfo{offset: l.end, segmentBase: s.base, position: l.pos, maxTimestamp: l.index.maxTs}
		_ = writeHint(l.fs, l.snapshotName(l.end), l.producers.encode(info)) //nolint:errcheck // a hint
	}
}

// dataBehind says whether any segment behind i holds anything but zeros.
func (r *recovery) dataBehind(i int) (bool, error) {
	for _, s := range r.log.segs[i+1:] {
		zero, err := r.allZeros(s)
		if err != nil || !zero {
			return !zero, err
		}
	}
	return false, nil
}

func (r *recovery) allZeros(s *segment) (zero bool, err error) {
	f, err := s.open(r.log.fs)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.release()) }()
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
		data, err := r.dataBehind(i)
		if err != nil {
			return err
		}
		if data {
			kind = CutMore
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

// classifyTail says what lies between pos, where no valid batch begins, and size. next is the offset expected there.
func classifyTail(f fsys.File, pos, size, next int64) (CutKind, error) {
	end, err := lastNonZero(f, pos, size)
	if err != nil {
		return CutMore, err
	}
	if end == pos {
		return CutZeros, nil
	}
	if end-pos < record.HeaderSize {
		return CutUnfinishedBatch, nil
	}
	var head [record.HeaderSize]byte
	if _, err := readFull(f, head[:], pos); err != nil {
		return CutMore, err
	}
	h, err := record.ParseHeader(head[:])
	if err == nil && h.BaseOffset >= next && end <= pos+int64(h.Size()) {
		return CutUnfinishedBatch, nil
	}
	return CutMore, nil
}
