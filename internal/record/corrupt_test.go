package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

// Every single flipped bit from the magic on is refused, and says which of the known ways it is bad in.
func TestEveryBitFlipRefused(t *testing.T) {
	batch := buildBatch(t, None, sampleRecords(6))
	for bit := posMagic * 8; bit < len(batch)*8; bit++ {
		bad := bytes.Clone(batch)
		bad[bit/8] ^= 1 << (bit % 8)
		for _, bufs := range [][][]byte{{bad}, pieces(bad, 50)} {
			_, err := Validate(bufs, Limits{})
			if !errors.Is(err, ErrCorruptBatch) && !errors.Is(err, ErrUnsupportedMagic) && !errors.Is(err, ErrUnknownCodec) {
				t.Fatalf("bit %d: %v", bit, err)
			}
		}
	}
}

// The same flips with a CRC that was made to match: what Validate still accepts must be readable to the last record.
func TestBitFlipsUnderATrueCRC(t *testing.T) {
	batch := buildBatch(t, None, sampleRecords(6))
	refused := 0
	for bit := posAttributes * 8; bit < len(batch)*8; bit++ {
		bad := bytes.Clone(batch)
		bad[bit/8] ^= 1 << (bit % 8)
		seal(bad)
		h, err := Validate([][]byte{bad}, Limits{})
		if _, err2 := Validate(pieces(bad, 13), Limits{}); (err == nil) != (err2 == nil) {
			t.Fatalf("bit %d: whole %v, in pieces %v", bit, err, err2)
		}
		if err != nil {
			refused++
			continue
		}
		if h.Codec() != None {
			continue
		}
		if records, err := readAll(bad, Limits{}); err != nil || len(records) != int(h.Count) {
			t.Fatalf("bit %d: Validate accepts %d records, Iterator reads %d: %v", bit, h.Count, len(records), err)
		}
	}
	if refused < HeaderSize*4 {
		t.Fatalf("only %d flips were refused", refused)
	}
}

// A batch cut into two pieces at every place, and into single bytes, is as good as whole; one byte less or more is not.
func TestEveryPieceBorder(t *testing.T) {
	batch := buildBatch(t, None, sampleRecords(8))
	want, err := Validate([][]byte{batch}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	check := func(bufs [][]byte) {
		t.Helper()
		got, err := Validate(bufs, Limits{})
		if err != nil || got != want {
			t.Fatalf("%d pieces, first of %d: %+v, %v", len(bufs), len(bufs[0]), got, err)
		}
		if _, err := Verify(bufs, Limits{}); err != nil {
			t.Fatal(err)
		}
		if err := CheckCRCVec(bufs); err != nil {
			t.Fatal(err)
		}
	}
	for at := range len(batch) + 1 {
		check([][]byte{batch[:at], batch[at:]})
		check([][]byte{nil, batch[:at/2], batch[at/2 : at], {}, batch[at:], nil})
	}
	for _, size := range []int{1, 2, 3, 7, 60, 61, 62} {
		check(pieces(batch, size))
	}
	for at := range batch {
		if _, err := Validate([][]byte{batch[:at/2], batch[at/2 : at]}, Limits{}); !errors.Is(err, ErrCorruptBatch) {
			t.Fatalf("cut at %d: %v", at, err)
		}
	}
	if _, err := Validate([][]byte{batch, {0}}, Limits{}); !errors.Is(err, ErrCorruptBatch) {
		t.Fatalf("one byte more: %v", err)
	}
	if _, err := Validate([][]byte{batch, batch}, Limits{}); !errors.Is(err, ErrCorruptBatch) {
		t.Fatalf("two batches: %v", err)
	}
}

// lie is a batch made bad in one way, with length and CRC made true again.
type lie struct {
	name string
	make func(b []byte) []byte
	want error
	// reads says that Iterator, which must read compacted batches and knows no producer rules, accepts it.
	reads bool
}

func put32(pos int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint32(b[pos:], v); return b }
}

func put16(pos int, v uint16) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint16(b[pos:], v); return b }
}

func put64(pos int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint64(b[pos:], v); return b }
}

func putByte(pos int, v byte) func([]byte) []byte {
	return func(b []byte) []byte { b[pos] = v; return b }
}

// The records of the rich golden batch begin at these bytes.
const (
	richFirst  = HeaderSize
	richSecond = richFirst + 7
	richThird  = richSecond + 15
)

var headerLies = []lie{
	{"magic 1", putByte(posMagic, 1), ErrUnsupportedMagic, false},
	{"count 0", put32(posCount, 0), ErrCorruptBatch, false},
	{"count 2", put32(posCount, 2), ErrCorruptBatch, false},
	{"count 4", put32(posCount, 4), ErrCorruptBatch, false},
	{"count -1", put32(posCount, math.MaxUint32), ErrCorruptBatch, false},
	{"count max", put32(posCount, math.MaxInt32), ErrCorruptBatch, false},
	{"delta 1", put32(posLastOffsetDelta, 1), ErrCorruptBatch, false},
	{"delta 3", put32(posLastOffsetDelta, 3), ErrCorruptBatch, true},
	{"delta -1", put32(posLastOffsetDelta, math.MaxUint32), ErrCorruptBatch, false},
	{"count 3 of 4", func(b []byte) []byte {
		return put32(posCount, 4)(put32(posLastOffsetDelta, 3)(b))
	}, ErrCorruptBatch, false},
	{"base offset -1", put64(posBaseOffset, math.MaxUint64), ErrCorruptBatch, false},
	{"base offset max", put64(posBaseOffset, math.MaxInt64), ErrCorruptBatch, false},
	{"codec 5", put16(posAttributes, 5), ErrUnknownCodec, false},
	{"codec 7", put16(posAttributes, 7), ErrUnknownCodec, false},
	{"unknown attribute", put16(posAttributes, 1<<7), ErrCorruptBatch, false},
	{"attribute sign", put16(posAttributes, 1<<15), ErrCorruptBatch, false},
	{"control", put16(posAttributes, 1<<5), ErrCorruptBatch, true},
	{"delete horizon", put16(posAttributes, 1<<6), ErrCorruptBatch, true},
	{"no producer id", put64(posProducerID, math.MaxUint64), ErrCorruptBatch, true},
	{"producer id -2", put64(posProducerID, math.MaxUint64-1), ErrCorruptBatch, true},
	{"producer epoch -1", put16(posProducerEpoch, math.MaxUint16), ErrCorruptBatch, true},
	{"sequence -1", put32(posBaseSequence, math.MaxUint32), ErrCorruptBatch, true},
	{"max timestamp", put64(posMaxTimestamp, uint64(goldenTime)), ErrCorruptBatch, true},
	{"base timestamp overflows", put64(posBaseTimestamp, math.MaxInt64-299), ErrCorruptBatch, false},
}

var recordLies = []lie{
	{"trailing byte", func(b []byte) []byte { return append(b, 0) }, ErrCorruptBatch, false},
	{"trailing record", func(b []byte) []byte { return append(b, b[richFirst:richSecond]...) }, ErrCorruptBatch, false},
	{"missing record", func(b []byte) []byte { return b[:richThird] }, ErrCorruptBatch, false},
	{"no records", func(b []byte) []byte { return b[:HeaderSize] }, ErrCorruptBatch, false},
	{"cut off", func(b []byte) []byte { return b[:len(b)-1] }, ErrCorruptBatch, false},
	{"record length 0", putByte(richFirst, 0), ErrCorruptBatch, false},
	{"record length -1", putByte(richFirst, 1), ErrCorruptBatch, false},
	{"record length less", putByte(richFirst, 10), ErrCorruptBatch, false},
	{"record length more", putByte(richFirst, 14), ErrCorruptBatch, false},
	{"first delta 1", putByte(richFirst+3, 2), ErrCorruptBatch, false},
	{"second delta 0", putByte(richSecond+4, 0), ErrCorruptBatch, false},
	{"second delta 2", putByte(richSecond+4, 4), ErrCorruptBatch, false},
	{"second delta -1", putByte(richSecond+4, 1), ErrCorruptBatch, false},
	{"third delta 3", putByte(richThird+4, 6), ErrCorruptBatch, false},
	{"key length -2", putByte(richFirst+4, 3), ErrCorruptBatch, false},
	{"key length too large", putByte(richFirst+4, 60), ErrCorruptBatch, false},
	{"value length -2", putByte(richFirst+5, 3), ErrCorruptBatch, false},
	{"value length too large", putByte(richFirst+5, 2), ErrCorruptBatch, false},
	{"header count -1", putByte(richFirst+6, 1), ErrCorruptBatch, false},
	{"header count 1 of 0", putByte(richFirst+6, 2), ErrCorruptBatch, false},
	{"header count 1 of 2", putByte(richSecond+7, 2), ErrCorruptBatch, false},
	{"header count 3 of 2", putByte(richSecond+7, 6), ErrCorruptBatch, false},
	{"header count 0 of 2", putByte(richSecond+7, 0), ErrCorruptBatch, false},
	{"header key null", putByte(richSecond+8, 1), ErrCorruptBatch, false},
	{"header key too long", putByte(richSecond+8, 40), ErrCorruptBatch, false},
	{"header value too long", putByte(richSecond+10, 40), ErrCorruptBatch, false},
	{"varint of 6 bytes", func(b []byte) []byte {
		return append(b[:richFirst:richFirst], append([]byte{0x8c, 0x80, 0x80, 0x80, 0x80, 0x00}, b[richFirst+1:]...)...)
	}, ErrCorruptBatch, false},
	{"varint of 33 bits", func(b []byte) []byte {
		return append(b[:richFirst:richFirst], append([]byte{0x8c, 0x80, 0x80, 0x80, 0x10}, b[richFirst+1:]...)...)
	}, ErrCorruptBatch, false},
}

func TestLiesUnderATrueCRC(t *testing.T) {
	for _, l := range append(headerLies, recordLies...) {
		t.Run(l.name, func(t *testing.T) {
			bad := reseal(l.make(fromGolden(t, goldenRich)))
			for _, size := range []int{len(bad), 1, 5, 16} {
				if _, err := Validate(pieces(bad, size), Limits{}); !errors.Is(err, l.want) {
					t.Fatalf("Validate in pieces of %d: %v, want %v", size, err, l.want)
				}
			}
			if _, err := readAll(bad, Limits{}); l.reads != (err == nil) || err != nil && !errors.Is(err, l.want) {
				t.Fatalf("Iterator: %v, want %v (or good: %v)", err, l.want, l.reads)
			}
		})
	}
}

// The same lies inside a compressed body pass Validate, which does not open it, and stop the Iterator.
func TestLiesInsideCompressedBodies(t *testing.T) {
	for _, codec := range Codecs()[1:] {
		for _, l := range recordLies {
			plain := l.make(fromGolden(t, goldenRich))
			bad, err := codec.appendCompressed(bytes.Clone(plain[:HeaderSize]), plain[HeaderSize:])
			if err != nil {
				t.Fatal(err)
			}
			bad[posAttributes+1] |= byte(codec)
			reseal(bad)
			if _, err := Validate([][]byte{bad}, Limits{}); err != nil {
				t.Fatalf("%s, %s: Validate: %v", codec, l.name, err)
			}
			if _, err := readAll(bad, Limits{}); !errors.Is(err, ErrCorruptBatch) {
				t.Fatalf("%s, %s: Iterator: %v", codec, l.name, err)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	batch := fromGolden(t, goldenRich)
	for name, f := range map[string]func(limit int) error{
		"Validate": func(n int) error { _, err := Validate([][]byte{batch}, Limits{MaxBytes: n}); return err },
		"Verify":   func(n int) error { _, err := Verify(pieces(batch, 9), Limits{MaxBytes: n}); return err },
		"Records":  func(n int) error { _, err := Records(batch, Limits{MaxBytes: n}); return err },
		"Scanner":  func(n int) error { _, _, err := SplitBatches(batch, Limits{MaxBytes: n}); return err },
	} {
		if err := f(len(batch)); err != nil {
			t.Errorf("%s at the limit: %v", name, err)
		}
		if err := f(len(batch) - 1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s above the limit: %v", name, err)
		}
	}
	huge := put32(posLength, MaxBatchBytes)(bytes.Clone(batch))
	if _, err := ParseHeader(huge); !errors.Is(err, ErrTooLarge) {
		t.Errorf("ParseHeader: %v", err)
	}
	for _, n := range []int{0, 1, HeaderSize - 1} {
		if _, err := ParseHeader(batch[:n]); !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("ParseHeader of %d bytes: %v", n, err)
		}
		if err := CheckCRC(batch[:n]); !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("CheckCRC of %d bytes: %v", n, err)
		}
	}
	for _, length := range []uint32{0, 48, math.MaxUint32, 1 << 31} {
		if _, err := ParseHeader(put32(posLength, length)(bytes.Clone(batch))); !errors.Is(err, ErrCorruptBatch) {
			t.Errorf("length %d: %v", int32(length), err)
		}
	}
}

// The most headers a record may have pass everywhere; one more, however small, is refused everywhere.
func TestTooManyHeaders(t *testing.T) {
	most := buildBatch(t, None, []Record{{Headers: make([]RecordHeader, MaxRecordHeaders)}})
	for _, size := range []int{len(most), 1000} {
		if _, err := Validate(pieces(most, size), Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	if records, err := readAll(most, Limits{}); err != nil || len(records[0].Headers) != MaxRecordHeaders {
		t.Fatal(err)
	}
	body := binary.AppendVarint([]byte{0, 0, 0, 1, 1}, MaxRecordHeaders+1)
	body = append(body, bytes.Repeat([]byte{0, 1}, MaxRecordHeaders+1)...)
	more := binary.AppendVarint(bytes.Clone(most[:HeaderSize]), int64(len(body)))
	more = reseal(append(more, body...))
	for _, size := range []int{len(more), 1000} {
		if _, err := Validate(pieces(more, size), Limits{}); !errors.Is(err, ErrCorruptBatch) {
			t.Fatal(err)
		}
	}
	if _, err := readAll(more, Limits{}); !errors.Is(err, ErrCorruptBatch) {
		t.Fatal(err)
	}
}
