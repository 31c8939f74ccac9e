package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// recovery opens one log: it trusts what lies below the recovery point, checks every batch from there on, ends the log
// before the first bad one, and syncs what it kept.
type recovery struct {
	log       *Log
	saved     logState
	report    RecoveryReport
	bases     []int64
	snapshots []int64
	scanned   []EpochStart // epoch starts found in scanned segments
	touched   bool         // files were created, cut or removed
}

// openLog opens the log in its directory, which exists; an empty directory gets an empty first segment.
func openLog(d *Dir, tp model.TopicPartition, cfg Config) (*Log, RecoveryReport, error) {
	l := &Log{dir: d, fs: d.fs, tp: tp, path: d.logDir(tp), cfg: cfg.withDefaults(), producers: newProducerState()}
	r := &recovery{log: l}
	r.saved, r.report.Known = d.journal.state(tp)
	r.report.SyncFailed = d.isSuspect(tp)
	r.report.RecoveryPoint, r.report.HighWatermark = r.saved.recoveryPoint, r.saved.highWatermark
	if err := r.run(); err != nil {
		for _, s := range l.segs {
			err = errors.Join(err, s.letGo())
		}
		return nil, RecoveryReport{}, fmt.Errorf("open log %s in %s: %w", tp, l.path, err)
	}
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
		if err := r.scan(); err != nil {
			return err
		}
	}
	if len(l.segs) == 0 || l.end < r.saved.logStart {
		if err := r.beginAnew(r.saved.logStart); err != nil {
			return err
		}
	}
	l.epochs.starts = mergeEpochs(r.saved.epochs, r.scanned, l.end)
	return r.finish()
}

// headMissing says whether the first segment is gone though nothing was ever synced: a power loss took its name and left later
// ones. The log ends where it began, whatever follows. Without a whole journal the first segment found is the beginning.
func (r *recovery) headMissing() bool {
	l := r.log
	return len(l.segs) > 0 && l.segs[0].base > r.saved.logStart && r.saved.recoveryPoint <= r.saved.logStart &&
		(r.report.Known || l.dir.report.JournalDamagedBytes == 0)
}

// dropHeadless removes the segments of a log whose first one is missing, and the snapshots that describe them.
func (r *recovery) dropHeadless() error {
	l := r.log
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
	infos, err := r.log.fs.List(r.log.path)
	if err != nil {
		return err
	}
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

// beginAnew makes the log empty at start: a new log, or the end of an interrupted Reset.
func (r *recovery) beginAnew(start int64) error {
	l := r.log
	for _, s := range slices.Backward(l.segs) {
		if err := s.remove(l.fs); err != nil {
			return err
		}
	}
	l.start, l.end, r.scanned, l.damage = start, start, nil, nil
	s := newSegment(l.path, start)
	if err := l.createSegmentFile(s); err != nil {
		return err
	}
	l.segs = []*segment{s}
	l.beginActive(s)
	if p, _, err := l.loadSnapshot(start); err == nil {
		l.producers = p // otherwise what was found below start is better than nothing
	}
	l.dirtyDir = true
	return nil
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
			if l.end >= r.saved.recoveryPoint || l.segs[i].base < l.end {
				return r.cut(i-1, CutNone)
			}
			r.damaged(l.segs[i-1], l.pos, l.end, fmt.Sprintf("the next segment begins at offset %d", l.segs[i].base))
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
	if err != nil {
		return err
	}
	s.next, s.size = next, info.Size
	if info.Size == 0 {
		r.damaged(s, 0, s.base, "the file is empty")
	}
	return nil
}

func (r *recovery) damaged(s *segment, position, from int64, reason string) {
	if r.log.damage == nil {
		r.log.damage = &Damage{From: from, File: s.logName(), Position: position, Reason: reason}
	}
}

// resume continues where a clean close left off: a snapshot at the recovery point says where in the last segment that
// is, and the index files cover what lies before.
func (r *recovery) resume(first int) (bool, error) {
	l := r.log
	s, at := l.segs[first], r.saved.recoveryPoint
	if !r.report.Known || first != len(l.segs)-1 || !slices.Contains(r.snapshots, at) || at < l.start {
		return false, nil
	}
	producers, info, err := l.loadSnapshot(at)
	if err != nil || info.offset != at || info.segmentBase != s.base {
		return false, ignoreBadHint(err)
	}
	stat, err := l.fs.Stat(s.logName())
	if err != nil || stat.Size < info.position {
		return false, err
	}
	offsets, err := l.loadIndex(s.indexName(), indexKindOffset)
	if err != nil {
		return false, ignoreBadHint(err)
	}
	times, err := l.loadIndex(s.timeIndexName(), indexKindTime)
	if err != nil {
		return false, ignoreBadHint(err)
	}
	offsets, times = below(offsets, at, info.position), below(times, info.maxTimestamp+1, at)
	l.beginActive(s)
	if err := l.index.offsets.restore(l.fs, offsets); err != nil {
		return false, err
	}
	if err := l.index.times.restore(l.fs, times); err != nil {
		return false, err
	}
	l.producers, l.pos, l.end = producers, info.position, at
	x := &l.index
	x.maxTs, x.since = info.maxTimestamp, info.position
	if n := len(offsets); n > 0 {
		x.since = info.position - offsets[n-1].value
	}
	if n := len(times); n > 0 {
		x.lastTimeKey, x.maxTsOffset = times[n-1].key, times[n-1].value
	}
	if x.maxTs > x.lastTimeKey {
		x.maxTsOffset = s.base // not known: searching from the segment's start is right, if slow
	}
	return true, nil
}

// below returns the entries whose key and value are both below the given bounds.
func below(entries []indexEntry, key, value int64) []indexEntry {
	n := len(entries)
	for n > 0 && (entries[n-1].key >= key || entries[n-1].value >= value) {
		n--
	}
	return entries[:n]
}

// ignoreBadHint turns what is wrong with a hint into nil and leaves other errors.
func ignoreBadHint(err error) error {
	if errors.Is(err, ErrBadSnapshot) || errors.Is(err, errIndexDoubt) || fsys.IsNotExist(err) {
		return nil
	}
	return err
}

func (l *Log) loadIndex(name string, kind byte) ([]indexEntry, error) {
	data, err := readFile(l.fs, name, maxIndexBytes)
	if fsys.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeIndex(data, kind)
}

func (l *Log) loadSnapshot(offset int64) (*producerState, snapshotInfo, error) {
	data, err := readFile(l.fs, l.snapshotName(offset), maxSnapshotBytes)
	if err != nil {
		return nil, snapshotInfo{}, err
	}
	p, info, err := decodeProducers(data)
	if err == nil && info.offset != offset {
		err = fmt.Errorf("%w: it is of offset %d", ErrBadSnapshot, info.offset)
	}
	return p, info, err
}

// producersUpTo restores the producer state at the base of segment i: from the newest good snapshot, and the headers
// behind it.
func (r *recovery) producersUpTo(i int) error {
	l := r.log
	p, err := l.producersAt(l.segs, r.snapshots, l.segs[i].base)
	if err != nil {
		return err
	}
	l.producers = p
	return nil
}

// producersAt rebuilds the producer state as of offset, a batch boundary below or at the end of segs.
func (l *Log) producersAt(segs []*segment, snapshots []int64, offset int64) (*producerState, error) {
	state, from := newProducerState(), int64(0)
	for _, at := range slices.Backward(snapshots) {
		if at > offset {
			continue
		}
		p, _, err := l.loadSnapshot(at)
		if err == nil {
			state, from = p, at
			break
		}
		if err := ignoreBadHint(err); err != nil {
			return nil, err
		}
	}
	for i := segmentOf(segs, from); i < len(segs) && segs[i].base < offset; i++ {
		if err := l.replayProducers(segs[i], state, from, offset); err != nil {
			return nil, err
		}
	}
	return state, nil
}

// replayProducers applies the batches of a segment in [from, to) to state.
func (l *Log) replayProducers(s *segment, state *producerState, from, to int64) (err error) {
	f, err := s.open(l.fs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.release()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	w := newWalker(f, 0, size, false)
	for {
		h, ok, err := w.next()
		if errors.Is(err, errBadBatch) {
			return nil // preallocated zeros, or damage that is reported elsewhere
		}
		if err != nil || !ok || h.NextOffset() > to {
			return err
		}
		if h.NextOffset() > from {
			state.apply(h, h.MaxTimestamp)
		}
	}
}

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
		} else if model.LeaderEpoch(h.LeaderEpoch) < r.scanned[n-1].Epoch {
			return fmt.Errorf("%w: epoch %d after epoch %d", errBadBatch, h.LeaderEpoch, r.scanned[n-1].Epoch), nil
		}
		l.pos = w.pos
		l.noteBatch(h, h.MaxTimestamp)
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

// finish removes snapshots that describe what is gone, syncs what was kept, and notes in the journal what became less.
func (r *recovery) finish() error {
	l := r.log
	for _, at := range r.snapshots {
		if (at > l.end && l.damage == nil) || at < l.segs[0].base {
			if err := removeIfExists(l.fs, l.snapshotName(at)); err != nil {
				return err
			}
		}
	}
	l.checkpointed = min(r.saved.highWatermark, l.end)
	r.report.LogStartOffset, r.report.LogEndOffset, r.report.Damage = l.start, l.end, l.damage
	if l.damage == nil && (r.touched || r.report.SyncFailed || l.end > max(r.saved.recoveryPoint, l.start)) {
		if err := r.sync(); err != nil {
			return err
		}
	} else if !l.dir.report.CleanShutdown {
		l.dirtyDir = true // the process before may have died between making a segment and syncing its name
	}
	l.durable.Store(l.end)
	for _, s := range l.segs[:len(l.segs)-1] {
		if err := s.letGo(); err != nil {
			return err
		}
	}
	l.publish()
	if r.report.Known && l.damage == nil && (l.end < r.saved.recoveryPoint || l.start > r.saved.logStart) {
		return l.dir.journal.commit(logUpdate{tp: l.tp, state: l.journalState()})
	}
	return nil
}

// sync makes what was scanned durable. After a failed sync the page cache may show what the disk does not have and
// what no later sync of the same file writes: such files are written anew.
func (r *recovery) sync() error {
	l := r.log
	for i, s := range l.segs {
		f := s.file.Load()
		if f == nil {
			continue
		}
		if !r.report.SyncFailed {
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
