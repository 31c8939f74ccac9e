package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
)

// Reset empties the log and lets it begin at start: a follower whose position lies below its leader's LogStartOffset.
// producers is the leader's ProducerSnapshot at start, nil when there is none. It is durable when it returns. Damage is
// discarded with the rest. A failure leaves the log failed, but for ErrBadSnapshot, which changes nothing.
func (l *Log) Reset(start int64, producers []byte) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if err := l.leave(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if start < 0 {
		return fmt.Errorf("reset log %s: %w: %d", l.tp, ErrOffsetOutOfRange, start)
	}
	state := newProducerState()
	if producers != nil {
		p, info, err := decodeProducers(producers)
		if err == nil && info.offset != start {
			err = fmt.Errorf("%w: it is of offset %d", ErrBadSnapshot, info.offset)
		}
		if err != nil {
			return fmt.Errorf("reset log %s to offset %d: %w", l.tp, start, err)
		}
		state = p
	}
	if err := l.reset(start, state); err != nil {
		if l.notBegun(err) {
			return fmt.Errorf("reset log %s to offset %d: %w", l.tp, start, err)
		}
		return l.fail(ErrLogFailed, fmt.Errorf("reset to offset %d: %w", start, err))
	}
	return nil
}

// reset does the work of Reset. The journal learns of the new start first: an interrupted reset is finished by recovery
// when everything lies below the new start, and is otherwise seen as a log that lost nothing it still claims.
func (l *Log) reset(start int64, state *producerState) error {
	if err := l.left(); err != nil {
		return &notBegunError{err}
	}
	saved := logState{recoveryPoint: start, highWatermark: min(l.checkpointed, start), logStart: start}
	if start < l.end { // going back: nothing of what is there may be believed any more
		saved.recoveryPoint = 0
	}
	l.cuts.Add(1)
	if err := l.dir.journal.commit(logUpdate{tp: l.tp, state: saved, doubtful: true}); err != nil {
		return &notBegunError{err}
	}
	l.generation.Add(1)
	defer l.generation.Add(1)
	if err := l.dirtyFrom(-1); err != nil {
		return err
	}
	if err := l.removeSnapshots(func(int64) bool { return true }); err != nil {
		return err
	}
	for _, s := range slices.Backward(slices.Concat(l.trimmed, l.segs)) {
		if err := s.remove(l.fs); err != nil {
			return err
		}
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	info := snapshotInfo{offset: start, segmentBase: start, maxTimestamp: noTimestamp}
	if err := writeFileAtomic(l.fs, l.snapshotName(start), state.encode(info)); err != nil {
		return err
	}
	s := newSegment(l.path, start)
	if err := l.createSegmentFile(s); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	saved.recoveryPoint = start
	told := l.dir.journal.commit(logUpdate{tp: l.tp, state: saved})
	if told != nil && (!errors.Is(told, fsys.ErrNoSpace) || errors.Is(told, ErrJournalFailed)) {
		return told
	}
	l.segs, l.trimmed, l.unsynced = []*segment{s}, nil, nil
	l.beginActive(s)
	l.start, l.end, l.checkpointed = start, start, saved.highWatermark
	l.epochs, l.producers, l.damage, l.damages, l.dirtyDir = epochCache{}, state, nil, nil, false
	l.told.epochs, l.told.rows = told == nil, start // without room for it the next append says it
	if err := l.forgetMarks(); err != nil {
		return err
	}
	l.durable.Store(start)
	l.filed.Store(start)
	l.publish()
	l.dir.files.keep(s, l)
	return nil
}
