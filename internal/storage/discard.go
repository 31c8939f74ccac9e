package storage

import (
	"errors"
	"fmt"
)

// errDamageMoved says that the damage of a log is another one than when its discarding was prepared.
var errDamageMoved = errors.New("the damage changed meanwhile")

// PendingDiscard is damage that is about to be given up: the intact beginning of the damaged segment is copied, and nothing of the
// log has changed. It is ended by Commit or Abort; until then no other is prepared.
type PendingDiscard struct {
	l        *Log
	segment  *segment
	position int64 // bytes of the segment that are kept
	damaged  int64 // the first damaged offset
	ended    bool
}

// PrepareDiscard does the long part of giving up everything from Damage().From on: it copies what is intact of the damaged
// segment, to a synced file, beside whatever else is done with the log. It returns nil without damage. An error leaves the log as it is.
func (l *Log) PrepareDiscard() (*PendingDiscard, error) {
	l.discardMu.Lock()
	d, err := l.planDiscard()
	if d == nil {
		l.discardMu.Unlock()
		return nil, err
	}
	if err := l.copyPrefix(d.segment, d.position, d.segment.logName()+keptSuffix); err != nil {
		d.Abort()
		return nil, fmt.Errorf("log %s: discard from offset %d: %w", l.tp, d.damaged, err)
	}
	return d, nil
}

// planDiscard says what is to be kept; nil without damage. The caller holds discardMu.
func (l *Log) planDiscard() (*PendingDiscard, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil || l.damage == nil {
		return nil, err
	}
	i, from := segmentOf(l.segs, l.damage.From), l.damage.From
	for i > 0 && l.segs[i].base == from && l.segs[i].logName() != l.damage.File {
		i-- // the damage is a missing tail of the segment before
	}
	return &PendingDiscard{l: l, segment: l.segs[i], position: l.damage.Position, damaged: from}, nil
}

// Abort leaves the log as it is. It may be called after Commit, and does nothing then.
func (d *PendingDiscard) Abort() {
	if d == nil || d.ended {
		return
	}
	d.ended = true
	_ = removeIfExists(d.l.fs, d.segment.logName()+keptSuffix) //nolint:errcheck // the next opening removes it
	d.l.discardMu.Unlock()
}

// Commit ends the log before the damage and returns the new LogEndOffset: the damaged file and all later segments are kept aside
// under names that end in .corrupt, and the intact beginning stays. It is durable when it returns. An error leaves the log as it
// is, unless it wraps ErrLogFailed. Where the damage begins in the batch that holds the LogStartOffset, that goes down with it.
func (d *PendingDiscard) Commit() (logEndOffset int64, err error) {
	defer d.Abort()
	l := d.l
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if err := l.leave(); err != nil {
		return l.LogEndOffset(), err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return l.end, err
	}
	i := segmentOf(l.segs, d.segment.base)
	if l.segs[i] != d.segment || l.damage == nil || l.damage.From != d.damaged || l.damage.Position != d.position {
		return l.end, fmt.Errorf("log %s: discard from offset %d: %w", l.tp, d.damaged, errDamageMoved)
	}
	// Offsets before the damage that compaction has left out are given up too, and so is the LogStartOffset within a damaged batch:
	// what lies in a file ends where its last batch does.
	from := d.damaged
	if end, err := l.endBefore(i, d.position); err == nil {
		from = min(end, from)
	}
	if err := l.cutAt(i, d.position, from, min(d.damaged, from+1), l.keepCorrupt); err != nil {
		if l.notBegun(err) {
			return l.end, fmt.Errorf("log %s: discard from offset %d: %w", l.tp, from, err)
		}
		d.ended = true // the copy may be all that is left of the intact beginning: the next opening gives it its name
		l.discardMu.Unlock()
		return l.end, l.fail(ErrLogFailed, fmt.Errorf("discard from offset %d: %w", from, err))
	}
	d.ended = true // the copy has taken the segment's place
	l.discardMu.Unlock()
	return l.end, nil
}

// DiscardDamage is PrepareDiscard and Commit in one; without damage it changes nothing.
func (l *Log) DiscardDamage() (logEndOffset int64, err error) {
	d, err := l.PrepareDiscard()
	if d == nil {
		return l.LogEndOffset(), err
	}
	return d.Commit()
}
