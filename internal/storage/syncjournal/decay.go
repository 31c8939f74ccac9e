package syncjournal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/penstock-io/penstock/internal/record"
)

// decayed says whether what lies at the position is the expected round but for one flipped bit, and whether any of its frames forgets. A
// crash tears whole sectors off an unfinished round and changes no single bit, so such a round was finished, and perhaps acknowledged.
func (s *scanner) decayed() (round, forgets bool, err error) {
	head := make([]byte, roundHeaderBytes)
	if n, err := s.file.file.ReadAt(head, s.position); n < len(head) {
		return false, false, endIsNoError(err)
	}
	h, sound := decodeRoundHeader(head)
	if !sound {
		var mended bool
		if h, mended = mendRoundHeader(head); !mended {
			return false, false, nil
		}
	}
	body, err := s.roundBytes(h)
	if err != nil || body == nil {
		return false, false, err
	}
	if sound && !h.mend(body[roundHeaderBytes:]) {
		return false, false, nil
	}
	bad := h.decodeFrames(body, func(kind byte, _ Frame) { forgets = forgets || kind == frameForget })
	return bad == nil, forgets, nil
}

// mendRoundHeader flips back the one bit for which a header cannot be believed; false where there is no such bit. No two bits make its
// CRC right.
func mendRoundHeader(head []byte) (h roundHeader, ok bool) {
	for bit := range 8 * len(head) {
		head[bit/8] ^= 1 << (bit % 8)
		if h, ok = decodeRoundHeader(head); ok {
			return h, true
		}
		head[bit/8] ^= 1 << (bit % 8)
	}
	return roundHeader{}, false
}

// roundBytes reads the bytes of a round at the position, nil where it is not the expected one or ends behind the file.
func (s *scanner) roundBytes(h roundHeader) ([]byte, error) {
	if h.generation != s.head.generation || h.salt != s.head.salt || h.round != s.expect || h.length > s.end-s.position {
		return nil, nil
	}
	body := make([]byte, h.length)
	if n, err := s.file.file.ReadAt(body, s.position); n < len(body) {
		return nil, endIsNoError(err)
	}
	return body, nil
}

// endIsNoError leaves the errors that end the process: what cannot be read otherwise has been told before.
func endIsNoError(err error) error {
	if errors.Is(err, io.EOF) || !processEnds(err) {
		return nil
	}
	return err
}

// mend flips back the one bit for which the first bad frame of a round is bad; false where there is no such bit.
func (h roundHeader) mend(frames []byte) bool {
	for len(frames) > 0 {
		_, _, size, err := h.decodeFrame(frames)
		if err != nil {
			break
		}
		frames = frames[size:]
	}
	if len(frames) < frameHeaderBytes {
		return false
	}
	if length := int64(binary.BigEndian.Uint32(frames[4:])); length <= int64(len(frames)-frameHeaderBytes) {
		end := frameHeaderBytes + int(length)
		sum := crc32.Update(crc32.Checksum(frames[:frameCRCAt], castagnoli), castagnoli, frames[frameHeaderBytes:end])
		difference := sum ^ binary.BigEndian.Uint32(frames[frameCRCAt:])
		if bit, ok := record.FlippedBit(difference, frameCRCAt+length); ok && bit >= 8*frameCRCAt {
			at := frameHeaderBytes + bit/8 - frameCRCAt
			frames[at] ^= 1 << (bit % 8)
			return true
		}
	}
	for bit := range 8 * frameHeaderBytes {
		frames[bit/8] ^= 1 << (bit % 8)
		if _, _, _, err := h.decodeFrame(frames); err == nil {
			return true
		}
		frames[bit/8] ^= 1 << (bit % 8)
	}
	return false
}
