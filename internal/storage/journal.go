package storage

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

const (
	journalName       = "checkpoints.journal"
	journalCompactMin = 1 << 20
	journalCompactBy  = 4 // compact when this many times larger than what is live
)

// journal is checkpoints.journal, open for appending. All methods are safe for concurrent use. One failed write or
// sync fails it for ever: what it holds on disk is then unknown. A full disk does not: what did not fit is cut off again.
type journal struct {
	fs   fsys.FS
	name string
	room *space
	torn bool // what could not be believed at the opening was a last write that a crash cut short

	missing bool // there was none, or an empty file, at the opening

	mu       sync.Mutex
	file     fsys.File
	states   map[model.TopicPartition]logState // what the file says, were it read now
	live     int64                             // bytes right after the last compaction
	unsaved  bool                              // appended and not synced
	unsynced int64                             // where that begins
	failed   error
	buf      []byte
	wait     int64 // a compaction that found the disk full is tried again from this size on

	onFailure func(error) // told of the first failure, with mu held
}

// openJournal reads the journal, drops what keep does not want, and writes it anew. damaged is the number of bytes
// that could not be believed; missing is what keep refused. doubt is told, before anything is replaced, whether the journal is damaged or
// there is none.
func openJournal(fsy fsys.FS, name string, room *space, keep func(model.TopicPartition) bool, doubt func(bad bool) error) (j *journal,
	damaged int64, missing []model.TopicPartition, err error,
) {
	data, err := readFile(fsy, name, maxJournalBytes)
	if err != nil && !fsys.IsNotExist(err) {
		return nil, 0, nil, fmt.Errorf("read %s: %w", name, err)
	}
	states, good := decodeJournal(data)
	for tp, s := range states {
		if keep(tp) {
			continue
		}
		if s.lost || s.point() > s.logStart {
			missing = append(missing, tp)
			states[tp] = logState{lost: true, unplaced: true}
			continue
		}
		delete(states, tp)
	}
	slices.SortFunc(missing, comparePartitions)
	j = &journal{fs: fsy, name: name, room: room, states: states, torn: good < len(data) && journalTorn(data, good)}
	if good < len(data) && !j.torn { // what is lost may have told of batches that are there
		for tp, s := range states {
			s.whole, s.rows = false, nil
			states[tp] = s
		}
	}
	j.missing = len(data) == 0
	if err := doubt(j.missing || good < len(data) && !j.torn); err != nil {
		return nil, 0, nil, err
	}
	err = j.compact()
	if errors.Is(err, fsys.ErrNoSpace) && j.failed == nil && good > 0 && (j.torn || good == len(data)) { // else it would go on to say that it is whole
		err = j.goOn(int64(good))
	}
	if err != nil {
		return nil, 0, nil, err
	}
	return j, int64(len(data) - good), missing, nil
}

// goOn uses the file as it is, without what could not be believed, where the disk is too full to write it anew.
func (j *journal) goOn(good int64) error {
	f, err := j.fs.Open(j.name)
	if err != nil {
		return err
	}
	j.file, j.live = f, good
	if err := f.Truncate(good); err != nil {
		return errors.Join(err, f.Close())
	}
	j.unsaved = true
	return nil
}

// state returns what the journal knows of a log.
func (j *journal) state(tp model.TopicPartition) (logState, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s, ok := j.states[tp]
	return s, ok && !s.unplaced
}

// isLost says whether a log is marked as having lost records.
func (j *journal) isLost(tp model.TopicPartition) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.states[tp].lost
}

// losses returns the logs that are marked as having lost records, in no order.
func (j *journal) losses() []model.TopicPartition {
	j.mu.Lock()
	defer j.mu.Unlock()
	var tps []model.TopicPartition
	for tp, s := range j.states {
		if s.lost {
			tps = append(tps, tp)
		}
	}
	return tps
}

// logUpdate is the new state of one log (its mark of a loss stays as it is), or what happened to it.
type logUpdate struct {
	tp     model.TopicPartition
	state  logState
	change logChange

	// doubtful, of logMoved, says that batches may be there that the state does not tell of. row, where tells is set, is what the log is
	// about to append, or an empty one at its end: what was told of batches from there on is void.
	doubtful bool
	row      headRow
	tells    bool

	// of, where it is not nil, has said the state without waiting for it to be written, after that many cuts: another cut
	// since has said what holds now.
	of   *Log
	cuts uint64
	// voids is raised once the file says the update, where what others have said before it is void then.
	voids *atomic.Uint64
}

// overtaken says whether an update must not be written any more.
func (u logUpdate) overtaken() bool { return u.of != nil && u.of.cuts.Load() != u.cuts }

// logChange is what an update says.
type logChange uint8

const (
	logMoved  logChange = iota // it has the state
	logForget                  // it is gone
	logLost                    // it has lost records
	logTold                    // its loss is on record elsewhere
	logRaised                  // the sync journal was replayed up to state.raised
)

// frames appends what an update has to say in the journal, and returns the state after it; false where nothing is left to
// know. The caller holds mu.
func (j *journal) frames(buf []byte, u logUpdate) ([]byte, logState, bool) {
	old, known := j.states[u.tp]
	placed := known && !old.unplaced
	next := old
	switch u.change {
	case logForget:
		if known {
			buf = appendFrame(buf, journalFrameForget, u.tp)
		}
		return buf, next, false
	case logLost:
		next.lost, next.unplaced = true, !placed
		if !old.lost {
			buf = appendFrame(buf, journalFrameLost, u.tp)
		}
	case logTold:
		next.lost = false
		switch {
		case placed && old.lost:
			buf = appendFrame(buf, journalFrameTold, u.tp)
		case !placed && known: // the file may still hold positions of a log that is gone
			buf = appendFrame(buf, journalFrameForget, u.tp)
		}
		return buf, next, placed
	case logRaised:
		next.raised, next.unplaced = max(old.raised, u.state.raised), false
		if next.raised > old.point() {
			buf = appendFrame(buf, journalFrameRaised, u.tp, next.raised)
		} else {
			next = old
		}
	case logMoved:
		next = u.state
		next.lost, next.whole, next.rows = old.lost, !u.doubtful, nil
		if next.whole {
			next.rows = rowsAbove(old.rows, next.recoveryPoint)
		}
		if !placed || old.whole != next.whole || !slices.Equal(old.epochs, next.epochs) {
			buf = appendEpochsFrame(buf, u.tp, next)
		} else if !old.samePositions(next) {
			buf = appendStateFrame(buf, u.tp, next)
		}
		if u.tells && u.row.changes(next.rows) {
			buf = appendRowFrame(buf, u.tp, u.row)
			next.rows = u.row.onto(next.rows)
		}
	}
	return buf, next, true
}

// append writes what has changed, in one write. Nothing is synced.
func (j *journal) append(updates ...logUpdate) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.appendLocked(updates)
}

// commit writes what has changed and syncs once.
func (j *journal) commit(updates ...logUpdate) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.appendLocked(updates); err != nil {
		return err
	}
	return j.syncLocked()
}

// appendLocked writes what has changed. It may change the slice.
func (j *journal) appendLocked(updates []logUpdate) error {
	if j.failed != nil {
		return j.failed
	}
	updates = slices.DeleteFunc(updates, logUpdate.overtaken)
	buf := j.buf[:0]
	next := make([]logState, len(updates))
	known := make([]bool, len(updates))
	for i, u := range updates {
		buf, next[i], known[i] = j.frames(buf, u)
	}
	if j.buf = buf; len(buf) > 0 {
		if err := j.syncPage(int64(len(buf))); err != nil {
			return err
		}
		if err := j.room.within(func() error { return j.write(buf) }); err != nil {
			return err
		}
		if !j.unsaved {
			j.unsaved, j.unsynced = true, j.file.Position()-int64(len(buf))
		}
	}
	for _, u := range updates {
		if u.voids != nil {
			u.voids.Add(1)
		}
	}
	if len(buf) == 0 {
		return nil
	}
	for i, u := range updates {
		if known[i] {
			j.states[u.tp] = next[i]
		} else {
			delete(j.states, u.tp)
		}
	}
	return nil
}

// journalPage is what the page cache writes at once.
const journalPage = 4 << 10

// syncPage syncs what is written where n more bytes would reach into another page than it begins in: a loss of power that takes one page
// and leaves a later one would look like damage.
func (j *journal) syncPage(n int64) error {
	if !j.unsaved || (j.file.Position()+n-1)/journalPage == j.unsynced/journalPage {
		return nil
	}
	return j.syncLocked()
}

// write appends whole frames or nothing.
func (j *journal) write(frames []byte) error {
	at := j.file.Position()
	_, err := j.file.Append(frames)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fsys.ErrNoSpace) || errors.Is(err, fsys.ErrSyncFailed) {
		return j.fail(err)
	}
	if cutErr := j.file.Truncate(at); cutErr != nil {
		return j.fail(errors.Join(err, cutErr))
	}
	return fmt.Errorf("write %s: %w", j.name, err)
}

func (j *journal) syncLocked() error {
	if j.failed != nil || !j.unsaved {
		return j.failed
	}
	if err := j.file.SyncData(); err != nil {
		return j.fail(err)
	}
	j.unsaved = false
	size := j.file.Position()
	if size <= journalCompactMin || size <= journalCompactBy*j.live || size < j.wait {
		return nil
	}
	err := j.compact()
	if errors.Is(err, fsys.ErrNoSpace) && j.failed == nil {
		j.wait = 2 * size // the file that is there is whole and synced
		return nil
	}
	return err
}

func (j *journal) fail(err error) error {
	j.failed = fmt.Errorf("%w: %s: %w", ErrJournalFailed, j.name, err)
	if j.onFailure != nil {
		j.onFailure(err)
	}
	return j.failed
}

// compact writes the live state to a new file and goes on appending there.
func (j *journal) compact() error {
	b := journalHeader()
	for _, tp := range slices.SortedFunc(maps.Keys(j.states), comparePartitions) {
		b = appendLogFrames(b, tp, j.states[tp])
	}
	err := j.room.within(func() error { return writeFileAtomic(j.fs, j.name, b) })
	if errors.Is(err, fsys.ErrNoSpace) && !errors.Is(err, fsys.ErrSyncFailed) {
		return err // before anything was replaced
	}
	if err != nil {
		return j.fail(err)
	}
	f, err := j.fs.Open(j.name)
	if err != nil {
		return j.fail(err)
	}
	old := j.file
	j.file, j.live, j.unsaved, j.wait = f, int64(len(b)), false, 0
	if old != nil {
		if err := old.Close(); err != nil {
			return j.fail(err)
		}
	}
	return nil
}

// close syncs what is unsaved and closes the file.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var err error
	if j.failed == nil {
		err = j.syncLocked()
	}
	if j.file != nil {
		err = errors.Join(err, j.file.Close())
		j.file = nil
	}
	if j.failed == nil {
		j.failed = fmt.Errorf("%w: %s is closed", ErrJournalFailed, j.name)
	}
	return err
}
