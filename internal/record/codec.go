package record

import (
	"fmt"
	"slices"
	"strings"
)

// Codec is the compression of a batch's body, with the number Kafka gives it.
type Codec uint8

// The codecs of Kafka.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var codecNames = [...]string{None: "none", Gzip: "gzip", Snappy: "snappy", LZ4: "lz4", Zstd: "zstd"}

// Codecs returns all codecs in the order of their numbers, in a new slice.
func Codecs() []Codec { return []Codec{None, Gzip, Snappy, LZ4, Zstd} }

// Valid reports whether c is a codec that Kafka defines.
func (c Codec) Valid() bool { return int(c) < len(codecNames) }

// String returns Kafka's name, as ParseCodec reads it.
func (c Codec) String() string {
	if !c.Valid() {
		return fmt.Sprintf("codec(%d)", uint8(c))
	}
	return codecNames[c]
}

// ParseCodec reads Kafka's name of a codec (none, gzip, snappy, lz4, zstd); anything else wraps ErrUnknownCodec.
func ParseCodec(name string) (Codec, error) {
	i := slices.Index(codecNames[:], name)
	if i < 0 {
		return None, fmt.Errorf("%w: %q; use one of %s", ErrUnknownCodec, name, strings.Join(codecNames[:], ", "))
	}
	return Codec(i), nil
}

// appendCompressed appends the compressed form of src to dst. It is safe for concurrent use.
func (c Codec) appendCompressed(dst, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case Gzip:
		return compressGzip(dst, src)
	case Snappy:
		return compressSnappy(dst, src), nil
	case LZ4:
		return compressLZ4(dst, src)
	case Zstd:
		return compressZstd(dst, src)
	default:
		return nil, fmt.Errorf("%w: number %d", ErrUnknownCodec, uint8(c))
	}
}

// decompress returns the decompressed form of src, in buf's memory where it is large enough. Output beyond limit bytes
// gives an error wrapping ErrTooLarge, and no more than about limit bytes are ever allocated for it; anything malformed,
// bytes after the compressed stream included, wraps ErrCorruptBatch. It is safe for concurrent use with other buffers.
func (c Codec) decompress(buf, src []byte, limit int) (out []byte, err error) {
	switch c {
	case None:
		return append(buf[:0], src...), nil
	case Gzip:
		out, err = decompressGzip(buf, src, limit)
	case Snappy:
		out, err = decompressSnappy(buf, src, limit)
	case LZ4:
		out, err = decompressLZ4(buf, src, limit)
	case Zstd:
		out, err = decompressZstd(buf, src, limit)
	default:
		return nil, fmt.Errorf("%w: number %d", ErrUnknownCodec, uint8(c))
	}
	if err != nil {
		return nil, fmt.Errorf("%s body of %d bytes: %w", c, len(src), err)
	}
	return out, nil
}

func tooLarge(limit int) error {
	return fmt.Errorf("%w: decompressed it exceeds the limit of %d bytes", ErrTooLarge, limit)
}

func malformed(err error) error { return fmt.Errorf("%w: %w", ErrCorruptBatch, err) }
