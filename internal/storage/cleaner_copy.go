package storage

import (
	"errors"
	"math"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

const (
	cleanSuffix = ".clean" // being written; removed by recovery
	swapSuffix  = ".swap"  // whole and durable; recovery completes the change of places
	// cleanFlushBytes is how much of a new segment is collected for one write, cleanSyncBytes how much is written between syncs.
	cleanFlushBytes = 256 << 10
	cleanSyncBytes  = 32 << 20
	// tombstoneRetryMs is when tombstones are looked at again that are past their time and may not go yet.
	tombstoneRetryMs = 10 * 60 * 1000
)

// batchReader reads a sealed segment batch by batch and checks each one's CRC.
type batchReader struct {
	name   string
	file   *sharedFile
	w      *walker
	offset int64 // the offset that the next batch has, or a higher one
}

func openBatchReader(l *Log, s *segment) (*batchReader, error) {
	f, err := s.open(l.fs)
	if errors.Is(err, errRetry) || fsys.IsNotExist(err) {
		return nil, errCleaningStopped
	}
	if err != nil {
		return nil, err
	}
	return &batchReader{name: s.logName(), file: f, w: newWalker(f, 0, s.size, true), offset: s.base}, nil
}

// next returns the next batch, nil at the end. The bytes are valid until the next call.
func (r *batchReader) next() ([]byte, record.Header, error) {
	h, ok, err := r.w.next()
	if errors.Is(err, errBadBatch) || isMediumError(err) {
		return nil, h, &CorruptError{File: r.name, Position: r.w.pos, Offset: r.offset, Reason: err.Error()}
	}
	if err != nil || !ok {
		return nil, h, err
	}
	r.offset = h.NextOffset()
	at := r.w.pos - int64(h.Size()) - r.w.bufAt
	return r.w.buf[at:][:h.Size()], h, nil
}

// groupCopy is a run of segments that becomes one.
type groupCopy struct {
	log     *Log
	sources []*segment
	at      int // the source being read
	name    string
	file    *sharedFile
	buf     []byte
	pos     int64 // written and buffered
	written int64
	synced  int64
	index   segmentIndex
	changed bool
}

// nextGroup begins with the segments from cl.at on that fit one segment together.
func (cl *Cleaning) nextGroup() error {
	l := cl.log
	l.mu.Lock()
	limit, err := l.cfg.SegmentBytes, l.writable()
	l.mu.Unlock()
	if err != nil {
		return err
	}
	first := cl.segments[cl.at]
	g := &groupCopy{log: l, name: first.path + cleanSuffix}
	var size int64
	for _, s := range cl.segments[cl.at:] {
		if len(g.sources) > 0 && size+s.size > limit {
			break
		}
		g.sources = append(g.sources, s)
		size += s.size
	}
	if err := l.roomToClean(size); err != nil {
		return err
	}
	g.index = newSegmentIndex(first)
	g.index.offsets.stuck, g.index.times.stuck = true, true // entries stay in memory until the files change places
	if err := removeIfExists(l.fs, g.name); err != nil {
		return err
	}
	f, err := l.fs.Create(g.name)
	if err != nil {
		return err
	}
	g.file = shareFile(f)
	cl.copying = g
	return nil
}

// roomToClean says whether a group may be written anew: what appends may not use is not used either.
func (l *Log) roomToClean(size int64) error {
	sp := l.dir.space
	if sp.minFree <= 0 {
		return nil
	}
	free, err := l.fs.FreeBytes(l.path)
	if err != nil {
		return err
	}
	if free-size < sp.minFree {
		return &SpaceError{FreeBytes: free, MinFreeBytes: sp.minFree + size, Dir: sp.dir}
	}
	return nil
}

// stepCopy copies one batch, or ends a source, a group or the whole cleaning.
func (cl *Cleaning) stepCopy() error {
	if cl.copying == nil {
		if cl.at >= len(cl.segments) {
			return cl.finish()
		}
		return cl.nextGroup()
	}
	g := cl.copying
	if g.at == len(g.sources) {
		return cl.endGroup()
	}
	if cl.reader == nil {
		var err error
		if cl.reader, err = openBatchReader(cl.log, g.sources[g.at]); err != nil {
			return err
		}
	}
	batch, h, err := cl.reader.next()
	if err != nil {
		return err
	}
	if batch == nil {
		g.at++
		return cl.closeReader()
	}
	cl.stats.BytesRead += int64(len(batch))
	return cl.copyBatch(batch, h)
}

// copyBatch takes over what stays of a batch.
func (cl *Cleaning) copyBatch(batch []byte, h record.Header) error {
	g, t := cl.copying, &cl.thinner
	firstOfEpoch := h.LeaderEpoch != cl.epoch
	cl.epoch = h.LeaderEpoch
	if isOpaque(h) {
		cl.opaque = true
		return cl.write(batch, h)
	}
	dropped, tombstones, ok := cl.choose(batch)
	if !ok {
		cl.opaque = true
		cl.stats.Unreadable++
		return cl.write(batch, h)
	}
	kept, keptTombstones := t.Kept()
	horizon := cl.horizonOf(h, keptTombstones)
	if dropped == 0 && horizon < 0 && kept > 0 {
		return cl.write(batch, h)
	}
	cl.stats.RecordsDropped += int64(dropped)
	cl.stats.TombstonesDropped += int64(tombstones)
	if kept == 0 && !firstOfEpoch && !cl.headNeeded(h) {
		g.changed = true
		return nil
	}
	if kept == 0 && h.Count == 0 {
		return cl.write(batch, h) // an empty batch that is still needed
	}
	g.changed = true
	var err error
	if cl.scratch, err = t.Append(cl.scratch[:0], horizon); err != nil {
		return err
	}
	if h, err = record.ParseHeader(cl.scratch); err != nil {
		return err
	}
	return cl.write(cl.scratch, h)
}

// headNeeded says whether the header of a batch stays though all its records go: that of the last batch of a producer tells
// its sequence, and that of the last batch of a segment where the segment ends.
func (cl *Cleaning) headNeeded(h record.Header) bool {
	if last, ok := cl.last[h.ProducerID]; ok && last == h.BaseOffset {
		return true
	}
	g, w := cl.copying, cl.reader.w
	return g.at == len(g.sources)-1 && w.pos >= w.limit
}

// choose lets the thinner keep what stays of a batch, and says how many records go, and how many of those are tombstones past
// their time. ok is false for a batch that cannot be opened.
func (cl *Cleaning) choose(batch []byte) (dropped, tombstones int, ok bool) {
	t := &cl.thinner
	if err := t.Reset(batch, cl.c.opts.Limits); err != nil {
		return 0, 0, false
	}
	h := t.Header()
	expired := cl.tombstonesExpired(h)
	for t.Next() {
		r := t.Record()
		switch {
		case r.Key == nil: // from before the topic was compacted: nothing supersedes it
			t.Keep()
		case cl.keys.latest(r.Key) > r.Offset:
		case r.Value == nil && expired && r.Offset < cl.in.LowestPosition && r.Offset < cl.mapped:
			tombstones++
		default:
			t.Keep()
		}
	}
	return t.Dropped(), tombstones, t.Err() == nil
}

// tombstonesExpired says whether the tombstones of a batch are past their time. Behind a batch that was not opened none is: an
// older value may stand there.
func (cl *Cleaning) tombstonesExpired(h record.Header) bool {
	ms, has := h.DeleteHorizon()
	return has && ms <= cl.in.NowMs && cl.in.Clock == ClockTrusted && !cl.opaque
}

// horizonOf returns the delete horizon that a batch with that many tombstones gets now, or -1, and notes when they are due.
func (cl *Cleaning) horizonOf(h record.Header, tombstones int) int64 {
	if tombstones == 0 {
		return -1
	}
	ms, has := h.DeleteHorizon()
	switch {
	case has && ms > cl.in.NowMs:
		cl.horizon = min(cl.horizon, ms)
		return -1
	case has:
		cl.horizon = min(cl.horizon, cl.in.NowMs+tombstoneRetryMs)
		return -1
	case cl.in.Clock != ClockTrusted || h.LastOffset() >= cl.mapped:
		return -1 // older values of the keys may be there yet
	}
	ms = cl.in.NowMs
	if ms > math.MaxInt64-cl.policy.DeleteRetentionMs {
		ms = math.MaxInt64
	} else {
		ms += cl.policy.DeleteRetentionMs
	}
	cl.horizon = min(cl.horizon, ms)
	return ms
}

// write appends a batch to the new segment.
func (cl *Cleaning) write(batch []byte, h record.Header) error {
	g := cl.copying
	g.buf = append(g.buf, batch...)
	g.index.note(cl.log.fs, h, g.pos, indexIntervalOf(cl.log))
	g.pos += int64(len(batch))
	cl.stats.BytesWritten += int64(len(batch))
	if len(g.buf) < cleanFlushBytes {
		return nil
	}
	return g.flush()
}

func indexIntervalOf(l *Log) int { return int(l.view.Load().interval) }

func (g *groupCopy) flush() error {
	if _, err := g.file.Append(g.buf); err != nil {
		return err
	}
	g.written += int64(len(g.buf))
	g.buf = g.buf[:0]
	if g.written-g.synced < cleanSyncBytes {
		return nil
	}
	g.synced = g.written
	return g.sync()
}

// sync makes the new segment durable. A failure is one of the directory, whose state is not known any more.
func (g *groupCopy) sync() error {
	err := g.file.SyncData()
	if err == nil {
		return nil
	}
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	return g.log.fail(ErrSyncFailed, err)
}

// discard gives the new segment up.
func (g *groupCopy) discard() error {
	return errors.Join(g.file.release(), removeIfExists(g.log.fs, g.name))
}

// endGroup lets the new segment take the place of its sources, unless it is the same.
func (cl *Cleaning) endGroup() error {
	g := cl.copying
	n := len(g.sources)
	if !g.changed && n == 1 {
		cl.copying = nil
		cl.at += n
		return g.discard()
	}
	if err := g.flush(); err != nil {
		return err
	}
	if err := g.sync(); err != nil {
		return err
	}
	g.index.noteTime(cl.log.fs)
	replaced, err := cl.log.replace(g)
	if replaced {
		cl.copying = nil // the new file is the log's now
		cl.stats.SegmentsReplaced += int64(n)
		cl.stats.SegmentsWritten++
	}
	cl.at += n
	return err
}
