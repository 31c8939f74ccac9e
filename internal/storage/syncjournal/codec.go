package syncjournal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/penstock-io/penstock/internal/model"
)

// The layout, described in docs/format/sync-journal.md. Numbers are big-endian.
const (
	pageBytes = 4096

	fileMagic       = 0x50535359 // "PSSY"
	fileVersion     = 1
	fileHeaderBytes = 68

	roundMagic       = 0x50535352 // "PSSR"
	roundHeaderBytes = 64
	roundCRCAt       = roundHeaderBytes - 4

	frameHeaderBytes = 80
	frameCRCAt       = frameHeaderBytes - 4
	frameData        = 1
	frameForget      = 2

	// MaxRoundBytes bounds the frames of one Write, their headers (80 bytes a frame and 64 a round) included.
	MaxRoundBytes = 16 << 20
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      [pageBytes]byte
)

// Frame is a copy of bytes of one segment.
type Frame struct {
	// Log is the log that the segment belongs to.
	Log model.TopicPartition
	// SegmentBase is the base offset in the segment's name, Position where in the file the bytes lie.
	SegmentBase, Position int64
	// EndOffset is the log's end, exclusive, once the bytes are there.
	EndOffset int64
	// Data are the bytes, at least one. Write neither changes nor keeps them.
	Data []byte
}

// check says why a frame cannot be written.
func (f Frame) check() error {
	if f.Log.Partition < 0 || f.SegmentBase < 0 || f.Position < 0 || f.EndOffset < 0 || len(f.Data) == 0 ||
		f.Position > math.MaxInt64-int64(len(f.Data)) {
		return fmt.Errorf("%w: %s, segment %d, position %d, end %d, %d bytes",
			ErrBadFrame, f.Log, f.SegmentBase, f.Position, f.EndOffset, len(f.Data))
	}
	return nil
}

// fileHeader stands twice in a file, in its first and its last page. The copies are written and synced one after the
// other, so that at every moment one of them is whole.
type fileHeader struct {
	size       int64  // of the file
	generation uint64 // of the rounds that count; 0 for none
	salt       uint64 // in each of these rounds and their frames
	liveFrom   uint64 // the oldest live generation when this was written
	last       uint64 // the newest generation then
	// How many rounds the generation before has, and how many frames of them forget; it is closed for ever.
	closedRounds, closedForgets uint64
}

func (h fileHeader) encode() []byte {
	be := binary.BigEndian
	b := make([]byte, 0, pageBytes)
	b = be.AppendUint32(b, fileMagic)
	b = be.AppendUint32(b, fileVersion)
	b = be.AppendUint64(b, uint64(h.size)) //nolint:gosec // not negative
	for _, v := range []uint64{h.generation, h.salt, h.liveFrom, h.last, h.closedRounds, h.closedForgets} {
		b = be.AppendUint64(b, v)
	}
	b = be.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, zeros[len(b):]...)
}

// decodeFileHeader reads a header; ok says that it can be believed. A version that is not known is an error.
func decodeFileHeader(b []byte) (h fileHeader, ok bool, err error) {
	be := binary.BigEndian
	if len(b) < fileHeaderBytes || be.Uint32(b) != fileMagic ||
		crc32.Checksum(b[:fileHeaderBytes-4], castagnoli) != be.Uint32(b[fileHeaderBytes-4:]) {
		return fileHeader{}, false, nil
	}
	if v := be.Uint32(b[4:]); v != fileVersion {
		return fileHeader{}, false, fmt.Errorf("%w: %d, this one knows %d; start the version that wrote it, and stop it cleanly first",
			ErrVersion, v, fileVersion)
	}
	h = fileHeader{
		size: int64(be.Uint64(b[8:])), generation: be.Uint64(b[16:]), salt: be.Uint64(b[24:]), //nolint:gosec // checked below
		liveFrom: be.Uint64(b[32:]), last: be.Uint64(b[40:]), closedRounds: be.Uint64(b[48:]), closedForgets: be.Uint64(b[56:]),
	}
	return h, h.size > 0 && h.generation <= h.last && h.last < math.MaxInt64 &&
		h.liveFrom > 0 && h.liveFrom <= h.last+1, nil
}

// newer says whether a header was written after another one of the same file.
func (h fileHeader) newer(o fileHeader) bool {
	switch {
	case h.generation != o.generation:
		return h.generation > o.generation
	case h.liveFrom != o.liveFrom:
		return h.liveFrom > o.liveFrom
	default:
		return h.last > o.last
	}
}

// roundHeader begins a round.
type roundHeader struct {
	length           int64 // of header and frames
	frames           uint32
	generation, salt uint64
	round            uint64 // counted from 1 in its generation
	liveFrom         uint64 // the oldest live generation when it was written
	forgets          uint64 // frames that forget in earlier rounds of the generation
}

func (h roundHeader) append(b []byte) []byte {
	be := binary.BigEndian
	start := len(b)
	b = be.AppendUint32(b, roundMagic)
	b = be.AppendUint32(b, uint32(h.length)) //nolint:gosec // at most MaxRoundBytes
	b = be.AppendUint32(b, h.frames)
	b = be.AppendUint32(b, 0)
	for _, v := range []uint64{h.generation, h.round, h.salt, h.liveFrom, h.forgets} {
		b = be.AppendUint64(b, v)
	}
	b = be.AppendUint32(b, 0)
	return be.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func decodeRoundHeader(b []byte) (h roundHeader, ok bool) {
	be := binary.BigEndian
	if len(b) < roundHeaderBytes || be.Uint32(b) != roundMagic ||
		crc32.Checksum(b[:roundCRCAt], castagnoli) != be.Uint32(b[roundCRCAt:]) {
		return roundHeader{}, false
	}
	h = roundHeader{
		length: int64(be.Uint32(b[4:])), frames: be.Uint32(b[8:]), generation: be.Uint64(b[16:]), round: be.Uint64(b[24:]),
		salt: be.Uint64(b[32:]), liveFrom: be.Uint64(b[40:]), forgets: be.Uint64(b[48:]),
	}
	return h, h.length >= roundHeaderBytes && h.length <= MaxRoundBytes && h.round > 0 && h.liveFrom <= h.generation &&
		int64(h.frames) <= (h.length-roundHeaderBytes)/frameHeaderBytes
}

// appendFrame writes the header of a frame of a round; the data follow it.
func (h roundHeader) appendFrame(b []byte, kind byte, f Frame) []byte {
	be := binary.BigEndian
	start := len(b)
	b = append(b, kind, 0, 0, 0)
	b = be.AppendUint32(b, uint32(len(f.Data))) //nolint:gosec // at most MaxRoundBytes
	for _, v := range []uint64{h.generation, h.round, h.salt} {
		b = be.AppendUint64(b, v)
	}
	b = append(b, f.Log.TopicID[:]...)
	b = be.AppendUint32(b, uint32(f.Log.Partition)) //nolint:gosec // same bits
	for _, v := range []int64{f.SegmentBase, f.Position, f.EndOffset} {
		b = be.AppendUint64(b, uint64(v)) //nolint:gosec // same bits
	}
	sum := crc32.Checksum(b[start:], castagnoli)
	return be.AppendUint32(b, crc32.Update(sum, castagnoli, f.Data))
}

// decodeFrames checks all frames of a round, whose bytes they are. The result of each is given to visit, where that is
// not nil; data alias b.
func (h roundHeader) decodeFrames(b []byte, visit func(kind byte, f Frame)) error {
	b = b[roundHeaderBytes:]
	for i := range h.frames {
		kind, f, size, err := h.decodeFrame(b)
		if err != nil {
			return fmt.Errorf("frame %d of %d: %w", i+1, h.frames, err)
		}
		if visit != nil {
			visit(kind, f)
		}
		b = b[size:]
	}
	if len(b) > 0 {
		return fmt.Errorf("%d bytes behind %d frames", len(b), h.frames)
	}
	return nil
}

// decodeFrame checks the frame that b begins with.
func (h roundHeader) decodeFrame(b []byte) (kind byte, f Frame, size int, err error) {
	be := binary.BigEndian
	if len(b) < frameHeaderBytes {
		return 0, f, 0, fmt.Errorf("%d bytes left", len(b))
	}
	length := int64(be.Uint32(b[4:]))
	if length > int64(len(b)-frameHeaderBytes) {
		return 0, f, 0, fmt.Errorf("%d bytes of data, %d left", length, len(b)-frameHeaderBytes)
	}
	size = frameHeaderBytes + int(length)
	f.Data = b[frameHeaderBytes:size:size]
	sum := crc32.Update(crc32.Checksum(b[:frameCRCAt], castagnoli), castagnoli, f.Data)
	if sum != be.Uint32(b[frameCRCAt:]) {
		return 0, f, 0, fmt.Errorf("CRC %08x, computed %08x", be.Uint32(b[frameCRCAt:]), sum)
	}
	if be.Uint64(b[8:]) != h.generation || be.Uint64(b[16:]) != h.round || be.Uint64(b[24:]) != h.salt {
		return 0, f, 0, fmt.Errorf("written in round %d of generation %d", be.Uint64(b[16:]), be.Uint64(b[8:]))
	}
	copy(f.Log.TopicID[:], b[32:])
	f.Log.Partition = int32(be.Uint32(b[48:])) //nolint:gosec // same bits
	f.SegmentBase = int64(be.Uint64(b[52:]))   //nolint:gosec // same bits
	f.Position = int64(be.Uint64(b[60:]))      //nolint:gosec // same bits
	f.EndOffset = int64(be.Uint64(b[68:]))     //nolint:gosec // same bits
	kind = b[0]
	switch {
	case !bytes.Equal(b[1:4], zeros[:3]) || kind != frameData && kind != frameForget:
		return 0, f, 0, fmt.Errorf("kind %x", b[:4])
	case kind == frameForget && length > 0:
		return 0, f, 0, fmt.Errorf("%d bytes of data in a frame that forgets", length)
	case kind == frameData:
		if err := f.check(); err != nil {
			return 0, f, 0, err
		}
	}
	return kind, f, size, nil
}

// pageCeil rounds up to whole pages.
func pageCeil(n int64) int64 { return (n + pageBytes - 1) / pageBytes * pageBytes }
