package record

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// recompressed is Recompress of a batch that must pass, in one piece.
func recompressed(t require, batch []byte, codec Codec, lim Limits) []byte {
	t.Helper()
	h, err := Validate([][]byte{batch}, lim)
	if err != nil {
		t.Fatal(err)
	}
	got, out, err := Recompress([][]byte{batch}, h, codec, lim)
	if err != nil {
		t.Fatalf("%s to %s: %v", h.Codec(), codec, err)
	}
	whole := bytes.Join(out, nil)
	if again, err := Validate([][]byte{whole}, lim); err != nil || again != got {
		t.Fatalf("%s to %s: stored is %+v, %v; returned was %+v", h.Codec(), codec, again, err, got)
	}
	return whole
}

type require interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// sameButCodec says whether two headers differ in what recompression may change alone.
func sameButCodec(a, b Header) bool {
	a.Length, a.CRC, a.Attributes = b.Length, b.CRC, a.Attributes&^attrCodecMask|b.Attributes&attrCodecMask
	return a == b
}

// Between all pairs of codecs, in any pieces, the records and all fields stay, the batch gets the codec or is left
// uncompressed where that is smaller, and what came is not changed.
func TestPropertyRecompress(t *testing.T) {
	builder := NewBuilder(BuilderOptions{})
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(anyRecord(), 1, 30).Draw(t, "records")
		from, to := rapid.SampledFrom(Codecs()).Draw(t, "from"), rapid.SampledFrom(Codecs()).Draw(t, "to")
		builder.Reset()
		for _, r := range records {
			if err := builder.Add(r); err != nil {
				t.Fatal(err)
			}
		}
		made, err := builder.Finish(from, rapid.Int64Min(0).Draw(t, "producer"), rapid.Int16Min(0).Draw(t, "epoch"),
			rapid.Int32Min(0).Draw(t, "sequence"))
		if err != nil {
			t.Fatal(err)
		}
		batch := bytes.Clone(made)
		PutHead(batch, rapid.Int64Range(0, 1<<60).Draw(t, "base offset"), int32(len(batch)-lengthOverhead), 3)
		before := bytes.Clone(batch)
		bufs := pieces(batch, rapid.IntRange(1, len(batch)).Draw(t, "piece"))
		h, err := Validate(bufs, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		got, out, err := Recompress(bufs, h, to, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(batch, before) {
			t.Fatal("the batch that came was changed")
		}
		whole := bytes.Join(out, nil)
		if stored, err := Validate([][]byte{whole}, Limits{}); err != nil || stored != got || !sameButCodec(h, got) {
			t.Fatalf("%+v of %+v, returned %+v: %v", stored, h, got, err)
		}
		if got.Codec() != to && (got.Codec() != None || len(whole) != builder.Len()) {
			t.Fatalf("%s to %s gave %s of %d bytes, %d uncompressed", h.Codec(), to, got.Codec(), len(whole), builder.Len())
		}
		if to == None && !bytes.Equal(whole[HeaderSize:], builder.buf[HeaderSize:]) {
			t.Fatal("the uncompressed body is not what was built")
		}
		it, err := Records(whole, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		var have []Record
		for it.Next() {
			if want := h.BaseOffset + int64(len(have)); it.Record().Offset != want {
				t.Fatalf("offset %d, want %d", it.Record().Offset, want)
			}
			have = append(have, it.Record().Clone())
		}
		if err := errors.Join(it.Err(), equalRecords(have, records)); err != nil {
			t.Fatal(err)
		}
	})
}

// What compresses gets the codec, for every pair; attributes beside the codec stay, those of log-append-time too.
func TestRecompressAllPairs(t *testing.T) {
	for _, from := range Codecs() {
		for _, to := range Codecs() {
			batch := buildBatch(t, from, benchRecords())
			batch = bytes.Clone(batch)
			batch[posAttributes+1] |= byte(attrLogAppendTime | attrTransactional)
			seal(batch)
			out := recompressed(t, batch, to, Limits{})
			h := decodeHeader(out)
			if h.Codec() != to || h.TimestampType() != LogAppendTime || !h.IsTransactional() {
				t.Errorf("%s to %s: attributes %#x", from, to, h.Attributes)
			}
			if back := recompressed(t, out, from, Limits{}); !sameButCodec(decodeHeader(back), decodeHeader(batch)) {
				t.Errorf("%s to %s and back: %+v, was %+v", from, to, decodeHeader(back), decodeHeader(batch))
			}
		}
	}
}

// What has the codec, a control batch, and what does not become smaller are the same pieces again.
func TestRecompressLeavesAlone(t *testing.T) {
	const seed = 5
	noise := make([]byte, 3000)
	for i, r := 0, rand.New(rand.NewPCG(seed, seed)); i < len(noise); i++ { //nolint:gosec // a test
		noise[i] = byte(r.Uint32())
	}
	untouched := func(what string, batch []byte, codec Codec) {
		t.Helper()
		bufs, h := pieces(batch, 100), decodeHeader(batch)
		got, out, err := Recompress(bufs, h, codec, Limits{})
		if err != nil || got != h || len(out) != len(bufs) || &out[0] != &bufs[0] || !bytes.Equal(bytes.Join(out, nil), batch) {
			t.Errorf("%s to %s: %+v, %v", what, codec, got, err)
		}
	}
	for _, codec := range Codecs() {
		batch := bytes.Clone(buildBatch(t, codec, benchRecords()))
		untouched("the same", batch, codec)
		untouched("noise", buildBatch(t, None, []Record{{Value: noise}}), codec)
		bufs, h := [][]byte{batch}, decodeHeader(batch)
		if n := testing.AllocsPerRun(20, func() {
			if _, out, err := Recompress(bufs, h, codec, Limits{}); err != nil || len(out) != 1 {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", codec, n)
		}
		batch[posAttributes+1] |= byte(attrControl)
		seal(batch)
		for _, to := range Codecs() {
			untouched("control", batch, to)
		}
	}
	// The records came compressed, and the codec that is asked for does not make them smaller.
	lz4, err := LZ4.appendCompressed(make([]byte, HeaderSize), buildBatch(t, None, []Record{{Value: noise}})[HeaderSize:])
	if err != nil {
		t.Fatal(err)
	}
	h := decodeHeader(buildBatch(t, None, []Record{{Value: noise}}))
	h.Attributes |= int16(LZ4)
	finishThinned(lz4, h)
	if out := recompressed(t, lz4, Snappy, Limits{}); decodeHeader(out).Codec() != None || len(out) >= len(lz4) {
		t.Errorf("%s of %d bytes, came with %d", decodeHeader(out).Codec(), len(out), len(lz4))
	}
}

// Batches that lie about their records, or become too large, are refused with the errors that Validate and Records give.
func TestRecompressRefuses(t *testing.T) {
	body := func(batch []byte) []byte { return batch[HeaderSize:] }
	good := buildBatch(t, None, benchRecords())
	alter := func(change func(h *Header, body []byte) []byte) []byte {
		h, records := decodeHeader(good), bytes.Clone(body(good))
		records = change(&h, records)
		batch, err := Gzip.appendCompressed(make([]byte, HeaderSize), records)
		if err != nil {
			t.Fatal(err)
		}
		h.Attributes |= int16(Gzip)
		finishThinned(batch, h)
		return batch
	}
	const most = 64 << 10
	large := buildBatch(t, Gzip, []Record{{Value: make([]byte, 2*most)}})
	for name, c := range map[string]struct {
		batch []byte
		codec Codec
		want  error
	}{
		"a count too high":       {alter(func(h *Header, b []byte) []byte { h.Count++; h.LastOffsetDelta++; return b }), Zstd, ErrCorruptBatch},
		"a count far too high":   {alter(func(h *Header, b []byte) []byte { h.Count, h.LastOffsetDelta = 1<<30, 1<<30-1; return b }), Zstd, ErrCorruptBatch},
		"a count too low":        {alter(func(h *Header, b []byte) []byte { h.Count--; h.LastOffsetDelta--; return b }), Zstd, ErrCorruptBatch},
		"another max timestamp":  {alter(func(h *Header, b []byte) []byte { h.MaxTimestamp++; return b }), None, ErrCorruptBatch},
		"bytes left over":        {alter(func(_ *Header, b []byte) []byte { return append(b, 0) }), LZ4, ErrCorruptBatch},
		"a record cut off":       {alter(func(_ *Header, b []byte) []byte { return b[:len(b)-1] }), Snappy, ErrCorruptBatch},
		"no records":             {alter(func(*Header, []byte) []byte { return nil }), None, ErrCorruptBatch},
		"no compressed body":     {func() []byte { b := bytes.Clone(good); b[posAttributes+1] |= byte(Zstd); seal(b); return b }(), Gzip, ErrCorruptBatch},
		"too large uncompressed": {large, None, ErrTooLarge},
		"too much to inflate":    {buildBatch(t, Gzip, []Record{{Value: make([]byte, 9*most)}}), Zstd, ErrTooLarge},
		"an unknown codec":       {good, 6, ErrUnknownCodec},
	} {
		h, err := Validate([][]byte{c.batch}, Limits{MaxBytes: most})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		before := bytes.Clone(c.batch)
		_, out, err := Recompress([][]byte{c.batch}, h, c.codec, Limits{MaxBytes: most, MaxUncompressedBytes: 8 * most})
		if !errors.Is(err, c.want) || out != nil || !bytes.Equal(before, c.batch) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	recompressed(t, large, Zstd, Limits{MaxBytes: most})
}

// A batch that one codec makes small enough and another does not is refused.
func TestRecompressBeyondTheLimit(t *testing.T) {
	records := benchRecords()
	batch, snappy := buildBatch(t, Gzip, records), buildBatch(t, Snappy, records)
	lim := Limits{MaxBytes: len(snappy) - 1}
	if len(batch) > lim.MaxBytes {
		t.Fatalf("gzip gives %d bytes, snappy %d", len(batch), len(snappy))
	}
	_, out, err := Recompress([][]byte{batch}, decodeHeader(batch), Snappy, lim)
	if !errors.Is(err, ErrTooLarge) || out != nil {
		t.Errorf("%v", err)
	}
	lim.MaxBytes++
	recompressed(t, batch, Snappy, lim)
	uncompressed := buildBatch(t, None, records)
	recompressed(t, batch, None, Limits{MaxBytes: len(uncompressed)})
	if _, _, err := Recompress([][]byte{batch}, decodeHeader(batch), None, Limits{MaxBytes: len(uncompressed) - 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

// A body that compression leaves as large as it was stays uncompressed, as one that it makes larger does.
func TestRecompressToTheSameSize(t *testing.T) {
	random := make([]byte, 300)
	rand.NewChaCha8([32]byte{1}).Read(random) //nolint:errcheck // it never fails
	for _, codec := range []Codec{Gzip, Snappy, LZ4, Zstd} {
		same := 0
		for zeros := range 100 {
			body := append(bytes.Clone(random), make([]byte, zeros)...)
			compressed, err := codec.appendCompressed(nil, body)
			if err != nil {
				t.Fatal(err)
			}
			if len(compressed) == len(body) {
				same++
			}
			if _, stored, err := compressBody(body, codec); err != nil || (stored == codec) != (len(compressed) < len(body)) {
				t.Fatalf("%s: %d bytes of %d are stored as %s, %v", codec, len(compressed), len(body), stored, err)
			}
		}
		t.Logf("%s: %d bodies of the same size", codec, same)
	}
}
