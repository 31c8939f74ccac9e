package replication

import (
	"time"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/replication/core"
)

// Acks says when an append is acknowledged.
type Acks int8

// The kinds of acknowledgement, with Kafka's numbers.
const (
	// AcksNone is done when the leader has appended, whatever becomes of it.
	AcksNone Acks = 0
	// AcksLeader is done when the leader's position has passed the batch.
	AcksLeader Acks = 1
	// AcksAll is done when the HighWatermark has passed the batch.
	AcksAll Acks = -1
)

// AppendRequest is one batch for one partition.
type AppendRequest struct {
	// TP is the partition.
	TP model.TopicPartition
	// Batch is the whole batch in pieces, which record.Validate has passed with Header. The manager reads it until Release.
	Batch  [][]byte
	Header record.Header
	// Acks says when Done is called without an error.
	Acks Acks
	// LeaderEpoch refuses the append where it is not the leader's; NoLeaderEpoch accepts any.
	LeaderEpoch model.LeaderEpoch
	// Deadline ends the waiting; the zero value waits 30 s.
	Deadline time.Time
	// Release is called once when Batch is not needed any more, before Append returns; may be nil.
	Release func()
	// Done is called exactly once, perhaps before Append returns, with no lock held. It must not block.
	Done func(Receipt, error)
}

// Receipt tells what has become of a batch.
type Receipt struct {
	// Partition is the partition's number.
	Partition int32
	// BaseOffset is the offset of the first record, Count the number of records.
	BaseOffset int64
	Count      int32
	// LeaderEpoch is the epoch in which it was appended.
	LeaderEpoch model.LeaderEpoch
	// AppendTimeMs is when it was appended, in milliseconds since 1970.
	AppendTimeMs int64
	// ISR, Acked and FSynced are the size of the in-sync set, the replicas that acknowledged and those known durable, the
	// leader included, at the moment of the answer.
	ISR, Acked, FSynced int
	// Duplicate says that the batch had been appended before; the rest is the original's.
	Duplicate bool
}

// defaultAppendTimeout bounds the waiting of requests without a deadline.
const defaultAppendTimeout = 30 * time.Second

// Append appends one batch as leader and calls req.Done when it is acknowledged as asked, or cannot be. The write happens
// in the caller's goroutine. Errors are *model.Error; one in an *IndefiniteError leaves open whether the batch will be
// committed.
func (m *Manager) Append(req AppendRequest) {
	receipt, err, waits := m.append(&req)
	if req.Release != nil {
		req.Release()
	}
	if !waits {
		req.Done(receipt, err)
	}
}

// append does the work of Append; waits says that a waiter has taken req.Done over, and that it may have been called.
func (m *Manager) append(req *AppendRequest) (receipt Receipt, err error, waits bool) { //nolint:revive,staticcheck // err is a result among others
	if req.Acks != AcksAll && req.Acks != AcksLeader && req.Acks != AcksNone {
		return receipt, model.Errorf(model.CodeInvalidRequiredAcks, "acks is %d; use none (0), leader (1) or all (-1)", req.Acks), false
	}
	if failed := m.failed.Load(); failed != nil {
		return receipt, model.Errorf(model.CodeStorageError, "the disk of broker %d has failed: %w", m.opts.NodeID, *failed), false
	}
	p, err := m.lookup(req.TP)
	if err != nil {
		return receipt, err, false
	}
	size := int64(req.Header.Size())
	if pending := m.pending.Add(size); pending > m.opts.MaxPendingBytes {
		m.pending.Add(-size)
		return receipt, model.Errorf(model.CodeTooManyRequests,
			"%d bytes wait for their acknowledgement, the limit is %d; slow down, then retry", pending-size, m.opts.MaxPendingBytes), false
	}
	var fx effects
	p.mu.Lock()
	receipt, err, waits = m.appendLocked(p, req, &fx)
	p.mu.Unlock()
	if !waits {
		m.pending.Add(-size)
	}
	m.settle(p, &fx)
	return receipt, err, waits
}

func (m *Manager) appendLocked(p *partition, req *AppendRequest, fx *effects) (receipt Receipt, err error, waits bool) { //nolint:revive,staticcheck // as above
	if err := m.mayAppend(p, req); err != nil {
		return receipt, err, false
	}
	wall := m.opts.Clock.Now()
	batch, header := stamp(p.settings.MessageTimestampType, req, wall.UnixMilli())
	res, err := p.log.AppendLeader(batch, header, p.replica.LeaderEpoch(), wall.UnixMilli())
	if err != nil {
		return receipt, m.appendFailed(p, err, fx), false
	}
	receipt = Receipt{
		Partition: p.tp.Partition, BaseOffset: res.BaseOffset, Count: int32(res.LastOffset - res.BaseOffset + 1), //nolint:gosec // a batch's count
		LeaderEpoch: res.LeaderEpoch, AppendTimeMs: res.AppendTimeMs, Duplicate: res.Duplicate,
	}
	end := res.LastOffset + 1
	// The waiter stands in the queue before the core moves anything past it.
	waits = req.Acks != AcksNone
	if waits {
		w := waiter{end: end, receipt: receipt, size: int64(req.Header.Size()), done: req.Done, deadline: req.Deadline}
		if w.deadline.IsZero() {
			w.deadline = wall.Add(defaultAppendTimeout)
		}
		p.waiting.add(req.Acks, w)
	}
	if !res.Duplicate {
		appended := m.opts.Clock.Now()
		m.metrics.append.Observe(appended.Sub(wall).Seconds())
		m.metrics.appendedBytes.Add(float64(req.Header.Size()))
		p.traffic.in(int64(receipt.Count), int64(req.Header.Size()))
		m.apply(p, p.replica.LocalAppend(res.LogEndOffset, appended.Sub(m.started)), fx)
		fx.sync = fx.sync || p.replica.FlushMode() == core.FlushFsync
	}
	// A duplicate, and in os mode the position, may be complete already.
	p.waiting.complete(p, acksLeader, p.position(), fx)
	p.waiting.complete(p, acksAll, p.replica.Log().HighWatermark, fx)
	m.refresh(p, fx)
	if !waits {
		receipt.setFacts(p.replica.Facts(end))
	}
	return receipt, nil, waits
}

// mayAppend refuses what must not be written. The caller holds p.mu.
func (m *Manager) mayAppend(p *partition, req *AppendRequest) error {
	switch code := p.replica.MayAppend(req.Acks == AcksAll); {
	case p.closed:
		return model.Errorf(model.CodeUnknownTopicID, "the topic of %s was deleted", p.name)
	case p.stopped != nil:
		return p.stopped
	case code == model.CodeNotEnoughReplicas:
		return model.Errorf(code, "%s has %d in-sync replicas, min.insync.replicas asks for more; nothing was written; bring brokers back, then retry",
			p.name, p.replica.ISRSize())
	case code != model.CodeNone:
		return m.notLeader(p.name, p.replica.Leader(), p.replica.LeaderEpoch())
	case p.replica.HandingOver():
		return m.handingOver(p, "is damaged")
	}
	return checkLeaderEpoch(p.name, req.LeaderEpoch, p.replica.LeaderEpoch())
}

// appendFailed gives an error of the log its code.
func (m *Manager) appendFailed(p *partition, err error, fx *effects) error {
	typed := asModelError(err)
	switch typed.Code { //nolint:exhaustive // the others concern the batch alone
	case model.CodeStorageError:
		m.logFailed(p, "append", err, fx)
	case model.CodeNoSpace:
		m.apply(p, p.replica.NoRoom(m.now()), fx)
		if p.replica.MakesRoom() {
			return m.handingOver(p, "has no room on its disk")
		}
	}
	return typed
}

// position is the leader's own position. The caller holds p.mu.
func (p *partition) position() int64 {
	at := p.replica.Log()
	if p.replica.FlushMode() == core.FlushOS {
		return at.End
	}
	return at.Durable
}

// stamp rewrites the header of batches of topics with log-append-time; others stay as they are.
func stamp(kind metadata.TimestampType, req *AppendRequest, nowMs int64) ([][]byte, record.Header) {
	if kind != metadata.TimestampLogAppendTime {
		return req.Batch, req.Header
	}
	head := make([]byte, record.HeaderSize)
	header := record.StampAppendTime(head, req.Batch, nowMs)
	batch := [][]byte{head}
	skip := record.HeaderSize
	for _, piece := range req.Batch {
		if skip >= len(piece) {
			skip -= len(piece)
			continue
		}
		batch = append(batch, piece[skip:])
		skip = 0
	}
	return batch, header
}

func (r *Receipt) setFacts(f core.Facts) { r.ISR, r.Acked, r.FSynced = f.ISR, f.Acked, f.FSynced }
