package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// Log is one partition's log. See the package comment for what may run beside what.
type Log struct {
	dir  *Dir
	fs   fsys.FS
	tp   model.TopicPartition
	path string

	// discardMu is held while damage is about to be discarded. It is taken before syncMu.
	discardMu sync.Mutex
	// syncMu serialises what must not run beside a sync: Sync itself, truncation, closing. It is taken before mu.
	syncMu sync.Mutex
	// mu is the writer's lock.
	mu sync.Mutex

	view atomic.Pointer[view]
	// What is durable and where, in offsets, exclusive: filed <= durable <= end. Up to durable the log survives a loss of power,
	// and that is what is acknowledged; up to filed its own files do without the sync journal.
	durable    atomic.Int64
	filed      atomic.Int64
	generation atomic.Uint64 // odd while a truncation is under way, raised by 2 by each
	cuts       atomic.Uint64 // raised before the journal learns of anything but progress: what was to be noted before is void
	readOn     atomic.Pointer[readHint]
	syncQueue  atomic.Int32 // state of the log in its Syncer

	// The rest is guarded by mu.
	cfg        Config
	segs       []*segment // never changed in place: views hold it; the last is the active one
	start, end int64
	pos        int64        // of the next batch in the active segment
	index      segmentIndex // of the active segment
	epochs     epochCache
	producers  *producerState
	damage     *Damage  // the first one
	damages    []Damage // all, in the order of offsets; never changed in place

	preallocated int64 // size of the active file
	preallocStep int64
	own          int64 // this process has appended the active segment from this position on
	snapshotPos  int64 // position of the newest producer snapshot in the active segment
	midSnapshot  int64 // its offset, where it is not the segment's first; 0 for none
	written      int64 // appended to the active segment since it was opened
	begun        int64 // ms since 1970 when the active segment got its first batch; 0 where that was not seen
	found        bool  // the active segment was found at the opening, with batches

	durablePos int64 // position of durable in the active segment, or a lower one that a batch begins at

	unsynced  []*segment // sealed and not yet synced; each has its file open
	dirtyDir  bool       // directory entries not yet synced
	freshDirs []string   // parents to sync with the first sync
	trimmed   []*segment // below the LogStartOffset, files still there
	failed    error      // sticky
	closed    bool

	checkpointed int64 // the HighWatermark in the journal, at most end
	told         toldHeads
	cleaned      cleanPoint

	head [record.HeadSize]byte
	vec  [][]byte
}

// view is what readers see: one consistent moment of the log. It is never changed.
type view struct {
	segs       []*segment
	start, end int64
	pos        int64 // end of the active segment
	maxTs      int64 // of the active segment
	own        int64 // this process has appended the active segment from this position on
	index      []indexEntry
	timeIndex  []indexEntry
	epochs     []EpochStart
	interval   int64   // of index entries
	skip       int64   // a look-up that has to skip more than this found an incomplete index
	damage     *Damage // the first one
	damages    []Damage
	closed     bool
}

// publish makes the state visible to readers. The caller holds mu.
func (l *Log) publish() {
	l.view.Store(&view{
		segs: l.segs, start: l.start, end: l.end, pos: l.pos, maxTs: l.index.maxTs, own: l.own,
		index: l.index.offsets.pending, timeIndex: l.index.times.pending, epochs: l.epochs.starts,
		interval: int64(l.cfg.IndexIntervalBytes), skip: 4*int64(l.cfg.IndexIntervalBytes) + 2*int64(l.cfg.MaxBatchBytes),
		damage: l.damage, damages: l.damages, closed: l.closed,
	})
}

// segmentOf returns the index of the segment whose range holds offset; offsets below the first give 0.
func segmentOf(segs []*segment, offset int64) int {
	return max(0, sort.Search(len(segs), func(i int) bool { return segs[i].base > offset })-1)
}

// limit returns the end of segment i in bytes.
func (v *view) limit(i int) int64 {
	if i == len(v.segs)-1 {
		return v.pos
	}
	return v.segs[i].size
}

func (l *Log) active() *segment { return l.segs[len(l.segs)-1] }

// TopicPartition names the log.
func (l *Log) TopicPartition() model.TopicPartition { return l.tp }

// LogStartOffset is the first readable offset.
func (l *Log) LogStartOffset() int64 { return l.view.Load().start }

// LogEndOffset is the offset of the next record.
func (l *Log) LogEndOffset() int64 { return l.view.Load().end }

// DurableEnd is the offset up to which (exclusive) the log is known to survive a loss of power. It never exceeds LogEndOffset.
func (l *Log) DurableEnd() int64 { return l.durable.Load() }

// FiledEnd is the offset up to which (exclusive) the log's own files are known to survive a loss of power: its recovery point. It
// lags behind DurableEnd while the sync journal holds the rest.
func (l *Log) FiledEnd() int64 { return l.filed.Load() }

// LatestEpoch is the newest epoch of the leader epoch cache, with or without records; model.NoLeaderEpoch when empty.
func (l *Log) LatestEpoch() model.LeaderEpoch {
	v := l.view.Load()
	if n := len(v.epochs); n > 0 {
		return v.epochs[n-1].Epoch
	}
	return model.NoLeaderEpoch
}

// EpochEndOffset finds the largest epoch <= requested and the offset where it ends (exclusive): the start of the next
// known epoch, or the LogEndOffset. Without such an epoch it returns model.NoLeaderEpoch and the start of the oldest
// known epoch (the LogEndOffset when none is known): below it the log knows nothing.
func (l *Log) EpochEndOffset(requested model.LeaderEpoch) (found model.LeaderEpoch, endOffset int64) {
	v := l.view.Load()
	c := epochCache{starts: v.epochs}
	return c.endOffset(requested, v.end)
}

// EpochStarts returns a copy of the leader epoch cache, oldest first.
func (l *Log) EpochStarts() []EpochStart { return slices.Clone(l.view.Load().epochs) }

// AssignEpochStart notes that epoch begins at offset, which must be the LogEndOffset: a new leader does so before its
// first append, a follower when it learns of the epoch. The latest epoch again is no change. Older epochs wrap
// ErrStaleLeaderEpoch, other offsets ErrNotContiguous. It is durable after the next Dir.Checkpoint.
func (l *Log) AssignEpochStart(epoch model.LeaderEpoch, offset int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if epoch == l.epochs.latest() && epoch >= 0 {
		return nil
	}
	if offset != l.end {
		return fmt.Errorf("log %s: epoch %d starts at offset %d: %w, which ends at %d", l.tp, epoch, offset, ErrNotContiguous, l.end)
	}
	if _, err := l.epochs.assign(epoch, offset); err != nil {
		return fmt.Errorf("log %s: %w", l.tp, err)
	}
	l.told.epochs = false
	l.publish()
	return nil
}

// CheckpointedHighWatermark is the HighWatermark that the journal holds, at most the LogEndOffset. The log is never
// truncated below it.
func (l *Log) CheckpointedHighWatermark() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checkpointed
}

// Damage returns where the log is damaged below its recovery point, or nil. See RecoveryReport.Damage.
func (l *Log) Damage() *Damage { return l.view.Load().damage }

// Reconfigure takes new topic settings into use, from the next append on.
func (l *Log) Reconfigure(cfg Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = cfg.withDefaults()
	l.publish()
}

// SizeBytes is the size of all segments, preallocated space not counted.
func (l *Log) SizeBytes() int64 {
	v := l.view.Load()
	var n int64
	for i := range v.segs {
		n += v.limit(i)
	}
	return n
}

// SegmentCount is the number of segments, the active one included.
func (l *Log) SegmentCount() int { return len(l.view.Load().segs) }

// ExpireProducers forgets idempotent producers whose last append was before beforeMs (ms since 1970), and says how
// many. An expired producer's next batch gets ErrUnknownProducer unless it begins a new epoch or sequence.
func (l *Log) ExpireProducers(beforeMs int64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.producers.expire(beforeMs)
}

// ProducerCount is the number of idempotent producers remembered.
func (l *Log) ProducerCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.producers.byID)
}

// Failed returns the sticky error of the log: one that wraps ErrSyncFailed or ErrLogFailed, or nil.
func (l *Log) Failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// usable says whether the log still takes changes. The caller holds mu.
func (l *Log) usable() error {
	switch {
	case l.closed:
		return fmt.Errorf("log %s: %w", l.tp, ErrLogClosed)
	case l.failed != nil:
		return l.failed
	default:
		return nil
	}
}

// writable says whether the log takes appends. The caller holds mu.
func (l *Log) writable() error {
	if err := l.usable(); err != nil {
		return err
	}
	if l.damage != nil {
		return fmt.Errorf("log %s takes no appends: %w from offset %d on; discard the damage to fetch it anew",
			l.tp, ErrCorruptLog, l.damage.From)
	}
	return nil
}

// fail makes an error sticky: kind is ErrLogFailed or ErrSyncFailed. The caller holds mu.
func (l *Log) fail(kind, err error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("log %s: %w: %w", l.tp, kind, err)
		l.dir.noteSyncFailure(err)
	}
	return l.failed
}

// checkpoint returns what the journal should say now. ok is false when the log is closed or failed.
func (l *Log) checkpoint(highWatermark int64) (u logUpdate, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.usable() != nil || l.damage != nil {
		return u, false
	}
	l.checkpointed = max(min(highWatermark, l.end), 0)
	if l.pos-l.snapshotPos >= snapshotDistance {
		l.snapshotWithin()
	}
	return logUpdate{tp: l.tp, state: l.journalState(), of: l, cuts: l.cuts.Load()}, true
}

// snapshotDistance is how far apart producer snapshots lie within a segment, at least, in bytes: what recovery has to walk
// below the recovery point.
const snapshotDistance = 64 << 20

// snapshotWithin writes index and producer snapshot of the active segment as it is now; the one before goes. The caller
// holds mu.
func (l *Log) snapshotWithin() {
	l.index.finish(l.fs)
	if l.writeSnapshot() != nil {
		return // a hint
	}
	before := l.midSnapshot
	l.snapshotPos, l.midSnapshot = l.pos, l.end
	if before > 0 {
		_ = removeIfExists(l.fs, l.snapshotName(before)) //nolint:errcheck // it goes with its segment at the latest
	}
}

// journalState is the log's state for the journal. The caller holds mu.
func (l *Log) journalState() logState {
	return logState{
		recoveryPoint: l.filed.Load(), highWatermark: l.checkpointed, logStart: l.start,
		epochs: slices.Clip(l.epochs.starts),
	}
}

// Sync makes everything appended before the call durable in the log's own files and returns the durable end: the LogEndOffset at the start of
// the call, or a later one that another sync has reached. One failure wraps ErrSyncFailed and is for ever.
func (l *Log) Sync() (durableEnd int64, err error) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	return l.syncHeld()
}

// syncHeld is Sync for callers that hold syncMu.
func (l *Log) syncHeld() (int64, error) {
	p, err := l.beginSync()
	if err != nil || !p.needed() {
		return p.end, err
	}
	return l.endSync(p, l.syncFiles(p))
}

// syncMore is Sync that leaves it at that where everything is durable in some place.
func (l *Log) syncMore() (int64, error) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	p, err := l.beginSync()
	if err != nil || !p.more {
		return p.end, err
	}
	return l.endSync(p, l.syncFiles(p))
}

// pendingSync is what one sync of a log has to make durable. It is made with syncMu and mu held; syncMu stays held to its end.
type pendingSync struct {
	end      int64 // durable when the sync has succeeded; before it was begun, what is durable already
	pos      int64 // of end in the active segment
	from     int64 // position in the active segment from which on it is not known to be durable
	more     bool  // something would become durable that is not, in whatever place
	sealed   []*segment
	active   *segment
	dirty    bool     // bytes of the active segment
	dirtyDir bool     // names in the log's directory
	told     uint64   // how often the journal was told of batches ahead; 0 where all of it is synced
	fresh    []string // directories above it
}

func (p *pendingSync) needed() bool { return p.dirty || p.dirtyDir || len(p.fresh) > 0 }

// beginSync notes what there is to sync. The caller holds syncMu.
func (l *Log) beginSync() (pendingSync, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return pendingSync{end: l.durable.Load()}, err
	}
	return l.pending(), nil
}

// pending is what there is to sync. The caller holds mu.
func (l *Log) pending() pendingSync {
	return pendingSync{
		end: l.end, pos: l.pos, from: l.durablePos, more: l.end > l.durable.Load() || l.dirtyDir || len(l.freshDirs) > 0,
		sealed: l.unsynced, active: l.active(), dirty: l.end > l.filed.Load(), dirtyDir: l.dirtyDir, fresh: l.freshDirs,
		told: l.told.unsynced(),
	}
}

// endSync takes over what a sync has reached, or its failure, which is for ever. The caller holds syncMu since beginSync.
func (l *Log) endSync(p pendingSync, err error) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.synced(p, err)
}

// synced is endSync for callers that hold mu too.
func (l *Log) synced(p pendingSync, err error) (int64, error) {
	if err != nil {
		return l.durable.Load(), l.fail(ErrSyncFailed, err)
	}
	if err := l.usable(); err != nil {
		return l.durable.Load(), err
	}
	l.unsynced = slices.Clone(l.unsynced[len(p.sealed):])
	if l.active() == p.active && p.dirtyDir {
		l.dirtyDir = false // no roll came between
	}
	l.freshDirs = nil
	l.noteDurable(p)
	l.filed.Store(max(p.end, l.filed.Load()))
	for _, s := range p.sealed {
		if err := s.letGo(); err != nil {
			return p.end, l.fail(ErrSyncFailed, err)
		}
	}
	return p.end, nil
}

// noteDurable takes over what has become durable, in whatever place. The caller holds mu.
func (l *Log) noteDurable(p pendingSync) {
	if p.end <= l.durable.Load() {
		return
	}
	l.durable.Store(p.end)
	l.told.synced = max(l.told.synced, p.told)
	if l.active() == p.active {
		l.durablePos = p.pos
	}
}

// syncFiles does the file system's part of a sync. The caller holds syncMu.
func (l *Log) syncFiles(p pendingSync) error {
	if err := l.dir.syncTold(p); err != nil {
		return err
	}
	for _, s := range p.sealed {
		f := s.file.Load()
		if f == nil {
			continue // it was synced, and closed for being idle, before it was sealed
		}
		if err := f.SyncData(); err != nil {
			return err
		}
	}
	// A roll that comes in between only moves active to the unsynced ones: its file stays open while syncMu is held.
	if p.dirty {
		if err := p.active.file.Load().SyncData(); err != nil {
			return err
		}
	}
	if p.dirtyDir || len(p.fresh) > 0 {
		if err := l.fs.SyncDir(l.path); err != nil {
			return err
		}
	}
	for _, dir := range p.fresh {
		if err := l.fs.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the log. A clean close syncs, trims preallocated space, writes the indexes and a producer snapshot, and
// notes the end as recovery point, so that the next open reads next to nothing; without clean it only closes files. The
// log is closed whatever the error.
func (l *Log) Close(clean bool) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	var err error
	if clean {
		err = l.closeCleanly()
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	err = errors.Join(err, l.closeFiles())
	l.mu.Unlock()
	l.dir.forgetLog(l)
	return err
}

// closeCleanly does what a clean close does besides closing. The caller holds syncMu.
func (l *Log) closeCleanly() error {
	if _, err := l.syncHeld(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.damage != nil {
		return nil
	}
	if err := l.trimPreallocated(); err != nil {
		return err
	}
	l.index.finish(l.fs)
	// The snapshot is a hint: without it the next open scans the active segment. An empty segment's state has one already.
	if l.pos > 0 {
		_ = l.writeSnapshot() //nolint:errcheck // see above
	}
	if l.filed.Load() != l.end {
		return nil // appended to beside the close; the next open scans
	}
	return l.dir.journal.append(logUpdate{tp: l.tp, state: l.journalState()})
}

// closeFiles closes what is open and marks the log closed. The caller holds mu.
func (l *Log) closeFiles() error {
	l.closed = true
	l.cuts.Add(1)
	var err error
	for _, s := range l.segs {
		err = errors.Join(err, s.letGo())
	}
	l.unsynced = nil
	l.publish()
	return err
}

// abandon closes a log whose files are about to go or to be set aside.
func (l *Log) abandon() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	leave := l.leave
	if l.Failed() != nil {
		leave = func() error { return l.dir.leaveShared(l.tp) }
	}
	if err := leave(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		_ = l.closeFiles() //nolint:errcheck // the files are deleted or set aside
	}
	return nil
}

// trimPreallocated cuts the active file to what was written. The caller holds mu.
func (l *Log) trimPreallocated() error {
	if l.preallocated <= l.pos {
		return nil
	}
	if err := l.active().file.Load().Truncate(l.pos); err != nil {
		return l.fail(ErrLogFailed, err)
	}
	l.preallocated = l.pos
	return nil
}

// writeSnapshot writes the producer snapshot at the end of the log. The caller holds mu.
func (l *Log) writeSnapshot() error {
	info := snapshotInfo{offset: l.end, segmentBase: l.active().base, position: l.pos, maxTimestamp: l.index.maxTs}
	return writeHint(l.fs, l.snapshotName(l.end), l.producers.encode(info))
}

func (l *Log) snapshotName(offset int64) string {
	return path.Join(l.path, fileName(offset, producersSuffix))
}
