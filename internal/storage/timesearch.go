package storage

import (
	"errors"
	"fmt"
	"math"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// OffsetForTime finds the first record at or above LogStartOffset, in offset order, whose timestamp is at least timeMs
// (ms since 1970). found is false when there is none. It opens one batch, bounded by the record package's default for
// inflation. Errors are those of Read.
func (l *Log) OffsetForTime(timeMs int64) (offset, timestampMs int64, found bool, err error) {
	for {
		gen := l.generation.Load()
		if gen%2 != 0 {
			l.waitForWriter()
			continue
		}
		offset, timestampMs, found, err = l.searchTime(l.view.Load(), timeMs)
		if l.generation.Load() != gen || errors.Is(err, errRetry) {
			continue
		}
		if err != nil {
			return 0, 0, false, fmt.Errorf("search log %s for time %d: %w", l.tp, timeMs, err)
		}
		return offset, timestampMs, found, nil
	}
}

func (l *Log) searchTime(v *view, timeMs int64) (offset, timestamp int64, found bool, err error) {
	if v.closed {
		return 0, 0, false, ErrLogClosed
	}
	for i, s := range v.segs {
		maxTs, unknown := v.maxTs, error(nil)
		if i < len(v.segs)-1 {
			maxTs, err = l.sealedMaxTimestamp(v, s)
			if unknown = err; errors.Is(err, ErrCorruptLog) {
				maxTs = math.MaxInt64 // what lies before the damage may have it
			} else if err != nil {
				return 0, 0, false, err
			}
		}
		if maxTs == noTimestamp || maxTs < timeMs {
			continue
		}
		offset, timestamp, found, err = l.searchSegment(v, i, timeMs)
		if err != nil || found {
			return offset, timestamp, found, err
		}
		if unknown != nil {
			return 0, 0, false, unknown
		}
	}
	return 0, 0, false, nil
}

// sealedMaxTimestamp returns the largest timestamp of a sealed segment: from the snapshot that was written when it was
// sealed, or from its batches. Those are checked whole: data is deleted by what they say. A *CorruptError says that one of them is bad or
// missing, and the largest timestamp is not known.
func (l *Log) sealedMaxTimestamp(v *view, s *segment) (int64, error) {
	if ts := s.maxTimestamp.Load(); ts != unknownTimestamp {
		return ts, nil
	}
	_, info, err := l.loadSnapshot(s.next)
	if err == nil && info.segmentBase == s.base && info.position == s.size {
		s.maxTimestamp.Store(info.maxTimestamp)
		return info.maxTimestamp, nil
	}
	if err := ignoreBadHint(err); err != nil {
		return 0, err
	}
	f, err := s.open(l.fs)
	if err != nil {
		return 0, l.openFailed(v, err)
	}
	ts, err := maxTimestampOf(f, s)
	if err = errors.Join(err, f.release()); err != nil {
		return 0, err
	}
	s.maxTimestamp.Store(ts)
	return ts, nil
}

// maxTimestampOf reads a sealed segment.
func maxTimestampOf(f fsys.File, s *segment) (ts int64, err error) {
	ts = noTimestamp
	w, next := newWalker(f, 0, s.size, true), s.base
	for {
		h, ok, err := w.next()
		if err == nil && !ok && next < s.next {
			err = fmt.Errorf("%w: the file ends there, the next segment begins at offset %d", errBadBatch, s.next)
		}
		if errors.Is(err, errBadBatch) || isMediumError(err) {
			return ts, &CorruptError{File: s.logName(), Position: w.pos, Offset: next, Reason: err.Error()}
		}
		if err != nil || !ok {
			return ts, err
		}
		ts, next = max(ts, h.MaxTimestamp), h.NextOffset()
	}
}

// searchSegment finds the record in segment i: the time index says where no earlier batch can have it.
func (l *Log) searchSegment(v *view, i int, timeMs int64) (offset, timestamp int64, found bool, err error) {
	from := v.segs[i].base
	if timeMs > noTimestamp {
		e, known, err := l.timeFloor(v, i, timeMs-1)
		if err != nil && !errors.Is(err, errIndexDoubt) {
			return 0, 0, false, err
		}
		if known && err == nil {
			from = max(from, e.value)
		}
	}
	q := readRequest{from: max(from, v.start), upTo: v.end, pos: 0, sure: -1}
	if pos, _, err := l.position(v, i, q); err == nil {
		q.pos = pos
	}
	f, err := v.segs[i].open(l.fs)
	if err != nil {
		return 0, 0, false, l.openFailed(v, err)
	}
	defer func() { err = errors.Join(err, f.release()) }()
	w := newWalker(f, q.pos, v.limit(i), false)
	for {
		at := w.pos
		h, ok, err := w.next()
		if errors.Is(err, errBadBatch) {
			return 0, 0, false, l.badTimeWalk(v, i, q, err)
		}
		if err != nil || !ok {
			return 0, 0, false, err
		}
		if h.MaxTimestamp < timeMs || h.LastOffset() < v.start {
			continue
		}
		batch := make([]byte, h.Size())
		if n, err := readFull(f, batch, at); err != nil || n < len(batch) {
			return 0, 0, false, errors.Join(err, errRetry)
		}
		offset, timestamp, found, err = searchBatch(batch, v.start, timeMs)
		if err != nil || found {
			return offset, timestamp, found, err
		}
	}
}

// badTimeWalk explains a walk that ran into bytes that are no batch: damage that is known, or the index that sent it
// there; then the segment is walked from its start the next time.
func (l *Log) badTimeWalk(v *view, i int, q readRequest, err error) error {
	if q.pos == 0 || len(v.damages) > 0 {
		return fmt.Errorf("%w: %s: %w", ErrCorruptLog, v.segs[i].logName(), err)
	}
	if err := l.rebuildIndex(v.segs[i].base); err != nil {
		return err
	}
	return errRetry
}

func (l *Log) timeFloor(v *view, i int, key int64) (indexEntry, bool, error) {
	if i == len(v.segs)-1 && len(v.timeIndex) > 0 && v.timeIndex[0].key <= key {
		return v.timeIndex[floorEntry(v.timeIndex, key)], true, nil
	}
	if x := v.segs[i].entries.Load(); x != nil {
		at := floorEntry(x.times, key)
		if at < 0 {
			return indexEntry{}, false, nil
		}
		return x.times[at], true, nil
	}
	return lookupIndexFile(l.fs, v.segs[i].timeIndexName(), indexKindTime, key)
}

// searchBatch finds the first record of a batch at or above start with a timestamp of at least timeMs.
func searchBatch(batch []byte, start, timeMs int64) (offset, timestamp int64, found bool, err error) {
	records, err := record.Records(batch, record.Limits{SkipCRC: true})
	if err != nil {
		return 0, 0, false, fmt.Errorf("%w: %w", ErrCorruptLog, err)
	}
	for records.Next() {
		if r := records.Record(); r.Offset >= start && r.Timestamp >= timeMs {
			return r.Offset, r.Timestamp, true, nil
		}
	}
	if err := records.Err(); err != nil {
		return 0, 0, false, fmt.Errorf("%w: %w", ErrCorruptLog, err)
	}
	return 0, 0, false, nil
}
