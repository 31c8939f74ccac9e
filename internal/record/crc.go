package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CheckCRC checks the CRC-32C of the one batch that fills b; a mismatch wraps ErrCorruptBatch. It looks at no other
// field.
func CheckCRC(b []byte) error {
	if len(b) < HeaderSize {
		return fmt.Errorf("%w: %d bytes are too few for the header of %d", ErrCorruptBatch, len(b), HeaderSize)
	}
	return compareCRC(binary.BigEndian.Uint32(b[posCRC:]), crc32.Checksum(b[posAttributes:], castagnoli))
}

// CheckCRCVec is CheckCRC for a batch in pieces.
func CheckCRCVec(bufs [][]byte) error {
	var scratch [HeaderSize]byte
	head, ok := gatherHeader(&scratch, bufs)
	if !ok {
		return fmt.Errorf("%w: the pieces are too few for the header of %d bytes", ErrCorruptBatch, HeaderSize)
	}
	return compareCRC(binary.BigEndian.Uint32(head[posCRC:]), vecCRC(0, bufs, posAttributes))
}

func compareCRC(want, got uint32) error {
	if want != got {
		return fmt.Errorf("%w: CRC is %#08x, the header says %#08x", ErrCorruptBatch, got, want)
	}
	return nil
}

// vecCRC continues crc over all bytes of bufs but the first skip.
func vecCRC(crc uint32, bufs [][]byte, skip int) uint32 {
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		crc = crc32.Update(crc, castagnoli, b[skip:])
		skip = 0
	}
	return crc
}

// gatherHeader returns the first HeaderSize bytes of the vector: the first piece itself where it is long enough,
// otherwise copied together into scratch. It reports false when there are fewer.
func gatherHeader(scratch *[HeaderSize]byte, bufs [][]byte) ([]byte, bool) {
	if len(bufs) > 0 && len(bufs[0]) >= HeaderSize {
		return bufs[0][:HeaderSize], true
	}
	n := 0
	for _, b := range bufs {
		n += copy(scratch[n:], b)
		if n == HeaderSize {
			return scratch[:], true
		}
	}
	return nil, false
}

func vecSize(bufs [][]byte) int {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	return n
}
