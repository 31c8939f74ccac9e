package record

import "errors"

// Errors that this package wraps; test for them with errors.Is.
var (
	// ErrCorruptBatch says that bytes are no well-formed record batch: a length, checksum, count or delta lies.
	ErrCorruptBatch = errors.New("corrupt record batch")
	// ErrTooLarge says that a batch, a record or a decompressed body exceeds the limit named in the error.
	ErrTooLarge = errors.New("record batch too large")
	// ErrUnsupportedMagic says that a batch has another format version than 2.
	ErrUnsupportedMagic = errors.New("unsupported record batch magic")
	// ErrUnknownCodec says that a batch or a setting names a compression codec that Kafka does not define.
	ErrUnknownCodec = errors.New("unknown compression codec")
	// ErrInvalidRecord says that Builder was given a record or producer fields that no batch can carry.
	ErrInvalidRecord = errors.New("invalid record")
	// ErrEmptyBatch says that Builder.Finish was called before any record was added.
	ErrEmptyBatch = errors.New("record batch has no records")
)
