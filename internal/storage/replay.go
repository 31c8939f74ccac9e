package storage

import (
	"errors"
	"fmt"
	"path"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage/syncjournal"
)

// Replay says what OpenDir found in the sync journal and has written to the segments.
type Replay struct {
	// Logs, Frames and Bytes count what was written; nothing after a clean shutdown.
	Logs          int
	Frames, Bytes int64
	// Damage lists what of the journal could not be believed and was no unfinished end. Every log gives up its seats then: the
	// journal may have held the last copy of what any of them has acknowledged.
	Damage []*syncjournal.DamageError
	// Deferred counts the logs that stay closed since the disk has no room for what the journal holds of them, and DeferredBytes
	// what their segments lack; OpenLog says of each what to do.
	Deferred      int
	DeferredBytes int64
}

// replayed is what a replay found, and how far each log is durable in its own files with what it has put back.
type replayed struct {
	contents *syncjournal.Contents
	ends     map[model.TopicPartition]int64
}

// replay writes what the sync journal holds to the segments, before any log is opened, and syncs it. Nothing of the journal is given
// up yet: a crash before noteReplayed repeats all of it. Logs that the disk has no room for are deferred.
func (d *Dir) replay(found []model.TopicPartition) (re replayed, err error) {
	contents, err := syncjournal.Read(d.fs, d.shared.path())
	if err != nil {
		return re, err
	}
	re.contents = contents
	if plantedSkipReplay {
		return re, nil
	}
	r := &replayer{dir: d, contents: contents, tight: true}
	err = r.run()
	if errors.Is(err, fsys.ErrNoSpace) && !errors.Is(err, fsys.ErrSyncFailed) {
		err = r.runTight(found)
	}
	if err != nil {
		return re, err
	}
	re.ends = make(map[model.TopicPartition]int64, len(contents.Ends))
	for tp, end := range contents.Ends {
		if _, left := r.left[tp]; !left {
			re.ends[tp] = end.Offset
		}
	}
	d.report.Replay = Replay{Logs: len(re.ends), Damage: contents.Damage}
	d.report.Replay.Frames, d.report.Replay.Bytes = r.written()
	if d.report.Replay.Frames == 0 && d.deferred.Load() == nil {
		return re, nil
	}
	if err := d.fs.SyncFS(d.path); err != nil {
		d.noteSyncFailure(err)
		return re, err
	}
	d.synced = true
	return re, nil
}

// replayer writes frames to segments.
type replayer struct {
	dir      *Dir
	contents *syncjournal.Contents
	tight    bool                           // room is kept for the directory's own bookkeeping, and a lack of it ends the run
	left     map[model.TopicPartition]int64 // logs that are passed over, and the bytes that their segments lack

	file  fsys.File // the last one written to, or nil
	grown []grownFile
	index map[string]bool // names in grown
	done  map[model.TopicPartition]*[2]int64
}

// grownFile is a segment as it was before a run.
type grownFile struct {
	log  model.TopicPartition
	name string
	size int64
}

// run writes the frames of all logs but those that are left. Where it is not tight, a log that does not fit becomes one of these.
func (r *replayer) run() (err error) {
	defer func() { err = errors.Join(err, r.close()) }()
	r.grown, r.index, r.done = nil, map[string]bool{}, map[model.TopicPartition]*[2]int64{}
	if r.left == nil {
		r.left = map[model.TopicPartition]int64{}
	}
	if err := r.contents.Each(r.frame); err != nil || !r.tight {
		return err
	}
	return r.leavesRoom()
}

// leavesRoom says whether a run has left room for the directory's own bookkeeping.
func (r *replayer) leavesRoom() error {
	s := r.dir.space
	if len(r.grown) == 0 || s.held.Load() {
		return nil
	}
	free, err := s.fs.FreeBytes(s.dir)
	if err == nil && free < bookkeepingMin {
		return fmt.Errorf("%w: %d bytes are left", fsys.ErrNoSpace, free)
	}
	return nil //nolint:nilerr // not known: what does not fit says so
}

// runTight replays on a disk that has not room for all: what makes room is given up, and the logs that lack least are served first. Of
// what cannot be told from older bytes once logs change, nothing is served: see deferral.
func (r *replayer) runTight(found []model.TopicPartition) error {
	if err := r.cutBack(nil); err != nil {
		return err
	}
	d := r.dir
	if _, err := r.contents.GiveUpIdle(); err != nil {
		return err
	}
	needs, err := replayNeeds(d.fs, r.contents, d.logDir)
	if err != nil {
		return err
	}
	r.left = leftOut(needs, d.replayRoom(len(found)))
	if len(r.left) > 0 && d.space.giveUp() {
		r.left = leftOut(needs, d.replayRoom(len(found)))
	}
	if len(r.left) > 0 && d.trustsNothing(r.contents) {
		r.left = needs
	}
	r.tight = false
	if err := r.run(); err != nil {
		return err
	}
	if len(r.left) > 0 {
		d.deferLogs(r.contents, r.left, needs, found)
	}
	return nil
}

// trustsNothing says that it is not known which frames a later start finds.
func (d *Dir) trustsNothing(contents *syncjournal.Contents) bool {
	return len(contents.Damage) > 0 || d.report.SyncFailed
}

// written counts frames and bytes of what was put back.
func (r *replayer) written() (frames, bytes int64) {
	for tp, n := range r.done {
		if _, left := r.left[tp]; !left {
			frames, bytes = frames+n[0], bytes+n[1]
		}
	}
	return frames, bytes
}

// frame writes the bytes of a frame to their place, also where they seem to be there: what a page shows after a failed sync need
// not be on the disk. A segment that is not there is not made: either it was trimmed, or recovery finds that the log ends
// too early.
func (r *replayer) frame(f syncjournal.Frame) error {
	if _, left := r.left[f.Log]; left {
		return nil
	}
	name := path.Join(r.dir.logDir(f.Log), fileName(f.SegmentBase, segmentSuffix))
	if r.file == nil || r.file.Name() != name {
		there, err := r.open(f.Log, name)
		if err != nil || !there {
			return err
		}
	}
	if r.done[f.Log] == nil {
		r.done[f.Log] = new([2]int64)
	}
	r.done[f.Log][0]++
	r.done[f.Log][1] += int64(len(f.Data))
	err := r.write(f.Position, f.Data)
	if errors.Is(err, fsys.ErrNoSpace) && !r.tight {
		return r.leave(f.Log, int64(len(f.Data)))
	}
	if err != nil {
		return fmt.Errorf("write %d bytes of the sync journal to %s at %d: %w", len(f.Data), name, f.Position, err)
	}
	return nil
}

// open makes a segment the one that is written to.
func (r *replayer) open(tp model.TopicPartition, name string) (there bool, err error) {
	if err := r.close(); err != nil {
		return false, err
	}
	file, err := r.dir.fs.Open(name)
	if fsys.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	r.file = file
	if !r.index[name] {
		r.index[name] = true
		r.grown = append(r.grown, grownFile{log: tp, name: name, size: file.Position()})
	}
	return true, nil
}

// leave gives a log up for this run, and the room that it took.
func (r *replayer) leave(tp model.TopicPartition, lacks int64) error {
	r.left[tp] = lacks
	return r.cutBack(&tp)
}

// cutBack makes the segments of a log, or of all, as long as they were before the run. What lies there is in the journal.
func (r *replayer) cutBack(tp *model.TopicPartition) error {
	if err := r.close(); err != nil {
		return err
	}
	for _, g := range r.grown {
		if tp != nil && g.log != *tp {
			continue
		}
		f, err := r.dir.fs.Open(g.name)
		if err != nil {
			return err
		}
		if f.Position() > g.size {
			err = f.Truncate(g.size)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// write may be repeated.
func (r *replayer) write(at int64, data []byte) error {
	for gap := at - r.file.Position(); gap > 0; gap = at - r.file.Position() { // what was there is lost: zeros, so that it shows
		if _, err := r.file.Append(make([]byte, min(gap, zeroChunk))); err != nil {
			return err
		}
	}
	there := min(int64(len(data)), r.file.Position()-at)
	if there > 0 {
		if _, err := r.file.Overwrite(at, data[:there]); err != nil {
			return err
		}
	}
	if there == int64(len(data)) {
		return nil
	}
	_, err := r.file.Append(data[there:])
	return err
}

func (r *replayer) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// noteReplayed notes durably how far each log is durable by the sync journal, which logs have lost something with it, and then
// that nothing is left to replay, or nothing but what is deferred. there says which logs have a directory.
func (d *Dir) noteReplayed(re replayed, there map[model.TopicPartition]bool) error {
	var updates []logUpdate
	for tp, end := range re.ends {
		if there[tp] {
			updates = append(updates, logUpdate{tp: tp, change: logRaised, state: logState{raised: end}})
		} else if !d.journal.isLost(tp) {
			updates = append(updates, logUpdate{tp: tp, change: logLost})
			d.report.MissingLogs = append(d.report.MissingLogs, tp)
		}
	}
	if len(d.report.Replay.Damage) > 0 {
		for tp := range there {
			updates = append(updates, logUpdate{tp: tp, change: logLost})
		}
	}
	err := d.journal.commit(updates...)
	if errors.Is(err, fsys.ErrNoSpace) && !errors.Is(err, ErrJournalFailed) { // what is not noted stays in the sync journal
		d.deferReplayed(re, there)
		re.ends, err = nil, nil
	}
	if err != nil {
		return err
	}
	if d.deferred.Load() == nil {
		return d.shared.open(true)
	}
	if !d.synced { // of what the sync journal says, too
		if err := d.fs.SyncFS(d.path); err != nil {
			d.noteSyncFailure(err)
			return err
		}
		d.synced = true
	}
	if err := d.forgetReplayed(re, there); err != nil {
		d.noteSyncFailure(err)
		return err
	}
	d.report.Replay.Deferred, d.report.Replay.DeferredBytes = d.Deferred()
	return d.shared.open(false)
}
