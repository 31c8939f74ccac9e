package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// A sealed segment has a digest beside it. docs/format/segment-digest.md describes the file.
const (
	digestSuffix  = ".digest"
	digestMagic   = 0x50534447 // "PSDG"
	digestVersion = 1
	digestSize    = 60
)

var ecma = crc64.MakeTable(crc64.ECMA)

// batchDigest sums up a row of batches: a CRC-64 over the first 21 bytes of each, which are the fields outside the batch's
// own CRC, and that CRC, which stands for all the rest. So it covers every byte and costs no second look at the records.
type batchDigest struct {
	batches int64
	sum     uint64
}

func (d *batchDigest) add(h record.Header) {
	var b [21]byte
	be := binary.BigEndian
	be.PutUint64(b[0:], uint64(h.BaseOffset))   //nolint:gosec // same bits
	be.PutUint32(b[8:], uint32(h.Length))       //nolint:gosec // same bits
	be.PutUint32(b[12:], uint32(h.LeaderEpoch)) //nolint:gosec // same bits
	b[16] = byte(h.Magic)                       //nolint:gosec // same bits
	be.PutUint32(b[17:], h.CRC)
	d.sum = crc64.Update(d.sum, ecma, b[:])
	d.batches++
}

// SegmentDigest is what was noted of a segment when it was sealed.
type SegmentDigest struct {
	// BaseOffset and NextOffset bound the offsets of the segment; NextOffset is exclusive.
	BaseOffset, NextOffset int64
	// SizeBytes and Batches are its size and its number of batches.
	SizeBytes, Batches int64
	// MaxTimestamp is the largest timestamp, in ms since 1970.
	MaxTimestamp int64
	// Sum is the digest over all batches: equal for the same batches, whatever segments they lie in.
	Sum uint64
}

func (d SegmentDigest) encode() []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, digestMagic)
	b = be.AppendUint32(b, digestVersion)
	for _, v := range []int64{d.BaseOffset, d.NextOffset, d.SizeBytes, d.Batches, d.MaxTimestamp} {
		b = be.AppendUint64(b, uint64(v)) //nolint:gosec // same bits
	}
	b = be.AppendUint64(b, d.Sum)
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// errBadDigest says that a digest file cannot be believed. It is a hint: the scrub writes it anew.
var errBadDigest = errors.New("bad segment digest")

func decodeDigest(b []byte) (d SegmentDigest, err error) {
	be := binary.BigEndian
	if len(b) != digestSize || be.Uint32(b[digestSize-4:]) != crc32.Checksum(b[:digestSize-4], castagnoli) {
		return d, fmt.Errorf("%w: size or checksum", errBadDigest)
	}
	if be.Uint32(b) != digestMagic || be.Uint32(b[4:]) != digestVersion {
		return d, fmt.Errorf("%w: magic or version", errBadDigest)
	}
	for i, p := range []*int64{&d.BaseOffset, &d.NextOffset, &d.SizeBytes, &d.Batches, &d.MaxTimestamp} {
		*p = int64(be.Uint64(b[8+8*i:])) //nolint:gosec // same bits
	}
	d.Sum = be.Uint64(b[48:])
	return d, nil
}

func (s *segment) digestName() string { return s.path + digestSuffix }

// digestOf is the digest of a sealed segment whose every batch is in sum.
func (s *segment) digestOf(sum batchDigest) SegmentDigest {
	return SegmentDigest{
		BaseOffset: s.base, NextOffset: s.next, SizeBytes: s.size, Batches: sum.batches, Sum: sum.sum, MaxTimestamp: s.maxTimestamp.Load(),
	}
}

// writeDigest writes the digest of a segment that was just sealed, where the writer saw all of it; a stale one goes either
// way. It is a hint: what is missing the scrub writes.
func (s *segment) writeDigest(fsy fsys.FS, x *segmentIndex) {
	if x.partial {
		_ = removeIfExists(fsy, s.digestName()) //nolint:errcheck // a stale one shows by its size and end
		return
	}
	_ = writeHint(fsy, s.digestName(), s.digestOf(x.digest).encode()) //nolint:errcheck // see above
}

// loadDigest reads the digest of a segment. Anything wrong with it wraps errBadDigest; a missing one is fs.ErrNotExist.
func (s *segment) loadDigest(fsy fsys.FS) (SegmentDigest, error) {
	data, err := readFile(fsy, s.digestName(), digestSize)
	if err != nil {
		if fsys.IsNotExist(err) || errors.Is(err, fsys.ErrCrashed) {
			return SegmentDigest{}, err
		}
		return SegmentDigest{}, fmt.Errorf("%w: %w", errBadDigest, err)
	}
	return decodeDigest(data)
}

// SegmentDigests returns the digests of the sealed segments that have one, oldest first.
func (l *Log) SegmentDigests() []SegmentDigest {
	v := l.view.Load()
	var all []SegmentDigest
	for _, s := range v.segs[:len(v.segs)-1] {
		if d, err := s.loadDigest(l.fs); err == nil && d.NextOffset == s.next && d.SizeBytes == s.size {
			all = append(all, d)
		}
	}
	return all
}

// RangeDigest computes the digest of the whole batches within [from, to), from the headers alone: replicas that hold the same
// batches there have the same one, however their segments are cut. Errors are those of Read.
func (l *Log) RangeDigest(from, to int64) (d SegmentDigest, err error) {
	for {
		gen := l.generation.Load()
		if gen%2 != 0 {
			l.waitForWriter()
			continue
		}
		d, err = l.rangeDigest(l.view.Load(), from, to)
		if l.generation.Load() != gen || errors.Is(err, errRetry) {
			continue
		}
		if err != nil {
			return d, fmt.Errorf("digest of log %s from offset %d to %d: %w", l.tp, from, to, err)
		}
		return d, nil
	}
}

func (l *Log) rangeDigest(v *view, from, to int64) (d SegmentDigest, err error) {
	switch {
	case v.closed:
		return d, ErrLogClosed
	case from < v.start || to > v.end || from > to:
		return d, &RangeError{Offset: from, LogStartOffset: v.start, End: v.end}
	}
	d = SegmentDigest{BaseOffset: from, NextOffset: to, MaxTimestamp: noTimestamp}
	var sum batchDigest
	for i := segmentOf(v.segs, from); i < len(v.segs) && v.segs[i].base < to; i++ {
		if err := l.sumSegment(v, i, &d, &sum); err != nil {
			return d, err
		}
	}
	d.Batches, d.Sum = sum.batches, sum.sum
	return d, nil
}

func (l *Log) sumSegment(v *view, i int, d *SegmentDigest, sum *batchDigest) (err error) {
	q := readRequest{from: d.BaseOffset}
	pos, _, err := l.position(v, i, q)
	if err != nil {
		pos = 0
	}
	f, err := v.segs[i].open(l.fs)
	if err != nil {
		return l.openFailed(v, err)
	}
	defer func() { err = errors.Join(err, f.release()) }()
	w := newWalker(f, pos, v.limit(i), false)
	for {
		at := w.pos
		h, ok, err := w.next()
		if errors.Is(err, errBadBatch) {
			return &CorruptError{File: v.segs[i].logName(), Position: at, Offset: d.BaseOffset, Reason: err.Error()}
		}
		if err != nil || !ok || h.NextOffset() > d.NextOffset {
			return err
		}
		if h.BaseOffset >= d.BaseOffset {
			sum.add(h)
			d.SizeBytes += int64(h.Size())
			d.MaxTimestamp = max(d.MaxTimestamp, h.MaxTimestamp)
		}
	}
}
