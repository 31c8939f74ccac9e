package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// walk checks the batches of a segment. whole says that all of it, up to the end of the log, are sound.
func (v *logVerifier) walk(s *segment, f fsys.File, size int64, last bool) (next int64, sum batchDigest, whole bool, err error) {
	w := newWalker(f, 0, size, true)
	next, whole, v.adrift = s.base, true, false
	var records record.Iterator
	for {
		at := w.pos
		h, ok, err := w.next()
		if err == nil && !ok {
			break
		}
		if err != nil && !errors.Is(err, errBadBatch) && !isMediumError(err) {
			return next, sum, false, err
		}
		if err == nil {
			err = checkRecords(&records, w, h)
		}
		if err == nil {
			err = v.heads.checkRow(f, at, size, next)
		}
		if err == nil {
			err = v.misplaced(s, w, h, next)
		}
		if err != nil {
			whole = false
			behind, more := v.badBatch(f, at, size, next, s, err)
			if !more {
				return max(next, behind), sum, whole, nil
			}
			w.pos, v.adrift = behind, true // the batch there tells its own offset
			continue
		}
		v.batchAt(h, at)
		sum.add(h)
		next, v.adrift = h.NextOffset(), false
		v.sum.Batches++
		v.sum.Records += int64(h.Count)
		v.sum.Bytes += int64(h.Size())
	}
	s.maxTimestamp.Store(v.maxTs)
	if !last && whole && next > s.next {
		whole = false
	}
	return next, sum, whole, nil
}

// misplaced says what is wrong with what lies outside a batch's CRC.
func (v *logVerifier) misplaced(s *segment, w *walker, h record.Header, next int64) error {
	point := v.state.recoveryPoint
	beyond := s == v.segs[len(v.segs)-1] && next < point && h.NextOffset() > point
	beyond = h.BaseOffset > next && (beyond || w.overlaps(h, next))
	start := w.pos == int64(h.Size()) && h.NextOffset() > s.base && s.base == v.sum.LogStartOffset
	if (h.BaseOffset < next && !start) || h.NextOffset() > s.next || beyond {
		return fmt.Errorf("offsets %d to %d where %d and more are expected", h.BaseOffset, h.LastOffset(), next)
	}
	if err := v.heads.check(h, next, s == v.segs[len(v.segs)-1] && !v.adrift); err != nil {
		return err
	}
	if want := v.epochAt(max(h.BaseOffset, v.sum.LogStartOffset)); v.known && h.NextOffset() <= v.state.recoveryPoint &&
		h.LastOffset() >= v.sum.LogStartOffset && want != model.NoLeaderEpoch && want != model.LeaderEpoch(h.LeaderEpoch) {
		return fmt.Errorf("leader epoch %d, the journal says %d", h.LeaderEpoch, want)
	}
	if before := v.epoch; h.LeaderEpoch < before {
		v.epoch = h.LeaderEpoch // once
		return fmt.Errorf("leader epoch %d behind epoch %d", h.LeaderEpoch, before)
	}
	return nil
}

// checkRecords opens the batch that the walker has just passed and walks its records.
func checkRecords(it *record.Iterator, w *walker, h record.Header) error {
	at := w.pos - int64(h.Size()) - w.bufAt
	if err := it.Reset(w.buf[at:][:h.Size()], record.Limits{SkipCRC: true}); err != nil {
		return err
	}
	for it.Next() { //nolint:revive // each is checked on the way
	}
	return it.Err()
}

// badBatch notes bytes that are no sound batch. more says that the walk goes on at position behind; otherwise behind is the
// least end of the log.
func (v *logVerifier) badBatch(f fsys.File, at, size, next int64, s *segment, why error) (behind int64, more bool) {
	kind, err := classifyTail(f, at, size, next)
	if err != nil {
		kind = CutMore
	}
	data, err := holdData(v.o.fs, v.segs[slices.Index(v.segs, s)+1:])
	if errors.Is(why, errNeverDurable) && next >= v.state.point() {
		kind = CutUnfinishedBatch
	} else if err != nil || data {
		kind = CutMore
	}
	keptAt, kept := v.keptBehind(f, at, size, next)
	if (kept || data && v.keeps(next)) && !v.replay.covers(s, at, next) {
		v.o.note(SeverityFault, s.logName(), at, next, why.Error(), recoverDamage)
		if !kept {
			return next, false
		}
		return keptAt, true
	}
	v.cut(next)
	severity := SeverityFault
	if next >= v.state.point() && kind != CutMore {
		severity = SeverityNote
	}
	what := why.Error()
	if kind == CutZeros {
		what = fmt.Sprintf("%d bytes of zeros behind the last batch", size-at)
	}
	recovery := v.recovery(next, kind)
	if next < v.state.point() && kind != CutZeros {
		if last := s == v.segs[len(v.segs)-1]; last {
			v.lost = v.state.point()
		} else if next == s.next {
			recovery = "nothing is missing: reading goes on with the next segment, and the scrub tells of it"
		}
	}
	if v.replay.covers(s, at, next) {
		severity, recovery = SeverityNote, "written anew from the sync journal"
	}
	v.o.note(severity, s.logName(), at, next, what, recovery)
	if kind == CutZeros {
		return next, false
	}
	w := newWalker(f, at, size, false)
	if h, ok, err := w.next(); err == nil && ok && h.BaseOffset >= next && w.pos < size {
		if _, ok, err := w.next(); err == nil && ok {
			return at + int64(h.Size()), true
		}
	}
	return next, false
}

// keptBehind finds the whole batch that recovery goes on with behind bytes that are none, where it keeps what lies there.
func (v *logVerifier) keptBehind(f fsys.File, at, size, next int64) (position int64, kept bool) {
	if !v.keeps(next) {
		return 0, false
	}
	e, found, err := wholeBehind(f, at, size, next, v.bound)
	return e.value, err == nil && found
}

// DumpedBatch is one batch of a dump.
type DumpedBatch struct {
	// File and Position say where it is.
	File     string
	Position int64
	Header   record.Header
	// Fault is what is wrong with it, or nil; Data is nil then.
	Fault error
	// Data is the whole batch, valid until the next one.
	Data []byte
}

// Dump shows every batch of every log to visit, in order, damaged ones with their fault. Behind bytes that are no batch at all
// it goes on with the next segment. It ends with the first error of visit.
func (o *Offline) Dump(visit func(DumpedBatch) error) error {
	for _, l := range o.logs {
		v := &logVerifier{o: &Offline{fs: o.fs, report: func(Finding) {}}, log: l}
		if err := v.list(); err != nil {
			return err
		}
		for _, s := range v.segs {
			if err := o.dumpSegment(s, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *Offline) dumpSegment(s *segment, visit func(DumpedBatch) error) (err error) {
	f, err := o.fs.OpenRead(s.logName())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	w := newWalker(f, 0, size, true)
	for {
		b := DumpedBatch{File: s.logName(), Position: w.pos}
		h, ok, err := w.next()
		switch {
		case err == nil && !ok:
			return nil
		case err == nil:
			at := w.pos - int64(h.Size()) - w.bufAt
			b.Data = w.buf[at:][:h.Size()]
		case !errors.Is(err, errBadBatch) && !isMediumError(err):
			return err
		default:
			if end, zeroErr := lastNonZero(f, w.pos, size); zeroErr == nil && end == w.pos {
				return nil // space that was asked for ahead
			}
			b.Fault = err
		}
		b.Header = h
		if err := visit(b); err != nil {
			return err
		}
		if b.Fault != nil {
			plain := newWalker(f, w.pos, size, false)
			if _, ok, err := plain.next(); err != nil || !ok {
				return nil //nolint:nilerr // the fault was shown
			}
			w.pos = plain.pos
		}
	}
}
