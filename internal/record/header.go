package record

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Sizes and bounds of a batch, in bytes.
const (
	// HeaderSize is the size of the fixed part of a batch: everything before the first record.
	HeaderSize = 61
	// HeadSize is the size of what PutHead writes: the part the leader rewrites.
	HeadSize = 16
	// MaxBatchBytes is the largest batch this package accepts whatever Limits say: 128 MiB.
	MaxBatchBytes = 128 << 20
	// DefaultMaxUncompressedBytes bounds a decompressed body where Limits say nothing: 64 MiB.
	DefaultMaxUncompressedBytes = 64 << 20
	// MinRecordBytes is the size of the smallest record: null key, null value, no headers.
	MinRecordBytes = 7
	// MaxRecordHeaders is the most headers a record may have: decoded, each takes many times its smallest encoding.
	MaxRecordHeaders = 64 << 10
)

// Magic is the only batch format version supported.
const Magic int8 = 2

// Values of the producer fields of a batch whose producer is not idempotent, and of a record without a timestamp.
const (
	NoProducerID    int64 = -1
	NoProducerEpoch int16 = -1
	NoSequence      int32 = -1
	NoTimestamp     int64 = -1
)

// Positions of the fields in a batch.
const (
	posBaseOffset      = 0
	posLength          = 8
	posLeaderEpoch     = 12
	posMagic           = 16
	posCRC             = 17
	posAttributes      = 21 // the CRC covers everything from here on
	posLastOffsetDelta = 23
	posBaseTimestamp   = 27
	posMaxTimestamp    = 35
	posProducerID      = 43
	posProducerEpoch   = 51
	posBaseSequence    = 53
	posCount           = 57

	// lengthOverhead is what the length field does not count: itself and the base offset.
	lengthOverhead = 12
	minLength      = HeaderSize - lengthOverhead
)

// Bits of the attributes field.
const (
	attrCodecMask     int16 = 0x07
	attrLogAppendTime int16 = 1 << 3
	attrTransactional int16 = 1 << 4
	attrControl       int16 = 1 << 5
	attrDeleteHorizon int16 = 1 << 6
	attrKnown               = attrCodecMask | attrLogAppendTime | attrTransactional | attrControl | attrDeleteHorizon
)

// TimestampType says who stamped the records of a batch.
type TimestampType uint8

// The timestamp types of Kafka.
const (
	// CreateTime means that the producer stamped each record.
	CreateTime TimestampType = iota
	// LogAppendTime means that the leader stamped the batch; every record has the batch's MaxTimestamp.
	LogAppendTime
)

// String returns Kafka's name of the type.
func (t TimestampType) String() string {
	if t == LogAppendTime {
		return "LogAppendTime"
	}
	return "CreateTime"
}

// Limits bounds what a caller is ready to accept. The zero value means the package's own bounds.
type Limits struct {
	// MaxBytes is the largest batch as it is on the wire, in bytes; 0 or anything above MaxBatchBytes means
	// MaxBatchBytes.
	MaxBytes int
	// MaxUncompressedBytes is the largest decompressed body, in bytes; 0 means DefaultMaxUncompressedBytes.
	MaxUncompressedBytes int
	// SkipCRC tells Iterator and Records that the caller has checked the CRC already.
	SkipCRC bool
}

func (l Limits) maxBytes() int {
	if l.MaxBytes <= 0 || l.MaxBytes > MaxBatchBytes {
		return MaxBatchBytes
	}
	return l.MaxBytes
}

func (l Limits) maxUncompressed() int {
	if l.MaxUncompressedBytes <= 0 {
		return DefaultMaxUncompressedBytes
	}
	return l.MaxUncompressedBytes
}

// Header is the decoded fixed part of a batch. Offsets are absolute, timestamps are milliseconds since 1970 UTC.
type Header struct {
	BaseOffset      int64
	Length          int32 // the batchLength field: the bytes that follow it, Size() - 12
	LeaderEpoch     int32
	Magic           int8
	CRC             uint32 // CRC-32C of everything from the attributes on
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	Count           int32 // records in the batch
}

// Size returns the size of the whole batch in bytes.
func (h Header) Size() int { return int(h.Length) + lengthOverhead }

// LastOffset returns the offset of the last record (the last one written, where compaction has removed it since).
func (h Header) LastOffset() int64 { return h.BaseOffset + int64(h.LastOffsetDelta) }

// NextOffset returns the offset after the batch: LastOffset + 1.
func (h Header) NextOffset() int64 { return h.LastOffset() + 1 }

// LastSequence returns the sequence of the last record, which wraps from MaxInt32 to 0; NoSequence without a producer.
func (h Header) LastSequence() int32 {
	if !h.HasProducer() || h.BaseSequence < 0 {
		return NoSequence
	}
	return int32((int64(h.BaseSequence) + int64(h.LastOffsetDelta)) & math.MaxInt32)
}

// Codec returns the compression of the body. After ParseHeader it is a known one.
func (h Header) Codec() Codec { return Codec(h.Attributes & attrCodecMask) }

// TimestampType says who stamped the records.
func (h Header) TimestampType() TimestampType {
	if h.Attributes&attrLogAppendTime != 0 {
		return LogAppendTime
	}
	return CreateTime
}

// IsTransactional reports whether the batch belongs to a transaction.
func (h Header) IsTransactional() bool { return h.Attributes&attrTransactional != 0 }

// IsControl reports whether the batch holds control records (transaction markers), which consumers never show.
func (h Header) IsControl() bool { return h.Attributes&attrControl != 0 }

// HasProducer reports whether an idempotent producer made the batch.
func (h Header) HasProducer() bool { return h.ProducerID >= 0 }

// decodeHeader reads the fields from the first HeaderSize bytes of b and checks nothing.
func decodeHeader(b []byte) Header {
	_ = b[HeaderSize-1]
	be := binary.BigEndian
	return Header{
		BaseOffset:      int64(be.Uint64(b[posBaseOffset:])),
		Length:          int32(be.Uint32(b[posLength:])),
		LeaderEpoch:     int32(be.Uint32(b[posLeaderEpoch:])),
		Magic:           int8(b[posMagic]),
		CRC:             be.Uint32(b[posCRC:]),
		Attributes:      int16(be.Uint16(b[posAttributes:])),
		LastOffsetDelta: int32(be.Uint32(b[posLastOffsetDelta:])),
		BaseTimestamp:   int64(be.Uint64(b[posBaseTimestamp:])),
		MaxTimestamp:    int64(be.Uint64(b[posMaxTimestamp:])),
		ProducerID:      int64(be.Uint64(b[posProducerID:])),
		ProducerEpoch:   int16(be.Uint16(b[posProducerEpoch:])),
		BaseSequence:    int32(be.Uint32(b[posBaseSequence:])),
		Count:           int32(be.Uint32(b[posCount:])),
	}
}

// put writes all fields to the first HeaderSize bytes of b.
func (h Header) put(b []byte) {
	_ = b[HeaderSize-1]
	be := binary.BigEndian
	PutHead(b, h.BaseOffset, h.Length, h.LeaderEpoch)
	b[posMagic] = byte(h.Magic)
	be.PutUint32(b[posCRC:], h.CRC)
	be.PutUint16(b[posAttributes:], uint16(h.Attributes))
	be.PutUint32(b[posLastOffsetDelta:], uint32(h.LastOffsetDelta))
	be.PutUint64(b[posBaseTimestamp:], uint64(h.BaseTimestamp))
	be.PutUint64(b[posMaxTimestamp:], uint64(h.MaxTimestamp))
	be.PutUint64(b[posProducerID:], uint64(h.ProducerID))
	be.PutUint16(b[posProducerEpoch:], uint16(h.ProducerEpoch))
	be.PutUint32(b[posBaseSequence:], uint32(h.BaseSequence))
	be.PutUint32(b[posCount:], uint32(h.Count))
}

// PutHead writes base offset, length field and leader epoch to the first HeadSize (16) bytes of dst: the only bytes of
// a batch that the leader rewrites, all outside the CRC. It panics when dst is shorter.
func PutHead(dst []byte, baseOffset int64, length, leaderEpoch int32) {
	_ = dst[HeadSize-1]
	binary.BigEndian.PutUint64(dst[posBaseOffset:], uint64(baseOffset))
	binary.BigEndian.PutUint32(dst[posLength:], uint32(length))
	binary.BigEndian.PutUint32(dst[posLeaderEpoch:], uint32(leaderEpoch))
}

// ParseHeader decodes and checks the fixed part of a batch from the first HeaderSize bytes of b; more may follow and
// is not looked at. It checks magic, the bounds of the length, known attributes and codec, and that the count can be
// true for that length; it does not check the CRC. b is not kept. The error wraps ErrCorruptBatch, ErrTooLarge (above
// MaxBatchBytes), ErrUnsupportedMagic or ErrUnknownCodec.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes are too few for the header of %d", ErrCorruptBatch, len(b), HeaderSize)
	}
	h := decodeHeader(b)
	if err := h.check(); err != nil {
		return Header{}, err
	}
	return h, nil
}

// check applies the rules that hold for every stored or sent batch, compacted ones included.
func (h Header) check() error {
	switch {
	case h.Magic != Magic:
		return fmt.Errorf("%w: %d; only %d is supported", ErrUnsupportedMagic, h.Magic, Magic)
	case h.Length < minLength:
		return fmt.Errorf("%w: length field %d is below the minimum of %d", ErrCorruptBatch, h.Length, minLength)
	case h.Length > MaxBatchBytes-lengthOverhead:
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, int64(h.Length)+lengthOverhead, MaxBatchBytes)
	case h.Attributes&^attrKnown != 0:
		return fmt.Errorf("%w: unknown attribute bits %#04x", ErrCorruptBatch, uint16(h.Attributes&^attrKnown))
	case !h.Codec().Valid():
		return fmt.Errorf("%w: number %d in the attributes", ErrUnknownCodec, uint8(h.Codec()))
	case h.BaseOffset < 0 || h.LastOffsetDelta < 0 || h.BaseOffset > math.MaxInt64-int64(h.LastOffsetDelta)-1:
		return fmt.Errorf("%w: base offset %d with last offset delta %d", ErrCorruptBatch, h.BaseOffset, h.LastOffsetDelta)
	case h.Count < 0 || int64(h.Count) > int64(h.LastOffsetDelta)+1:
		return fmt.Errorf("%w: count %d with last offset delta %d", ErrCorruptBatch, h.Count, h.LastOffsetDelta)
	case h.Codec() == None && int64(h.Count)*MinRecordBytes > int64(h.Length)-minLength:
		return fmt.Errorf("%w: count %d cannot fit %d bytes of records", ErrCorruptBatch, h.Count, h.Length-minLength)
	}
	return nil
}

// Count walks the headers of whole batches, back to back, and says how many batches they are and how many records they say
// they hold. It ends at what is no whole batch and checks nothing else.
func Count(batches []byte) (count, records int64) {
	for len(batches) >= HeaderSize {
		size := int64(binary.BigEndian.Uint32(batches[posLength:])) + lengthOverhead
		if size < HeaderSize || size > int64(len(batches)) {
			break
		}
		count++
		records += int64(binary.BigEndian.Uint32(batches[posCount:]))
		batches = batches[size:]
	}
	return count, records
}
