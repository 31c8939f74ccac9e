package client

import (
	"bytes"
	"slices"
	"time"
)

// Record is one record, to be produced or as consumed.
type Record struct {
	// Topic is the name of the topic.
	Topic string
	// Partition is where the record was read from; it is ignored on produce (see [Producer.ProduceTo]).
	Partition int32
	// Offset is the offset in the partition; ignored on produce.
	Offset int64
	// Key decides the partition: records of one key stay in order; nil is the null key.
	Key []byte
	// Value is the payload; nil is the null value, which deletes in a compacted topic.
	Value []byte
	// Headers come in their order; keys may repeat.
	Headers []Header
	// TimestampMs is in milliseconds since 1970 UTC; on produce 0 means now.
	TimestampMs int64
	// LeaderEpoch is the epoch of the leader that appended the record; ignored on produce.
	LeaderEpoch int32
}

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Time returns the timestamp.
func (r *Record) Time() time.Time { return time.UnixMilli(r.TimestampMs) }

// Clone returns a copy that shares no memory with r.
func (r *Record) Clone() Record {
	c := *r
	c.Key, c.Value, c.Headers = bytes.Clone(r.Key), bytes.Clone(r.Value), slices.Clone(r.Headers)
	for i := range c.Headers {
		c.Headers[i].Value = bytes.Clone(c.Headers[i].Value)
	}
	return c
}

// Receipt is what a producer holds in hand for an acknowledged record.
type Receipt struct {
	Topic     string
	Partition int32
	// Offset of the record; -1 where it is not known: acks none, or a duplicate of long ago.
	Offset int64
	// LeaderEpoch is the epoch of the leader that appended it; with the offset it names the record for ever.
	LeaderEpoch int32
	// AppendTimeMs is when the leader appended it, in milliseconds since 1970 UTC.
	AppendTimeMs int64
	// ISR is the size of the in-sync set when the answer was given.
	ISR int32
	// Acked is the number of replicas known to hold the record then, the leader included.
	Acked int32
	// FSynced is the number of replicas known to hold it on disk.
	FSynced int32
	// Duplicate is true where a retry found the record appended before.
	Duplicate bool
}
