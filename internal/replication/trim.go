package replication

import (
	"errors"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// TrimToHighWatermark asks Trim to give up everything that is committed.
const TrimToHighWatermark int64 = -1

// TrimResult is what Trim did, or would do.
type TrimResult struct {
	// Before and Start are the LogStartOffset before and after.
	Before, Start int64
	// HighWatermark is the leader's.
	HighWatermark int64
	// RemovedSegments lie wholly below Start and are removed from the leader's disk; RemovedBytes is their size.
	RemovedSegments int
	RemovedBytes    int64
}

// Trim moves the LogStartOffset of a partition that this broker leads up to to, or to TrimToHighWatermark; lower values change
// nothing, higher ones than the HighWatermark are refused: a mistyped offset must not cost every record. Records below cannot be read from then on. When it returns the move is durable
// here; followers follow with the next frame, and one that leads before that came may show the records again. With only
// nothing is changed. Errors are *model.Error: NOT_LEADER_FOR_PARTITION, OFFSET_OUT_OF_RANGE, OFFSET_NOT_AVAILABLE while a new
// leader does not know its HighWatermark, STORAGE_ERROR.
func (m *Manager) Trim(tp model.TopicPartition, to int64, only bool) (TrimResult, error) {
	if to < TrimToHighWatermark {
		return TrimResult{}, model.Errorf(model.CodeOffsetOutOfRange, "trim %s to offset %d: offsets are not negative", tp, to)
	}
	if failed := m.failed.Load(); failed != nil {
		return TrimResult{}, model.Errorf(model.CodeStorageError, "the disk of broker %d has failed: %w", m.opts.NodeID, *failed)
	}
	p, err := m.lookup(tp)
	if err != nil {
		return TrimResult{}, err
	}
	res, err := m.trimmed(p, to)
	if err != nil || only || res.Start == res.Before {
		return res, err
	}
	if p.log.DurableEnd() < res.Start {
		// A start above what is on the disk would be a promise that a power loss breaks.
		durable, err := p.log.Sync()
		m.OnSynced(p.log, durable, err)
		if err != nil {
			return TrimResult{}, asModelError(err)
		}
	}
	if err := m.moveStart(p, &res); err != nil {
		return TrimResult{}, err
	}
	return res, m.checkpointTrim(p, res)
}

// trimmed says what trimming would do now.
func (m *Manager) trimmed(p *partition, to int64) (TrimResult, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.trimmedLocked(p, to)
}

// trimmedLocked is trimmed for callers that hold p.mu.
func (m *Manager) trimmedLocked(p *partition, to int64) (TrimResult, error) {
	switch {
	case p.closed:
		return TrimResult{}, model.Errorf(model.CodeUnknownTopicID, "the topic of %s was deleted", p.name)
	case p.stopped != nil:
		return TrimResult{}, p.stopped
	case p.replica.Role() != core.RoleLeader:
		return TrimResult{}, m.notLeader(p.name, p.replica.Leader(), p.replica.LeaderEpoch())
	case !p.replica.LookupReady():
		return TrimResult{}, model.Errorf(model.CodeOffsetNotAvailable,
			"the leader of %s is new and its high watermark has not reached its epoch yet; retry", p.tp)
	}
	at := p.replica.Log()
	res := TrimResult{Before: at.Start, HighWatermark: at.HighWatermark}
	switch {
	case to == TrimToHighWatermark:
		to = at.HighWatermark
	case to > at.HighWatermark:
		return TrimResult{}, model.Errorf(model.CodeOffsetOutOfRange,
			"trim %s to offset %d: only what lies below the high watermark %d is committed; nothing was removed", p.tp, to, at.HighWatermark)
	}
	res.Start = max(at.Start, to)
	res.RemovedSegments, res.RemovedBytes = p.log.TrimmedBy(res.Start)
	return res, nil
}

// moveStart moves the start to where res says, unless the leadership is over.
func (m *Manager) moveStart(p *partition, res *TrimResult) (err error) {
	err = model.Errorf(model.CodeUnknownTopicID, "the topic of %s was deleted", p.name)
	m.run(p, func(*effects) core.Output {
		var now TrimResult
		if now, err = m.trimmedLocked(p, res.Start); err != nil {
			return core.Output{}
		}
		if trimErr := p.log.Trim(now.Start); trimErr != nil {
			err = asModelError(trimErr)
			return core.Output{}
		}
		*res = now
		return p.replica.LocalStart(now.Start)
	})
	return err
}

// checkpointTrim makes the new start durable; segments below go with it.
func (m *Manager) checkpointTrim(p *partition, res TrimResult) error {
	err := m.opts.Dir.Checkpoint(storage.LogCheckpoint{Log: p.log, HighWatermark: res.HighWatermark})
	if err == nil {
		m.opts.Logger.Info("partition trimmed", "partition", p.tp.String(), "from", res.Before, "to", res.Start,
			"segments", res.RemovedSegments, "bytes", res.RemovedBytes)
		return nil
	}
	if errors.Is(err, storage.ErrJournalFailed) && !errors.Is(err, fsys.ErrNoSpace) {
		m.diskFailed(err)
	}
	return model.Errorf(model.CodeStorageError,
		"the start of %s moved to offset %d, which is not on the disk yet; trim again to be sure: %w", p.tp, res.Start, err)
}
