package record

import (
	"bytes"
	"errors"
	"testing"
)

// typed reports whether an error is one of those the package promises for bytes from outside.
func typed(err error) bool {
	return errors.Is(err, ErrCorruptBatch) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrUnsupportedMagic) ||
		errors.Is(err, ErrUnknownCodec)
}

func seeds(f *testing.F) [][]byte {
	f.Helper()
	out := [][]byte{nil, fromGolden(f, goldenSmall), fromGolden(f, goldenRich)}
	for _, codec := range Codecs() {
		out = append(out, buildBatch(f, codec, sampleRecords(9)))
	}
	return out
}

const fuzzUncompressed = 256 << 10

// FuzzValidate gives the bytes as they are and under a true length and CRC; whole and in pieces must agree, and what is
// accepted must be readable.
func FuzzValidate(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b, uint16(7), true)
		f.Add(b, uint16(100), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, piece uint16, resealed bool) {
		batch := bytes.Clone(data)
		if resealed && len(batch) >= HeaderSize {
			batch[posMagic] = byte(Magic)
			reseal(batch)
		}
		h, err := Validate([][]byte{batch}, Limits{})
		inPieces, err2 := Validate(pieces(batch, int(piece)+1), Limits{})
		if (err == nil) != (err2 == nil) || h != inPieces {
			t.Fatalf("whole %+v, %v; in pieces %+v, %v", h, err, inPieces, err2)
		}
		if err != nil {
			if !typed(err) || !typed(err2) {
				t.Fatalf("untyped: %v; %v", err, err2)
			}
			return
		}
		if _, err := Verify([][]byte{batch}, Limits{}); err != nil {
			t.Fatal(err)
		}
		records, err := readAll(batch, Limits{MaxUncompressedBytes: fuzzUncompressed})
		if h.Codec() == None && (err != nil || len(records) != int(h.Count)) {
			t.Fatalf("accepted, but reads %d of %d records: %v", len(records), h.Count, err)
		}
	})
}

// FuzzIterate reads bytes under a true length and CRC, and builds what it could read again.
func FuzzIterate(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, rest, err := SplitBatches(data, Limits{}); len(rest) > len(data) || err != nil && !typed(err) {
			t.Fatalf("%d of %d bytes are left, %v", len(rest), len(data), err)
		}
		batch := bytes.Clone(data)
		if len(batch) >= HeaderSize {
			batch[posMagic] = byte(Magic)
			reseal(batch)
		}
		records, err := readAll(batch, Limits{MaxUncompressedBytes: fuzzUncompressed})
		if err != nil && !typed(err) {
			t.Fatalf("untyped: %v", err)
		}
		if err != nil || len(records) == 0 {
			return
		}
		for i := range records {
			records[i].Timestamp &= 1<<62 - 1
		}
		again, err := readAll(buildBatch(t, None, records), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := equalRecords(again, records); err != nil {
			t.Fatal(err)
		}
	})
}

// fuzzCodec decompresses bytes within a limit, and round-trips them too.
func fuzzCodec(f *testing.F, codec Codec) {
	f.Helper()
	for _, b := range seeds(f) {
		body, err := codec.appendCompressed(nil, b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := codec.decompress(nil, data, fuzzUncompressed)
		if len(out) > fuzzUncompressed || cap(out) > 2*(fuzzUncompressed+zstdSlack) {
			t.Fatalf("%d bytes of output in %d for a limit of %d", len(out), cap(out), fuzzUncompressed)
		}
		if err != nil && !typed(err) {
			t.Fatalf("untyped: %v", err)
		}
		body, err := codec.appendCompressed(nil, data)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := codec.decompress(out, body, max(len(data), 1)); err != nil || !bytes.Equal(out, data) {
			t.Fatalf("%d bytes came back as %d: %v", len(data), len(out), err)
		}
	})
}

func FuzzDecompressGzip(f *testing.F)   { fuzzCodec(f, Gzip) }
func FuzzDecompressSnappy(f *testing.F) { fuzzCodec(f, Snappy) }
func FuzzDecompressLZ4(f *testing.F)    { fuzzCodec(f, LZ4) }
func FuzzDecompressZstd(f *testing.F)   { fuzzCodec(f, Zstd) }
