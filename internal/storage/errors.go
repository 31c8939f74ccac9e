package storage

import (
	"errors"
	"fmt"

	"github.com/penstock-io/penstock/internal/model"
)

// Errors of this package, to be tested with errors.Is. Failures of the file system are wrapped and keep fsys's errors;
// a malformed or too large batch wraps record.ErrCorruptBatch or record.ErrTooLarge, and nothing of it was written.
var (
	// ErrSyncFailed says that a sync of this log failed once: the state of the disk is unknown for ever. The log takes
	// no more appends and reports no more durable positions; the broker stops acknowledging, marks the directory failed
	// and exits.
	ErrSyncFailed = errors.New("a sync of the log failed, its durable state is unknown")
	// ErrLogFailed says that an earlier write could neither be finished nor undone; the log must be opened again.
	ErrLogFailed = errors.New("the log failed and must be opened again")
	// ErrLogClosed says that the log was closed, deleted or set aside.
	ErrLogClosed = errors.New("the log is closed")
	// ErrOffsetOutOfRange says that an offset is below LogStartOffset or above the bound that was given.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrCorruptLog says that bytes below the recovery point are damaged; what lies before and behind them is intact.
	// Kafka's name for it is CORRUPT_MESSAGE.
	ErrCorruptLog = errors.New("the log is damaged")
	// ErrNotContiguous says that a follower was offered a batch that does not begin at its LogEndOffset.
	ErrNotContiguous = errors.New("batch does not continue the log")
	// ErrStaleLeaderEpoch says that a batch or an epoch start carries an older leader epoch than the log's latest.
	ErrStaleLeaderEpoch = errors.New("leader epoch is older than the log's latest")
	// ErrOutOfOrderSequence says that a producer's batch does not continue its sequence; an earlier one is missing.
	ErrOutOfOrderSequence = errors.New("out of order sequence")
	// ErrDuplicateSequence says that a batch was appended before, too long ago to know its offset.
	ErrDuplicateSequence = errors.New("duplicate sequence, older than the remembered batches")
	// ErrInvalidProducerEpoch says that a newer incarnation of the producer has written: this one is fenced.
	ErrInvalidProducerEpoch = errors.New("invalid producer epoch")
	// ErrUnknownProducer says that nothing is known of the producer and its batch is not its first: its state has
	// expired. It continues with a bumped producer epoch.
	ErrUnknownProducer = errors.New("unknown producer")
	// ErrBelowHighWatermark says that a truncation would remove records below the checkpointed HighWatermark.
	ErrBelowHighWatermark = errors.New("truncation below the checkpointed high watermark")
	// ErrLogExists says that a log of this partition is there already.
	ErrLogExists = errors.New("log exists already")
	// ErrNoLog says that the data directory holds no log of this partition.
	ErrNoLog = errors.New("no such log")
	// ErrMetaDamaged says that meta.properties cannot be believed.
	ErrMetaDamaged = errors.New("meta.properties is damaged")
	// ErrMetaMissing says that a directory holds topics and no meta.properties.
	ErrMetaMissing = errors.New("meta.properties is missing")
	// ErrJournalFailed says that checkpoints.journal could not be written; the directory has failed.
	ErrJournalFailed = errors.New("checkpoints.journal cannot be written")
	// ErrBadSnapshot says that bytes given as a producer snapshot are none.
	ErrBadSnapshot = errors.New("bad producer snapshot")
)

// CorruptError says where bytes are not what was written. It unwraps to ErrCorruptLog.
type CorruptError struct {
	// File is the segment, Position where in it the bad batch begins, in bytes.
	File     string
	Position int64
	// Offset is the first offset that cannot be read for it.
	Offset int64
	// Reason is what is wrong there.
	Reason string
}

// Error names file, position and offset.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %s, position %d, offset %d: %s", ErrCorruptLog, e.File, e.Position, e.Offset, e.Reason)
}

// Unwrap returns ErrCorruptLog.
func (e *CorruptError) Unwrap() error { return ErrCorruptLog }

// SequenceError says which batch of an idempotent producer was refused and what was expected. It unwraps to one of
// ErrOutOfOrderSequence, ErrDuplicateSequence, ErrInvalidProducerEpoch and ErrUnknownProducer.
type SequenceError struct {
	// Kind is the sentinel.
	Kind error
	// ProducerID, ProducerEpoch and Sequence are those of the refused batch.
	ProducerID    model.ProducerID
	ProducerEpoch model.ProducerEpoch
	Sequence      model.Sequence
	// WantEpoch and WantSequence are the producer's current epoch and next sequence; both -1 when it is unknown.
	WantEpoch    model.ProducerEpoch
	WantSequence model.Sequence
}

// Error names the batch and what was expected.
func (e *SequenceError) Error() string {
	return fmt.Sprintf("%v: producer %d epoch %d sequence %d, expected epoch %d sequence %d",
		e.Kind, e.ProducerID, e.ProducerEpoch, e.Sequence, e.WantEpoch, e.WantSequence)
}

// Unwrap returns the sentinel.
func (e *SequenceError) Unwrap() error { return e.Kind }

// RangeError says which offset was asked for and what the log holds. It unwraps to ErrOffsetOutOfRange.
type RangeError struct {
	// Offset was asked for.
	Offset int64
	// LogStartOffset and End bound what could be read; End is exclusive.
	LogStartOffset, End int64
}

// Error names the offset and the range.
func (e *RangeError) Error() string {
	return fmt.Sprintf("%v: %d is not in [%d, %d]", ErrOffsetOutOfRange, e.Offset, e.LogStartOffset, e.End)
}

// Unwrap returns ErrOffsetOutOfRange.
func (e *RangeError) Unwrap() error { return ErrOffsetOutOfRange }
