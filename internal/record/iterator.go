package record

import "fmt"

// Iterator walks the records of one batch. The zero value is ready for Reset, and reusing one allocates nothing per
// record. It is for one goroutine.
//
//	it, err := record.Records(batch, lim)
//	...
//	for it.Next() {
//		use(it.Record())
//	}
//	if err := it.Err(); err != nil { ... }
type Iterator struct {
	header    Header
	body      []byte // the uncompressed records
	pos       int
	index     int32
	lastDelta int64
	record    Record
	headers   []RecordHeader
	inflated  []byte // the decompression buffer, kept over Reset
	err       error
}

// Records returns a new Iterator over the one batch that fills batch; see Iterator.Reset. What it yields stays valid as
// long as batch is not changed.
func Records(batch []byte, lim Limits) (*Iterator, error) {
	it := new(Iterator)
	if err := it.Reset(batch, lim); err != nil {
		return nil, err
	}
	return it, nil
}

// Reset starts over with the one batch that fills batch. It checks header, length, lim.MaxBytes and (unless
// lim.SkipCRC) the CRC, and decompresses the body, up to lim.MaxUncompressedBytes. Keys, values and header values alias
// batch or, for compressed batches, a buffer of the Iterator: in that case the next Reset invalidates them. Errors wrap
// ErrCorruptBatch, ErrTooLarge, ErrUnsupportedMagic or ErrUnknownCodec.
func (it *Iterator) Reset(batch []byte, lim Limits) error {
	it.header, it.body, it.pos, it.index, it.lastDelta, it.err = Header{}, nil, 0, 0, -1, nil
	it.record = Record{}
	h, err := ParseHeader(batch)
	if err != nil {
		return err
	}
	if h.Size() > lim.maxBytes() {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, h.Size(), lim.maxBytes())
	}
	if h.Size() != len(batch) {
		return fmt.Errorf("%w: the header says %d bytes, there are %d", ErrCorruptBatch, h.Size(), len(batch))
	}
	if !lim.SkipCRC {
		if err := CheckCRC(batch); err != nil {
			return err
		}
	}
	body := batch[HeaderSize:]
	if codec := h.Codec(); codec != None {
		body, err = codec.decompress(it.inflated, body, lim.maxUncompressed())
		if err != nil {
			return fmt.Errorf("batch at offset %d: %w", h.BaseOffset, err)
		}
		it.inflated = body
	}
	if int64(h.Count)*MinRecordBytes > int64(len(body)) {
		return fmt.Errorf("%w: count %d cannot fit %d bytes of records", ErrCorruptBatch, h.Count, len(body))
	}
	it.header, it.body = h, body
	return nil
}

// Header returns the header of the batch.
func (it *Iterator) Header() Header { return it.header }

// Next moves to the next record and reports whether there is one; when not, Err tells the end from a lie.
func (it *Iterator) Next() bool {
	if it.err != nil {
		return false
	}
	if it.index == it.header.Count {
		if it.pos != len(it.body) {
			it.fail("bytes are left after the last record")
		}
		return false
	}
	begin, end, fault := recordSpan(it.body[it.pos:])
	if fault != "" {
		it.fail(fault)
		return false
	}
	if fault := it.take(it.body[it.pos+begin : it.pos+end]); fault != "" {
		it.fail(fault)
		return false
	}
	it.pos += end
	it.index++
	return true
}

// Record returns the current record. The Record itself and its Headers slice are overwritten by Next; the bytes it
// points to live as Reset and Records say, and must not be changed.
func (it *Iterator) Record() *Record { return &it.record }

// Err returns why Next stopped before the end, wrapping ErrCorruptBatch, or nil.
func (it *Iterator) Err() error { return it.err }

func (it *Iterator) fail(fault string) {
	it.err = fmt.Errorf("%w: base offset %d, record %d, byte %d of the records: %s",
		ErrCorruptBatch, it.header.BaseOffset, it.index, it.pos, fault)
}

// take parses one record body into it.record.
func (it *Iterator) take(body []byte) (fault string) {
	var l layout
	if fault := parseBody(body, &l); fault != "" {
		return fault
	}
	if l.offsetDelta <= it.lastDelta || l.offsetDelta > int64(it.header.LastOffsetDelta) {
		return "offset delta is out of order or out of the batch"
	}
	it.lastDelta = l.offsetDelta
	timestamp, ok := addTimestamp(it.header.BaseTimestamp, l.timestampDelta)
	if !ok {
		return faultTimestamp
	}
	if it.header.TimestampType() == LogAppendTime {
		timestamp = it.header.MaxTimestamp
	}
	it.record.Key, it.record.Value = l.key, l.value
	it.record.Timestamp, it.record.Offset = timestamp, it.header.BaseOffset+l.offsetDelta
	if l.headerCount == 0 {
		it.record.Headers = nil
		return ""
	}
	return it.takeHeaders(&l)
}

// takeHeaders parses the record's headers into the reused slice. Records of a batch mostly carry the same header keys:
// a key equal to the one at the same place of the record before is not allocated again.
func (it *Iterator) takeHeaders(l *layout) (fault string) {
	headers, i := it.headers, 0
	var key, value []byte
	for n := range l.headerCount {
		if key, value, i, fault = parseHeader(l.headers, i); fault != "" {
			return fault
		}
		if n == len(headers) {
			headers = append(headers, RecordHeader{})
		}
		if headers[n].Key != string(key) {
			headers[n].Key = string(key)
		}
		headers[n].Value = value
	}
	if i != len(l.headers) {
		return faultRecordEnd
	}
	it.headers, it.record.Headers = headers, headers[:l.headerCount:l.headerCount]
	return ""
}
