package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/internal/model"
)

// recovery opens one log: it trusts what lies below the recovery point, checks every batch from there on, ends the log
// before the first bad one, and syncs what it kept.
type recovery struct {
	log       *Log
	saved     logState
	point     int64 // what ends below has lost something
	report    RecoveryReport
	bases     []int64
	snapshots []int64
	digests   []int64      // bases of the segments that have one
	scanned   []EpochStart // epoch starts found in scanned segments
	ends      []int64      // where the last batch of each of them ends
	asFound   bool         // no log of this process has written to it
	touched   bool         // files were created, cut or removed
	medium    bool         // something could not be read
	unsure    bool         // more may have been durable than the journal knows
	places    []mark       // damage that was found while the log was open, and is on file
	at        int          // the segment being scanned
	entries   []indexEntry // what the offset index of the segment being scanned knew
	heads     headCheck
	behind    int64 // base of the segment behind the one being scanned
}

// openLog opens the log in its directory, which exists; an empty directory gets an empty first segment.
func openLog(d *Dir, tp model.TopicPartition, cfg Config) (*Log, RecoveryReport, error) {
	l := &Log{dir: d, fs: d.fs, tp: tp, path: d.logDir(tp), cfg: cfg.withDefaults(), producers: newProducerState()}
	r := &recovery{log: l, asFound: d.touch(tp)}
	r.saved, r.report.Known = d.journal.state(tp)
	r.unsure = d.isUnsure(tp)
	r.report.Unsure = r.unsure
	r.report.SyncFailed, r.report.LostBefore = d.isSuspect(tp), d.journal.isLost(tp)
	r.point = r.saved.point()
	r.report.RecoveryPoint, r.report.HighWatermark = r.point, r.saved.highWatermark
	if err := r.run(); err != nil {
		for _, s := range l.segs {
			err = errors.Join(err, s.letGo())
		}
		return nil, RecoveryReport{}, fmt.Errorf("open log %s in %s: %w", tp, l.path, err)
	}
	for _, s := range l.segs {
		s.files = d.files
	}
	d.files.keep(l.active(), l)
	return l, r.report, nil
}

func (r *recovery) run() error {
	l := r.log
	if err := r.list(); err != nil {
		return err
	}
	for _, base := range r.bases {
		l.segs = append(l.segs, newSegment(l.path, base))
	}
	if err := r.dropTrimmed(); err != nil {
		return err
	}
	if r.headMissing() {
		if err := r.dropHeadless(); err != nil {
			return err
		}
	}
	if len(l.segs) > 0 {
		l.start = max(r.saved.logStart, l.segs[0].base)
		r.heads = headCheck{state: r.saved, start: l.start, firstDirty: readCleanedBelow(l.fs, l.path)}
		if err := r.scan(); err != nil {
			return err
		}
		r.missHead()
	}
	reset := r.resetInterrupted()
	if reset { // where it was none the loss is told
		if err := r.confess(); err != nil {
			return err
		}
		r.report.Cut, r.report.CutFile = CutMore, l.damage.File
	}
	if len(l.segs) == 0 || l.end < r.saved.logStart || reset {
		if err := r.beginAnew(r.saved.logStart); err != nil {
			return err
		}
	}
	l.told.rows = r.saved.endOfRow()
	l.epochs.starts = mergeEpochs(believable(r.saved.epochs, r.scanned, r.ends), r.scanned, l.end)
	l.told.epochs = r.saved.whole && slices.Equal(l.epochs.starts, r.saved.epochs)
	if err := r.remember(); err != nil {
		return err
	}
	return r.finish()
}

// headMissing says whether the first segment is gone though nothing was ever synced: a power loss took its name and left later
// ones. The log ends where it began, whatever follows. Without a whole journal the first segment found is the beginning.
func (r *recovery) headMissing() bool {
	l := r.log
	return len(l.segs) > 0 && l.segs[0].base > r.saved.logStart && r.point <= r.saved.logStart &&
		!r.unsure
}

// missHead notes as damage that the log begins behind its LogStartOffset. Segments are removed only once a higher one is durable.
func (r *recovery) missHead() {
	l := r.log
	first := l.segs[0]
	if !r.report.Known || r.unsure || first.base <= r.saved.logStart {
		return
	}
	l.start = r.saved.logStart
	l.noteDamage(Damage{
		From: l.start, To: first.base, File: path.Join(l.path, fileName(l.start, segmentSuffix)),
		Reason: fmt.Sprintf("it is missing: the first segment that is there begins at offset %d", first.base),
	})
}

// confess makes it durable that the log has lost records, before the repair makes that invisible.
func (r *recovery) confess() error {
	return r.log.dir.journal.commit(logUpdate{tp: r.log.tp, change: logLost})
}

// dropHeadless removes the segments of a log whose first one is missing, and the snapshots that describe them.
func (r *recovery) dropHeadless() error {
	l := r.log
	if err := r.confess(); err != nil {
		return err
	}
	r.report.Cut, r.report.CutFile, r.touched = CutMore, l.segs[0].logName(), true
	for _, s := range slices.Backward(l.segs) {
		if info, err := l.fs.Stat(s.logName()); err == nil {
			r.report.CutBytes += info.Size
		}
		if err := s.remove(l.fs); err != nil {
			return err
		}
		r.report.RemovedSegments++
	}
	l.segs = nil
	if err := l.removeSnapshots(func(at int64) bool { return at > r.saved.logStart }); err != nil {
		return err
	}
	r.snapshots = slices.DeleteFunc(r.snapshots, func(at int64) bool { return at > r.saved.logStart })
	return nil
}

// list reads the directory: segments and snapshots; temporary files go.
func (r *recovery) list() error {
	infos, touched, err := listSettled(r.log.fs, r.log.path)
	if err != nil {
		return err
	}
	r.touched = touched
	for _, info := range infos {
		switch {
		case info.Dir:
		case strings.HasSuffix(info.Name, tempSuffix):
			if err := r.log.fs.Remove(path.Join(r.log.path, info.Name)); err != nil {
				return err
			}
		default:
			if base, ok := parseFileName(info.Name, segmentSuffix); ok {
				r.bases = append(r.bases, base)
			} else if offset, ok := parseFileName(info.Name, producersSuffix); ok {
				r.snapshots = append(r.snapshots, offset)
			} else if base, ok := parseFileName(info.Name, digestSuffix); ok {
				r.digests = append(r.digests, base)
			} else if info.Name == marksName {
				if err := r.loadMarks(); err != nil {
					return err
				}
			}
		}
	}
	slices.Sort(r.bases)
	slices.Sort(r.snapshots)
	return nil
}

// dropTrimmed finishes the removal of segments that lie wholly below the LogStartOffset.
func (r *recovery) dropTrimmed() error {
	l := r.log
	n := 0
	for n < len(l.segs)-1 && l.segs[n+1].base <= r.saved.logStart {
		n++
	}
	if n == 0 {
		return nil
	}
	if err := l.dir.journal.commit(); err != nil { // this process may have closed the log: the LogStartOffset is durable first
		return err
	}
	l.trimmed, l.segs = l.segs[:n:n], l.segs[n:]
	if err := l.keepSnapshot(l.segs[0].base); err != nil {
		return err
	}
	for _, s := range l.trimmed {
		if err := s.remove(l.fs); err != nil {
			return err
		}
	}
	l.trimmed, r.touched = nil, true
	r.snapshots = append(r.snapshots, l.segs[0].base)
	slices.Sort(r.snapshots)
	r.snapshots = slices.Compact(r.snapshots)
	return nil
}

// resetInterrupted says whether a Reset to a later offset was begun and not finished, and has left bad bytes: below the
// LogStartOffset, of a log without epochs, which holds no records.
func (r *recovery) resetInterrupted() bool {
	l := r.log
	return r.report.Known && len(r.saved.epochs) == 0 && r.saved.recoveryPoint == r.saved.logStart &&
		l.damage != nil && !r.medium && l.end <= r.saved.logStart
}

// beginAnew makes the log empty at start: a new log, or the end of an interrupted Reset, whatever had become of the records below.
func (r *recovery) beginAnew(start int64) error {
	l := r.log
	for _, s := range slices.Backward(l.segs) {
		if err := s.remove(l.fs); err != nil {
			return err
		}
	}
	l.start, l.end, r.scanned, r.ends, l.damage, l.damages = start, start, nil, nil, nil, nil
	s := newSegment(l.path, start)
	if err := l.createSegmentFile(s); err != nil {
		return err
	}
	l.segs = []*segment{s}
	l.beginActive(s)
	// A loss of power must bring nothing of before back beside what is appended now.
	l.dirtyDir, r.touched = true, r.touched || r.report.Known
	p, _, err := l.loadSnapshot(start)
	if err == nil {
		l.producers = p
		return nil
	}
	if err := ignoreBadHint(err); err != nil || len(l.producers.byID) == 0 {
		return err
	}
	// What was found below start is better than nothing, and the same at the next opening.
	info := snapshotInfo{offset: start, segmentBase: start, maxTimestamp: noTimestamp}
	return l.dir.space.within(func() error { return writeFileAtomic(l.fs, l.snapshotName(start), l.producers.encode(info)) })
}

// scan walks the segments that are not wholly below the recovery point, and sets the log's end and writer state.
func (r *recovery) scan() error {
	l := r.log
	first := 0 // the first segment that is not trusted
	for first < len(l.segs)-1 && l.segs[first+1].base <= r.saved.recoveryPoint {
		if l.segs[first+1].base == r.saved.recoveryPoint {
			exact, err := r.endsAt(l.segs[first], r.saved.recoveryPoint)
			if err != nil {
				return err
			}
			if !exact {
				break
			}
		}
		if err := r.trust(l.segs[first], l.segs[first+1].base); err != nil {
			return err
		}
		first++
	}
	l.end = l.segs[first].base
	resumed, err := r.resume(first)
	if err != nil {
		return err
	}
	if !resumed {
		if err := r.producersUpTo(first); err != nil {
			return err
		}
	}
	for i := first; i < len(l.segs); i++ {
		if i > first && l.segs[i].base != l.end {
			kept, err := r.keepsBehind(i - 1)
			if err != nil {
				return err
			}
			if (l.end >= r.point && !kept) || l.segs[i].base < l.end {
				return r.cut(i-1, CutNone)
			}
			r.damaged(l.segs[i-1], l.pos, l.end, l.segs[i].base, fmt.Sprintf("the next segment begins at offset %d", l.segs[i].base))
			l.end = l.segs[i].base
			l.segs[i-1].next = l.end
		}
		done, err := r.scanSegment(i, resumed)
		if err != nil || done {
			return err
		}
		resumed = false
	}
	return nil
}

// endsAt says whether a segment is known to end at offset. A segment that begins right at the recovery point may be the
// leftover of a failed roll, after which the segment before went on.
func (r *recovery) endsAt(s *segment, offset int64) (bool, error) {
	_, info, err := r.log.loadSnapshot(offset)
	if err != nil || info.segmentBase != s.base {
		return false, ignoreBadHint(err)
	}
	stat, err := r.log.fs.Stat(s.logName())
	return err == nil && stat.Size == info.position, err
}

// trust takes a sealed segment over unread.
func (r *recovery) trust(s *segment, next int64) error {
	info, err := r.log.fs.Stat(s.logName())
	if err != nil && !isMediumError(err) {
		return err
	}
	s.next, s.size = next, info.Size
	switch {
	case err != nil:
		r.medium = true
		r.damaged(s, 0, s.base, next, err.Error())
	case info.Size == 0:
		r.damaged(s, 0, s.base, next, "the file is empty")
	}
	return nil
}

// damaged notes damage of the offsets [from, to), in their order.
func (r *recovery) damaged(s *segment, position, from, to int64, reason string) {
	l := r.log
	l.damages = append(l.damages, Damage{From: from, To: to, File: s.logName(), Position: position, Reason: reason})
	l.damage = &l.damages[0]
}

// finish removes snapshots that describe what is gone (durably: one that a power loss brings back later would describe
// other batches at the same offsets), syncs what was kept, and notes in the journal what became less.
func (r *recovery) finish() error {
	l := r.log
	for _, at := range r.snapshots {
		if (at > l.end && l.damage == nil) || at < min(l.segs[0].base, l.start) {
			if err := removeIfExists(l.fs, l.snapshotName(at)); err != nil {
				return err
			}
			r.touched = true
		}
	}
	if slices.Contains(r.digests, l.active().base) { // of when it was sealed once
		if err := removeIfExists(l.fs, l.active().digestName()); err != nil {
			return err
		}
	}
	l.checkpointed = min(r.saved.highWatermark, l.end)
	if r.report.Cut == CutMore || l.damage != nil || l.end < max(r.point, r.saved.highWatermark) {
		if err := l.dirtyFrom(-1); err != nil { // what is fetched anew was not compacted
			return err
		}
	}
	r.report.LogStartOffset, r.report.LogEndOffset, r.report.Damage = l.start, l.end, l.damage
	synced := l.dir.synced && r.asFound
	unsynced := l.end > max(r.saved.recoveryPoint, l.start) && !synced
	if r.touched || r.report.SyncFailed || unsynced {
		if err := r.sync(); err != nil {
			return err
		}
	} else if !synced && !(l.dir.report.CleanShutdown && r.asFound) {
		l.dirtyDir = true // the process before may have died between making a segment and syncing its name
	}
	// What this process has told the journal of the log before it closed it may not be durable yet.
	if err := l.dir.journal.commit(); err != nil {
		return err
	}
	l.found, l.own = l.pos > 0, l.pos
	l.durable.Store(l.end)
	l.filed.Store(l.end)
	l.durablePos = l.pos
	for _, s := range l.segs[:len(l.segs)-1] {
		if err := s.letGo(); err != nil {
			return err
		}
	}
	l.publish()
	if r.report.LostData() {
		if err := r.confess(); err != nil {
			return err
		}
	}
	if r.unsure && l.damage == nil { // synced before the list of such logs goes
		l.told.rows = l.end
		return l.dir.journal.append(logUpdate{tp: l.tp, state: l.journalState(), tells: true, row: headRow{from: l.end, to: l.end}})
	}
	// What is kept counts as durable from here on: the journal knows all of it, or that it was synced, and nothing of what was cut.
	less := l.end < r.point || l.start > r.saved.logStart || l.end < l.told.rows
	if r.report.Known && l.damage == nil && (less || r.report.Cut == CutMore || r.heads.untold) {
		l.told.rows = l.end
		return l.dir.journal.commit(logUpdate{tp: l.tp, state: l.journalState(), tells: true, row: headRow{from: l.end, to: l.end}})
	}
	return nil
}

// sync makes what was scanned durable. After a failed sync the page cache may show what the disk does not have and
// what no later sync of the same file writes: such files are written anew, but for damaged ones, which are given up as they are.
func (r *recovery) sync() error {
	l := r.log
	for i, s := range l.segs {
		f := s.file.Load()
		if f == nil {
			continue
		}
		damaged := slices.ContainsFunc(l.damages, func(d Damage) bool { return d.File == s.logName() })
		if !r.report.SyncFailed || damaged {
			if err := f.SyncData(); err != nil {
				return err
			}
			continue
		}
		if err := r.rewrite(s, l.segmentEnd(i)); err != nil {
			return err
		}
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return err
	}
	l.dirtyDir = false
	return nil
}

// rewrite replaces a segment's file by a synced copy of its first n bytes.
func (r *recovery) rewrite(s *segment, n int64) error {
	l := r.log
	temp := s.logName() + tempSuffix
	if err := l.copyPrefix(s, n, temp); err != nil {
		return err
	}
	if err := l.fs.Rename(temp, s.logName()); err != nil {
		return err
	}
	f, err := l.fs.Open(s.logName())
	if err != nil {
		return err
	}
	old := s.file.Swap(shareFile(f))
	if s == l.active() {
		l.preallocated = n
	}
	return old.release()
}
