package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is the largest window a zstd frame may ask for: what the highest level (22) uses. The window itself is
// never allocated: frames are decoded straight into the output.
const maxZstdWindow = 128 << 20

// zstdWindow is the window written; batches are rarely larger.
const zstdWindow = 1 << 20

// Both coders are safe for concurrent use, hold their own pools and start no goroutines when used this way.
var (
	zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
	})
	zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(maxZstdWindow),
			zstd.WithDecodeAllCapLimit(true))
	})
)

func compressZstd(dst, src []byte) ([]byte, error) {
	enc, err := zstdEncoder()
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return enc.EncodeAll(src, dst), nil
}

// zstdSlack is more than one zstd block can add to the output: with that much space left, a failure is the data's.
const zstdSlack = 128<<10 + 64

// decompressZstd decodes into a buffer that the decoder may not outgrow: what the frame claims or a guess first, then
// ever more up to the limit, because a frame need not say how large it becomes, and what it says need not be true.
func decompressZstd(buf, src []byte, limit int) ([]byte, error) {
	dec, err := zstdDecoder()
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	most := limit + zstdSlack
	want := len(src) * expansionGuess
	if claim, ok := zstdContentSize(src); ok {
		if claim > uint64(limit) {
			return nil, tooLarge(limit)
		}
		want = int(claim)
	}
	if want = min(max(want, 4<<10), limit); cap(buf) < want {
		buf = make([]byte, 0, want)
	}
	for {
		buf = buf[:0:min(cap(buf), most)]
		out, err := dec.DecodeAll(src, buf)
		// The decoder has no one error for output beyond the buffer; that it came near the end tells.
		short := errors.Is(err, zstd.ErrDecoderSizeExceeded) || len(out) > cap(buf)-zstdSlack
		switch {
		case len(out) > limit, err != nil && short && cap(buf) >= most:
			return nil, tooLarge(limit)
		case err == nil:
			return out, nil
		case !short:
			return nil, malformed(err)
		}
		buf = make([]byte, 0, min(expansionGuess*cap(buf)+zstdSlack, most))
	}
}

// zstdContentSize returns the size that the first frame claims, and whether it claims any.
func zstdContentSize(src []byte) (uint64, bool) {
	var h zstd.Header
	if err := h.Decode(src); err != nil || !h.HasFCS {
		return 0, false
	}
	return h.FrameContentSize, true
}

// The framing of xerial's snappy-java, which Kafka's clients write: a magic and two versions, then blocks, each after its
// compressed length in 4 bytes, big-endian.
const (
	xerialMagic      = "\x82SNAPPY\x00"
	xerialHeader     = xerialMagic + "\x00\x00\x00\x01\x00\x00\x00\x01"
	xerialBlockBytes = 32 << 10 // uncompressed, as snappy-java's default
	// maxSnappyRatio is above what any snappy block can reach: a copy element of 3 bytes gives at most 64.
	maxSnappyRatio = 22
)

func compressSnappy(dst, src []byte) []byte {
	dst = append(dst, xerialHeader...)
	for len(src) > 0 {
		n := min(len(src), xerialBlockBytes)
		at := len(dst)
		dst = slices.Grow(dst, 4+s2.MaxEncodedLen(n))
		block := s2.EncodeSnappy(dst[at+4:cap(dst)], src[:n])
		dst = dst[:at+4+len(block)]
		binary.BigEndian.PutUint32(dst[at:], uint32(len(block)))
		src = src[n:]
	}
	return dst
}

// decompressSnappy reads xerial's framing and, as Kafka's readers do, a single raw block.
func decompressSnappy(buf, src []byte, limit int) ([]byte, error) {
	buf = buf[:0]
	if len(src) < len(xerialHeader) || string(src[:len(xerialMagic)]) != xerialMagic {
		return appendSnappyBlock(buf, src, limit)
	}
	if version := binary.BigEndian.Uint32(src[len(xerialMagic)+4:]); version > 1 {
		return nil, fmt.Errorf("%w: snappy framing needs a reader of version %d", ErrCorruptBatch, version)
	}
	src = src[len(xerialHeader):]
	for len(src) > 0 {
		if len(src) < 4 {
			return nil, fmt.Errorf("%w: snappy framing is cut off", ErrCorruptBatch)
		}
		n := int64(binary.BigEndian.Uint32(src))
		if src = src[4:]; n > int64(len(src)) {
			return nil, fmt.Errorf("%w: snappy block of %d bytes, %d are left", ErrCorruptBatch, n, len(src))
		}
		var err error
		if buf, err = appendSnappyBlock(buf, src[:n], limit); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return buf, nil
}

// appendSnappyBlock appends one decoded raw block to buf, which may grow to limit bytes.
func appendSnappyBlock(buf, block []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	switch {
	case err != nil:
		return nil, malformed(err)
	case n > maxSnappyRatio*len(block):
		return nil, fmt.Errorf("%w: snappy block of %d bytes says it holds %d", ErrCorruptBatch, len(block), n)
	case n > limit-len(buf):
		return nil, tooLarge(limit)
	}
	buf = slices.Grow(buf, n)
	out, err := s2.Decode(buf[len(buf):len(buf)+n], block)
	if err != nil {
		return nil, malformed(err)
	}
	return buf[:len(buf)+len(out)], nil
}
