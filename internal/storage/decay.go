package storage

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// Where the fields of a batch lie that the judgement of a tail looks at (docs/format/record-batch.md). The CRC covers
// everything from batchBodyAt on.
const (
	batchLengthAt = 8
	batchMagicAt  = 16
	batchCRCAt    = 17
	batchBodyAt   = 21
	lengthBefore  = 12 // bytes of a batch that its length field does not count
)

// sectorSize is the least that a disk writes at once.
const sectorSize = 512

// naturalZeros is how many zero bytes the last record of a whole batch may well end with: an empty value and no headers.
const naturalZeros = 2

// tail is what lies in a segment's file from pos on, where recovery finds no batch that continues the log. A crash leaves
// of unsynced bytes whole sectors or zeros in their place, and cuts writes short; it changes no other byte. A last batch that no
// such loss explains has decayed, and may have been acknowledged. docs/format/segment.md has the rule.
type tail struct {
	file      fsys.File
	pos, size int64
	next      int64 // the offset that is expected at pos

	end  int64 // behind the last byte that is not zero
	head [record.HeaderSize]byte
}

// classifyTail says what lies between pos, where no valid batch begins, and size. next is the offset expected there.
func classifyTail(f fsys.File, pos, size, next int64) (CutKind, error) {
	t := tail{file: f, pos: pos, size: size, next: next}
	var err error
	if t.end, err = lastNonZero(f, pos, size); err != nil {
		return CutMore, err
	}
	switch {
	case t.end == pos:
		return CutZeros, nil
	case t.end-pos < record.HeaderSize: // no batch is that short, whatever bit of it is flipped
		return CutUnfinishedBatch, nil
	}
	if _, err := readFull(f, t.head[:], pos); err != nil {
		return CutMore, err
	}
	if whole, err := t.whole(); err != nil || whole {
		return CutMore, err
	}
	if torn, err := t.torn(); err != nil || !torn {
		return CutMore, err
	}
	return CutUnfinishedBatch, nil
}

// torn says whether the tail is one last batch of which bytes are missing: sectors that were never written, or the end.
func (t *tail) torn() (bool, error) {
	known := int64(record.HeaderSize) // bytes of the header that were surely written
	if second := sectorSize - t.pos%sectorSize; second < known {
		end, err := lastNonZero(t.file, t.pos+second, min(t.pos+second+sectorSize, t.size))
		if err != nil {
			return false, err
		}
		if end == t.pos+second {
			known = second
		}
	}
	if !t.plausible(known) {
		return false, nil
	}
	extent := t.pos + lengthBefore + int64(t.length())
	switch {
	case t.end > extent:
		return false, nil
	case extent > t.size:
		return true, nil
	}
	if lost, err := t.losesSector(extent); err != nil || lost {
		return lost, err
	}
	return t.cutShort(extent)
}

// plausible says whether the first bytes of the header, which were surely written, can be those of a batch that continues the log.
func (t *tail) plausible(known int64) bool {
	n := t.length()
	return known >= lengthBefore && int64(binary.BigEndian.Uint64(t.head[:])) >= t.next && //nolint:gosec // same bits
		n >= record.HeaderSize-lengthBefore && n <= record.MaxBatchBytes-lengthBefore &&
		(known <= batchMagicAt || t.head[batchMagicAt] == byte(record.Magic))
}

// length is what the length field says.
func (t *tail) length() int32 {
	return int32(binary.BigEndian.Uint32(t.head[batchLengthAt:])) //nolint:gosec // same bits
}

// losesSector says whether a whole sector that begins within [pos, extent) is zero.
func (t *tail) losesSector(extent int64) (bool, error) {
	at := t.pos
	if r := at % sectorSize; r != 0 {
		at += sectorSize - r
	}
	buf := make([]byte, min(zeroChunk, max(sectorSize, (extent-at+sectorSize-1)/sectorSize*sectorSize)))
	for ; at < extent; at += int64(len(buf)) {
		n, err := readFull(t.file, buf[:min(int64(len(buf)), t.size-at)], at)
		if err != nil {
			return false, err
		}
		for i := 0; i+sectorSize <= n && at+int64(i) < extent; i += sectorSize {
			if allZero(buf[i : i+sectorSize]) {
				return true, nil
			}
		}
	}
	return false, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// cutShort says, of a last batch that ends at extent with nothing behind, whether its write ended early: with more zeros than
// records end with by nature, or with one or two where other bytes make the batch whole.
func (t *tail) cutShort(extent int64) (bool, error) {
	zeros := extent - t.end
	if zeros > naturalZeros {
		return true, nil
	}
	if zeros == 0 {
		return false, nil
	}
	s := crcScan{file: t.file, at: t.pos + batchBodyAt}
	if err := s.to(t.end); err != nil {
		return false, err
	}
	want := binary.BigEndian.Uint32(t.head[batchCRCAt:])
	var b [naturalZeros]byte
	for first := range 256 {
		b[0] = byte(first)
		if zeros == 1 {
			if crc32.Update(s.crc, castagnoli, b[:1]) == want {
				return true, nil
			}
			continue
		}
		for second := range 256 {
			b[1] = byte(second)
			if crc32.Update(s.crc, castagnoli, b[:2]) == want {
				return true, nil
			}
		}
	}
	return false, nil
}

// whole says whether a batch lies at pos all of whose bytes are there: its CRC is that of its body, at the length that the header
// says or at another, or is but for one flipped bit.
func (t *tail) whole() (bool, error) {
	said := t.pos + lengthBefore + int64(t.length())
	want := binary.BigEndian.Uint32(t.head[batchCRCAt:])
	if said >= t.pos+record.HeaderSize && said <= min(t.size, t.pos+record.MaxBatchBytes) {
		s := crcScan{file: t.file, at: t.pos + batchBodyAt}
		if err := s.to(said); err != nil {
			return false, err
		}
		if sound, err := t.repairs(said, s.crc^want); err != nil || sound {
			return sound, err
		}
	}
	s := crcScan{file: t.file, at: t.pos + batchBodyAt}
	limit := min(t.size, t.end+sectorSize, t.pos+record.MaxBatchBytes)
	for {
		found, err := s.find(want, limit)
		if err != nil {
			return false, err
		}
		if !found {
			return t.wholeBehind(s, want)
		}
		if s.at < t.pos+record.HeaderSize {
			continue
		}
		if sound, err := t.sound(s.at, nil); err != nil || sound {
			return sound, err
		}
	}
}

// wholeBehind goes on with what whole has scanned: a batch may end in zeros, and have one bit of its length flipped.
func (t *tail) wholeBehind(s crcScan, want uint32) (bool, error) {
	limit := min(t.size, t.pos+record.MaxBatchBytes)
	for bit := range 31 {
		said := t.pos + lengthBefore + int64(t.length()^1<<bit)
		if said <= s.at || said > limit {
			continue
		}
		one := s
		if err := one.to(said); err != nil {
			return false, err
		}
		if one.crc != want {
			continue
		}
		if sound, err := t.sound(said, nil); err != nil || sound {
			return sound, err
		}
	}
	return false, nil
}

// repairs says whether the batch up to end is whole where difference is what its CRC is off by: it is none, or that of one bit.
func (t *tail) repairs(end int64, difference uint32) (bool, error) {
	if difference == 0 {
		return true, nil
	}
	if bits.OnesCount32(difference) == 1 { // of the CRC itself
		if sound, err := t.sound(end, func(b []byte) {
			binary.BigEndian.PutUint32(b[batchCRCAt:], binary.BigEndian.Uint32(b[batchCRCAt:])^difference)
		}); err != nil || sound {
			return sound, err
		}
	}
	bit, ok := record.FlippedBit(difference, end-t.pos-batchBodyAt)
	if !ok {
		return false, nil
	}
	return t.sound(end, func(b []byte) { b[batchBodyAt+bit/8] ^= 1 << (bit % 8) })
}

// sound reads the bytes up to end, mends them, and says whether they are one whole batch whose records can be read.
func (t *tail) sound(end int64, mend func(b []byte)) (bool, error) {
	b := make([]byte, end-t.pos)
	if n, err := readFull(t.file, b, t.pos); err != nil || n < len(b) {
		return false, err
	}
	if mend != nil {
		mend(b)
	}
	record.PutHead(b, t.next, int32(len(b)-lengthBefore), 0) //nolint:gosec // bounded by record.MaxBatchBytes
	b[batchMagicAt] = byte(record.Magic)
	var it record.Iterator
	if it.Reset(b, record.Limits{}) != nil {
		return false, nil
	}
	for it.Next() { //nolint:revive // each is checked on the way
	}
	return it.Err() == nil, nil
}

// crcScan runs the CRC-32C of a file forward from a position.
type crcScan struct {
	file fsys.File
	at   int64
	crc  uint32

	buf   []byte
	ahead []byte // read and not run over
}

// fill reads on, up to limit; false at the limit or the file's end.
func (s *crcScan) fill(limit int64) (bool, error) {
	if len(s.ahead) > 0 {
		return true, nil
	}
	if s.at >= limit {
		return false, nil
	}
	if s.buf == nil {
		s.buf = make([]byte, min(crcChunk, limit-s.at))
	}
	n, err := readFull(s.file, s.buf[:min(int64(len(s.buf)), limit-s.at)], s.at)
	s.ahead = s.buf[:n]
	return n > 0, err
}

// to runs on to a position.
func (s *crcScan) to(end int64) error {
	for s.at < end {
		more, err := s.fill(end)
		if err != nil || !more {
			return err
		}
		n := min(int64(len(s.ahead)), end-s.at)
		s.crc = crc32.Update(s.crc, castagnoli, s.ahead[:n])
		s.at, s.ahead = s.at+n, s.ahead[n:]
	}
	return nil
}

// find runs on byte by byte until the CRC is want; false at the limit.
func (s *crcScan) find(want uint32, limit int64) (bool, error) {
	for {
		more, err := s.fill(limit)
		if err != nil || !more {
			return false, err
		}
		register := ^s.crc
		for i, b := range s.ahead {
			register = castagnoli[byte(register)^b] ^ register>>8
			if ^register == want {
				s.crc, s.at, s.ahead = want, s.at+int64(i)+1, s.ahead[i+1:]
				return true, nil
			}
		}
		s.crc, s.at, s.ahead = ^register, s.at+int64(len(s.ahead)), nil
	}
}
