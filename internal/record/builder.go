package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// BuilderOptions says how a Builder sizes its batches. The zero value is fine.
type BuilderOptions struct {
	// MaxBytes is the largest batch before compression, header included; 0 or anything above MaxBatchBytes means
	// MaxBatchBytes.
	MaxBytes int
	// InitialBytes is the buffer allocated at first use; it grows as needed. 0 means 16 KiB.
	InitialBytes int
}

// Builder appends records into one growing buffer and makes a batch of them. It keeps its buffers over Reset, so that a
// reused Builder allocates nothing per record. It is for one goroutine at a time.
type Builder struct {
	maxBytes      int
	initialBytes  int
	buf           []byte // HeaderSize bytes for the header, then the records
	compressed    []byte // the same for the compressed form
	count         int32
	baseTimestamp int64
	maxTimestamp  int64
}

// NewBuilder returns an empty Builder.
func NewBuilder(o BuilderOptions) *Builder {
	if o.InitialBytes <= 0 {
		o.InitialBytes = 16 << 10
	}
	return &Builder{maxBytes: Limits{MaxBytes: o.MaxBytes}.maxBytes(), initialBytes: max(o.InitialBytes, HeaderSize)}
}

// SizeOf returns an upper bound of the bytes that r takes in a batch, before compression.
func SizeOf(r Record) int {
	return r.bodySize(math.MaxInt64, math.MaxInt32) + maxVarint32Bytes
}

// Len returns the size of the batch in bytes as it stands, before compression, header included.
func (b *Builder) Len() int { return max(len(b.buf), HeaderSize) }

// Count returns how many records were added.
func (b *Builder) Count() int { return int(b.count) }

// SizeAfter returns what Len would be after Add(r), whatever the limit.
func (b *Builder) SizeAfter(r Record) int {
	n := r.bodySize(b.timestampDelta(r.Timestamp), int64(b.count))
	return b.Len() + varintSize(int64(n)) + n
}

// Fits reports whether Add(r) would stay within MaxBytes.
func (b *Builder) Fits(r Record) bool { return b.SizeAfter(r) <= b.maxBytes && b.count < math.MaxInt32 }

func (b *Builder) timestampDelta(timestamp int64) int64 {
	if b.count == 0 {
		return 0
	}
	return timestamp - b.baseTimestamp // both are >= 0
}

// Add appends a copy of r, whose slices the caller keeps. A batch that would exceed MaxBytes gives an error wrapping
// ErrTooLarge, a negative timestamp or too many headers one wrapping ErrInvalidRecord; the batch is then as it was. Add after Finish needs
// a Reset in between, unless more records shall join the same ones.
func (b *Builder) Add(r Record) error {
	if r.Timestamp < 0 {
		return fmt.Errorf("%w: timestamp %d is negative; use milliseconds since 1970", ErrInvalidRecord, r.Timestamp)
	}
	if len(r.Headers) > MaxRecordHeaders {
		return fmt.Errorf("%w: %d headers, the limit is %d", ErrInvalidRecord, len(r.Headers), MaxRecordHeaders)
	}
	delta := b.timestampDelta(r.Timestamp)
	body := r.bodySize(delta, int64(b.count))
	size := varintSize(int64(body)) + body
	if size > b.maxBytes-b.Len() || b.count == math.MaxInt32 {
		return fmt.Errorf("%w: a record of %d bytes on top of %d exceeds the limit of %d", ErrTooLarge, size, b.Len(), b.maxBytes)
	}
	if b.buf == nil {
		b.buf = make([]byte, HeaderSize, max(b.initialBytes, HeaderSize+size))
	}
	i := len(b.buf)
	b.buf = slices.Grow(b.buf, size)[:i+size]
	i = putVarint(b.buf, i, int64(body))
	r.putBody(b.buf, i, delta, int64(b.count))
	if b.count == 0 {
		b.baseTimestamp, b.maxTimestamp = r.Timestamp, r.Timestamp
	}
	b.maxTimestamp = max(b.maxTimestamp, r.Timestamp)
	b.count++
	return nil
}

// Reset empties the Builder and keeps its buffers: batches that Finish returned are overwritten by what follows.
func (b *Builder) Reset() {
	b.count = 0
	if b.buf != nil {
		b.buf = b.buf[:HeaderSize]
	}
}

// Finish returns the batch, with base offset 0 and leader epoch -1, which the leader rewrites. Where compression does
// not make the body smaller, the batch is left uncompressed and its attributes say so. Producer id, epoch and sequence
// are all at least 0 or all -1. The batch belongs to the Builder: it is valid until the next Add, Reset or Finish.
// Errors wrap ErrEmptyBatch, ErrUnknownCodec or ErrInvalidRecord (producer fields); the records stay.
func (b *Builder) Finish(codec Codec, producerID int64, producerEpoch int16, baseSequence int32) ([]byte, error) {
	if b.count == 0 {
		return nil, fmt.Errorf("%w: add one first", ErrEmptyBatch)
	}
	if err := checkProducer(ErrInvalidRecord, producerID, producerEpoch, baseSequence, false); err != nil {
		return nil, err
	}
	batch, codec, err := b.compress(codec)
	if err != nil {
		return nil, err
	}
	Header{
		Length:          int32(len(batch) - lengthOverhead),
		LeaderEpoch:     -1,
		Magic:           Magic,
		Attributes:      int16(codec),
		LastOffsetDelta: b.count - 1,
		BaseTimestamp:   b.baseTimestamp,
		MaxTimestamp:    b.maxTimestamp,
		ProducerID:      producerID,
		ProducerEpoch:   producerEpoch,
		BaseSequence:    baseSequence,
		Count:           b.count,
	}.put(batch)
	seal(batch)
	return batch, nil
}

// compress returns the buffer that holds the smaller form of the body and its codec.
func (b *Builder) compress(codec Codec) ([]byte, Codec, error) {
	if codec == None {
		return b.buf, None, nil
	}
	if cap(b.compressed) < HeaderSize {
		b.compressed = make([]byte, HeaderSize, max(HeaderSize, len(b.buf)/2))
	}
	out, err := codec.appendCompressed(b.compressed[:HeaderSize], b.buf[HeaderSize:])
	if err != nil {
		return nil, None, err
	}
	b.compressed = out
	if len(out) >= len(b.buf) {
		return b.buf, None, nil
	}
	return out, codec, nil
}

// seal writes the CRC of a batch whose other fields stand.
func seal(batch []byte) {
	binary.BigEndian.PutUint32(batch[posCRC:], crc32.Checksum(batch[posAttributes:], castagnoli))
}
