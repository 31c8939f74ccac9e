package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// resume begins the walk of segment first, the one that holds the recovery point, where a producer snapshot was taken: by a
// clean close at the recovery point itself, else at the last checkpoint below it that wrote one. The index files cover
// what lies before.
func (r *recovery) resume(first int) (bool, error) {
	l := r.log
	s := l.segs[first]
	if !r.report.Known {
		return false, nil
	}
	stat, err := l.fs.Stat(s.logName())
	if err != nil {
		return false, ignoreBadHint(err)
	}
	for _, at := range slices.Backward(r.snapshots) {
		if at > r.saved.recoveryPoint || at < l.start || (at <= s.base && at != r.saved.recoveryPoint) {
			continue
		}
		producers, info, err := l.loadSnapshot(at)
		if err != nil || info.segmentBase != s.base || stat.Size < info.position {
			if err := ignoreBadHint(err); err != nil {
				return false, err
			}
			continue
		}
		if at < r.saved.recoveryPoint && !r.continues(s, at, info.position, stat.Size) {
			continue
		}
		offsets := l.soundIndex(s)
		times, err := l.loadIndex(s.timeIndexName(), indexKindTime)
		if err != nil {
			return false, ignoreBadHint(err)
		}
		r.entries = offsets
		return true, r.restart(s, producers, info, offsets, times)
	}
	return false, nil
}

// continues says whether a batch begins at a position that follows offset at.
func (r *recovery) continues(s *segment, at, position, size int64) bool {
	f, err := s.open(r.log.fs)
	if err != nil {
		return false
	}
	defer func() { _ = f.release() }() //nolint:errcheck // read only
	var head [record.HeaderSize]byte
	if n, err := readFull(f, head[:], position); err != nil || n < len(head) {
		return false
	}
	h, err := record.ParseHeader(head[:])
	return err == nil && h.BaseOffset >= at && int64(h.Size()) <= size-position
}

// restart sets the writer's state to what a snapshot says.
func (r *recovery) restart(s *segment, producers *producerState, info snapshotInfo, offsets, times []indexEntry) error {
	l := r.log
	offsets, times = below(offsets, info.offset, info.position), below(times, info.maxTimestamp+1, info.offset)
	l.beginActive(s)
	if err := l.index.offsets.restore(l.fs, offsets); err != nil {
		return err
	}
	if err := l.index.times.restore(l.fs, times); err != nil {
		return err
	}
	l.producers, l.pos, l.end, l.snapshotPos = producers, info.position, info.offset, info.position
	x := &l.index
	x.maxTs, x.since, x.partial = info.maxTimestamp, info.position, info.position > 0
	if n := len(offsets); n > 0 {
		x.since = info.position - offsets[n-1].value
	}
	if n := len(times); n > 0 {
		x.lastTimeKey, x.maxTsOffset = times[n-1].key, times[n-1].value
	}
	if x.maxTs > x.lastTimeKey {
		x.maxTsOffset = s.base // not known: searching from the segment's start is right, if slow
	}
	return nil
}

// soundIndex returns the entries of a segment's offset index up to the first doubt.
func (l *Log) soundIndex(s *segment) []indexEntry {
	entries, _ := l.loadIndex(s.indexName(), indexKindOffset) //nolint:errcheck // a hint
	return entries
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
	if errors.Is(err, ErrBadSnapshot) || errors.Is(err, errIndexDoubt) || fsys.IsNotExist(err) || isMediumError(err) {
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
// behind it. A segment whose headers cannot be read is damaged: what its producers have written is not known.
func (r *recovery) producersUpTo(i int) error {
	l := r.log
	p, err := l.producersAt(l.segs, r.snapshots, l.segs[i].base)
	var unreadable *unreadableError
	if errors.As(err, &unreadable) {
		s := unreadable.segment
		r.medium = true
		if from := max(unreadable.offset, l.start); from < s.next {
			l.noteDamage(Damage{From: from, To: s.next, File: s.logName(), Position: unreadable.position, Reason: unreadable.Error()})
		}
		return nil
	}
	if err != nil {
		return err
	}
	l.producers = p
	return nil
}

// sealedProducers is the state of the producers where the scanned segment s ends, which is the log's end: by the snapshot of that very
// place where there is one, for it knows the batches that a cleaning has taken out of the segment; else by the batches.
func (r *recovery) sealedProducers(s *segment) *producerState {
	l := r.log
	if !slices.Contains(r.snapshots, l.end) {
		return l.producers
	}
	p, info, err := l.loadSnapshot(l.end)
	if err != nil || (info.segmentBase != l.end && (info.segmentBase != s.base || info.position != l.pos)) {
		return l.producers
	}
	return p
}

// unreadableError is a place of a segment that the medium does not give back.
type unreadableError struct {
	segment          *segment
	offset, position int64
	cause            error
}

func (e *unreadableError) Error() string {
	return fmt.Sprintf("position %d %v: %v", e.position, errUnreadable, e.cause)
}

func (e *unreadableError) Unwrap() error { return e.cause }

// producersAt rebuilds the producer state as of offset, a batch boundary below or at the end of segs. Headers that the medium does
// not give back are an *unreadableError.
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
			return state, err
		}
	}
	return state, nil
}

// replayProducers applies the batches of a segment in [from, to) to state.
func (l *Log) replayProducers(s *segment, state *producerState, from, to int64) (err error) {
	next, w := s.base, new(walker)
	defer func() {
		if isMediumError(err) {
			err = &unreadableError{segment: s, offset: next, position: w.pos, cause: err}
		}
	}()
	f, err := s.open(l.fs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.release()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	w = newWalker(f, 0, size, false)
	for {
		h, ok, err := w.next()
		if errors.Is(err, errBadBatch) {
			return nil // preallocated zeros, or damage that is reported elsewhere
		}
		if err != nil || !ok || h.NextOffset() > to {
			return err
		}
		next = h.NextOffset()
		if h.NextOffset() > from {
			state.apply(h, h.MaxTimestamp)
		}
	}
}
