package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
)

// ProducerSnapshot returns the state of the idempotent producers as of offset, for Reset on a new replica that begins
// there. offset lies in [LogStartOffset, LogEndOffset]; within a batch that batch is not counted.
func (l *Log) ProducerSnapshot(offset int64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	if offset < l.start || offset > l.end {
		return nil, fmt.Errorf("log %s: %w", l.tp, &RangeError{Offset: offset, LogStartOffset: l.start, End: l.end})
	}
	info := snapshotInfo{offset: offset, segmentBase: offset, maxTimestamp: noTimestamp}
	if offset == l.end {
		return l.producers.encode(info), nil
	}
	snapshots, err := l.listSnapshots()
	if err != nil {
		return nil, err
	}
	state, err := l.producersAt(slices.Concat(l.trimmed, l.segs), snapshots, offset)
	if err != nil {
		return nil, err
	}
	return state.encode(info), nil
}

// Trim raises the LogStartOffset to start, at most the LogEndOffset (and, for the caller to see to, at most the
// HighWatermark: in fsync mode that is durable here); lower values change nothing. Records below are
// unreadable at once; it is durable after the next Dir.Checkpoint, which also removes the segments that lie wholly below.
func (l *Log) Trim(start int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if start > l.end {
		return fmt.Errorf("trim log %s: %w", l.tp, &RangeError{Offset: start, LogStartOffset: l.start, End: l.end})
	}
	if start <= l.start {
		return nil
	}
	n := 0
	for n < len(l.segs)-1 && l.segs[n].next <= start {
		n++
	}
	l.trimmed = append(l.trimmed, l.segs[:n]...)
	l.segs = slices.Clone(l.segs[n:])
	l.start = start
	l.epochs.truncateStart(start)
	l.publish()
	return nil
}

// removeTrimmed removes the files of segments that lie below the LogStartOffset in the journal, oldest first. The
// producer state they stood for is made durable as a snapshot before.
func (l *Log) removeTrimmed() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.trimmed) == 0 || l.usable() != nil {
		return nil
	}
	// What an append has told the journal may not be durable yet.
	if err := l.dir.journal.commit(); err != nil {
		return fmt.Errorf("trim log %s: %w", l.tp, err)
	}
	saved, ok := l.dir.journal.state(l.tp)
	n := 0
	for n < len(l.trimmed) && ok && l.trimmed[n].next <= saved.logStart {
		n++
	}
	if n == 0 {
		return nil
	}
	first := l.trimmed[n-1].next
	if err := l.keepSnapshot(first); errors.Is(err, fsys.ErrSyncFailed) {
		return l.fail(ErrSyncFailed, err)
	} else if err != nil {
		return fmt.Errorf("trim log %s: %w", l.tp, err)
	}
	for len(l.trimmed) > 0 && l.trimmed[0].next <= first {
		s := l.trimmed[0]
		if err := s.remove(l.fs); err != nil {
			return fmt.Errorf("trim log %s: %w", l.tp, err)
		}
		l.unsynced = slices.DeleteFunc(slices.Clone(l.unsynced), func(u *segment) bool { return u == s })
		l.trimmed = l.trimmed[1:]
	}
	if err := l.removeSnapshots(func(at int64) bool { return at < first }); err != nil {
		return fmt.Errorf("trim log %s: %w", l.tp, err)
	}
	return nil
}

// keepSnapshot writes a producer snapshot of offset (a segment's base) durably: the segments before it are about to go,
// and with them what it could be rebuilt from.
func (l *Log) keepSnapshot(offset int64) error {
	state, info, err := l.loadSnapshot(offset)
	if err != nil {
		if err := ignoreBadHint(err); err != nil {
			return err
		}
		snapshots, err := l.listSnapshots()
		if err != nil {
			return err
		}
		state, err = l.producersAt(slices.Concat(l.trimmed, l.segs), snapshots, offset)
		if err != nil && !isMediumError(err) {
			return err
		}
		if err != nil { // what goes needs not be readable any more: an open log remembers it
			l.producers.copyBelow(offset, state)
		}
		info = snapshotInfo{offset: offset, segmentBase: offset, maxTimestamp: noTimestamp}
	}
	return l.dir.space.within(func() error { return writeFileAtomic(l.fs, l.snapshotName(offset), state.encode(info)) })
}
