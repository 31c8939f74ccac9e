package storage

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// AppendLeader appends one batch as the leader of leaderEpoch. batch is the whole batch in pieces, validated before
// (record.Validate) with header h; its first 16 bytes are replaced by an own head with the base offset and the leader
// epoch. The pieces are neither changed nor kept. nowMs is the time of the append.
//
// A batch that the idempotent producer has appended before is answered with its original's receipt (Duplicate) and
// writes nothing. Errors wrap record.ErrTooLarge, ErrStaleLeaderEpoch, a *SequenceError, ErrCorruptLog, ErrLogFailed,
// ErrSyncFailed, ErrLogClosed or the file system's; nothing of the batch is in the log then.
func (l *Log) AppendLeader(batch [][]byte, h record.Header, leaderEpoch model.LeaderEpoch, nowMs int64) (AppendResult, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writable(); err != nil {
		return AppendResult{}, err
	}
	size := h.Size()
	if size > l.cfg.MaxBatchBytes {
		return AppendResult{}, fmt.Errorf("log %s: %w: %d bytes, the limit is %d; send smaller batches",
			l.tp, record.ErrTooLarge, size, l.cfg.MaxBatchBytes)
	}
	if latest := l.epochs.latest(); leaderEpoch < latest || leaderEpoch < 0 {
		return AppendResult{}, fmt.Errorf("log %s: %w: epoch %d after %d", l.tp, ErrStaleLeaderEpoch, leaderEpoch, latest)
	}
	if h.HasProducer() && h.BaseSequence >= 0 {
		original, duplicate, err := l.producers.check(h)
		if err != nil {
			return AppendResult{}, err
		}
		if duplicate {
			return l.duplicateOf(original), nil
		}
	}
	if l.end > math.MaxInt64-int64(h.LastOffsetDelta)-1 {
		return AppendResult{}, fmt.Errorf("log %s: %w: no offsets left", l.tp, ErrOffsetOutOfRange)
	}
	if err := l.makeRoom(int64(size)); err != nil {
		return AppendResult{}, err
	}
	epochs := l.epochs.fork()
	if _, err := epochs.assign(leaderEpoch, l.end); err != nil {
		return AppendResult{}, l.fail(ErrLogFailed, err)
	}
	first := l.pos == 0
	h.BaseOffset, h.LeaderEpoch = l.end, int32(leaderEpoch)
	record.PutHead(l.head[:], h.BaseOffset, h.Length, h.LeaderEpoch)
	l.vec = append(l.vec[:0], l.head[:])
	skip, rest := record.HeadSize, size-record.HeadSize
	for _, b := range batch {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		l.vec = append(l.vec, b[skip:])
		rest -= len(b) - skip
		skip = 0
	}
	if rest != 0 {
		clear(l.vec)
		return AppendResult{}, fmt.Errorf("log %s: %w: %d bytes are missing of the %d that the header says", l.tp, record.ErrCorruptBatch, rest, size)
	}
	err := l.write(int64(size), epochs, headRow{from: l.end, to: l.end})
	clear(l.vec) // do not pin the caller's memory
	if err != nil {
		return AppendResult{}, err
	}
	if first {
		l.begun = nowMs
	}
	l.noteBatch(h, nowMs)
	l.publish()
	return AppendResult{
		BaseOffset: h.BaseOffset, LastOffset: h.LastOffset(), LeaderEpoch: leaderEpoch, AppendTimeMs: nowMs, LogEndOffset: l.end,
	}, nil
}

func (l *Log) duplicateOf(original batchRef) AppendResult {
	return AppendResult{
		BaseOffset:   original.baseOffset,
		LastOffset:   original.baseOffset + int64(original.lastDelta),
		LeaderEpoch:  model.LeaderEpoch(original.leaderEpoch),
		AppendTimeMs: original.appendTimeMs,
		Duplicate:    true,
		LogEndOffset: l.end,
	}
}

// AppendFollower appends one or more whole batches as the leader sent them, offsets and leader epochs included. They
// are checked first: lengths, CRC, epochs that never fall, and that they begin at the LogEndOffset and follow each
// other; with allowGaps offsets may be missing between them, as they are in a leader's compacted log. data is not kept.
//
// Errors wrap record.ErrCorruptBatch, ErrNotContiguous, ErrStaleLeaderEpoch or those of AppendLeader. Where data was
// split over two segments the first part may be in the log in spite of an error: LogEndOffset tells.
func (l *Log) AppendFollower(data []byte, allowGaps bool) (AppendResult, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writable(); err != nil {
		return AppendResult{}, err
	}
	if err := l.checkFollower(data, allowGaps); err != nil {
		return AppendResult{}, fmt.Errorf("log %s: %w", l.tp, err)
	}
	res := AppendResult{BaseOffset: -1}
	for len(data) > 0 {
		n, err := l.appendRun(data, &res)
		if err != nil {
			return AppendResult{}, err
		}
		data = data[n:]
	}
	res.LogEndOffset = l.end
	return res, nil
}

// checkFollower checks all batches of data before any is written.
func (l *Log) checkFollower(data []byte, allowGaps bool) error {
	if len(data) == 0 {
		return fmt.Errorf("%w: no batch", record.ErrCorruptBatch)
	}
	next, epoch := l.end, l.epochs.latest()
	for len(data) > 0 {
		h, err := record.ParseHeader(data)
		if err != nil {
			return err
		}
		if h.Size() > len(data) {
			return fmt.Errorf("%w: the header says %d bytes, there are %d", record.ErrCorruptBatch, h.Size(), len(data))
		}
		if err := record.CheckCRC(data[:h.Size()]); err != nil {
			return err
		}
		if (h.BaseOffset < next && !l.holdsStart(h)) || (h.BaseOffset > next && !allowGaps) {
			return fmt.Errorf("%w: base offset %d, expected %d", ErrNotContiguous, h.BaseOffset, next)
		}
		if model.LeaderEpoch(h.LeaderEpoch) < epoch || h.LeaderEpoch < 0 {
			return fmt.Errorf("%w: epoch %d after %d at offset %d", ErrStaleLeaderEpoch, h.LeaderEpoch, epoch, h.BaseOffset)
		}
		next, epoch = h.NextOffset(), model.LeaderEpoch(h.LeaderEpoch)
		data = data[h.Size():]
	}
	return nil
}

// holdsStart says whether the log is empty and its start lies within the batch: a leader whose log was trimmed there
// sends the whole batch, and so it begins below this log's LogEndOffset.
func (l *Log) holdsStart(h record.Header) bool {
	return l.pos == 0 && len(l.segs) > 0 && l.end == l.segs[0].base && h.BaseOffset < l.end && h.NextOffset() > l.end
}

// appendRun writes as many checked batches of data as fit the active segment, at least one, as one write.
func (l *Log) appendRun(data []byte, res *AppendResult) (n int, err error) {
	first, err := record.ParseHeader(data)
	if err != nil {
		return 0, err
	}
	if err := l.makeRoom(int64(first.Size())); err != nil {
		return 0, err
	}
	room := l.cfg.SegmentBytes - l.pos
	for n = first.Size(); n < len(data); {
		h, err := record.ParseHeader(data[n:])
		if err != nil {
			return 0, err
		}
		if int64(n+h.Size()) > room {
			break
		}
		n += h.Size()
	}
	epochs, row, err := l.headsOf(data[:n])
	if err != nil {
		return 0, l.fail(ErrLogFailed, err)
	}
	l.vec = append(l.vec[:0], data[:n])
	err = l.write(int64(n), epochs, row)
	clear(l.vec)
	if err != nil {
		return 0, err
	}
	l.pos -= int64(n)
	for rest := data[:n]; len(rest) > 0; {
		h, err := record.ParseHeader(rest)
		if err != nil {
			return 0, l.fail(ErrLogFailed, err)
		}
		l.pos += int64(h.Size())
		l.noteBatch(h, h.MaxTimestamp)
		if res.BaseOffset < 0 {
			res.BaseOffset = h.BaseOffset
		}
		res.LastOffset, res.LeaderEpoch, res.AppendTimeMs = h.LastOffset(), model.LeaderEpoch(h.LeaderEpoch), h.MaxTimestamp
		rest = rest[h.Size():]
	}
	l.publish()
	return n, nil
}

// write appends l.vec, size bytes, to the active segment, moves l.pos, and takes over the epochs of the batches, of which the journal is
// told first; row is what tell wants. On a failure the file is cut back to where it was; when that fails too the log has failed.
func (l *Log) write(size int64, epochs epochCache, row headRow) error {
	if err := l.dir.space.take(size); err != nil {
		return fmt.Errorf("log %s: %w", l.tp, err)
	}
	f, err := l.writer()
	if err != nil {
		return fmt.Errorf("log %s: append: %w", l.tp, err)
	}
	if err := l.tell(epochs, row); err != nil {
		l.dir.space.noteRefused(err)
		return err
	}
	l.preallocate(f, size)
	if _, err := f.Append(l.vec...); err != nil {
		l.dir.space.noteRefused(err)
		if cutErr := f.Truncate(l.pos); cutErr != nil {
			return l.fail(ErrLogFailed, errors.Join(err, cutErr))
		}
		l.preallocated = l.pos
		return fmt.Errorf("log %s: append %d bytes: %w", l.tp, size, err)
	}
	l.follow(epochs)
	l.pos += size
	l.written += size
	l.preallocated = max(l.preallocated, l.pos)
	return nil
}

// preallocate asks for space ahead of a segment that is under load: geometrically, and never beyond the segment's end.
// Failing costs nothing but speed.
func (l *Log) preallocate(f fsys.File, size int64) {
	need := l.pos + size
	if need <= l.preallocated || l.cfg.NoPreallocation || l.written < preallocateMin || l.preallocStep < 0 {
		return
	}
	l.preallocStep = min(max(2*l.preallocStep, preallocateMin), preallocateMax)
	want := max(min(need+l.preallocStep, l.cfg.SegmentBytes), need)
	if !l.dir.space.mayPreallocate(want - need) {
		return
	}
	if err := f.Preallocate(want); err != nil {
		l.preallocStep = -1
		if n, err := f.Size(); err == nil {
			l.preallocated = max(l.preallocated, n)
		}
		return
	}
	l.preallocated = want
}

// noteBatch takes a batch that was just written (and ends at l.pos) into the indexes, the producer state and the
// positions.
func (l *Log) noteBatch(h record.Header, appendTimeMs int64) {
	l.index.note(l.fs, h, l.pos-int64(h.Size()), l.cfg.IndexIntervalBytes)
	l.producers.apply(h, appendTimeMs)
	l.end = h.NextOffset()
}

// makeRoom rolls when size more bytes do not fit the active segment. The caller holds mu.
func (l *Log) makeRoom(size int64) error {
	if l.pos == 0 || l.pos+size <= l.cfg.SegmentBytes {
		return nil
	}
	return l.roll()
}

// Roll seals the active segment and begins a new one, unless the active one is empty.
func (l *Log) Roll() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	if l.pos == 0 {
		return nil
	}
	return l.roll()
}

// roll seals the active segment and begins a new one. When it fails the active segment stays what it was.
func (l *Log) roll() error {
	if err := l.trimPreallocated(); err != nil {
		return err
	}
	l.index.finish(l.fs)
	// The snapshot is a hint: without it a restart or a truncation walks a segment more.
	_ = l.writeSnapshot() //nolint:errcheck // see above
	next := newSegment(l.path, l.end)
	if err := l.createSegmentFile(next); err != nil {
		l.dir.space.noteRefused(err)
		return fmt.Errorf("log %s: roll: %w", l.tp, err)
	}
	old := l.active()
	old.next, old.size = l.end, l.pos
	old.maxTimestamp.Store(l.index.maxTs)
	old.writeDigest(l.fs, &l.index)
	l.unsynced = append(slices.Clip(l.unsynced), old)
	l.segs = append(slices.Clip(l.segs), next)
	l.beginActive(next)
	l.dirtyDir = true
	l.publish()
	l.dir.files.keep(next, l)
	return nil
}

// createSegmentFile makes the empty file of a new segment; a leftover of a failed attempt is replaced. When it fails,
// no file of the segment is left, or the log has failed: a leftover would end the segment before it on the next open.
// The caller sees to it that the directory is synced before anything else counts as durable.
func (l *Log) createSegmentFile(s *segment) error {
	err := l.createEmpty(s)
	if err == nil {
		return nil
	}
	l.dirtyDir = true
	if cleanErr := s.remove(l.fs); cleanErr != nil {
		return l.fail(ErrLogFailed, errors.Join(err, cleanErr))
	}
	return err
}

func (l *Log) createEmpty(s *segment) error {
	for _, name := range []string{s.logName(), s.indexName(), s.timeIndexName(), s.digestName()} {
		if err := removeIfExists(l.fs, name); err != nil {
			return err
		}
	}
	f, err := l.fs.Create(s.logName())
	if err != nil {
		return err
	}
	s.file.Store(shareFile(f))
	s.files = l.dir.files
	return nil
}

// beginActive resets the writer's state for a new, empty active segment.
func (l *Log) beginActive(s *segment) {
	l.pos, l.preallocated, l.preallocStep, l.written = 0, 0, 0, 0
	l.begun, l.found, l.snapshotPos, l.midSnapshot, l.own, l.durablePos = 0, false, 0, 0, 0, 0
	l.index = newSegmentIndex(s)
}
