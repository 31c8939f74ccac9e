package storage

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage/syncjournal"
)

const (
	// bookkeepingMin, and bookkeepingLog for each log up to bookkeepingMax, is what a replay leaves free of the last room for
	// checkpoints.journal and meta.properties: without these nothing could be trimmed or deleted.
	bookkeepingMin = 32 << 10
	bookkeepingLog = 1 << 10
	bookkeepingMax = 1 << 20

	blockBytes = 4 << 10 // of a file system: files grow by whole ones
)

// DeferredError refuses to open a log: the sync journal holds records of it that the disk has no room for. The journal keeps them, and
// nothing is lost. It unwraps to fsys.ErrNoSpace.
type DeferredError struct {
	// Log stays closed.
	Log model.TopicPartition
	// Dir is the data directory.
	Dir string
	// LackBytes is what the segments of the log lack, WantFreeBytes what must be free on the disk to put it back.
	LackBytes, WantFreeBytes int64
	// Restart says that it is put back by the next start alone, otherwise by a Settle, too.
	Restart bool
	// Cause is what went wrong otherwise when it was tried last, or nil.
	Cause error
}

// Error says what to do.
func (e *DeferredError) Error() string {
	then := "then it opens by itself"
	if e.Restart {
		then = "then start again"
	}
	cause := ""
	if e.Cause != nil {
		cause = fmt.Sprintf(" (tried last: %v)", e.Cause)
	}
	return fmt.Sprintf("%v: log %s stays closed: the sync journal keeps what its segments lack (%d bytes), and nothing is lost: "+
		"delete or trim topics, or make the disk larger, until %d bytes are free in %s; %s%s",
		fsys.ErrNoSpace, e.Log, e.LackBytes, e.WantFreeBytes, e.Dir, then, cause)
}

// Unwrap returns fsys.ErrNoSpace.
func (e *DeferredError) Unwrap() error { return fsys.ErrNoSpace }

// deferral is what of the sync journal is not put back into the segments for lack of room. Until it is, the journal takes nothing, and
// this holds: a log of which a later start may find frames is not opened, and no new one takes its name. For what was put back the
// frames are void, durably, before the log is opened; where it is not sure what a later start finds (the journal is damaged, or a sync
// has failed before) no log is opened at all.
type deferral struct {
	contents *syncjournal.Contents
	all      bool // no log is opened, and none made
	logs     int  // of the directory, for what is kept free

	work sync.Mutex // held while contents are read or changed; taken before mu and before claims

	mu    sync.Mutex
	lacks map[model.TopicPartition]int64 // the logs that stay closed, and what their segments lack, in bytes
	stuck bool                           // the journal has no room to say what is void: all are put back together
	cause error
}

// deferLogs notes what a replay has left. needs says what all logs with frames lack.
func (d *Dir) deferLogs(contents *syncjournal.Contents, left, needs map[model.TopicPartition]int64, found []model.TopicPartition) {
	h := &deferral{contents: contents, all: d.trustsNothing(contents), logs: len(found), lacks: map[model.TopicPartition]int64{}}
	if h.all {
		for _, tp := range found {
			h.lacks[tp] = 0
		}
	}
	for tp, lacks := range left {
		h.lacks[tp] = max(lacks, needs[tp])
	}
	d.deferred.Store(h)
}

// deferReplayed defers what was put back, too: nothing could be noted of it.
func (d *Dir) deferReplayed(re replayed, there map[model.TopicPartition]bool) {
	h := d.deferred.Load()
	if h == nil {
		h = &deferral{contents: re.contents, all: d.trustsNothing(re.contents), logs: len(there), lacks: map[model.TopicPartition]int64{}}
		if h.all {
			for tp := range there {
				h.lacks[tp] = 0
			}
		}
	}
	for tp := range re.ends {
		h.lacks[tp] = max(h.lacks[tp], 0)
	}
	d.deferred.Store(h)
}

// forgetReplayed makes the frames void of what was put back, beside what is deferred.
func (d *Dir) forgetReplayed(re replayed, there map[model.TopicPartition]bool) error {
	if d.deferred.Load().all {
		return nil
	}
	err := re.contents.Forget(sortedLogs(re.ends))
	if errors.Is(err, syncjournal.ErrFull) {
		d.deferReplayed(re, there)
		d.deferred.Load().stuck = true
		return nil
	}
	return err
}

// Deferred counts the logs that stay closed since the disk has no room for what the sync journal holds of them, and what their segments
// lack, in bytes; a Settle may have put them back since.
func (d *Dir) Deferred() (logs int, bytes int64) {
	h := d.deferred.Load()
	if h == nil {
		return 0, 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.lacks {
		bytes += n
	}
	return len(h.lacks), bytes
}

// deferredLog says why a log stays closed, or its name unused.
func (d *Dir) deferredLog(tp model.TopicPartition) error {
	h := d.deferred.Load()
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	lacks, held := h.lacks[tp]
	if !held && !h.all {
		return nil
	}
	want := lacks
	if h.all || h.stuck {
		want = 0
		for _, n := range h.lacks {
			want += n
		}
	}
	return &DeferredError{
		Log: tp, Dir: d.path, LackBytes: lacks, WantFreeBytes: want + bookkeeping(h.logs), Restart: h.all, Cause: h.cause,
	}
}

// dropDeferred makes the frames of a log void that is gone. Where the journal has no room for that its name stays unused.
func (d *Dir) dropDeferred(tp model.TopicPartition) error {
	h := d.deferred.Load()
	if h == nil || h.all {
		return nil
	}
	h.work.Lock()
	defer h.work.Unlock()
	h.mu.Lock()
	_, held := h.lacks[tp]
	h.mu.Unlock()
	if !held {
		return nil
	}
	err := h.contents.Forget([]model.TopicPartition{tp})
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		delete(h.lacks, tp)
	case errors.Is(err, syncjournal.ErrFull):
		h.lacks[tp] = 0
	default:
		return err
	}
	return nil
}

// putBack puts back what is deferred, as far as there is room. What is not put back stays as it is. An error means that the directory
// has failed.
func (d *Dir) putBack() error {
	h := d.deferred.Load()
	if h == nil || h.all {
		return nil
	}
	h.work.Lock()
	defer h.work.Unlock()
	chosen, left := d.choose(h)
	if chosen == nil || d.deferred.Load() != h {
		return nil
	}
	for _, tp := range chosen {
		if _, err := d.claim(tp); err != nil {
			left[tp] = 0 // it is being deleted
			continue
		}
		defer d.unclaim(tp, nil)
	}
	r := &replayer{dir: d, contents: h.contents, left: left}
	if err := r.run(); err != nil {
		h.failedBy(err)
		return nil //nolint:nilerr // nothing of it counts yet
	}
	ends := map[model.TopicPartition]int64{}
	for _, tp := range chosen {
		if lacks, left := r.left[tp]; !left {
			ends[tp] = h.contents.Ends[tp].Offset
		} else if lacks > 0 {
			h.missed(tp)
		}
	}
	return d.notePutBack(h, ends)
}

// missed wants more room for a log that did not fit where it should have.
func (h *deferral) missed(tp model.TopicPartition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lacks[tp] += h.lacks[tp]/8 + blockBytes
}

// choose says which logs there is room for now, and which are left; nil for none, where that is not because none is deferred.
func (d *Dir) choose(h *deferral) (chosen []model.TopicPartition, left map[model.TopicPartition]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := d.replayRoom(h.logs)
	if room < 0 {
		return nil, nil
	}
	left = leftOut(h.lacks, room)
	if len(left) == len(h.lacks) && len(left) > 0 || h.stuck && len(left) > 0 {
		return nil, nil
	}
	chosen = []model.TopicPartition{}
	for _, tp := range sortedLogs(h.lacks) {
		if _, no := left[tp]; !no {
			chosen = append(chosen, tp)
		}
	}
	return chosen, left
}

// notePutBack makes durable what was put back, and then its frames void. The caller holds work.
func (d *Dir) notePutBack(h *deferral, ends map[model.TopicPartition]int64) error {
	if err := d.fs.SyncFS(d.path); err != nil {
		return d.putBackFailed(err)
	}
	var updates []logUpdate
	for _, tp := range sortedLogs(ends) {
		if _, err := d.fs.Stat(d.logDir(tp)); err == nil { // a deleted one has no state
			updates = append(updates, logUpdate{tp: tp, change: logRaised, state: logState{raised: ends[tp]}})
		}
	}
	if err := d.journal.commit(updates...); err != nil {
		if errors.Is(err, fsys.ErrNoSpace) && !errors.Is(err, ErrJournalFailed) {
			h.failedBy(err)
			return nil
		}
		return err
	}
	h.mu.Lock()
	whole := len(ends) == len(h.lacks)
	h.mu.Unlock()
	if whole {
		if err := d.shared.journal.Clear(); err != nil {
			return d.putBackFailed(err)
		}
		d.deferred.Store(nil)
		return nil
	}
	err := h.contents.Forget(sortedLogs(ends))
	switch {
	case errors.Is(err, syncjournal.ErrFailed):
		return d.putBackFailed(err)
	case err != nil:
		h.failedBy(err)
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for tp := range ends {
		delete(h.lacks, tp)
	}
	h.cause = nil
	return nil
}

// putBackFailed fails the directory.
func (d *Dir) putBackFailed(err error) error {
	d.failLogs(err)
	d.noteSyncFailure(err)
	return fmt.Errorf("put back what the sync journal holds: %w: %w", ErrSyncFailed, err)
}

// failedBy notes why nothing could be put back, for DeferredError.
func (h *deferral) failedBy(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cause = err
	h.stuck = h.stuck || errors.Is(err, syncjournal.ErrFull)
}

// bookkeeping is what a replay leaves free where the reserve is gone.
func bookkeeping(logs int) int64 {
	return min(bookkeepingMin+bookkeepingLog*int64(logs), bookkeepingMax)
}

// replayRoom is how many bytes segments may grow by.
func (d *Dir) replayRoom(logs int) int64 {
	free, err := d.fs.FreeBytes(d.path)
	if err != nil {
		return 0 // what is there needs no room
	}
	if d.space.held.Load() {
		return free
	}
	return free - bookkeeping(logs)
}

// replayNeeds says of each log with frames how many bytes its segments must grow by to take them.
func replayNeeds(
	fsy fsys.FS, contents *syncjournal.Contents, logDir func(model.TopicPartition) string,
) (map[model.TopicPartition]int64, error) {
	type segmentKey struct {
		log  model.TopicPartition
		base int64
	}
	sizes := map[segmentKey]int64{} // of those that are there; the others are not made
	needs := make(map[model.TopicPartition]int64, len(contents.Ends))
	grow := map[segmentKey]int64{}
	err := contents.Each(func(f syncjournal.Frame) error {
		key := segmentKey{f.Log, f.SegmentBase}
		size, known := sizes[key]
		if !known {
			info, err := fsy.Stat(path.Join(logDir(f.Log), fileName(f.SegmentBase, segmentSuffix)))
			if err != nil && !fsys.IsNotExist(err) {
				return err
			}
			if size = info.Size; err != nil {
				size = -1
			}
			sizes[key] = size
		}
		if more := f.Position + int64(len(f.Data)) - size; size >= 0 && more > grow[key] {
			needs[f.Log] += blockCeil(more) - blockCeil(grow[key])
			grow[key] = more
		}
		return nil
	})
	for tp := range contents.Ends {
		needs[tp] += 0 // those whose segments lack nothing, too
	}
	return needs, err
}

func blockCeil(n int64) int64 { return (n + blockBytes - 1) / blockBytes * blockBytes }

// leftOut says which logs do not fit into so many bytes where those that lack least go first. Those that lack nothing fit always.
func leftOut(needs map[model.TopicPartition]int64, room int64) map[model.TopicPartition]int64 {
	order := sortedLogs(needs)
	slices.SortStableFunc(order, func(a, b model.TopicPartition) int { return cmp.Compare(needs[a], needs[b]) })
	left := map[model.TopicPartition]int64{}
	for _, tp := range order {
		if needs[tp] > 0 && needs[tp] > room {
			left[tp] = needs[tp]
			continue
		}
		room -= needs[tp]
	}
	return left
}

func sortedLogs(logs map[model.TopicPartition]int64) []model.TopicPartition {
	return slices.SortedFunc(maps.Keys(logs), comparePartitions)
}
