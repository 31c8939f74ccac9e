package record

import (
	"bytes"
	"slices"
)

// RecordHeader is one header of a record.
type RecordHeader struct {
	// Key is the header's name; it may be empty and may repeat.
	Key string
	// Value is the header's value; nil is null, which differs from empty.
	Value []byte
}

// Record is one record. Who owns the slices is said where a Record is taken or given.
type Record struct {
	// Key and Value are any bytes; nil is null, which differs from empty. A null value in a compacted topic deletes.
	Key, Value []byte
	// Headers come in the order they were written.
	Headers []RecordHeader
	// Timestamp is in milliseconds since 1970 UTC. It is at least 0 to be written; NoTimestamp (-1) may be read.
	Timestamp int64
	// Offset is the absolute offset; set when read, ignored when written.
	Offset int64
}

// Clone returns a copy that shares no memory with r.
func (r *Record) Clone() Record {
	c := *r
	c.Key, c.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	c.Headers = slices.Clone(r.Headers)
	for i := range c.Headers {
		c.Headers[i].Value = bytes.Clone(c.Headers[i].Value)
	}
	return c
}

// bodySize returns the size of an encoded record without its length prefix, in bytes.
func (r *Record) bodySize(timestampDelta, offsetDelta int64) int {
	n := 1 + varintSize(timestampDelta) + varintSize(offsetDelta) + nullableSize(r.Key) + nullableSize(r.Value) +
		varintSize(int64(len(r.Headers)))
	for i := range r.Headers {
		n += varintSize(int64(len(r.Headers[i].Key))) + len(r.Headers[i].Key) + nullableSize(r.Headers[i].Value)
	}
	return n
}

// putBody writes the record without its length prefix at p[i:] and returns the position after it.
func (r *Record) putBody(p []byte, i int, timestampDelta, offsetDelta int64) int {
	p[i] = 0 // attributes
	i = putVarint(p, i+1, timestampDelta)
	i = putVarint(p, i, offsetDelta)
	i = putNullable(p, i, r.Key)
	i = putNullable(p, i, r.Value)
	i = putVarint(p, i, int64(len(r.Headers)))
	for j := range r.Headers {
		i = putVarint(p, i, int64(len(r.Headers[j].Key)))
		i += copy(p[i:], r.Headers[j].Key)
		i = putNullable(p, i, r.Headers[j].Value)
	}
	return i
}

func nullableSize(b []byte) int { return varintSize(int64(len(b))) + len(b) } // -1 and 0 both take one byte

func putNullable(p []byte, i int, b []byte) int {
	if b == nil {
		return putVarint(p, i, -1)
	}
	i = putVarint(p, i, int64(len(b)))
	return i + copy(p[i:], b)
}
