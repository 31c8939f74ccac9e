package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"path"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// CompactionPolicy is what a topic's settings say of compaction.
type CompactionPolicy struct {
	// MinDirtyRatio is min.cleanable.dirty.ratio: the share of bytes not compacted yet from which on cleaning is due.
	MinDirtyRatio float64
	// MinLagMs is min.compaction.lag.ms: segments with a younger record are left alone.
	MinLagMs int64
	// DeleteRetentionMs is delete.retention.ms: how long tombstones are kept once they are compacted.
	DeleteRetentionMs int64
}

// CleaningInput is what a cleaning is decided on besides the log.
type CleaningInput struct {
	// NowMs is the wall clock in ms since 1970.
	NowMs int64
	// HighWatermark is the replica's; nothing at or above it is cleaned, nor above the one in the journal.
	HighWatermark int64
	// LowestPosition is the lowest durable position of all assigned replicas: tombstones at or above it are never dropped.
	LowestPosition int64
	// Clock must be ClockTrusted for tombstones to be dropped and for new ones to begin their time.
	Clock ClockVerdict
}

// CleaningState says what there is to clean.
type CleaningState struct {
	// From is the first offset not compacted yet, To the end (exclusive) of what may be compacted now.
	From, To int64
	// CleanBytes and DirtyBytes are the sizes of the segments below From, and from there to To.
	CleanBytes, DirtyBytes int64
	// Due says that a cleaning is worth while now.
	Due bool
}

// DirtyRatio is the share of bytes not compacted yet.
func (s CleaningState) DirtyRatio() float64 {
	if s.DirtyBytes == 0 {
		return 0
	}
	return float64(s.DirtyBytes) / float64(s.CleanBytes+s.DirtyBytes)
}

// cleanPoint is how far a log is compacted. It is kept as a hint: without it everything is cleaned again.
type cleanPoint struct {
	loaded bool
	// firstDirty is the first offset not compacted yet.
	firstDirty int64
	// horizon is when a compacted tombstone may be dropped, the earliest of them, in ms since 1970; MaxInt64 for none.
	horizon int64
}

const (
	cleanPointName    = "compacted"
	cleanPointMagic   = 0x50534343 // "PSCC"
	cleanPointVersion = 1
	cleanPointSize    = 28
)

func (p cleanPoint) encode() []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, cleanPointMagic)
	b = be.AppendUint32(b, cleanPointVersion)
	b = be.AppendUint64(b, uint64(p.firstDirty)) //nolint:gosec // same bits
	b = be.AppendUint64(b, uint64(p.horizon))    //nolint:gosec // same bits
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeCleanPoint(b []byte) (p cleanPoint, ok bool) {
	be := binary.BigEndian
	if len(b) != cleanPointSize || be.Uint32(b) != cleanPointMagic || be.Uint32(b[4:]) != cleanPointVersion ||
		be.Uint32(b[24:]) != crc32.Checksum(b[:24], castagnoli) {
		return cleanPoint{horizon: math.MaxInt64}, false
	}
	p = cleanPoint{firstDirty: int64(be.Uint64(b[8:])), horizon: int64(be.Uint64(b[16:]))} //nolint:gosec // same bits
	return p, p.firstDirty >= 0
}

// loadCleanPoint reads the hint once. The caller holds mu.
func (l *Log) loadCleanPoint() error {
	if l.cleaned.loaded {
		return nil
	}
	data, err := readFile(l.fs, path.Join(l.path, cleanPointName), 1<<10)
	if err != nil && !fsys.IsNotExist(err) {
		return err
	}
	p, ok := decodeCleanPoint(data)
	if !ok || p.firstDirty > l.end {
		p = cleanPoint{horizon: math.MaxInt64}
	}
	p.loaded = true
	l.cleaned = p
	return nil
}

// readCleanedBelow is the offset below which a log was compacted, as far as is known.
func readCleanedBelow(fsy fsys.FS, dir string) int64 {
	data, err := readFile(fsy, path.Join(dir, cleanPointName), 1<<10)
	if err != nil {
		return 0
	}
	p, ok := decodeCleanPoint(data)
	if !ok {
		return 0
	}
	return p.firstDirty
}

// dirtyFrom makes the log forget that it was compacted beyond offset, before what lies there is replaced. The caller holds mu.
func (l *Log) dirtyFrom(offset int64) error {
	if err := l.loadCleanPoint(); err != nil {
		return err
	}
	if l.cleaned.firstDirty <= offset {
		return nil
	}
	l.cleaned = cleanPoint{loaded: true, horizon: math.MaxInt64}
	return removeIfExists(l.fs, path.Join(l.path, cleanPointName))
}

// noteCleaned moves the clean point. The caller holds mu.
func (l *Log) noteCleaned(p cleanPoint) {
	p.loaded = true
	l.cleaned = p
	_ = writeHint(l.fs, path.Join(l.path, cleanPointName), p.encode()) //nolint:errcheck // without it more is cleaned
}

// CleaningState says what there is to compact. It reads a small file once after each opening, and the ages of segments where
// MinLagMs asks for them. A damaged, failed or closed log has nothing to clean.
func (l *Log) CleaningState(p CompactionPolicy, in CleaningInput) (CleaningState, error) {
	l.mu.Lock()
	if l.writable() != nil {
		l.mu.Unlock()
		return CleaningState{}, nil
	}
	err := l.loadCleanPoint()
	point, limit := l.cleaned, min(in.HighWatermark, l.checkpointed, l.durable.Load())
	if saved, _ := l.dir.journal.state(l.tp); len(saved.rows) > 0 { // what the journal was told of is not changed
		limit = min(limit, saved.rows[0].from)
	}
	l.mu.Unlock()
	if err != nil {
		return CleaningState{}, fmt.Errorf("log %s: %w", l.tp, err)
	}
	v := l.view.Load()
	s := CleaningState{From: max(point.firstDirty, v.segs[0].base)}
	s.To = s.From
	for _, seg := range v.segs[:len(v.segs)-1] {
		if seg.next <= point.firstDirty {
			s.CleanBytes += seg.size
			continue
		}
		if seg.next > limit {
			break
		}
		if p.MinLagMs > 0 {
			ms, err := l.sealedMaxTimestamp(v, seg)
			if errors.Is(err, errRetry) {
				break // trimmed meanwhile
			}
			if err != nil {
				return CleaningState{}, fmt.Errorf("log %s: %w", l.tp, err)
			}
			if ms > in.NowMs-p.MinLagMs {
				break
			}
		}
		s.DirtyBytes += seg.size
		s.To = seg.next
	}
	expiring := in.Clock == ClockTrusted && point.horizon <= in.NowMs && s.CleanBytes > 0
	s.Due = expiring || (s.DirtyBytes > 0 && s.DirtyRatio() >= p.MinDirtyRatio)
	return s, nil
}

// CleanerOptions bounds what a Cleaner uses. Zero values stand for the defaults.
type CleanerOptions struct {
	// MapBytes bounds the memory for keys; default 16 MiB, which holds half a million. More keys take more passes.
	MapBytes int64
	// Limits bounds the batches that are opened.
	Limits record.Limits
}

// Cleaner compacts logs, one at a time. It holds the memory for that, and none while it is idle. It is for one goroutine.
type Cleaner struct {
	opts CleanerOptions
}

// NewCleaner returns an idle cleaner.
func NewCleaner(o CleanerOptions) *Cleaner {
	if o.MapBytes <= 0 {
		o.MapBytes = 16 << 20
	}
	o.Limits.SkipCRC = true // checked when read
	return &Cleaner{opts: o}
}

// CleaningStats counts what a cleaning did.
type CleaningStats struct {
	// BytesRead and BytesWritten count the passage over the log; KeyBytesRead is what was read for the keys.
	KeyBytesRead, BytesRead, BytesWritten int64
	// RecordsDropped counts the records that went, TombstonesDropped those of them that were tombstones past their time.
	RecordsDropped, TombstonesDropped int64
	// Unreadable counts batches that could not be opened and were kept as they are.
	Unreadable int64
	// SegmentsReplaced and SegmentsWritten count the files that went and that took their place.
	SegmentsReplaced, SegmentsWritten int64
	// CleanedTo is the offset up to which the log is compacted now.
	CleanedTo int64
	// More says that the memory for keys did not suffice: another cleaning goes on from CleanedTo.
	More bool
}

// errCleaningStopped says that the log has changed under a cleaning: it is given up, and begun anew another time.
var errCleaningStopped = errors.New("the log was cut, trimmed or closed meanwhile")

// Cleaning is the compaction of one log. Its steps run beside appends, reads and syncs; syncs wait while the files of a
// group of segments change places. It must be ended by Close.
type Cleaning struct {
	c      *Cleaner
	log    *Log
	policy CompactionPolicy
	in     CleaningInput
	state  CleaningState

	keys     *offsetMap
	mapped   int64           // the end (exclusive) of what keys knows
	segments []*segment      // to be cleaned, from the log's first on
	last     map[int64]int64 // base offset of the last batch of each producer
	reader   *batchReader    // of the segment being read
	at       int             // index in segments of the one being read for keys
	copying  *groupCopy      // the group under way
	thinner  record.Thinner
	scratch  []byte       // a thinned batch
	pending  []offsetSlot // keys of the batch being read
	epoch    int32        // of the batch before
	opaque   bool         // a batch was passed that was kept unopened: what it holds of a key is not known
	horizon  int64        // the earliest of the tombstones that stay
	phase    cleaningPhase
	stats    CleaningStats
}

type cleaningPhase uint8

const (
	cleaningKeys cleaningPhase = iota
	cleaningCopy
	cleaningDone
)

// Begin starts a cleaning of l from its first segment on, or returns nil where there is nothing to clean. Nothing is written
// yet.
func (c *Cleaner) Begin(l *Log, p CompactionPolicy, in CleaningInput) (*Cleaning, error) {
	state, err := l.CleaningState(p, in)
	if err != nil || (state.To <= state.From && !state.Due) {
		return nil, err
	}
	cl := &Cleaning{
		c: c, log: l, policy: p, in: in, state: state, keys: newOffsetMap(c.opts.MapBytes), mapped: state.From,
		epoch: -1, horizon: math.MaxInt64,
	}
	segs := l.view.Load().segs
	for _, s := range segs[:len(segs)-1] {
		if s.next > state.To {
			break
		}
		cl.segments = append(cl.segments, s)
	}
	if n := len(cl.segments); n == 0 || cl.segments[n-1].next != state.To {
		return nil, nil //nolint:nilnil // trimmed meanwhile
	}
	for cl.segments[cl.at].next <= state.From && cl.at < len(cl.segments)-1 {
		cl.at++
	}
	if state.From >= state.To {
		cl.at = len(cl.segments) // nothing new: only tombstones past their time
	}
	if cl.last, err = l.lastBatches(state.To); err != nil {
		return nil, fmt.Errorf("clean log %s: %w", l.tp, err)
	}
	return cl, nil
}

// lastBatches finds the last batch of each producer below offset, a segment's base. Producers that have expired are left out.
func (l *Log) lastBatches(offset int64) (map[int64]int64, error) {
	l.mu.Lock()
	row := slices.Concat(l.trimmed, l.segs)
	if err := l.writable(); err != nil {
		l.mu.Unlock()
		return nil, err
	}
	last := make(map[int64]int64, len(l.producers.byID))
	later := false // whether any producer has written since
	for id, p := range l.producers.byID {
		last[id] = p.last().baseOffset
		later = later || p.last().baseOffset >= offset
	}
	l.mu.Unlock()
	if !later {
		return last, nil
	}
	snapshots, err := l.listSnapshots()
	if err != nil {
		return nil, err
	}
	state, err := l.producersAt(row, snapshots, offset)
	if err != nil {
		return nil, err
	}
	for id := range last {
		if p, ok := state.byID[id]; ok {
			last[id] = p.last().baseOffset
		}
	}
	return last, nil
}

// Step does a piece of the work that reads or writes about maxBytes, and says how much it was and whether the work is done. An
// error ends the cleaning: what was replaced until then stays so, and is whole. It wraps ErrCorruptLog where a batch below
// the recovery point is damaged, ErrLogFailed where the log must be opened again, ErrLogClosed, or the file system's.
func (cl *Cleaning) Step(maxBytes int64) (bytes int64, done bool, err error) {
	before := cl.work()
	for err == nil && cl.phase != cleaningDone && cl.work()-before < maxBytes {
		switch cl.phase {
		case cleaningKeys:
			err = cl.stepKeys()
		case cleaningCopy:
			err = cl.stepCopy()
		case cleaningDone:
		}
	}
	if err != nil {
		cl.phase = cleaningDone
		if !cl.current() {
			err = fmt.Errorf("%w: %w", errCleaningStopped, err)
		}
		err = fmt.Errorf("clean log %s: %w", cl.log.tp, err)
	}
	return cl.work() - before, cl.phase == cleaningDone, err
}

// current says whether what is being read is still the log's: errors of what was cut, trimmed or deleted say nothing.
func (cl *Cleaning) current() bool {
	reading := cl.segments[min(cl.at, len(cl.segments)):]
	if g := cl.copying; g != nil {
		reading = g.sources[min(g.at, len(g.sources)):]
	}
	l := cl.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	for _, s := range reading[:min(1, len(reading))] {
		if !slices.Contains(l.segs, s) && !slices.Contains(l.trimmed, s) {
			return false
		}
	}
	return true
}

func (cl *Cleaning) work() int64 {
	return cl.stats.KeyBytesRead + cl.stats.BytesRead + cl.stats.BytesWritten
}

// Stats says what was done so far.
func (cl *Cleaning) Stats() CleaningStats { return cl.stats }

// Stopped says whether err of Step means no more than that the log has changed meanwhile.
func (cl *Cleaning) Stopped(err error) bool {
	return errors.Is(err, errCleaningStopped) || errors.Is(err, ErrLogClosed)
}

// Close lets go of everything; a group under way is given up. It may be called at any time, and more than once.
func (cl *Cleaning) Close() error {
	cl.phase = cleaningDone
	cl.keys.reset()
	err := cl.closeReader()
	if g := cl.copying; g != nil {
		cl.copying = nil
		err = errors.Join(err, g.discard())
	}
	return err
}

func (cl *Cleaning) closeReader() error {
	if cl.reader == nil {
		return nil
	}
	err := cl.reader.file.release()
	cl.reader = nil
	return err
}

// stepKeys takes the keys of the next batch that is not compacted yet.
func (cl *Cleaning) stepKeys() error {
	if cl.at >= len(cl.segments) {
		return cl.keysDone()
	}
	s := cl.segments[cl.at]
	if cl.reader == nil {
		var err error
		if cl.reader, err = openBatchReader(cl.log, s); err != nil {
			return err
		}
	}
	batch, h, err := cl.reader.next()
	if err != nil {
		return err
	}
	if batch == nil {
		cl.at++
		cl.mapped = max(cl.mapped, s.next)
		return cl.closeReader()
	}
	cl.stats.KeyBytesRead += int64(len(batch))
	if h.NextOffset() <= cl.state.From || isOpaque(h) || h.Count == 0 {
		cl.mapped = max(cl.mapped, h.NextOffset())
		return nil
	}
	full, err := cl.takeKeys(batch)
	if err != nil {
		return err
	}
	if full {
		return cl.keysDone()
	}
	cl.mapped = max(cl.mapped, h.NextOffset())
	return nil
}

// takeKeys notes the keys of a batch; full says that the memory did not suffice from the offset in cl.mapped on.
func (cl *Cleaning) takeKeys(batch []byte) (full bool, err error) {
	t := &cl.thinner
	if err := t.Reset(batch, cl.c.opts.Limits); err != nil {
		return false, nil //nolint:nilerr // it cannot be opened and is kept as it is
	}
	cl.pending = cl.pending[:0]
	for t.Next() {
		if r := t.Record(); r.Key != nil && r.Offset >= cl.state.From {
			cl.pending = append(cl.pending, cl.keys.slot(r.Key, r.Offset))
		}
	}
	if t.Err() != nil {
		return false, nil // kept as it is too, so that none of its records may stand for older ones
	}
	for _, s := range cl.pending {
		if !cl.keys.put(s) {
			cl.mapped = max(cl.mapped, s.next-1)
			return true, nil
		}
	}
	return false, nil
}

// isOpaque says whether a batch is kept unopened: transactions are not decided by this log alone.
func isOpaque(h record.Header) bool { return h.IsControl() || h.IsTransactional() }

// keysDone begins the copying.
func (cl *Cleaning) keysDone() error {
	if err := cl.closeReader(); err != nil {
		return err
	}
	cl.stats.More = cl.mapped < cl.state.To
	// Segments wholly behind what is known of keys are left for the next pass.
	n := len(cl.segments)
	for n > 0 && cl.segments[n-1].base >= cl.mapped {
		n--
	}
	cl.segments = cl.segments[:n]
	cl.phase, cl.at = cleaningCopy, 0
	return nil
}

// finish notes how far the log is compacted.
func (cl *Cleaning) finish() error {
	l := cl.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	cl.phase = cleaningDone
	cl.stats.CleanedTo = cl.mapped
	l.noteCleaned(cleanPoint{firstDirty: cl.mapped, horizon: cl.horizon})
	return nil
}
