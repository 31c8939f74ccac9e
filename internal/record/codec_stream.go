package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/pierrec/lz4/v4"
)

// sliceWriter appends what is written to b.
type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

type gzipWriter struct {
	dst sliceWriter
	z   *gzip.Writer
}

type gzipReader struct {
	src bytes.Reader
	z   gzip.Reader
}

type lz4Writer struct {
	dst sliceWriter
	z   *lz4.Writer
}

type lz4Reader struct {
	src bytes.Reader
	z   *lz4.Reader
}

var (
	gzipWriters = sync.Pool{New: func() any { return &gzipWriter{z: gzip.NewWriter(nil)} }}
	gzipReaders = sync.Pool{New: func() any { return new(gzipReader) }}
	lz4Writers  = sync.Pool{New: func() any { return &lz4Writer{z: lz4.NewWriter(nil)} }}
	lz4Readers  = sync.Pool{New: func() any { return &lz4Reader{z: lz4.NewReader(nil)} }}
)

func compressGzip(dst, src []byte) ([]byte, error) {
	w := gzipWriters.Get().(*gzipWriter) //nolint:errcheck // the pool holds nothing else
	w.dst.b = dst
	w.z.Reset(&w.dst)
	_, err := w.z.Write(src)
	err = errors.Join(err, w.z.Close())
	dst, w.dst.b = w.dst.b, nil
	gzipWriters.Put(w)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return dst, nil
}

func decompressGzip(buf, src []byte, limit int) ([]byte, error) {
	r := gzipReaders.Get().(*gzipReader) //nolint:errcheck // the pool holds nothing else
	r.src.Reset(src)
	out, err := buf, r.z.Reset(&r.src)
	if err == nil {
		out, err = readBounded(buf, &r.z, len(src), limit)
	} else {
		err = malformed(err)
	}
	r.src.Reset(nil)
	gzipReaders.Put(r)
	return out, err
}

// The part of the LZ4 frame format that Kafka's readers insist on.
const (
	lz4Magic            = 0x184D2204
	lz4FlagIndependent  = 0x20
	lz4FlagDictionary   = 0x01
	lz4VersionMask      = 0xc0
	lz4Version          = 0x40
	lz4MinFrame         = 7 + 4 // magic, FLG, BD, header checksum; end mark
	lz4BlockSize        = lz4.Block64Kb
	lz4FlagPosition     = 4
	faultLZ4Head        = "no LZ4 frame of version 1"
	faultLZ4Independent = "LZ4 frame with dependent blocks or a dictionary"
)

func compressLZ4(dst, src []byte) ([]byte, error) {
	w := lz4Writers.Get().(*lz4Writer) //nolint:errcheck // the pool holds nothing else
	w.dst.b = dst
	w.z.Reset(&w.dst)
	err := w.z.Apply(lz4.BlockSizeOption(lz4BlockSize), lz4.ChecksumOption(false))
	if err == nil {
		_, err = w.z.Write(src)
		err = errors.Join(err, w.z.Close())
	}
	dst, w.dst.b = w.dst.b, nil
	lz4Writers.Put(w)
	if err != nil {
		return nil, fmt.Errorf("lz4: %w", err)
	}
	return dst, nil
}

// decompressLZ4 reads one frame with independent blocks, as Kafka's readers do: a frame whose blocks depend on each
// other or on a dictionary is refused.
func decompressLZ4(buf, src []byte, limit int) ([]byte, error) {
	if len(src) < lz4MinFrame || binary.LittleEndian.Uint32(src) != lz4Magic || src[lz4FlagPosition]&lz4VersionMask != lz4Version {
		return nil, fmt.Errorf("%w: %s", ErrCorruptBatch, faultLZ4Head)
	}
	if flags := src[lz4FlagPosition]; flags&lz4FlagIndependent == 0 || flags&lz4FlagDictionary != 0 {
		return nil, fmt.Errorf("%w: %s", ErrCorruptBatch, faultLZ4Independent)
	}
	r := lz4Readers.Get().(*lz4Reader) //nolint:errcheck // the pool holds nothing else
	r.src.Reset(src)
	r.z.Reset(&r.src)
	out, err := readBounded(buf, r.z, len(src), limit)
	if left := r.src.Len(); err == nil && left != 0 {
		err = fmt.Errorf("%w: %d bytes after the LZ4 frame", ErrCorruptBatch, left)
	}
	r.src.Reset(nil)
	r.z.Reset(&r.src)
	lz4Readers.Put(r)
	return out, err
}

// expansionGuess is how much larger than its compressed form a body is taken to be at first.
const expansionGuess = 4

// firstCapacity returns the buffer to decompress compressed bytes into, empty: buf where it will probably do.
func firstCapacity(buf []byte, compressed, limit int) []byte {
	want := min(max(compressed*expansionGuess, 4<<10), limit+1)
	if cap(buf) >= want {
		return buf[:0]
	}
	return make([]byte, 0, want)
}

// readBounded reads all of r into buf's memory or more, but gives up with ErrTooLarge after limit bytes.
func readBounded(buf []byte, r io.Reader, compressed, limit int) ([]byte, error) {
	buf = firstCapacity(buf, compressed, limit)
	for {
		if len(buf) > limit {
			return nil, tooLarge(limit)
		}
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, min(len(buf), limit+1-len(buf)))
		}
		n, err := r.Read(buf[len(buf):min(cap(buf), limit+1)])
		buf = buf[:len(buf)+n]
		switch {
		case errors.Is(err, io.EOF) && len(buf) <= limit:
			return buf, nil
		case err != nil && len(buf) <= limit:
			return nil, malformed(err)
		}
	}
}
