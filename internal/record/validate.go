package record

import (
	"fmt"
	"math"
)

// Verify checks one batch, given in pieces that together hold exactly that batch: header, lengths, lim.MaxBytes and
// CRC. It is for batches that a leader has validated before (followers, recovery, scrubbing); compacted batches pass.
// The pieces are neither kept nor copied. Errors are those of ParseHeader.
func Verify(bufs [][]byte, lim Limits) (Header, error) {
	h, err := verifyHeader(bufs, lim)
	if err != nil {
		return Header{}, err
	}
	if err := compareCRC(h.CRC, vecCRC(0, bufs, posAttributes)); err != nil {
		return Header{}, err
	}
	return h, nil
}

// Validate checks one batch from a producer, given in pieces that together hold exactly that batch: everything that
// Verify checks, header count == last offset delta + 1 > 0, producer fields that belong together, no control batch, and
// for an uncompressed body every record (offset deltas 0..n-1, lengths, varints, header counts, the maximal timestamp,
// no bytes left over). Compressed bodies are not opened. The pieces are neither kept nor copied, and nothing is
// allocated for a good batch. Errors wrap ErrCorruptBatch, ErrTooLarge, ErrUnsupportedMagic or ErrUnknownCodec.
func Validate(bufs [][]byte, lim Limits) (Header, error) {
	h, err := verifyHeader(bufs, lim)
	if err != nil {
		return Header{}, err
	}
	if err := h.checkProduced(); err != nil {
		return Header{}, err
	}
	if err := compareCRC(h.CRC, vecCRC(0, bufs, posAttributes)); err != nil {
		return Header{}, err
	}
	if h.Codec() != None {
		return h, nil
	}
	w := walker{cursor: newCursor(bufs), header: h, maxTimestamp: math.MinInt64}
	if fault := w.walk(); fault != "" {
		return Header{}, fmt.Errorf("%w: record %d, byte %d: %s", ErrCorruptBatch, w.index, h.Size()-w.cursor.left, fault)
	}
	return h, nil
}

// verifyHeader parses the header and compares its length with the pieces and the limit.
func verifyHeader(bufs [][]byte, lim Limits) (Header, error) {
	var scratch [HeaderSize]byte
	total := vecSize(bufs)
	head, ok := gatherHeader(&scratch, bufs)
	if !ok {
		return Header{}, fmt.Errorf("%w: %d bytes are too few for the header of %d", ErrCorruptBatch, total, HeaderSize)
	}
	h := decodeHeader(head)
	if err := h.check(); err != nil {
		return Header{}, err
	}
	if h.Size() > lim.maxBytes() {
		return Header{}, fmt.Errorf("%w: %d bytes, the limit is %d; send smaller batches", ErrTooLarge, h.Size(), lim.maxBytes())
	}
	if h.Size() != total {
		return Header{}, fmt.Errorf("%w: the header says %d bytes, there are %d", ErrCorruptBatch, h.Size(), total)
	}
	return h, nil
}

// checkProduced applies what holds for a batch as a producer sends it.
func (h Header) checkProduced() error {
	if h.Count == 0 || int64(h.Count) != int64(h.LastOffsetDelta)+1 {
		return fmt.Errorf("%w: count %d with last offset delta %d", ErrCorruptBatch, h.Count, h.LastOffsetDelta)
	}
	if h.Attributes&(attrControl|attrDeleteHorizon) != 0 {
		return fmt.Errorf("%w: attributes %#04x are not for producers", ErrCorruptBatch, uint16(h.Attributes))
	}
	if h.ProducerID == NoProducerID && h.ProducerEpoch <= 0 && h.BaseSequence <= 0 && !h.IsTransactional() {
		return nil // without idempotence Kafka's clients write -1 or 0 in the other two
	}
	return checkProducer(ErrCorruptBatch, h.ProducerID, h.ProducerEpoch, h.BaseSequence, h.IsTransactional())
}

// checkProducer demands that the three producer fields are all given or all absent.
func checkProducer(sentinel error, id int64, epoch int16, sequence int32, transactional bool) error {
	switch {
	case id >= 0 && epoch >= 0 && sequence >= 0:
		return nil
	case id == NoProducerID && epoch == NoProducerEpoch && sequence == NoSequence && !transactional:
		return nil
	default:
		return fmt.Errorf("%w: producer id %d, epoch %d and sequence %d do not belong together", sentinel, id, epoch, sequence)
	}
}

// walker walks the records of an uncompressed batch in pieces.
type walker struct {
	cursor       cursor
	header       Header
	index        int64 // the record being walked
	maxTimestamp int64
	layout       layout
}

func (w *walker) walk() (fault string) {
	if !w.cursor.skip(HeaderSize) {
		return faultLength
	}
	for ; w.index < int64(w.header.Count); w.index++ {
		if fault := w.record(); fault != "" {
			return fault
		}
		if w.layout.offsetDelta != w.index {
			return "offset delta is not the record's index"
		}
		ts, ok := addTimestamp(w.header.BaseTimestamp, w.layout.timestampDelta)
		if !ok {
			return faultTimestamp
		}
		w.maxTimestamp = max(w.maxTimestamp, ts)
	}
	if w.cursor.left != 0 {
		return "bytes are left after the last record"
	}
	if w.header.TimestampType() == CreateTime && w.maxTimestamp != w.header.MaxTimestamp {
		return "the header's maximal timestamp is not the records'"
	}
	return ""
}

// record walks one record: in place where it lies within the current piece, otherwise field by field.
func (w *walker) record() (fault string) {
	if begin, end, fault := recordSpan(w.cursor.cur); fault == "" {
		if fault := parseBody(w.cursor.cur[begin:end], &w.layout); fault != "" {
			return fault
		}
		if w.layout.headerCount != 0 {
			if fault := w.layout.checkHeaders(); fault != "" {
				return fault
			}
		}
		w.cursor.skip(end)
		return ""
	}
	return w.recordAcross()
}

// recordAcross walks a record that crosses piece borders.
func (w *walker) recordAcross() (fault string) {
	c := &w.cursor
	n, ok := c.varint(maxVarint32Bytes, 0x0f)
	if !ok || n < 1 || n > int64(c.left) {
		return faultLength
	}
	after := c.left - int(n) // what must be left when the record is done
	c.skip(1)                // attributes
	if w.layout.timestampDelta, ok = c.varint(maxVarint64Bytes, 0x01); !ok {
		return faultTimestamp
	}
	if w.layout.offsetDelta, ok = c.varint(maxVarint32Bytes, 0x0f); !ok {
		return faultOffset
	}
	if !c.skipNullable(after, -1) {
		return faultKey
	}
	if !c.skipNullable(after, -1) {
		return faultValue
	}
	count, ok := c.varint(maxVarint32Bytes, 0x0f)
	if !ok || count < 0 || c.left < after || count > min(int64(c.left-after)/2, MaxRecordHeaders) {
		return faultHeaderCount
	}
	for range count {
		if !c.skipNullable(after, 0) {
			return faultHeaderKey
		}
		if !c.skipNullable(after, -1) {
			return faultHeaderValue
		}
	}
	if c.left != after {
		return faultRecordEnd
	}
	return ""
}

// addTimestamp adds a delta to the base timestamp and reports whether the sum fits.
func addTimestamp(base, delta int64) (int64, bool) {
	sum := base + delta
	return sum, (sum > base) == (delta > 0)
}

// cursor reads over pieces without copying them together.
type cursor struct {
	cur  []byte   // what is left of the current piece; empty only at the end
	rest [][]byte // the pieces after it
	left int      // bytes left in all
}

func newCursor(bufs [][]byte) cursor {
	c := cursor{rest: bufs, left: vecSize(bufs)}
	c.advance()
	return c
}

// advance steps over exhausted and empty pieces.
func (c *cursor) advance() {
	for len(c.cur) == 0 && len(c.rest) > 0 {
		c.cur, c.rest = c.rest[0], c.rest[1:]
	}
}

// skip steps over n >= 0 bytes and reports whether there were as many; if not it does nothing.
func (c *cursor) skip(n int) bool {
	if n > c.left {
		return false
	}
	c.left -= n
	for n > len(c.cur) {
		n -= len(c.cur)
		c.cur = nil
		c.advance()
	}
	c.cur = c.cur[n:]
	c.advance()
	return true
}

// varint decodes a zigzag varint of at most maxBytes, whose last possible byte may not exceed lastMax.
func (c *cursor) varint(maxBytes int, lastMax byte) (int64, bool) {
	var u uint64
	for n := range maxBytes {
		if c.left == 0 {
			return 0, false
		}
		b := c.cur[0]
		c.skip(1)
		u |= uint64(b&0x7f) << (7 * n)
		if b < 0x80 {
			return unzigzag(u), n < maxBytes-1 || b <= lastMax
		}
	}
	return 0, false
}

// skipNullable steps over a length and as many bytes, which must leave at least after bytes; lengths below least (-1
// where null is allowed) are refused.
func (c *cursor) skipNullable(after int, least int64) bool {
	n, ok := c.varint(maxVarint32Bytes, 0x0f)
	if !ok || n < least || c.left < after || n > int64(c.left-after) {
		return false
	}
	return c.skip(int(max(n, 0)))
}
