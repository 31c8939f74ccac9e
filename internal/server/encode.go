package server

import (
	"bytes"
	"errors"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// encode makes one batch, without idempotence, of plain records.
func encode(records []*penstockv1.Record, codec record.Codec, maxBytes int, now time.Time) ([]byte, error) {
	builder := record.NewBuilder(record.BuilderOptions{MaxBytes: maxBytes})
	for _, r := range records {
		plain := record.Record{Key: r.Key, Value: r.Value, Timestamp: now.UnixMilli()}
		if r.TimestampMs != nil {
			plain.Timestamp = r.GetTimestampMs()
		}
		for _, h := range r.GetHeaders() {
			plain.Headers = append(plain.Headers, record.RecordHeader{Key: h.GetKey(), Value: h.Value})
		}
		if err := builder.Add(plain); err != nil {
			return nil, batchError(err)
		}
	}
	batch, err := builder.Finish(codec, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
	return batch, batchError(err)
}

func codecOf(c penstockv1.Compression) (record.Codec, error) {
	switch c {
	case penstockv1.Compression_COMPRESSION_UNSPECIFIED, penstockv1.Compression_COMPRESSION_NONE:
		return record.None, nil
	case penstockv1.Compression_COMPRESSION_GZIP:
		return record.Gzip, nil
	case penstockv1.Compression_COMPRESSION_SNAPPY:
		return record.Snappy, nil
	case penstockv1.Compression_COMPRESSION_LZ4:
		return record.LZ4, nil
	case penstockv1.Compression_COMPRESSION_ZSTD:
		return record.Zstd, nil
	default:
		return 0, model.Errorf(model.CodeUnsupportedCompression, "compression %d is not known", int32(c))
	}
}

// maxPlainBytes bounds what the batches of one frame may decompress to: a few bytes can stand for very many. A single batch
// that a consumer takes fits.
const maxPlainBytes = 2 * record.DefaultMaxUncompressedBytes

// decode returns the plain records of whole batches whose offsets lie in [from, to); to < 0 has no end. Records that the
// batches hold for the broker itself are left out. Batches of more than maxPlainBytes, decompressed, are refused.
func decode(batches []byte, from, to int64) ([]*penstockv1.Record, error) {
	var out []*penstockv1.Record
	it, left := new(record.Iterator), maxPlainBytes
	for len(batches) > 0 {
		header, err := record.ParseHeader(batches)
		if err != nil || header.Size() > len(batches) {
			return nil, model.Errorf(model.CodeCorruptRecord, "a stored batch cannot be read: %w", err)
		}
		limits := record.Limits{MaxUncompressedBytes: min(left, record.DefaultMaxUncompressedBytes)}
		err = it.Reset(bytes.Clone(batches[:header.Size()]), limits)
		if left <= 0 || (limits.MaxUncompressedBytes == left && errors.Is(err, record.ErrTooLarge)) {
			return nil, model.Errorf(model.CodeInvalidRequest,
				"the batches up to offset %d decompress to more than %d bytes; ask for fewer bytes at a time, or for batches instead of records",
				header.LastOffset(), maxPlainBytes)
		}
		if err != nil {
			return nil, model.Errorf(model.CodeCorruptRecord, "the stored batch at offset %d cannot be read: %w", header.BaseOffset, err)
		}
		batches = batches[header.Size():]
		if header.IsControl() {
			continue
		}
		compressed := header.Codec() != record.None
		for it.Next() {
			r := it.Record()
			left -= record.SizeOf(*r)
			if r.Offset >= from && (to < 0 || r.Offset < to) {
				out = append(out, plainRecord(r, compressed))
			}
		}
		if err := it.Err(); err != nil {
			return nil, model.Errorf(model.CodeCorruptRecord, "the stored batch at offset %d cannot be read: %w", header.BaseOffset, err)
		}
	}
	return out, nil
}

// plainRecord makes the plain form; clone says that the iterator will overwrite the bytes.
func plainRecord(r *record.Record, clone bool) *penstockv1.Record {
	if clone {
		copied := r.Clone()
		r = &copied
	}
	timestamp := r.Timestamp
	out := &penstockv1.Record{Key: r.Key, Value: r.Value, TimestampMs: &timestamp, Offset: r.Offset}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, &penstockv1.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return out
}
