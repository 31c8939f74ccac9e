package storage

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// Severity says how bad a finding is.
type Severity string

// The severities of a finding.
const (
	// SeverityNote is what a crash or an operator leaves behind and recovery deals with: nothing acknowledged is lost.
	SeverityNote Severity = "note"
	// SeverityHint is a damaged index, snapshot or digest: it is rebuilt from the segments, which costs time alone.
	SeverityHint Severity = "hint"
	// SeverityFault is damage of records or of what says where they stand.
	SeverityFault Severity = "fault"
)

// Finding is one thing that is not as a clean close leaves it.
type Finding struct {
	Severity Severity `json:"severity"`
	// File is where it is, Position the byte there (-1 where that means nothing), Offset the first record offset concerned (-1
	// where none is).
	File     string `json:"file"`
	Position int64  `json:"position"`
	Offset   int64  `json:"offset"`
	// What is wrong, and what Recovery would do about it.
	What     string `json:"what"`
	Recovery string `json:"recovery"`
}

// LogSummary is what was found of one log.
type LogSummary struct {
	Path           string `json:"path"`
	Partition      string `json:"partition,omitempty"` // topic id and number; empty outside a data directory
	LogStartOffset int64  `json:"log_start_offset"`
	LogEndOffset   int64  `json:"log_end_offset"`
	RecoveryPoint  int64  `json:"recovery_point"`
	HighWatermark  int64  `json:"high_watermark"`
	Segments       int    `json:"segments"`
	Batches        int64  `json:"batches"`
	Records        int64  `json:"records"`
	Bytes          int64  `json:"bytes"`
	Digests        int    `json:"digests"` // segments whose digest was compared
}

// Offline reads a data directory, or the directory of one partition, without changing anything and without locking it.
// Beside a running broker it may see the end of a log half written.
type Offline struct {
	fs      fsys.FS
	path    string
	data    bool // a whole data directory
	logs    []offlineLog
	states  map[model.TopicPartition]logState
	replays map[model.TopicPartition]*offlineReplay // from the sync journal
	unsure  map[model.TopicPartition]bool           // see Dir.unsure
	report  func(Finding)
}

type offlineLog struct {
	tp    model.TopicPartition
	path  string
	known bool // tp is known
}

// ErrNoData says that a directory is neither a data directory nor a partition's.
var ErrNoData = errors.New("neither a data directory nor the directory of a partition")

// OpenOffline looks at a directory. It wraps ErrNoData where it holds no logs.
func OpenOffline(fsy fsys.FS, dir string) (*Offline, error) {
	dir = path.Clean(dir)
	o := &Offline{fs: fsy, path: dir, states: map[model.TopicPartition]logState{}, report: func(Finding) {}}
	infos, err := fsy.List(dir)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		_, segment := parseFileName(info.Name, segmentSuffix)
		switch {
		case info.Dir && info.Name == topicsName, !info.Dir && info.Name == metaFileName:
			o.data = true
		case segment && !info.Dir && len(o.logs) == 0:
			o.logs = append(o.logs, o.single(dir))
		}
	}
	if o.data {
		o.logs = nil
		d := &Dir{fs: fsy, path: dir}
		found, err := d.scanTopics(false)
		if err != nil {
			return nil, err
		}
		for _, tp := range found {
			o.logs = append(o.logs, offlineLog{tp: tp, path: d.logDir(tp), known: true})
		}
	}
	if !o.data && len(o.logs) == 0 {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoData)
	}
	return o, nil
}

// single is the log in a partition's directory; its place tells which partition it is.
func (o *Offline) single(dir string) offlineLog {
	l := offlineLog{path: dir}
	id, err := model.ParseUUID(path.Base(path.Dir(dir)))
	n, ok := parsePartition(path.Base(dir))
	if err == nil && ok && path.Base(path.Dir(path.Dir(dir))) == topicsName {
		l.tp, l.known = model.TopicPartition{TopicID: id, Partition: n}, true
	}
	return l
}

// root is the data directory, also seen from a partition's; empty where there is none.
func (o *Offline) root() string {
	switch {
	case o.data:
		return o.path
	case o.logs[0].known:
		return path.Dir(path.Dir(path.Dir(o.path)))
	default:
		return ""
	}
}

// InUse says whether a process holds the lock of the data directory. It takes the lock for a moment.
func (o *Offline) InUse() (bool, error) {
	root := o.root()
	if root == "" {
		return false, nil
	}
	name := path.Join(root, lockName)
	if _, err := o.fs.Stat(name); fsys.IsNotExist(err) {
		return false, nil
	}
	lock, err := o.fs.Lock(name)
	if errors.Is(err, fsys.ErrLocked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, lock.Close()
}

// Verify checks everything that can be checked and tells each finding as it is made; the summaries follow the order of the
// partitions. An error means that something could not be looked at.
func (o *Offline) Verify(report func(Finding)) ([]LogSummary, error) {
	o.report = report
	if err := o.verifyRoot(); err != nil {
		return nil, err
	}
	summaries := make([]LogSummary, 0, len(o.logs))
	for _, l := range o.logs {
		v := &logVerifier{o: o, log: l}
		s, err := v.run()
		if err != nil {
			return summaries, err
		}
		summaries = append(summaries, s)
	}
	return summaries, nil
}

func (o *Offline) note(sev Severity, file string, position, offset int64, what, recovery string) {
	o.report(Finding{Severity: sev, File: file, Position: position, Offset: offset, What: what, Recovery: recovery})
}

// verifyRoot checks meta.properties, the journal, and what lies about.
func (o *Offline) verifyRoot() error {
	root := o.root()
	if root == "" {
		return nil
	}
	if o.data {
		name := path.Join(root, metaFileName)
		data, err := readFile(o.fs, name, maxMetaBytes)
		var m Meta
		if err == nil {
			m, err = decodeMeta(data)
		}
		switch {
		case err != nil && !fsys.IsNotExist(err) && !errors.Is(err, ErrMetaDamaged):
			return err
		case err != nil:
			o.note(SeverityFault, name, -1, -1, err.Error(), "the broker refuses to start")
		case m.SyncFailed:
			o.note(SeverityFault, name, -1, -1, "a sync of this directory has failed", "what lies above the recovery points is written anew; every replica gives up its seat")
		case !m.CleanShutdown:
			o.note(SeverityNote, name, -1, -1, "the directory was not shut down cleanly", "what lies above the recovery points is checked")
		}
		if err := errors.Join(o.verifyRootNames(root), o.verifyNames(root)); err != nil {
			return err
		}
	}
	if err := o.verifyShared(root); err != nil {
		return err
	}
	return o.verifyJournal(root)
}

// verifyJournal checks checkpoints.journal, and what it says of logs that are gone.
func (o *Offline) verifyJournal(root string) error {
	var found []model.TopicPartition
	for _, l := range o.logs {
		found = append(found, l.tp)
	}
	var err error
	if o.unsure, _, err = readUnsure(o.fs, root, found); err != nil {
		return err
	}
	name := path.Join(root, journalName)
	data, err := readFile(o.fs, name, maxJournalBytes)
	if fsys.IsNotExist(err) || err == nil && len(data) == 0 {
		if len(o.logs) > 0 {
			o.unsure = allOf(found)
			o.note(SeverityFault, name, -1, -1, "the journal is missing or empty", "every log is checked whole; LogStartOffsets are those of the first segments, HighWatermarks begin at 0")
		}
		return nil
	}
	if err != nil {
		return err
	}
	states, good := decodeJournal(data)
	o.states = states
	if good < len(data) {
		severity := SeverityFault
		if journalTorn(data, good) {
			severity = SeverityNote
		} else {
			o.unsure = allOf(found)
			for tp, s := range states { // as an opening takes them
				s.whole, s.rows = false, nil
				states[tp] = s
			}
		}
		o.note(severity, name, int64(good), -1, fmt.Sprintf("%d of %d bytes cannot be believed", len(data)-good, len(data)),
			"what stands before is used: positions may be older than the truth, more is checked")
	}
	if !o.data {
		return nil
	}
	there := map[model.TopicPartition]bool{}
	for _, l := range o.logs {
		there[l.tp] = true
	}
	for tp, s := range states {
		if !there[tp] && s.point() > s.logStart {
			o.note(SeverityFault, name, -1, s.logStart, fmt.Sprintf("the log of %s is gone, which held records up to offset %d", tp, s.point()-1),
				"the replica gives up its seat and fetches from the leader")
		}
	}
	return nil
}

// verifyNames notes what was set aside among the topics.
func (o *Offline) verifyNames(root string) error {
	topics, err := o.fs.List(path.Join(root, topicsName))
	if err != nil {
		if fsys.IsNotExist(err) {
			return nil
		}
		return err
	}
	for _, t := range topics {
		dir := path.Join(root, topicsName, t.Name)
		if _, err := model.ParseUUID(t.Name); err != nil || !t.Dir {
			o.note(SeverityNote, dir, -1, -1, "not a topic", "ignored")
			continue
		}
		partitions, err := o.fs.List(dir)
		if err != nil {
			return err
		}
		for _, p := range partitions {
			name := path.Join(dir, p.Name)
			switch _, ok := parsePartition(p.Name); {
			case ok && p.Dir:
			case strings.HasSuffix(p.Name, deletedSuffix):
				o.note(SeverityNote, name, -1, -1, "a deletion that was not finished", "removed")
			case strings.Contains(p.Name, straySuffix):
				o.note(SeverityNote, name, -1, -1, "data of a topic that was unknown", "kept, not used; remove it by hand when it is not wanted")
			default:
				o.note(SeverityNote, name, -1, -1, "not a partition", "ignored")
			}
		}
	}
	return nil
}
