package replication

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// ErrBacklogFull says that a reader is far behind and that others are reading as far behind at the moment: Await tells when it is
// the reader's turn.
var ErrBacklogFull = errors.New("as many reads of old records as may run at a time are running")

// backlogPiece bounds one read of old records, in bytes, so that those who wait are soon served.
const backlogPiece = 1 << 20

// Reader reads one partition from its leader, below the HighWatermark. It belongs to one goroutine at a time; Notify may be called
// from any. An idle Reader costs no goroutine and no timer; it needs no Close.
type Reader struct {
	m        *Manager
	p        *partition
	epoch    model.LeaderEpoch
	offset   int64
	left     int64 // bytes of the log behind offset, as of the last read; an estimate before the first
	admitted bool  // the next read has its place in the gate of the backlog
}

// ReadResult is what one Read found.
type ReadResult struct {
	// Data are whole batches; the first may begin below the offset that was asked for. It is empty at the HighWatermark. It
	// aliases the buffer given to Read where that was large enough.
	Data []byte
	// NextOffset is where the next Read goes on.
	NextOffset int64
	// HighWatermark and LogStartOffset bound what can be read.
	HighWatermark, LogStartOffset int64
	// LeaderEpoch is the leader's.
	LeaderEpoch model.LeaderEpoch
}

// OpenReader returns a reader that begins at offset. leaderEpoch, unless NoLeaderEpoch, must be the present one. Errors are
// *model.Error: NOT_LEADER_FOR_PARTITION, the codes of leader epochs, OFFSET_OUT_OF_RANGE, OFFSET_NOT_AVAILABLE.
func (m *Manager) OpenReader(tp model.TopicPartition, offset int64, leaderEpoch model.LeaderEpoch) (*Reader, error) {
	p, err := m.lookup(tp)
	if err != nil {
		return nil, err
	}
	r := &Reader{m: m, p: p, offset: offset, left: p.log.BytesFrom(offset)}
	view, err := m.leaderView(p)
	if err != nil {
		return nil, err
	}
	if err := checkLeaderEpoch(p.name, leaderEpoch, view.leaderEpoch); err != nil {
		return nil, err
	}
	r.epoch = view.leaderEpoch
	return r, r.check()
}

// leaderView returns the role of a partition that this broker leads.
func (m *Manager) leaderView(p *partition) (*roleView, error) {
	view := p.seen.Load()
	if view.role == core.RoleLeader {
		return view, nil
	}
	if view.role == core.RoleStopped {
		return nil, model.Errorf(model.CodeCommittedDataDiverged, "the replica of %s on broker %d has stopped", p.name, m.opts.NodeID)
	}
	return nil, m.notLeader(p.name, view.leader, view.leaderEpoch)
}

// check judges the offset by the rules of R4.
func (r *Reader) check() error {
	r.p.mu.Lock()
	code, at := r.p.replica.CheckFetch(r.offset), r.p.replica.Log()
	leader, epoch := r.p.replica.Leader(), r.p.replica.LeaderEpoch()
	r.p.mu.Unlock()
	switch code { //nolint:exhaustive // CheckFetch knows no others
	case model.CodeNone:
		return nil
	case model.CodeOffsetOutOfRange:
		return model.Errorf(code, "offset %d of %s is not in [%d, %d]", r.offset, r.p.name, at.Start, at.End)
	case model.CodeOffsetNotAvailable:
		return model.Errorf(code, "the leader of %s is new and does not know yet whether offset %d exists; retry", r.p.name, r.offset)
	default:
		return r.m.notLeader(r.p.name, leader, epoch)
	}
}

// Offset is where the next Read goes on.
func (r *Reader) Offset() int64 { return r.offset }

// Read reads whole batches from the reader's offset on, at most maxBytes (but one batch at least) and below the
// HighWatermark, and moves the offset. No data and no error means that the reader has come to the HighWatermark: Notify
// tells when to go on. An error is NOT_LEADER_FOR_PARTITION after the leadership has changed in any way, one of
// OpenReader's, or CORRUPT_RECORD. buf is overwritten and may be nil.
//
// A reader more than storage.TailBytes behind the end reads a MiB at a time, and in turn with others as far behind: the
// error is ErrBacklogFull while it would have to wait, unless Await has done so.
func (r *Reader) Read(maxBytes int, buf []byte) (res ReadResult, err error) {
	if !r.behind() {
		return r.read(maxBytes, buf)
	}
	gate := r.m.Backlog()
	if !r.admitted && !gate.TryEnter() {
		return ReadResult{}, ErrBacklogFull
	}
	r.admitted = false
	defer func() { gate.Leave(len(res.Data)) }()
	return r.read(min(maxBytes, backlogPiece), buf)
}

// Await waits until it is the reader's turn to read old records; it returns at once where the reader is not far behind. When it
// returns nil, Read must follow at once: others wait meanwhile. Its error is that of ctx.
func (r *Reader) Await(ctx context.Context) error {
	if !r.behind() || r.admitted {
		return nil
	}
	err := r.m.Backlog().Enter(ctx)
	r.admitted = err == nil
	return err
}

// Backlog is the gate that readers far behind pass: that of the broker's directory.
func (m *Manager) Backlog() *storage.BacklogGate { return m.opts.Dir.Backlog() }

// behind says whether the next read is of old records.
func (r *Reader) behind() bool { return r.left > storage.TailBytes }

func (r *Reader) read(maxBytes int, buf []byte) (ReadResult, error) {
	view, err := r.m.leaderView(r.p)
	if err != nil {
		return ReadResult{}, err
	}
	if view.leaderEpoch != r.epoch {
		return ReadResult{}, model.Errorf(model.CodeFencedLeaderEpoch, "%s has leader epoch %d, the reader began in %d; open a new one",
			r.p.name, view.leaderEpoch, r.epoch)
	}
	hw := r.p.hw.Load()
	res := ReadResult{NextOffset: r.offset, HighWatermark: hw, LogStartOffset: r.p.log.LogStartOffset(), LeaderEpoch: view.leaderEpoch}
	if r.offset < res.LogStartOffset || r.offset >= hw {
		return res, r.check()
	}
	read, err := r.p.log.Read(r.offset, maxBytes, hw, buf)
	if err != nil {
		r.m.suspect(r.p, r.offset, err, FoundByConsumer)
		return ReadResult{}, r.m.readFailed(r.p, err)
	}
	r.offset, r.left = read.NextOffset, read.BytesLeft
	res.Data, res.NextOffset = read.Data, read.NextOffset
	return res, nil
}

// CountOut counts batches of Read that were sent to a consumer.
func (r *Reader) CountOut(batches, records, bytes int64) { r.p.traffic.out(batches, records, bytes) }

// readFailed gives an error of the log its code. Damage that another replica can serve is no end: the leadership is on its way
// there.
func (m *Manager) readFailed(p *partition, err error) *model.Error {
	typed := asModelError(err)
	if typed.Code != model.CodeCorruptRecord {
		return typed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.replica.Role() != core.RoleLeader:
		return m.notLeader(p.name, p.replica.Leader(), p.replica.LeaderEpoch())
	case p.replica.CanHandOver():
		return m.handingOver(p, "is damaged")
	default:
		return typed
	}
}

// handingOver sends a client away until another replica leads. The caller holds p.mu.
func (m *Manager) handingOver(p *partition, why string) *model.Error {
	return model.Errorf(model.CodeNotLeaderForPartition, "the log of %s on broker %d %s, and another replica takes over; retry", p.name, m.opts.NodeID, why)
}

// Notify calls wake once, as soon as the HighWatermark is above the reader's offset or the leadership has changed: at
// once where that is so already. wake must not block; it may be called before Notify returns. cancel takes it back.
func (r *Reader) Notify(wake func()) (cancel func()) {
	w := &watcher{offset: r.offset, epoch: r.epoch, wake: wake}
	r.p.watch.add(w)
	if view := r.p.seen.Load(); r.p.hw.Load() > w.offset || view.role != core.RoleLeader || view.leaderEpoch != w.epoch {
		w.fire()
	}
	return func() { r.p.watch.remove(w) }
}

// watcher is a registered wake-up.
type watcher struct {
	offset int64
	epoch  model.LeaderEpoch
	wake   func()
	fired  atomic.Bool
}

func (w *watcher) fire() {
	if w.fired.CompareAndSwap(false, true) {
		w.wake()
	}
}

// watchers are the wake-ups of a partition.
type watchers struct {
	p    *partition
	n    atomic.Int32
	mu   sync.Mutex
	list []*watcher
}

func (ws *watchers) add(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.list = append(ws.list, w)
	ws.n.Store(int32(len(ws.list))) //nolint:gosec // bounded by the server's streams
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i, have := range ws.list {
		if have == w {
			last := len(ws.list) - 1
			ws.list[i], ws.list[last] = ws.list[last], nil
			ws.list = ws.list[:last]
			break
		}
	}
	ws.n.Store(int32(len(ws.list))) //nolint:gosec // as above
}

// wake fires those whose offset lies below hw or whose leadership is over.
func (ws *watchers) wake(hw int64) {
	if ws.n.Load() == 0 {
		return
	}
	view := ws.p.seen.Load()
	var due []*watcher
	ws.mu.Lock()
	kept := ws.list[:0]
	for _, w := range ws.list {
		switch {
		case w.fired.Load():
		case hw > w.offset || view.role != core.RoleLeader || view.leaderEpoch != w.epoch:
			due = append(due, w)
		default:
			kept = append(kept, w)
		}
	}
	clear(ws.list[len(kept):])
	ws.list = kept
	ws.n.Store(int32(len(kept))) //nolint:gosec // as above
	ws.mu.Unlock()
	for _, w := range due {
		w.fire()
	}
}

// OffsetSpec says which offset ListOffset shall find.
type OffsetSpec uint8

// The offsets that can be looked up.
const (
	// OffsetStart is the LogStartOffset.
	OffsetStart OffsetSpec = iota
	// OffsetEnd is the HighWatermark: the next offset that a reader will see.
	OffsetEnd
	// OffsetLogEnd is the LogEndOffset, of records that are not committed yet.
	OffsetLogEnd
	// OffsetForTime is the first committed record with a timestamp at or after the one given.
	OffsetForTime
)

// OffsetResult is the answer of ListOffset.
type OffsetResult struct {
	// Offset is what was looked up; the HighWatermark where no record is as late as the timestamp.
	Offset int64
	// TimestampMs is the record's timestamp; -1 where Offset is not of a record.
	TimestampMs int64
	// LeaderEpoch is the leader's.
	LeaderEpoch model.LeaderEpoch
}

// ListOffset looks an offset up; timestampMs matters for OffsetForTime alone. A new leader answers
// OFFSET_NOT_AVAILABLE until its HighWatermark has reached its epoch's start (R4).
func (m *Manager) ListOffset(tp model.TopicPartition, spec OffsetSpec, timestampMs int64) (OffsetResult, error) {
	p, err := m.lookup(tp)
	if err != nil {
		return OffsetResult{}, err
	}
	view, err := m.leaderView(p)
	if err != nil {
		return OffsetResult{}, err
	}
	if !view.ready && spec != OffsetStart {
		return OffsetResult{}, model.Errorf(model.CodeOffsetNotAvailable,
			"the leader of %s is new and its high watermark has not reached its epoch yet; retry", p.name)
	}
	hw := p.hw.Load()
	res := OffsetResult{TimestampMs: -1, LeaderEpoch: view.leaderEpoch}
	switch spec {
	case OffsetStart:
		res.Offset = p.log.LogStartOffset()
	case OffsetEnd:
		res.Offset = hw
	case OffsetLogEnd:
		res.Offset = p.log.LogEndOffset()
	case OffsetForTime:
		return offsetForTime(p.log, timestampMs, hw, res)
	default:
		return OffsetResult{}, model.Errorf(model.CodeInvalidRequest, "unknown kind of offset %d", spec)
	}
	return res, nil
}

func offsetForTime(log *storage.Log, timestampMs, hw int64, res OffsetResult) (OffsetResult, error) {
	offset, ts, found, err := log.OffsetForTime(timestampMs)
	if err != nil {
		return OffsetResult{}, asModelError(err)
	}
	res.Offset = hw
	if found && offset < hw {
		res.Offset, res.TimestampMs = offset, ts
	}
	return res, nil
}
