package record

import (
	"fmt"
	"math"
	"sync"
)

// maxKeptScratch is the largest buffer, in bytes, that is kept for the next recompression.
const maxKeptScratch = 4 << 20

// recompression is the memory that one recompression needs and the next can have.
type recompression struct {
	joined   []byte // the pieces of a body, copied together
	inflated []byte
}

var recompressions = sync.Pool{New: func() any { return new(recompression) }}

// Recompress returns a batch that Validate has passed with header h as a leader stores it where the topic asks for codec.
// Records, offsets, timestamps, producer fields and attributes stay, but for the bits of the codec; length and CRC are made
// anew. A batch that has the codec already comes back as it is, without an allocation, and so do a control batch and an
// uncompressed one that the codec does not make smaller. A compressed one whose records it does not make smaller is left
// uncompressed.
//
// A compressed body is inflated, up to lim.MaxUncompressedBytes, and its records must be what Validate demands of
// uncompressed ones. The result is at most lim.MaxBytes large. The pieces are neither changed nor kept, unless they are what
// is returned. Errors wrap ErrCorruptBatch, ErrTooLarge or ErrUnknownCodec.
func Recompress(bufs [][]byte, h Header, codec Codec, lim Limits) (Header, [][]byte, error) {
	if h.Codec() == codec || h.IsControl() {
		return h, bufs, nil
	}
	r := recompressions.Get().(*recompression) //nolint:errcheck // the pool holds nothing else
	defer r.release()
	body, err := r.open(bufs, h, codec, lim)
	if err != nil {
		return Header{}, nil, fmt.Errorf("compressing anew from %s to %s: %w", h.Codec(), codec, err)
	}
	batch, stored, err := compressBody(body, codec)
	switch {
	case err != nil:
		return Header{}, nil, err
	case stored == None && h.Codec() == None:
		return h, bufs, nil
	case stored == None:
		batch = append(make([]byte, HeaderSize, HeaderSize+len(body)), body...)
	}
	if len(batch) > lim.maxBytes() {
		return Header{}, nil, fmt.Errorf("%w: compressed anew from %s to %s it has %d bytes, the limit is %d; send smaller batches",
			ErrTooLarge, h.Codec(), stored, len(batch), lim.maxBytes())
	}
	h.Attributes = h.Attributes&^attrCodecMask | int16(stored)
	finishThinned(batch, h)
	return decodeHeader(batch), [][]byte{batch}, nil
}

// compressBody returns a new batch, without its header yet, that holds body compressed with codec; None and no batch where
// that is not smaller.
func compressBody(body []byte, codec Codec) ([]byte, Codec, error) {
	if codec == None {
		return nil, None, nil
	}
	batch, err := codec.appendCompressed(make([]byte, HeaderSize, HeaderSize+len(body)/2), body)
	if err != nil || len(batch)-HeaderSize >= len(body) {
		return nil, None, err
	}
	return batch, codec, nil
}

// open returns the uncompressed body of a batch, checked; it lies in the memory of the batch or of r.
func (r *recompression) open(bufs [][]byte, h Header, codec Codec, lim Limits) ([]byte, error) {
	body := r.join(bufs)
	if h.Codec() == None {
		return body, nil // Validate has walked it
	}
	most := lim.maxUncompressed()
	if codec == None { // what is inflated is what is stored
		most = min(most, lim.maxBytes()-HeaderSize)
	}
	inflated, err := h.Codec().decompress(r.inflated, body, max(most, 0))
	if err != nil {
		return nil, err
	}
	r.inflated = inflated
	var head [HeaderSize]byte // the walker steps over it
	w := walker{cursor: newCursor([][]byte{head[:], inflated}), header: h, maxTimestamp: math.MinInt64}
	if fault := w.walk(); fault != "" {
		return nil, fmt.Errorf("%w: record %d, byte %d of the decompressed records: %s",
			ErrCorruptBatch, w.index, len(inflated)-w.cursor.left, fault)
	}
	return inflated, nil
}

// join returns the body of a batch in one piece.
func (r *recompression) join(bufs [][]byte) []byte {
	if len(bufs) == 1 {
		return bufs[0][HeaderSize:]
	}
	r.joined = r.joined[:0]
	skip := HeaderSize
	for _, b := range bufs {
		n := min(skip, len(b))
		skip -= n
		r.joined = append(r.joined, b[n:]...)
	}
	return r.joined
}

func (r *recompression) release() {
	if cap(r.joined) > maxKeptScratch {
		r.joined = nil
	}
	if cap(r.inflated) > maxKeptScratch {
		r.inflated = nil
	}
	recompressions.Put(r)
}
