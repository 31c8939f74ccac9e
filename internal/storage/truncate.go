package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
)

// TruncateTo removes every batch that holds offset or a later one, and returns the new LogEndOffset (lower than offset
// where offset lies within a batch). Epochs that begin at or above offset are forgotten, also where there is nothing to
// remove. It is durable when it returns. Where offset lies within the batch that holds the LogStartOffset, that goes
// down with it.
//
// It refuses, with ErrBelowHighWatermark, to go below the HighWatermark on file. Any other failure leaves the log
// failed (ErrLogFailed): opened again it ends somewhere between the new and the old end. A *CorruptError changes nothing: a batch
// at the cut is not what was written.
func (l *Log) TruncateTo(offset int64) (logEndOffset int64, err error) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if offset < l.LogEndOffset() { // what is appended from here on is in no frame
		if err := l.leave(); err != nil {
			return l.LogEndOffset(), err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writable(); err != nil {
		return l.end, err
	}
	if offset < l.start {
		return l.end, fmt.Errorf("truncate log %s: %w", l.tp, &RangeError{Offset: offset, LogStartOffset: l.start, End: l.end})
	}
	if offset >= l.end {
		if l.epochs.truncateEnd(offset) {
			l.told.epochs = false
			l.publish()
		}
		return l.end, nil
	}
	if offset < l.checkpointed {
		return l.end, fmt.Errorf("truncate log %s to offset %d: %w, %d", l.tp, offset, ErrBelowHighWatermark, l.checkpointed)
	}
	i, pos, newEnd, err := l.findCut(offset)
	if err != nil {
		return l.end, fmt.Errorf("truncate log %s to offset %d: %w", l.tp, offset, err)
	}
	if err := l.cutAt(i, pos, newEnd, min(offset, newEnd+1), l.removeFrom); err != nil {
		if l.notBegun(err) {
			return l.end, fmt.Errorf("truncate log %s to offset %d: %w", l.tp, offset, err)
		}
		return l.end, l.fail(ErrLogFailed, fmt.Errorf("truncate to offset %d: %w", offset, err))
	}
	return l.end, nil
}

// findCut finds the segment and the position of the first batch that holds an offset >= offset, and where the log ends
// before it. The batches on both sides are checked whole: a flipped bit in a header must not move the cut. The error is a
// *CorruptError then.
func (l *Log) findCut(offset int64) (i int, pos, newEnd int64, err error) {
	i = segmentOf(l.segs, offset)
	s := l.segs[i]
	f, err := s.open(l.fs)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, f.release()) }()
	w := newWalker(f, 0, l.segmentEnd(i), false)
	before := int64(0)
	for newEnd = s.base; ; {
		at := w.pos
		h, ok, err := w.next()
		if err == nil && (!ok || h.LastOffset() >= offset || h.NextOffset() <= newEnd) {
			return i, at, newEnd, l.checkCut(s, f, before, w.pos)
		}
		if errors.Is(err, errBadBatch) {
			return 0, 0, 0, &CorruptError{File: s.logName(), Position: at, Offset: newEnd, Reason: err.Error()}
		}
		if err != nil {
			return 0, 0, 0, err
		}
		before, newEnd = at, h.NextOffset()
	}
}

// checkCut checks the batches of a segment in [from, to) whole, and that they follow each other.
func (*Log) checkCut(s *segment, f fsys.File, from, to int64) error {
	w := newWalker(f, from, to, true)
	for next := int64(-1); ; {
		at := w.pos
		h, ok, err := w.next()
		if err == nil && ok && next >= 0 && h.BaseOffset < next {
			err = fmt.Errorf("%w: base offset %d after offset %d", errBadBatch, h.BaseOffset, next-1)
		}
		if errors.Is(err, errBadBatch) {
			return &CorruptError{File: s.logName(), Position: at, Offset: s.base, Reason: err.Error()}
		}
		if err != nil || !ok {
			return err
		}
		next = h.NextOffset()
	}
}

// endBefore is where the batches of segment i end that lie before a position.
func (l *Log) endBefore(i int, pos int64) (end int64, err error) {
	f, err := l.segs[i].open(l.fs)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.release()) }()
	w := newWalker(f, 0, pos, false)
	for end = l.segs[i].base; ; {
		h, ok, err := w.next()
		if err != nil || !ok {
			return end, err
		}
		end = h.NextOffset()
	}
}

func (l *Log) segmentEnd(i int) int64 {
	if i == len(l.segs)-1 {
		return l.pos
	}
	return l.segs[i].size
}

// cutAt ends the log at newEnd, which lies at position pos of segment i. The journal learns of the lower positions before anything is
// written there: that must not be taken for synced. It forgets the epochs and rows of batches once these are gone: a kill in between
// leaves nothing that it does not know. It learns of the positions first of all, but where damage goes: a batch that is wrong only
// outside its CRC is told from others by lying below the recovery point, and must not lie above it after a crash.
// discard removes the segments behind i (and may replace i's file).
// The caller holds syncMu and mu.
func (l *Log) cutAt(i int, pos, newEnd, epochsFrom int64, discard func(i int, pos, newEnd int64) error) error {
	if err := l.left(); err != nil {
		return &notBegunError{err}
	}
	epochs := epochCache{starts: slices.Clone(l.epochs.starts)}
	epochs.truncateEnd(epochsFrom)
	state := l.journalState()
	state.recoveryPoint = min(state.recoveryPoint, newEnd)
	state.highWatermark = min(state.highWatermark, newEnd)
	state.logStart = min(state.logStart, newEnd)
	l.cuts.Add(1)
	if l.damage == nil { // of the epochs and rows that go it still says all: recovery may find any of their batches
		if err := l.dir.journal.commit(logUpdate{tp: l.tp, state: state}); err != nil {
			return &notBegunError{err}
		}
	}
	l.generation.Add(1)
	defer l.generation.Add(1)
	if err := l.dirtyFrom(newEnd); err != nil {
		return err
	}
	if err := l.removeSnapshots(func(at int64) bool { return at > newEnd }); err != nil {
		return err
	}
	if err := discard(i, pos, newEnd); err != nil {
		return err
	}
	state.epochs = epochs.starts
	without := logUpdate{tp: l.tp, state: state, tells: true, row: headRow{from: newEnd, to: newEnd}}
	if l.damage != nil {
		if err := l.dir.journal.commit(without); err != nil {
			return err
		}
	}
	if err := l.reopenActive(i, pos); err != nil {
		return err
	}
	told := l.dir.journal.commit(without)
	if told != nil && (!errors.Is(told, fsys.ErrNoSpace) || errors.Is(told, ErrJournalFailed)) {
		return told
	}
	if l.told.epochs = told == nil; l.told.epochs { // without room for it the next append says it
		l.told.rows = newEnd
	}
	l.end, l.start = newEnd, state.logStart
	l.epochs = epochs
	l.checkpointed = state.highWatermark
	producers, err := l.restoreProducers()
	if err != nil {
		return err
	}
	l.producers = producers
	l.damage, l.damages = nil, nil
	if err := l.forgetMarks(); err != nil {
		return err
	}
	l.durable.Store(min(l.durable.Load(), newEnd))
	l.filed.Store(min(l.filed.Load(), newEnd))
	l.durablePos = 0 // where it is not known better
	if l.durable.Load() == newEnd {
		l.durablePos = pos
	}
	l.publish()
	l.dir.files.keep(l.active(), l)
	return nil
}

// notBegunError is a failure of the journal before anything of the log was touched.
type notBegunError struct{ cause error }

func (e *notBegunError) Error() string { return e.cause.Error() }

func (e *notBegunError) Unwrap() error { return e.cause }

// notBegun says that an operation has changed nothing because the disk is full: the log goes on as it was.
func (l *Log) notBegun(err error) bool {
	var early *notBegunError
	return errors.As(err, &early) && errors.Is(err, fsys.ErrNoSpace) && !errors.Is(err, ErrJournalFailed)
}

// removeFrom removes the segments behind i, last first, durably.
func (l *Log) removeFrom(i int, _, _ int64) error {
	for _, s := range slices.Backward(l.segs[i+1:]) {
		if err := s.remove(l.fs); err != nil {
			return err
		}
	}
	return l.fs.SyncDir(l.path)
}

// reopenActive makes segment i, cut to pos, the active one, and rebuilds the writer's state and the indexes from its
// batches. The segment gets a new struct: readers may still hold the old one.
func (l *Log) reopenActive(i int, pos int64) error {
	old := l.segs[i]
	s := newSegment(l.path, old.base)
	f, err := l.fs.Open(s.logName())
	if err != nil {
		return err
	}
	s.file.Store(shareFile(f))
	s.files = l.dir.files
	l.unsynced = slices.DeleteFunc(slices.Clone(l.unsynced), func(u *segment) bool { return u.base >= s.base })
	l.segs = append(slices.Clone(l.segs[:i]), s)
	if err := old.letGo(); err != nil {
		return err
	}
	if err := removeIfExists(l.fs, s.digestName()); err != nil {
		return err
	}
	if err := f.Truncate(pos); err != nil {
		return err
	}
	if err := f.SyncData(); err != nil {
		return fmt.Errorf("%w: %w", ErrSyncFailed, err)
	}
	if err := l.rebuildActive(f, pos); err != nil {
		return err
	}
	l.preallocated = pos
	return nil
}

// rebuildActive walks the active segment up to pos and sets the writer's state, indexes included.
func (l *Log) rebuildActive(f fsys.File, pos int64) error {
	x := newSegmentIndex(l.active())
	if err := x.removeFiles(l.fs); err != nil {
		return err
	}
	if err := x.walk(l.fs, f, pos, l.cfg.IndexIntervalBytes); err != nil {
		return err
	}
	l.index, l.pos, l.own = x, pos, min(l.own, pos)
	return nil
}

// restoreProducers rebuilds the producer state as of l.end from the snapshots and segments.
func (l *Log) restoreProducers() (*producerState, error) {
	snapshots, err := l.listSnapshots()
	if err != nil {
		return nil, err
	}
	return l.producersAt(slices.Concat(l.trimmed, l.segs), snapshots, l.end)
}

// listSnapshots returns the offsets of the producer snapshots, sorted.
func (l *Log) listSnapshots() ([]int64, error) {
	infos, err := l.fs.List(l.path)
	if err != nil {
		return nil, err
	}
	var offsets []int64
	for _, info := range infos {
		if at, ok := parseFileName(info.Name, producersSuffix); ok {
			offsets = append(offsets, at)
		}
	}
	slices.Sort(offsets)
	return offsets, nil
}

// removeSnapshots removes the producer snapshots that which selects.
func (l *Log) removeSnapshots(which func(offset int64) bool) error {
	offsets, err := l.listSnapshots()
	if err != nil {
		return err
	}
	for _, at := range offsets {
		if which(at) {
			if err := removeIfExists(l.fs, l.snapshotName(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepCorrupt sets the segments from i on aside; the intact beginning of segment i, which was copied before, takes its place.
func (l *Log) keepCorrupt(i int, _, newEnd int64) error {
	for _, s := range slices.Backward(l.segs[i+1:]) {
		if err := l.putAside(s); err != nil {
			return err
		}
		if err := s.letGo(); err != nil {
			return err
		}
		for _, name := range []string{s.indexName(), s.timeIndexName(), s.digestName()} {
			if err := removeIfExists(l.fs, name); err != nil {
				return err
			}
		}
	}
	s := l.segs[i]
	kept := s.logName() + keptSuffix
	if newEnd < s.base { // the segments before are missing
		if err := removeIfExists(l.fs, kept); err != nil {
			return err
		}
		return l.beginBefore(s, newEnd)
	}
	if err := l.fs.SyncDir(l.path); err != nil { // from here on recovery finds it where a power loss leaves no other
		return err
	}
	if err := l.putAside(s); err != nil {
		return err
	}
	if err := l.fs.Rename(kept, s.logName()); err != nil {
		return err
	}
	return l.fs.SyncDir(l.path)
}

// beginBefore sets the log's first segment aside, too, and makes an empty one at start, which lies before it.
func (l *Log) beginBefore(first *segment, start int64) error {
	if err := l.putAside(first); err != nil {
		return err
	}
	if err := errors.Join(first.letGo(), first.remove(l.fs)); err != nil { // what describes it
		return err
	}
	s := newSegment(l.path, start)
	if err := l.createSegmentFile(s); err != nil {
		return err
	}
	l.segs = []*segment{s}
	return l.fs.SyncDir(l.path)
}

// keptSuffix is that of the intact beginning of a damaged segment, until it has its name: recovery gives it that where the segment
// was set aside, and removes it where not.
const keptSuffix = ".kept"

// putAsideMax bounds how many damaged files of one segment are kept: an operator looks long before.
const putAsideMax = 100

// putAside renames the file of a segment to a name that is free: one that was put aside before may hold the last copy of
// something.
func (l *Log) putAside(s *segment) error {
	name := s.logName() + corruptSuffix
	for n := 1; n <= putAsideMax; n++ {
		_, err := l.fs.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return l.fs.Rename(s.logName(), name)
		}
		if err != nil {
			return err
		}
		name = fmt.Sprintf("%s.%d%s", s.logName(), n, corruptSuffix)
	}
	return fmt.Errorf("%s was put aside %d times: look at the disk, then remove what is not needed of %s.*%s",
		s.logName(), putAsideMax, s.logName(), corruptSuffix)
}

// copyPrefix writes the first n bytes of a segment to a new synced file.
func (l *Log) copyPrefix(s *segment, n int64, name string) (err error) {
	if n == 0 { // nothing to read of what may be unreadable
		return writeHint(l.fs, name, nil)
	}
	from, err := s.open(l.fs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.release()) }()
	if err := removeIfExists(l.fs, name); err != nil {
		return err
	}
	to, err := l.fs.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	buf := make([]byte, min(n, crcChunk))
	for at := int64(0); at < n; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), n-at)]
		if got, err := readFull(from, buf, at); err != nil || got < len(buf) {
			return errors.Join(fmt.Errorf("copy %s: %d bytes at %d of %d", s.logName(), got, at, n), err)
		}
		if _, err := to.Append(buf); err != nil {
			return err
		}
	}
	return to.SyncData()
}
