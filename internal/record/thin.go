package record

import (
	"fmt"
	"slices"
)

// DeleteHorizon returns the time, in milliseconds since 1970, from which on compaction may drop the tombstones of the
// batch; false where compaction has set none yet. It lies in the base timestamp, which the records' deltas refer to.
func (h Header) DeleteHorizon() (ms int64, ok bool) {
	return h.BaseTimestamp, h.Attributes&attrDeleteHorizon != 0
}

// Thinner takes records out of batches, as compaction does: what stays keeps its offset, its bytes and its timestamp, and
// the batch keeps its offsets, producer fields and codec. Its buffers are kept over Reset. It is for one goroutine.
//
//	err := t.Reset(batch, lim)
//	for t.Next() {
//		if wanted(t.Record()) { t.Keep() }
//	}
//	if err := t.Err(); err == nil && t.Dropped() > 0 {
//		out, err = t.Append(out, horizon)
//	}
type Thinner struct {
	it         Iterator
	spans      []span // of kept records in the body, neighbours joined
	kept       int32
	last       span // of the current record
	tombstones int32
	maxKept    int64
	body       []byte // the thinned body
	scratch    []byte // the thinned body with new timestamp deltas
}

type span struct{ from, to int }

// Reset starts over with the one batch that fills batch; see Iterator.Reset. batch must not change until Append is done.
func (t *Thinner) Reset(batch []byte, lim Limits) error {
	t.spans, t.kept, t.tombstones, t.maxKept, t.last = t.spans[:0], 0, 0, NoTimestamp, span{}
	return t.it.Reset(batch, lim)
}

// Header returns the header of the batch.
func (t *Thinner) Header() Header { return t.it.Header() }

// Next moves to the next record; see Iterator.Next.
func (t *Thinner) Next() bool {
	from := t.it.pos
	if !t.it.Next() {
		return false
	}
	t.last = span{from, t.it.pos}
	return true
}

// Record returns the current record; see Iterator.Record.
func (t *Thinner) Record() *Record { return t.it.Record() }

// Err returns why Next stopped before the end.
func (t *Thinner) Err() error { return t.it.Err() }

// Keep keeps the current record; it is called once a record at most.
func (t *Thinner) Keep() {
	t.kept++
	if t.it.record.Value == nil {
		t.tombstones++
	}
	t.maxKept = max(t.maxKept, t.it.record.Timestamp)
	if n := len(t.spans); n > 0 && t.spans[n-1].to == t.last.from {
		t.spans[n-1].to = t.last.to
		return
	}
	t.spans = append(t.spans, t.last)
}

// Kept returns how many records were kept, and how many of those are tombstones.
func (t *Thinner) Kept() (records, tombstones int) { return int(t.kept), int(t.tombstones) }

// Dropped returns how many records of the batch were not kept, once Next has returned false.
func (t *Thinner) Dropped() int { return int(t.it.index - t.kept) }

// Append appends the batch with the kept records alone to dst. A horizon of at least 0 becomes the batch's delete horizon,
// unless it has one, or timestamps out of any range. The maximal timestamp becomes that of the kept records. Without kept records it is AppendEmpty.
func (t *Thinner) Append(dst []byte, horizon int64) ([]byte, error) {
	h := t.it.header
	if t.kept == 0 {
		return AppendEmpty(dst, h), nil
	}
	t.body = t.body[:0]
	for _, s := range t.spans {
		t.body = append(t.body, t.it.body[s.from:s.to]...)
	}
	body := t.body
	if _, has := h.DeleteHorizon(); horizon >= 0 && !has {
		if rebased, ok := t.rebase(horizon); ok {
			body = rebased
			h.Attributes |= attrDeleteHorizon
			h.BaseTimestamp = horizon
		}
	}
	if h.TimestampType() == CreateTime {
		h.MaxTimestamp = t.maxKept
	}
	h.Count = t.kept
	at := len(dst)
	dst = slices.Grow(dst, HeaderSize+len(body))[:at+HeaderSize]
	codec := h.Codec()
	var err error
	if dst, err = codec.appendCompressed(dst, body); err != nil {
		return dst[:at], err
	}
	if codec != None && len(dst)-at-HeaderSize >= len(body) {
		dst = append(dst[:at+HeaderSize], body...)
		h.Attributes &^= attrCodecMask
	}
	if len(dst)-at > MaxBatchBytes {
		return dst[:at], fmt.Errorf("%w: thinned to %d bytes, the limit is %d", ErrTooLarge, len(dst)-at, MaxBatchBytes)
	}
	finishThinned(dst[at:], h)
	return dst, nil
}

// rebase writes the kept records with timestamp deltas that refer to base; false where a delta leaves 64 bits.
func (t *Thinner) rebase(base int64) ([]byte, bool) {
	out, old := t.scratch[:0], t.it.header.BaseTimestamp
	shift := old - base // base is not negative
	if shift > old {
		return nil, false
	}
	for rest := t.body; len(rest) > 0; {
		begin, end, fault := recordSpan(rest)
		if fault != "" {
			return nil, false
		}
		p := rest[begin:end]
		rest = rest[end:]
		delta, i := varint64(p, 1)
		if i < 0 {
			return nil, false
		}
		delta, ok := addTimestamp(shift, delta)
		if !ok {
			return nil, false
		}
		size := 1 + varintSize(delta) + len(p) - i
		at := len(out)
		out = slices.Grow(out, varintSize(int64(size))+size)[:at+varintSize(int64(size))+size]
		at = putVarint(out, at, int64(size))
		out[at] = p[0]
		at = putVarint(out, at+1, delta)
		copy(out[at:], p[i:])
	}
	t.scratch = out
	return out, true
}

// AppendEmpty appends to dst what is left of the batch of h when compaction has removed all its records: the header, with
// offsets, epoch, producer fields and maximal timestamp.
func AppendEmpty(dst []byte, h Header) []byte {
	h.Count = 0
	h.Attributes &^= attrCodecMask | attrDeleteHorizon
	h.BaseTimestamp = h.MaxTimestamp
	at := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	finishThinned(dst[at:], h)
	return dst
}

// finishThinned writes length, header and CRC of a batch whose body stands.
func finishThinned(batch []byte, h Header) {
	h.Length = int32(len(batch) - lengthOverhead) //nolint:gosec // at most MaxBatchBytes
	h.put(batch)
	seal(batch)
}

// CheckKeys checks one batch that Validate has passed for a compacted topic: every record must have a key, and a compressed
// body must hold what the header says. Bodies are inflated up to lim.MaxUncompressedBytes. The pieces are neither changed nor
// kept. Errors wrap ErrInvalidRecord for a record without a key, else those of Iterator.Reset and Iterator.Err.
func CheckKeys(bufs [][]byte, lim Limits) error {
	lim.SkipCRC = true
	var batch []byte
	if len(bufs) == 1 {
		batch = bufs[0]
	} else {
		batch = slices.Concat(bufs...)
	}
	var it Iterator
	if err := it.Reset(batch, lim); err != nil {
		return err
	}
	want := int64(0)
	for it.Next() {
		if it.record.Key == nil {
			return fmt.Errorf("%w: record %d has no key, and the topic is compacted: give every record a key", ErrInvalidRecord, want)
		}
		if it.lastDelta != want {
			return fmt.Errorf("%w: record %d has offset delta %d", ErrCorruptBatch, want, it.lastDelta)
		}
		want++
	}
	return it.Err()
}
