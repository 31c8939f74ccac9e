package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage/syncjournal"
)

const (
	// DefaultSyncJournalBytes is the size of each of the two files of the sync journal of a broker.
	DefaultSyncJournalBytes = 64 << 20

	sharedName = "sync-journal"
	// sharedLogMax bounds what a log may have to sync by the journal: of more than that the second writing costs more than the
	// sync that it saves.
	sharedLogMax = 256 << 10
	// sharedRoundMax bounds the bytes of one round, and so the memory that they are read back into.
	sharedRoundMax = 8 << 20
	// frameOverhead is more than what a frame takes besides its bytes.
	frameOverhead = 128
)

// sharedJournal is the sync journal of a data directory: what many logs have appended is written once more, together, into one
// file, and one sync of that makes all of it durable. docs/adr/0003-sync-journal.md has the reasons.
//
// A frame in it says which bytes lie at a position of a segment, and after a crash it is believed. So this must hold:
//
//  1. A frame is written with its log's syncMu held. The log's names are durable then, its sealed segments are synced, and the
//     frame begins where the log was durable: whatever lies before is in the file, or in earlier frames that live.
//  2. Whatever changes a log otherwise than by appending holds its syncMu and has called leave since it took it: that makes the
//     bytes of all frames durable in the log's own files, and then the frames void. Exempt is what touches no byte below the
//     log's end (a failed append, space asked for ahead), and the removal of trimmed segments: their names never come back
//     but by Reset or a cut, and recovery looks for nothing below the LogStartOffset.
//  3. A generation is released after a sync of the file system that began when its last round was written.
type sharedJournal struct {
	dir       *Dir
	fileBytes int64 // of each of its files; 0 uses none
	salt      uint64

	journal *syncjournal.Journal
	off     atomic.Bool // its files could not be made
	// unsure says that a sync has failed in the directory: a later one that succeeds proves nothing, so the journal may hold the
	// only copy of what was acknowledged, and keeps all of it for the next start.
	unsure atomic.Bool

	// making is held while the files are made, filing while a sync files what they hold. Both are taken before mu.
	making, filing sync.Mutex

	mu      sync.Mutex // held while a round is written
	buf     []byte     // of the round that is written
	rounds  int64
	settled int64 // rounds when Settle looked last
	waited  int   // calls of Settle that found it busy, in a row

	bytes, written, fallbacks atomic.Int64
}

// errShared says that the journal takes nothing now: the logs' own files are to be synced.
var errShared = errors.New("the sync journal takes nothing now")

// open makes the journal usable, and durably empty: everything that it held has been replayed. Where that is not so yet (clear is
// false) it takes nothing.
func (j *sharedJournal) open(clear bool) error {
	for j.salt == 0 {
		id := model.NewUUID()
		j.salt = binary.BigEndian.Uint64(id[8:])
	}
	journal, err := syncjournal.Open(j.dir.fs, j.path(), syncjournal.Options{FileBytes: j.fileBytes, Salt: j.salt})
	if err != nil {
		return err
	}
	if clear {
		err = journal.Clear()
	}
	if err != nil {
		return errors.Join(err, journal.Close())
	}
	j.journal = journal
	return nil
}

func (j *sharedJournal) path() string { return path.Join(j.dir.path, sharedName) }

// makeReady makes the journal's files, which takes a while; where there is no room for them nothing happens.
func (j *sharedJournal) makeReady() error {
	j.making.Lock()
	defer j.making.Unlock()
	if !j.wantsFiles() {
		return nil
	}
	s := j.dir.space
	free, err := s.fs.FreeBytes(s.dir)
	if err != nil || free < s.minFree+4*j.fileBytes {
		return nil //nolint:nilerr // nothing was to be synced and nothing is lost: it is not ready, and asked again
	}
	err = j.journal.Prepare()
	switch {
	case err == nil || errors.Is(err, fsys.ErrSyncFailed):
		return err
	case errors.Is(err, fsys.ErrNoSpace):
		return nil
	default: // it holds nothing yet, and can be done without
		j.off.Store(true)
		return nil
	}
}

func (j *sharedJournal) wantsFiles() bool {
	return j.fileBytes > 0 && !j.off.Load() && !j.keeps() && !j.journal.Ready()
}

// wantsWork says whether there is something to do in the background: files to be made, or an earlier generation to be released.
func (j *sharedJournal) wantsWork() bool { return j.wantsFiles() || j.behind() }

// behind says whether an earlier generation of this process lives.
func (j *sharedJournal) behind() bool {
	return !j.keeps() && j.journal.OldestLive() < j.journal.Generation()
}

// live says whether a crash would bring anything back of what this process has written.
func (j *sharedJournal) live() bool {
	return !j.keeps() && j.journal.OldestLive() <= j.journal.Generation()
}

// keeps says that the journal keeps what is deferred, and takes nothing.
func (j *sharedJournal) keeps() bool { return j.dir.deferred.Load() != nil }

// write makes what the logs have appended durable in the journal, as rounds, and returns how many logs, from the first on, are
// done. errShared says that it takes no more now; any other error is a failed sync of the rest.
func (j *sharedJournal) write(held []*heldSync) (done int, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.journal.Ready() {
		return 0, errShared
	}
	for done < len(held) {
		frames, err := j.readFrames(held[done:])
		if err != nil {
			return done, err
		}
		if !plantedAckBeforeTheRound {
			_, err = j.journal.Write(frames)
		}
		if errors.Is(err, syncjournal.ErrFull) || errors.Is(err, syncjournal.ErrRoundTooLarge) {
			return done, errShared
		}
		if err != nil {
			return done, err
		}
		for _, f := range frames {
			j.bytes.Add(int64(len(f.Data)))
		}
		j.rounds++
		j.written.Add(1)
		done += len(frames)
	}
	return done, nil
}

// readFrames reads back what the first of the logs have appended and not made durable, as many as fit into a round. The
// caller holds mu; the frames are good until the next call.
func (j *sharedJournal) readFrames(held []*heldSync) ([]syncjournal.Frame, error) {
	total, n := 0, 0
	for ; n < len(held) && (n == 0 || total+held[n].p.size()+n*frameOverhead <= j.roundMax()); n++ {
		total += held[n].p.size()
	}
	if cap(j.buf) < total {
		j.buf = make([]byte, total)
	}
	frames, buf := make([]syncjournal.Frame, 0, n), j.buf[:total]
	for _, h := range held[:n] {
		data := buf[:h.p.size()]
		buf = buf[len(data):]
		if got, err := readFull(h.p.active.file.Load(), data, h.p.from); err != nil || got < len(data) {
			return nil, errors.Join(fmt.Errorf("log %s: read back %d of %d bytes at %d", h.l.tp, got, len(data), h.p.from), err)
		}
		frames = append(frames, syncjournal.Frame{
			Log: h.l.tp, SegmentBase: h.p.active.base, Position: h.p.from, EndOffset: h.p.end, Data: data,
		})
	}
	return frames, nil
}

// size is how much of the active segment is not known to be durable, in bytes.
func (p *pendingSync) size() int { return int(p.pos - p.from) }

func (j *sharedJournal) roundMax() int { return int(min(sharedRoundMax, j.fileBytes/4)) }

// fits says whether a sync can be one by the journal.
func (j *sharedJournal) fits(p *pendingSync) bool {
	return p.dirty && !p.dirtyDir && len(p.sealed) == 0 && len(p.fresh) == 0 && p.pos > p.from &&
		p.size() <= min(sharedLogMax, j.roundMax()) && p.active.file.Load() != nil
}

// forget makes the frames of a log void, durably. What they hold must be in the log's own files.
func (j *sharedJournal) forget(tp model.TopicPartition) error {
	for {
		err := j.journal.Forget([]model.TopicPartition{tp})
		if !errors.Is(err, syncjournal.ErrFull) {
			return err
		}
		if err := j.file(); err != nil {
			return err
		}
	}
}

// notedEnd is where a log ended before a sync of the file system began.
type notedEnd struct {
	l          *Log
	end        int64
	generation uint64
}

// file makes everything that was appended to the logs in the journal before the call durable in their own files, by one sync
// of the file system, and releases what is not needed any more: the earlier generations, and the current one where no round
// came in between. One failure fails all open logs for ever. It takes the mu of logs, one after the other.
func (j *sharedJournal) file() error {
	j.filing.Lock()
	defer j.filing.Unlock()
	j.mu.Lock()
	rounds, current := j.rounds, j.journal.Generation()
	j.mu.Unlock()
	if !j.live() {
		return nil
	}
	if j.unsure.Load() {
		return fmt.Errorf("%w: the sync journal keeps what it holds for the next start", ErrSyncFailed)
	}
	noted := j.dir.noteEnds()
	if err := j.dir.fs.SyncFS(j.dir.path); err != nil {
		j.dir.failLogs(err)
		j.dir.noteSyncFailure(err)
		return fmt.Errorf("file what the sync journal holds: %w: %w", ErrSyncFailed, err)
	}
	for _, n := range noted {
		n.l.filedTo(n)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.rounds != rounds {
		current--
	}
	return j.journal.Release(current)
}

// noteEnds notes where the open logs end that are not filed whole.
func (d *Dir) noteEnds() []notedEnd {
	d.mu.Lock()
	defer d.mu.Unlock()
	var noted []notedEnd
	for _, l := range d.logs {
		n := notedEnd{l: l, generation: l.generation.Load()}
		n.end = l.view.Load().end // behind the generation: a cut in between shows
		if n.end > l.filed.Load() {
			noted = append(noted, n)
		}
	}
	return noted
}

// filedTo takes over that a sync of the file system has filed the log up to where it ended then, unless it was cut since.
func (l *Log) filedTo(n notedEnd) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.generation%2 != 0 || l.generation.Load() != n.generation || l.usable() != nil {
		return
	}
	l.durable.Store(max(l.durable.Load(), n.end))
	l.filed.Store(max(l.filed.Load(), n.end))
}

// failFiled fails the log after a sync that was to file it.
func (l *Log) failFiled(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		_ = l.fail(ErrSyncFailed, err) //nolint:errcheck // kept
	}
}

// failLogs fails all open logs after a sync that was to file them, or to make the journal, and returns them.
func (d *Dir) failLogs(err error) []*Log {
	logs := d.openLogs()
	for _, l := range logs {
		l.failFiled(err)
	}
	return logs
}

// leave makes the log independent of the sync journal, before anything but an append changes it: see sharedJournal. The
// caller holds syncMu from here to the end of that change.
func (l *Log) leave() error {
	j := &l.dir.shared
	if !j.journal.Holds(l.tp) {
		return nil
	}
	if _, err := l.syncHeld(); err != nil {
		return err
	}
	return l.leftBy(j.forget(l.tp))
}

// left is asked before such a change begins.
func (l *Log) left() error {
	if l.dir.shared.journal.Holds(l.tp) {
		return fmt.Errorf("log %s: the sync journal would bring back what is about to be changed; this is a bug, please report it", l.tp)
	}
	return nil
}

// leftBy makes a failure of the journal the log's own.
func (l *Log) leftBy(err error) error {
	if err == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fail(ErrSyncFailed, err)
}

// leaveShared is Log.leave for a log that is not open, or that has failed.
func (d *Dir) leaveShared(tp model.TopicPartition) error {
	if !d.shared.journal.Holds(tp) {
		return nil
	}
	if d.shared.unsure.Load() {
		return fmt.Errorf("log %s: %w: the sync journal keeps what it holds for the next start", tp, ErrSyncFailed)
	}
	if err := d.fs.SyncFS(d.path); err != nil {
		d.noteSyncFailure(err)
		return fmt.Errorf("file log %s: %w: %w", tp, ErrSyncFailed, err)
	}
	return d.shared.forget(tp)
}

// settleWait is how many calls of Settle let a busy journal be.
const settleWait = 12

// Settle files what only the sync journal holds, once no round has come since the call before, or after many calls: it is for the sweeper, so that
// little has to be replayed after a crash, and nothing once the directory is quiet. Without anything in the journal it
// costs nothing. It also puts back what is deferred, as far as there is room now: such logs can be opened then. An error wraps
// ErrSyncFailed or ErrJournalFailed: the directory has failed.
func (d *Dir) Settle() error {
	if err := d.putBack(); err != nil {
		return err
	}
	j := &d.shared
	j.mu.Lock()
	due := j.settled == j.rounds || j.waited >= settleWait
	j.settled = j.rounds
	if j.waited++; due {
		j.waited = 0
	}
	j.mu.Unlock()
	if !due || !j.live() {
		return nil
	}
	return j.file()
}

// clear makes the journal empty, durably, where every log was closed cleanly. What is deferred stays.
func (j *sharedJournal) clear() error {
	if j.keeps() {
		return nil
	}
	if err := j.file(); err != nil {
		return err
	}
	return j.journal.Clear()
}

func (j *sharedJournal) close() error {
	if j.journal == nil { // never opened
		return nil
	}
	return j.journal.Close()
}
