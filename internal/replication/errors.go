package replication

import (
	"errors"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/storage"
)

// IndefiniteError says that a batch was appended and its fate is open: it may be committed or may vanish. The client
// repeats it with the same producer id and sequence, or gives the producer a new epoch.
type IndefiniteError struct {
	// Err is the reason.
	Err *model.Error
}

// Error is the reason's.
func (e *IndefiniteError) Error() string { return e.Err.Error() + " (the outcome is open)" }

// Unwrap returns the reason.
func (e *IndefiniteError) Unwrap() error { return e.Err }

// IsIndefinite says whether err leaves open what has become of the batch.
func IsIndefinite(err error) bool {
	var indefinite *IndefiniteError
	if errors.As(err, &indefinite) {
		return true
	}
	info, ok := model.CodeOf(err).Info()
	return err != nil && ok && !info.Definite
}

var storageCodes = []struct {
	err  error
	code model.ErrorCode
}{
	{record.ErrTooLarge, model.CodeBatchTooLarge},
	{record.ErrCorruptBatch, model.CodeCorruptBatch},
	{storage.ErrOutOfOrderSequence, model.CodeOutOfOrderSequence},
	{storage.ErrDuplicateSequence, model.CodeDuplicateSequence},
	{storage.ErrInvalidProducerEpoch, model.CodeInvalidProducerEpoch},
	{storage.ErrUnknownProducer, model.CodeUnknownProducerID},
	{storage.ErrSyncFailed, model.CodeStorageError},
	{storage.ErrLogFailed, model.CodeStorageError},
	{fsys.ErrNoSpace, model.CodeNoSpace},
	{storage.ErrCorruptLog, model.CodeCorruptRecord},
	{storage.ErrOffsetOutOfRange, model.CodeOffsetOutOfRange},
	{storage.ErrLogClosed, model.CodeNotLeaderForPartition},
}

// asModelError gives an error of a lower layer its stable code.
func asModelError(err error) *model.Error {
	var typed *model.Error
	if errors.As(err, &typed) {
		return typed
	}
	for _, row := range storageCodes {
		if errors.Is(err, row.err) {
			return model.Errorf(row.code, "%w", err)
		}
	}
	return model.Errorf(model.CodeStorageError, "%w", err)
}

func (m *Manager) notLeader(partition string, leader model.NodeID, epoch model.LeaderEpoch) *model.Error {
	if leader == model.NoNode || leader == m.opts.NodeID {
		return model.Errorf(model.CodeNotLeaderForPartition, "broker %d does not lead %s and knows no leader in epoch %d; retry",
			m.opts.NodeID, partition, epoch)
	}
	return model.Errorf(model.CodeNotLeaderForPartition, "broker %d does not lead %s; broker %d does, in epoch %d",
		m.opts.NodeID, partition, leader, epoch)
}

// checkLeaderEpoch compares the epoch of a request, unless it names none, with the leader's (R8).
func checkLeaderEpoch(partition string, asked, own model.LeaderEpoch) error {
	switch {
	case asked == model.NoLeaderEpoch || asked == own:
		return nil
	case asked < own:
		return model.Errorf(model.CodeFencedLeaderEpoch, "the request names leader epoch %d of %s, the present one is %d; fetch the metadata",
			asked, partition, own)
	default:
		return model.Errorf(model.CodeUnknownLeaderEpoch, "the request names leader epoch %d of %s, this broker has seen %d; retry",
			asked, partition, own)
	}
}
