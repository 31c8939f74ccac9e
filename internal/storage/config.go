package storage

import (
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// Limits and defaults of Config.
const (
	// DefaultSegmentBytes is Kafka's segment.bytes.
	DefaultSegmentBytes = 1 << 30
	// DefaultIndexIntervalBytes is Kafka's index.interval.bytes.
	DefaultIndexIntervalBytes = 4096
	// DefaultMaxBatchBytes is Kafka's max.message.bytes with its overhead.
	DefaultMaxBatchBytes = 1<<20 + 12
	// maxSegmentBytes bounds segment.bytes so that positions fit 32 bits with room to spare.
	maxSegmentBytes = 1 << 31
)

const (
	preallocateMin = 64 << 10
	preallocateMax = 64 << 20
)

// Config is what a log takes from its topic's settings. Zero values stand for the defaults.
type Config struct {
	// SegmentBytes rolls the active segment before it grows beyond this size (segment.bytes); one batch may exceed it.
	SegmentBytes int64
	// IndexIntervalBytes is the distance of offset index entries in bytes of the segment.
	IndexIntervalBytes int
	// MaxBatchBytes refuses larger batches on AppendLeader (max.message.bytes). Followers take what the leader took.
	MaxBatchBytes int
	// NoPreallocation turns preallocation under load off, for file systems where it costs more than it brings.
	NoPreallocation bool
}

func (c Config) withDefaults() Config {
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = DefaultSegmentBytes
	}
	c.SegmentBytes = min(c.SegmentBytes, maxSegmentBytes)
	if c.IndexIntervalBytes <= 0 {
		c.IndexIntervalBytes = DefaultIndexIntervalBytes
	}
	if c.MaxBatchBytes <= 0 {
		c.MaxBatchBytes = DefaultMaxBatchBytes
	}
	c.MaxBatchBytes = min(c.MaxBatchBytes, record.MaxBatchBytes)
	return c
}

// AppendResult describes the batch (or batches) of one append.
type AppendResult struct {
	// BaseOffset is the offset of the first record; of the original when Duplicate.
	BaseOffset int64
	// LastOffset is the offset of the last record; of the original when Duplicate.
	LastOffset int64
	// LeaderEpoch is the epoch the batch was written in; the original's when Duplicate.
	LeaderEpoch model.LeaderEpoch
	// AppendTimeMs is the leader's time of the append in ms since 1970. For a duplicate it is the original's; where
	// that is no longer known (the state was rebuilt from segments, or replicated) it is the batch's maximal timestamp.
	AppendTimeMs int64
	// Duplicate says that the batch was appended before, and nothing was written now.
	Duplicate bool
	// LogEndOffset is the log's end after the append.
	LogEndOffset int64
}

// ReadResult is the answer of Log.Read.
type ReadResult struct {
	// Data holds whole batches as they lie on disk. It aliases the buffer given to Read when that was large enough.
	Data []byte
	// FirstOffset is the base offset of the first batch, which may lie below the offset asked for; it is the offset
	// asked for when Data is empty.
	FirstOffset int64
	// NextOffset is where to read on: one above the last offset of Data.
	NextOffset int64
	// BytesLeft is how many bytes of the log lay behind Data at the time; 0 when Data is empty.
	BytesLeft int64
}
