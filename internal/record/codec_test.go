package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const (
	bombBytes = 32 << 20
	bombLimit = 1 << 20
)

// bombs are small bodies that inflate to bombBytes, by codec and way of lying about it.
func bombs(tb testing.TB) map[string]struct {
	codec Codec
	body  []byte
} {
	tb.Helper()
	zeros := make([]byte, bombBytes)
	out := map[string]struct {
		codec Codec
		body  []byte
	}{}
	for _, codec := range Codecs()[1:] {
		body, err := codec.appendCompressed(nil, zeros)
		if err != nil {
			tb.Fatal(err)
		}
		out[codec.String()] = struct {
			codec Codec
			body  []byte
		}{codec, body}
	}
	var stream bytes.Buffer // a zstd stream that does not say its size
	z, err := zstd.NewWriter(&stream, zstd.WithEncoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	for part := zeros; len(part) > 0; part = part[1<<20:] {
		if _, err := z.Write(part[:1<<20]); err != nil {
			tb.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	out["zstd without size"] = struct {
		codec Codec
		body  []byte
	}{Zstd, stream.Bytes()}
	// Blocks that say 4 GiB and 20 MiB of output.
	out["snappy length"] = struct {
		codec Codec
		body  []byte
	}{Snappy, append(binary.AppendUvarint(nil, 0xffffffff), 0)}
	return out
}

func TestDecompressionBombsAreBounded(t *testing.T) {
	for name, bomb := range bombs(t) {
		t.Run(name, func(t *testing.T) {
			batch := append(fromGolden(t, goldenRich)[:HeaderSize], bomb.body...)
			batch[posAttributes+1] = byte(bomb.codec)
			reseal(batch)
			allocated := func(f func()) uint64 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				f()
				runtime.ReadMemStats(&after)
				return after.TotalAlloc - before.TotalAlloc
			}
			var err error
			const most = 8 << 20 // the output, grown twice on the way, and the decoders' own tables
			n := allocated(func() { _, err = Records(batch, Limits{MaxUncompressedBytes: bombLimit}) })
			if name == "snappy length" {
				if !errors.Is(err, ErrCorruptBatch) {
					t.Fatalf("got %v, want ErrCorruptBatch", err)
				}
			} else if !errors.Is(err, ErrTooLarge) {
				t.Fatalf("got %v, want ErrTooLarge", err)
			}
			if n > most {
				t.Fatalf("%d bytes were allocated for a limit of %d", n, bombLimit)
			}
		})
	}
}

// The limit is exact: a body of exactly that size passes, one byte more does not, whatever buffer is reused.
func TestUncompressedLimitIsExact(t *testing.T) {
	for _, codec := range Codecs()[1:] {
		for _, size := range []int{1, 100, 4096, 70_000, 300_000} {
			src := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
			body, err := codec.appendCompressed(nil, src)
			if err != nil {
				t.Fatal(err)
			}
			for _, buf := range [][]byte{nil, make([]byte, 10), make([]byte, 0, size-1), make([]byte, 0, size), make([]byte, 2*size)} {
				got, err := codec.decompress(buf, body, size)
				if err != nil || !bytes.Equal(got, src) {
					t.Fatalf("%s, %d bytes into %d: %d bytes, %v", codec, size, cap(buf), len(got), err)
				}
				if _, err = codec.decompress(buf, body, size-1); !errors.Is(err, ErrTooLarge) {
					t.Fatalf("%s, %d bytes with a limit of one less: %v", codec, size, err)
				}
			}
		}
	}
}

// Every truncation of a compressed body, and garbage after it, is refused or shows as a wrong count; nothing is read
// that was not written, and a decoder is as good as new after a bad body.
func TestDamagedBodies(t *testing.T) {
	src := bytes.Repeat([]byte("a line of a log, again and again; "), 40)
	for _, codec := range Codecs()[1:] {
		body, err := codec.appendCompressed(nil, src)
		if err != nil {
			t.Fatal(err)
		}
		for n := range body {
			got, err := codec.decompress(nil, body[:n], 1<<20)
			if err != nil && !errors.Is(err, ErrCorruptBatch) || err == nil && !bytes.HasPrefix(src, got) {
				t.Fatalf("%s cut at %d: %d bytes, %v", codec, n, len(got), err)
			}
			if err == nil && len(got) == len(src) && codec != LZ4 {
				t.Fatalf("%s cut at %d still gives all", codec, n)
			}
		}
		if _, err := codec.decompress(nil, append(bytes.Clone(body), "garbage"...), 1<<20); !errors.Is(err, ErrCorruptBatch) {
			t.Fatalf("%s with garbage after it: %v", codec, err)
		}
		if got, err := codec.decompress(nil, body, 1<<20); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%s after bad bodies: %d bytes, %v", codec, len(got), err)
		}
	}
	if _, err := Codec(5).decompress(nil, src, 1<<20); !errors.Is(err, ErrUnknownCodec) {
		t.Fatal(err)
	}
	if _, err := Codec(5).appendCompressed(nil, src); !errors.Is(err, ErrUnknownCodec) {
		t.Fatal(err)
	}
}

// Other writers' choices: gzip members one after the other, LZ4 with checksums and sizes, large blocks.
func TestOtherWritersStreams(t *testing.T) {
	src := bytes.Repeat([]byte("a line of a log, again and again; "), 9000)
	var gz bytes.Buffer
	for _, part := range [][]byte{src[:1000], src[1000:]} {
		w := gzip.NewWriter(&gz)
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Gzip.decompress(nil, gz.Bytes(), len(src)); err != nil || !bytes.Equal(got, src) {
		t.Fatalf("gzip: %d bytes, %v", len(got), err)
	}
	for _, size := range []lz4.BlockSize{lz4.Block64Kb, lz4.Block256Kb, lz4.Block1Mb, lz4.Block4Mb} {
		var frame bytes.Buffer
		w := lz4.NewWriter(&frame)
		err := w.Apply(lz4.BlockSizeOption(size), lz4.ChecksumOption(true), lz4.BlockChecksumOption(true), lz4.SizeOption(uint64(len(src))))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(src); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := LZ4.decompress(nil, frame.Bytes(), len(src)); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("lz4 blocks of %d: %d bytes, %v", size, len(got), err)
		}
		dependent := bytes.Clone(frame.Bytes())
		dependent[lz4FlagPosition] &^= lz4FlagIndependent
		if _, err := LZ4.decompress(nil, dependent, len(src)); !errors.Is(err, ErrCorruptBatch) {
			t.Fatalf("dependent blocks: %v", err)
		}
	}
}

// What Kafka's Java reader insists on: LZ4 frames of version 1 with independent blocks of 64 KiB and the right header
// checksum; and what it has no use for, because the batch has a CRC: content checksums.
func TestWrittenFrameHeaders(t *testing.T) {
	src := bytes.Repeat([]byte("a line of a log, again and again; "), 9000)
	for codec, want := range map[Codec]string{
		Gzip:   "\x1f\x8b\x08",
		Snappy: xerialHeader,
		LZ4:    "\x04\x22\x4d\x18\x60\x40\x82",
		Zstd:   "\x28\xb5\x2f\xfd",
	} {
		body, err := codec.appendCompressed(nil, src)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(body, []byte(want)) {
			t.Errorf("%s begins with %x, want %x", codec, body[:len(want)], want)
		}
		if codec == Zstd && body[4]&0x04 != 0 {
			t.Errorf("zstd frame descriptor %#x asks for a checksum", body[4])
		}
		if _, err := codec.appendCompressed(nil, nil); err != nil {
			t.Errorf("%s of nothing: %v", codec, err)
		}
	}
}
