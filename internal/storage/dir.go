package storage

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

const (
	lockName      = ".lock"
	topicsName    = "topics"
	deletedSuffix = ".deleted"
	straySuffix   = ".stray"
)

// DirOptions is what OpenDir takes besides the path.
type DirOptions struct {
	// DirectoryID is given to a directory that is made now; zero draws a random one. The simulator passes its own.
	DirectoryID model.UUID
	// ReserveBytes is the size of a file that is kept to be given up when the disk is full, so that the journal can be
	// written, logs trimmed and the broker started all the same; 0 keeps none.
	ReserveBytes int64
	// MinFreeBytes refuses appends, with a *SpaceError, while less is free on the file system; 0 does not look.
	MinFreeBytes int64
	// MaxOpenFiles bounds how many segment files are kept open that need not be; 0 stands for DefaultMaxOpenFiles. Files
	// with unsynced bytes come on top.
	MaxOpenFiles int
	// BacklogReads is how many reads of old records run at a time, see BacklogGate; 0 stands for half the processors.
	BacklogReads int
	// SyncJournalBytes is the size of each of the two files of the sync journal, which come into being once many logs wait for a
	// sync at once; 0 makes none. What an earlier process has left in one is replayed either way.
	SyncJournalBytes int64
	// SyncJournalSalt tells the journal's own frames from bytes of clients; zero draws a random one. The simulator passes its own.
	SyncJournalSalt uint64
}

// DirReport says what OpenDir found.
type DirReport struct {
	// Created says that the directory was empty and was made now: it holds nothing that anybody relied on.
	Created bool
	// CleanShutdown is what meta.properties said: every log was closed cleanly and nothing was written since.
	CleanShutdown bool
	// SyncFailed says that a sync of this directory failed when it was last open. Recovery writes anew what may not have
	// reached the disk, and every RecoveryReport says so too.
	SyncFailed bool
	// JournalDamagedBytes is how much of checkpoints.journal could not be believed: an unfinished last frame, or damage.
	// What it said before is used; positions there may be older than the truth, never newer.
	JournalDamagedBytes int64
	// JournalMissing says that there are logs and that checkpoints.journal is not there, or is empty. It is written anew; positions that
	// are not known begin with the first segment, and nothing whole is cut off a log on account of them.
	JournalMissing bool
	// JournalTorn says of those bytes that they are no more than a last write that a crash cut short; otherwise they are damage.
	JournalTorn bool
	// MissingLogs are logs that the journal knows durable records of and that are not there: the replica of each has
	// lost its data and gives up its seats. They are named at every opening until LossesRecorded.
	MissingLogs []model.TopicPartition
	// Replay says what the sync journal held.
	Replay Replay
}

// Dir is one data directory: locked, with its meta.properties and its checkpoints.journal. Its methods are safe for
// concurrent use.
type Dir struct {
	fs      fsys.FS
	path    string
	lock    io.Closer
	report  DirReport
	journal *journal
	shared  sharedJournal
	space   *space
	files   *descriptors
	backlog *BacklogGate
	synced  bool // everything found at the opening was made durable then

	deferred atomic.Pointer[deferral] // nil where everything in the sync journal has been put back

	topics sync.Mutex // held while a topic's directory is made with a log's in it, or removed because it is empty; no other is taken then
	noting sync.Mutex // held while logs are asked for their states and these are written; taken before all others

	mu   sync.Mutex
	meta Meta
	logs map[model.TopicPartition]*Log // the open ones
	busy map[model.TopicPartition]bool // being opened, deleted or set aside
	// suspect are the logs not yet recovered since a sync failed.
	suspect map[model.TopicPartition]bool
	// unsure are the logs of which more may have been durable than the journal knew when it was opened.
	unsure map[model.TopicPartition]bool
	// untouched are the logs that OpenDir found and that nobody has opened since: what it made durable is all there is of them.
	untouched map[model.TopicPartition]bool
}

// OpenDir locks a data directory, making it when it is not there or empty, reads meta.properties, and opens and compacts
// checkpoints.journal. Leftovers of unfinished deletions are removed. Errors wrap fsys.ErrLocked, ErrMetaDamaged,
// ErrMetaMissing or the file system's errors; nothing stays locked then.
func OpenDir(fsy fsys.FS, dirPath string, opts DirOptions) (d *Dir, err error) {
	if err := fsy.MkdirAll(dirPath); err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", dirPath, err)
	}
	lock, err := fsy.Lock(path.Join(dirPath, lockName))
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: another broker uses it, or may not write there: %w", dirPath, err)
	}
	d = &Dir{
		fs: fsy, path: dirPath, lock: lock, logs: map[model.TopicPartition]*Log{}, busy: map[model.TopicPartition]bool{},
		space: &space{fs: fsy, dir: dirPath, reserve: opts.ReserveBytes, minFree: opts.MinFreeBytes},
		files: &descriptors{limit: opts.MaxOpenFiles}, backlog: newBacklogGate(opts.BacklogReads),
	}
	if d.files.limit <= 0 {
		d.files.limit = DefaultMaxOpenFiles
	}
	d.shared = sharedJournal{dir: d, fileBytes: opts.SyncJournalBytes, salt: opts.SyncJournalSalt}
	d.space.find()
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := d.openMeta(opts); err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", dirPath, err)
	}
	found, err := d.scanTopics(true)
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", dirPath, err)
	}
	replayed, err := d.replay(found)
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", dirPath, err)
	}
	if err := d.syncNames(found); err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", dirPath, err)
	}
	there := make(map[model.TopicPartition]bool, len(found))
	d.untouched = make(map[model.TopicPartition]bool, len(found))
	for _, tp := range found {
		there[tp], d.untouched[tp] = true, true
	}
	keep := func(tp model.TopicPartition) bool { return there[tp] }
	d.journal, d.report.JournalDamagedBytes, d.report.MissingLogs, err = openJournal(fsy, path.Join(dirPath, journalName), d.space, keep,
		d.doubt(found))
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", dirPath, err)
	}
	d.report.JournalTorn, d.report.JournalMissing = d.journal.torn, d.journal.missing && len(found) > 0
	d.journal.onFailure = d.noteSyncFailure
	if err := d.noteReplayed(replayed, there); err != nil {
		return nil, errors.Join(fmt.Errorf("open data directory %s: %w", dirPath, err), d.journal.close())
	}
	if err := d.space.keep(); err != nil {
		return nil, errors.Join(fmt.Errorf("open data directory %s: %w", dirPath, err), d.journal.close())
	}
	if d.report.SyncFailed {
		d.suspect = there
		if err := d.settleSuspect(model.TopicPartition{}); err != nil {
			return nil, errors.Join(fmt.Errorf("open data directory %s: %w", dirPath, err), d.journal.close())
		}
	}
	return d, nil
}

// syncNames makes the names of the logs found durable: a process that died before the first sync of a new log has left them to
// the page cache, and what this one syncs within would vanish with them at a power loss.
func (d *Dir) syncNames(found []model.TopicPartition) error {
	if d.report.CleanShutdown || d.synced || len(found) == 0 {
		return nil
	}
	if syncsTogether { // what the logs hold above their recovery points too: one sync instead of one a log
		if err := d.fs.SyncFS(d.path); err != nil {
			d.noteSyncFailure(err)
			return err
		}
		d.synced = true
		return nil
	}
	var last model.UUID
	for _, tp := range found { // sorted by topic
		if tp.TopicID == last {
			continue
		}
		last = tp.TopicID
		if err := d.fs.SyncDir(path.Dir(d.logDir(tp))); err != nil {
			return err
		}
	}
	for _, dir := range []string{path.Join(d.path, topicsName), d.path} {
		if err := d.fs.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// noteSyncFailure marks the directory after a failed sync, as well as that still works: data that the failed sync has
// dropped can look whole from the page cache, to this process and the next.
func (d *Dir) noteSyncFailure(err error) {
	if errors.Is(err, fsys.ErrSyncFailed) {
		d.shared.unsure.Store(true)
		_ = d.UpdateMeta(func(m *Meta) { m.SyncFailed = true }) //nolint:errcheck // the failure itself is reported
	}
}

// isSuspect says whether a sync failed since the log was last recovered.
func (d *Dir) isSuspect(tp model.TopicPartition) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.suspect[tp]
}

// touch says whether a log is as OpenDir has found it, for the last time.
func (d *Dir) touch(tp model.TopicPartition) (asFound bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	asFound = d.untouched[tp]
	delete(d.untouched, tp)
	return asFound
}

// settleSuspect notes that a log was recovered, or is gone; with the last one the mark of the failed sync goes.
func (d *Dir) settleSuspect(tp model.TopicPartition) error {
	d.mu.Lock()
	delete(d.suspect, tp)
	last := d.suspect != nil && len(d.suspect) == 0
	if last {
		d.suspect = nil
	}
	d.mu.Unlock()
	if !last {
		return nil
	}
	return d.UpdateMeta(func(m *Meta) { m.SyncFailed = false })
}

// LossesRecorded says that what RecoveryReports and MissingLogs told of losses is on record elsewhere: that the replicas
// have given up their seats. Until then every opening tells it again, whatever the one before has cut and repaired. It is
// durable when it returns. Errors are those of Checkpoint.
func (d *Dir) LossesRecorded() error {
	lost := d.journal.losses()
	updates := make([]logUpdate, 0, len(lost))
	for _, tp := range lost {
		updates = append(updates, logUpdate{tp: tp, change: logTold})
	}
	return d.journal.commit(updates...)
}

// openMeta reads meta.properties, or makes it in a directory that holds nothing yet.
func (d *Dir) openMeta(opts DirOptions) error {
	name := path.Join(d.path, metaFileName)
	data, err := readFile(d.fs, name, maxMetaBytes)
	if err == nil {
		if d.meta, err = decodeMeta(data); err != nil {
			return fmt.Errorf("%w; restore %s from a backup, or empty the directory to start anew as a new replica", err, name)
		}
		d.report.CleanShutdown, d.report.SyncFailed = d.meta.CleanShutdown, d.meta.SyncFailed
		return nil
	}
	if !fsys.IsNotExist(err) {
		return err
	}
	for _, left := range []string{topicsName, journalName} {
		if _, err := d.fs.Stat(path.Join(d.path, left)); err == nil {
			return fmt.Errorf("%w: %s holds %s; restore %s, or empty the directory to start anew as a new replica",
				ErrMetaMissing, d.path, left, metaFileName)
		} else if !fsys.IsNotExist(err) {
			return err
		}
	}
	d.report.Created = true
	d.meta = Meta{NodeID: model.NoNode, BrokerEpoch: model.NoBrokerEpoch, DirectoryID: opts.DirectoryID}
	if d.meta.DirectoryID.IsZero() {
		d.meta.DirectoryID = model.NewUUID()
	}
	if err := writeFileAtomic(d.fs, name, encodeMeta(d.meta)); err != nil {
		return err
	}
	if parent := path.Dir(d.path); parent != d.path {
		return d.fs.SyncDir(parent)
	}
	return nil
}

// scanTopics lists the logs; with clean it removes leftovers of deletions.
func (d *Dir) scanTopics(clean bool) ([]model.TopicPartition, error) {
	root := path.Join(d.path, topicsName)
	topics, err := d.fs.List(root)
	if err != nil && !fsys.IsNotExist(err) {
		return nil, err
	}
	var found []model.TopicPartition
	for _, t := range topics {
		id, err := model.ParseUUID(t.Name)
		if err != nil || !t.Dir {
			continue
		}
		partitions, err := d.fs.List(path.Join(root, t.Name))
		if err != nil {
			return nil, err
		}
		for _, p := range partitions {
			full := path.Join(root, t.Name, p.Name)
			if clean && p.Dir && strings.HasSuffix(p.Name, deletedSuffix) {
				if err := d.fs.RemoveAll(full); err != nil {
					return nil, err
				}
				continue
			}
			if n, ok := parsePartition(p.Name); ok && p.Dir {
				found = append(found, model.TopicPartition{TopicID: id, Partition: n})
			}
		}
		if clean {
			d.leaveTopic(path.Join(root, t.Name))
		}
	}
	slices.SortFunc(found, comparePartitions)
	return found, nil
}

func parsePartition(name string) (int32, bool) {
	n, err := strconv.ParseInt(name, 10, 32)
	return int32(n), err == nil && n >= 0 && strconv.FormatInt(n, 10) == name //nolint:gosec // parsed with 32 bits
}

// Path returns the path the directory was opened with.
func (d *Dir) Path() string { return d.path }

// Report says what OpenDir found.
func (d *Dir) Report() DirReport { return d.report }

// Meta returns what meta.properties says now.
func (d *Dir) Meta() Meta {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.meta
}

// UpdateMeta changes meta.properties durably: change gets a copy, and what it leaves is written before UpdateMeta
// returns. The directory id cannot be changed. change must not call methods of d.
func (d *Dir) UpdateMeta(change func(*Meta)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.meta
	change(&next)
	next.DirectoryID = d.meta.DirectoryID
	if next == d.meta {
		return nil
	}
	name, data := path.Join(d.path, metaFileName), encodeMeta(next)
	err := d.space.within(func() error { return writeFileAtomic(d.fs, name, data) })
	if errors.Is(err, fsys.ErrNoSpace) && !errors.Is(err, fsys.ErrSyncFailed) {
		if inPlace, placeErr := overwriteSector(d.fs, name, data); inPlace {
			err = placeErr
		}
	}
	if err != nil {
		return err
	}
	d.meta = next
	return nil
}

// MarkClean notes durably that every log was closed cleanly. It is called last, after all logs were closed.
func (d *Dir) MarkClean() error {
	if err := d.shared.clear(); err != nil {
		return err
	}
	return d.UpdateMeta(func(m *Meta) { m.CleanShutdown = true })
}

// ClearClean removes the mark of MarkClean durably and notes the boot the directory is used in from now on. It is
// called before anything is appended.
func (d *Dir) ClearClean(bootID string) error {
	return d.UpdateMeta(func(m *Meta) { m.CleanShutdown, m.BootID = false, bootID })
}

// LostPageCache says whether writes that were never synced may be lost: the directory was not shut down cleanly, and
// the machine has been booted since (or the boots are not known). bootID is the current boot. Ask before ClearClean.
func (d *Dir) LostPageCache(bootID string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.report.Created && !d.report.CleanShutdown && (bootID == "" || bootID != d.meta.BootID)
}

// Logs lists the logs found in the directory, open or not, sorted.
func (d *Dir) Logs() ([]model.TopicPartition, error) { return d.scanTopics(false) }

// FreeBytes returns how much can still be written.
func (d *Dir) FreeBytes() (int64, error) { return d.fs.FreeBytes(d.path) }

// Full says that appends were refused for lack of space, and that there is not yet clearly more of it: an eighth beyond
// MinFreeBytes. It looks at the disk only then.
func (d *Dir) Full() bool { return d.space.isFull() }

func (d *Dir) logDir(tp model.TopicPartition) string {
	return path.Join(d.path, topicsName, tp.TopicID.String(), strconv.FormatInt(int64(tp.Partition), 10))
}

// claim reserves a partition for one operation at a time; open is its open log, if any.
func (d *Dir) claim(tp model.TopicPartition) (open *Log, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[tp] {
		return nil, fmt.Errorf("log %s: another operation on it is running", tp)
	}
	d.busy[tp] = true
	return d.logs[tp], nil
}

// unclaim ends what claim began; open is the partition's open log from now on, or nil.
func (d *Dir) unclaim(tp model.TopicPartition, open *Log) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, tp)
	if open == nil {
		delete(d.logs, tp)
	} else {
		d.logs[tp] = open
	}
}

// CreateLog makes an empty log. Nothing is synced yet: the log is there for good after its first Sync. The error wraps
// ErrLogExists when the partition has a directory already; it is a *DeferredError while the sync journal holds frames of an earlier one.
func (d *Dir) CreateLog(tp model.TopicPartition, cfg Config) (log *Log, err error) {
	if tp.TopicID.IsZero() || tp.Partition < 0 {
		return nil, fmt.Errorf("create log: %s is no partition", tp)
	}
	open, err := d.claim(tp)
	if err != nil {
		return nil, err
	}
	defer func() { d.unclaim(tp, log) }()
	if open != nil {
		log = open
		return nil, fmt.Errorf("%w: %s", ErrLogExists, tp)
	}
	dir := d.logDir(tp)
	if _, err := d.fs.Stat(dir); err == nil {
		return nil, fmt.Errorf("%w: %s", ErrLogExists, tp)
	} else if !fsys.IsNotExist(err) {
		return nil, err
	}
	if err := d.deferredLog(tp); err != nil {
		return nil, fmt.Errorf("create log %s: %w", tp, err)
	}
	// What the journal may remember of an earlier log of that name must not apply to this one.
	if _, known := d.journal.state(tp); known {
		if err := d.journal.commit(logUpdate{tp: tp, change: logForget}); err != nil {
			return nil, err
		}
	}
	d.topics.Lock()
	err = d.fs.MkdirAll(dir)
	d.topics.Unlock()
	if err != nil {
		return nil, fmt.Errorf("create log %s: %w", tp, err)
	}
	log, _, err = openLog(d, tp, cfg)
	if err != nil {
		return nil, errors.Join(err, d.fs.RemoveAll(dir))
	}
	log.freshDirs = []string{path.Dir(dir), path.Dir(path.Dir(dir)), d.path}
	return log, nil
}

// OpenLog opens and recovers a log. The report says what was cut and found; it is meaningful without an error only. The
// error wraps ErrNoLog when there is no directory for the partition, ErrLogExists when it is open already; it is a *DeferredError
// where the disk has no room for what the sync journal holds of the log.
func (d *Dir) OpenLog(tp model.TopicPartition, cfg Config) (log *Log, report RecoveryReport, err error) {
	open, err := d.claim(tp)
	if err != nil {
		return nil, report, err
	}
	defer func() {
		if open != nil {
			d.unclaim(tp, open)
			return
		}
		d.unclaim(tp, log)
	}()
	if open != nil {
		return nil, report, fmt.Errorf("%w: %s is open", ErrLogExists, tp)
	}
	if info, err := d.fs.Stat(d.logDir(tp)); fsys.IsNotExist(err) || (err == nil && !info.Dir) {
		return nil, report, fmt.Errorf("%w: %s", ErrNoLog, tp)
	} else if err != nil {
		return nil, report, err
	}
	if err := d.deferredLog(tp); err != nil {
		return nil, report, fmt.Errorf("open log %s: %w", tp, err)
	}
	if err := d.leaveShared(tp); err != nil { // of when it was open before: recovery may change it
		return nil, report, fmt.Errorf("open log %s: %w", tp, err)
	}
	log, report, err = openLog(d, tp, cfg)
	if err != nil {
		d.noteSyncFailure(err)
		return nil, report, err
	}
	if report.Damage == nil { // it stands in the journal as it is
		d.settleUnsure(tp)
	}
	if report.SyncFailed {
		if err := d.settleSuspect(tp); err != nil {
			err = errors.Join(err, log.abandon())
			return nil, RecoveryReport{}, err
		}
	}
	return log, report, nil
}

// DeleteLog removes a log durably: when it returns without an error the log never comes back. An open one is closed.
// Deleting a log that is not there is no error.
func (d *Dir) DeleteLog(tp model.TopicPartition) error {
	aside, err := d.setAside(tp, deletedSuffix)
	if err != nil || aside == "" {
		return err
	}
	if err := d.fs.RemoveAll(aside); err != nil {
		return fmt.Errorf("delete log %s: %w", tp, err)
	}
	d.leaveTopic(path.Dir(aside))
	return nil
}

// leaveTopic removes the directory of a topic with its last log. It stays where there is anything in it; where it comes back after a crash,
// or could not be removed, the next opening of the data directory does it.
func (d *Dir) leaveTopic(dir string) {
	d.topics.Lock()
	defer d.topics.Unlock()
	if left, err := d.fs.List(dir); err == nil && len(left) == 0 {
		_ = d.fs.Remove(dir)
	}
}

// StrayLog puts a log of an unknown topic aside durably, under a name that ends in .stray, and keeps its data. An open
// one is closed. It returns the new path, empty when there was no such log. The error is a *DeferredError where the disk has no room
// for what the sync journal holds of the log.
func (d *Dir) StrayLog(tp model.TopicPartition) (string, error) { return d.setAside(tp, straySuffix) }

// setAside closes and renames a log and makes the journal forget it.
func (d *Dir) setAside(tp model.TopicPartition, suffix string) (aside string, err error) {
	open, err := d.claim(tp)
	if err != nil {
		return "", err
	}
	defer func() { d.unclaim(tp, nil) }()
	switch {
	case open != nil:
		err = open.abandon()
	case suffix == straySuffix:
		if err = d.deferredLog(tp); err == nil {
			err = d.leaveShared(tp)
		}
	default:
		err = d.leaveShared(tp)
	}
	if err != nil {
		return "", fmt.Errorf("set log %s aside: %w", tp, err)
	}
	dir := d.logDir(tp)
	if _, err := d.fs.Stat(dir); fsys.IsNotExist(err) {
		return "", d.journal.commit(logUpdate{tp: tp, change: logForget})
	} else if err != nil {
		return "", err
	}
	if aside, err = d.freeName(dir + suffix); err != nil {
		return "", err
	}
	if err := d.fs.Rename(dir, aside); err != nil {
		return "", fmt.Errorf("set log %s aside: %w", tp, err)
	}
	if err := d.fs.SyncDir(path.Dir(dir)); err != nil {
		return "", fmt.Errorf("set log %s aside: %w", tp, err)
	}
	if err := d.journal.commit(logUpdate{tp: tp, change: logForget}); err != nil {
		return "", err
	}
	if err := d.dropDeferred(tp); err != nil {
		return "", err
	}
	d.settleUnsure(tp)
	return aside, d.settleSuspect(tp)
}

// freeName returns name, or name with a number before its suffix when it is taken.
func (d *Dir) freeName(name string) (string, error) {
	ext := path.Ext(name)
	for i := 1; ; i++ {
		candidate := name
		if i > 1 {
			candidate = fmt.Sprintf("%s.%d%s", strings.TrimSuffix(name, ext), i, ext)
		}
		if _, err := d.fs.Stat(candidate); fsys.IsNotExist(err) {
			return candidate, nil
		} else if err != nil {
			return "", err
		}
	}
}

// LogCheckpoint asks Checkpoint to note the positions of a log.
type LogCheckpoint struct {
	// Log is an open log of this directory.
	Log *Log
	// HighWatermark is the replica's; it is noted as it is, at most the LogEndOffset.
	HighWatermark int64
}

// Checkpoint notes recovery point (the durable end), HighWatermark, LogStartOffset and epoch starts of many logs with
// one write and one sync; logs that have not changed cost nothing. Segments that Trim has put below the LogStartOffset
// are removed then. Errors wrap ErrJournalFailed: the directory has failed; or fsys.ErrNoSpace: the disk is full, nothing
// is lost and the next call may succeed.
func (d *Dir) Checkpoint(items ...LogCheckpoint) error {
	if err := d.note(items); err != nil {
		return err
	}
	errs := make([]error, 0, len(items)+1)
	for _, it := range items {
		errs = append(errs, it.Log.removeTrimmed())
	}
	return errors.Join(append(errs, d.space.keep())...)
}

// note writes what logs say of themselves now, in the order in which they have said it.
func (d *Dir) note(items []LogCheckpoint) error {
	d.noting.Lock()
	defer d.noting.Unlock()
	updates := make([]logUpdate, 0, len(items))
	for _, it := range items {
		if u, ok := it.Log.checkpoint(it.HighWatermark); ok {
			updates = append(updates, u)
		}
	}
	return d.journal.commit(updates...)
}

// Close closes the logs that are still open (not cleanly: the broker closes its logs itself, with the last positions),
// the journal and the lock.
func (d *Dir) Close() error {
	var errs []error
	for _, l := range d.openLogs() {
		errs = append(errs, l.Close(false))
	}
	errs = append(errs, d.shared.close(), d.journal.close(), d.lock.Close())
	return errors.Join(errs...)
}

// forgetLog drops a closed log from the open ones.
func (d *Dir) forgetLog(l *Log) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.logs[l.tp] == l {
		delete(d.logs, l.tp)
	}
}
