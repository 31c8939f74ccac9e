package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// MaxProducerBatches is how many recent batches are remembered per producer: a client may have that many in flight.
const MaxProducerBatches = 64

// batchRef remembers one appended batch of a producer: what a duplicate's receipt needs.
type batchRef struct {
	baseOffset   int64
	appendTimeMs int64
	baseSequence int32
	lastDelta    int32
	leaderEpoch  int32
}

func (b batchRef) nextSequence() int32 {
	return int32((int64(b.baseSequence) + int64(b.lastDelta) + 1) & math.MaxInt32) //nolint:gosec // masked to 31 bits
}

// producerEntry is the window of one producer in its current epoch: a ring that grows on demand.
type producerEntry struct {
	epoch int16
	ring  []batchRef // capacity grows 1, 2, 4 ... MaxProducerBatches
	head  int        // index of the oldest once the ring is full at MaxProducerBatches, else 0
}

func (p *producerEntry) at(i int) batchRef { return p.ring[(p.head+i)%len(p.ring)] }

func (p *producerEntry) last() batchRef { return p.at(len(p.ring) - 1) }

func (p *producerEntry) push(b batchRef) {
	if len(p.ring) < MaxProducerBatches {
		p.ring = append(p.ring, b)
		return
	}
	p.ring[p.head] = b
	p.head = (p.head + 1) % len(p.ring)
}

// producerState holds the windows of all producers of a log (rule R12). It is a pure function of the batches applied,
// but for append times (see AppendResult.AppendTimeMs) and expiry.
type producerState struct {
	byID map[int64]*producerEntry
}

func newProducerState() *producerState { return &producerState{byID: map[int64]*producerEntry{}} }

// check decides on a leader's append: a duplicate (the original is returned), an error, or neither.
func (s *producerState) check(h record.Header) (original batchRef, duplicate bool, err error) {
	p, ok := s.byID[h.ProducerID]
	switch {
	case !ok && h.BaseSequence == 0:
		return original, false, nil
	case !ok:
		return original, false, sequenceError(ErrUnknownProducer, h, -1, -1)
	}
	next := p.last().nextSequence()
	switch {
	case h.ProducerEpoch < p.epoch:
		return original, false, sequenceError(ErrInvalidProducerEpoch, h, p.epoch, next)
	case h.ProducerEpoch > p.epoch:
		if h.BaseSequence != 0 {
			return original, false, sequenceError(ErrOutOfOrderSequence, h, h.ProducerEpoch, 0)
		}
		return original, false, nil
	case h.BaseSequence == next:
		return original, false, nil
	}
	for i := len(p.ring) - 1; i >= 0; i-- {
		if b := p.at(i); b.baseSequence == h.BaseSequence && b.lastDelta == h.LastOffsetDelta {
			return b, true, nil
		}
	}
	if sequenceBefore(h.BaseSequence, p.at(0).baseSequence) {
		return original, false, sequenceError(ErrDuplicateSequence, h, p.epoch, next)
	}
	return original, false, sequenceError(ErrOutOfOrderSequence, h, p.epoch, next)
}

// sequenceBefore compares sequences that wrap from MaxInt32 to 0: a is before b when less than half the circle behind.
func sequenceBefore(a, b int32) bool {
	distance := (int64(b) - int64(a)) & math.MaxInt32
	return distance != 0 && distance <= math.MaxInt32/2
}

func sequenceError(kind error, h record.Header, wantEpoch int16, wantSequence int32) error {
	return &SequenceError{
		Kind:          kind,
		ProducerID:    model.ProducerID(h.ProducerID),
		ProducerEpoch: model.ProducerEpoch(h.ProducerEpoch),
		Sequence:      model.Sequence(h.BaseSequence),
		WantEpoch:     model.ProducerEpoch(wantEpoch),
		WantSequence:  model.Sequence(wantSequence),
	}
}

// apply notes a batch that was written; h carries its final base offset and leader epoch.
func (s *producerState) apply(h record.Header, appendTimeMs int64) {
	if !h.HasProducer() || h.BaseSequence < 0 {
		return
	}
	p, ok := s.byID[h.ProducerID]
	if !ok {
		p = &producerEntry{epoch: h.ProducerEpoch}
		s.byID[h.ProducerID] = p
	}
	if p.epoch != h.ProducerEpoch {
		p.epoch, p.ring, p.head = h.ProducerEpoch, p.ring[:0], 0
	}
	p.push(batchRef{
		baseOffset: h.BaseOffset, appendTimeMs: appendTimeMs, baseSequence: h.BaseSequence,
		lastDelta: h.LastOffsetDelta, leaderEpoch: h.LeaderEpoch,
	})
}

// copyBelow gives to each producer that wrote below offset in its current epoch what it wrote there: with the batches from
// offset on applied to it, to is as s.
func (s *producerState) copyBelow(offset int64, to *producerState) {
	for id, p := range s.byID {
		below := &producerEntry{epoch: p.epoch}
		for i := 0; i < len(p.ring) && p.at(i).baseOffset < offset; i++ {
			below.push(p.at(i))
		}
		if len(below.ring) > 0 {
			to.byID[id] = below
		}
	}
}

// expire forgets producers whose last batch was appended before beforeMs, and says how many.
func (s *producerState) expire(beforeMs int64) int {
	n := len(s.byID)
	for id, p := range s.byID {
		if p.last().appendTimeMs < beforeMs {
			delete(s.byID, id)
		}
	}
	return n - len(s.byID)
}

// A producer snapshot: header, entries sorted by producer id, CRC-32C of all before it. docs/format/producers.md.
const (
	producersSuffix   = ".producers"
	snapshotMagic     = 0x50535450 // "PSTP"
	snapshotVersion   = 1
	snapshotHeader    = 48
	snapshotBatchSize = 28
	maxSnapshotBytes  = 1 << 30
)

// snapshotInfo is what a snapshot says besides the producers.
type snapshotInfo struct {
	// offset is the end of the log that the snapshot describes.
	offset int64
	// segmentBase and position say where that is; position is the size of the segment up to there.
	segmentBase, position int64
	// maxTimestamp is the largest timestamp of that segment up to there, noTimestamp when it is empty.
	maxTimestamp int64
}

func (s *producerState) encode(info snapshotInfo) []byte {
	be := binary.BigEndian
	ids := make([]int64, 0, len(s.byID))
	size := snapshotHeader + 4
	for id, p := range s.byID {
		ids = append(ids, id)
		size += 11 + len(p.ring)*snapshotBatchSize
	}
	slices.Sort(ids)
	b := make([]byte, 0, size)
	b = be.AppendUint32(b, snapshotMagic)
	b = be.AppendUint32(b, snapshotVersion)
	for _, v := range []int64{info.offset, info.segmentBase, info.position, info.maxTimestamp, int64(len(ids))} {
		b = be.AppendUint64(b, uint64(v)) //nolint:gosec // same bits
	}
	for _, id := range ids {
		p := s.byID[id]
		b = be.AppendUint64(b, uint64(id))      //nolint:gosec // same bits
		b = be.AppendUint16(b, uint16(p.epoch)) //nolint:gosec // same bits
		b = append(b, byte(len(p.ring)))
		for i := range p.ring {
			r := p.at(i)
			b = be.AppendUint64(b, uint64(r.baseOffset))   //nolint:gosec // same bits
			b = be.AppendUint64(b, uint64(r.appendTimeMs)) //nolint:gosec // same bits
			b = be.AppendUint32(b, uint32(r.baseSequence)) //nolint:gosec // same bits
			b = be.AppendUint32(b, uint32(r.lastDelta))    //nolint:gosec // same bits
			b = be.AppendUint32(b, uint32(r.leaderEpoch))  //nolint:gosec // same bits
		}
	}
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeProducers reads a snapshot; anything amiss wraps ErrBadSnapshot.
func decodeProducers(data []byte) (*producerState, snapshotInfo, error) {
	var info snapshotInfo
	be := binary.BigEndian
	if len(data) < snapshotHeader+4 {
		return nil, info, fmt.Errorf("%w: %d bytes", ErrBadSnapshot, len(data))
	}
	body := data[:len(data)-4]
	if be.Uint32(data[len(body):]) != crc32.Checksum(body, castagnoli) {
		return nil, info, fmt.Errorf("%w: checksum", ErrBadSnapshot)
	}
	if be.Uint32(body) != snapshotMagic || be.Uint32(body[4:]) != snapshotVersion {
		return nil, info, fmt.Errorf("%w: magic or version", ErrBadSnapshot)
	}
	var fields [5]int64
	for i := range fields {
		fields[i] = int64(be.Uint64(body[8+8*i:])) //nolint:gosec // same bits
	}
	info = snapshotInfo{offset: fields[0], segmentBase: fields[1], position: fields[2], maxTimestamp: fields[3]}
	if info.offset < 0 || info.segmentBase < 0 || info.segmentBase > info.offset || info.position < 0 {
		return nil, info, fmt.Errorf("%w: offset %d in segment %d", ErrBadSnapshot, info.offset, info.segmentBase)
	}
	s := newProducerState()
	rest := body[snapshotHeader:]
	for range fields[4] {
		var err error
		if rest, err = s.decodeEntry(rest, info.offset); err != nil {
			return nil, info, err
		}
	}
	if len(rest) != 0 || fields[4] != int64(len(s.byID)) {
		return nil, info, fmt.Errorf("%w: %d bytes left, %d producers of %d", ErrBadSnapshot, len(rest), len(s.byID), fields[4])
	}
	return s, info, nil
}

func (s *producerState) decodeEntry(b []byte, end int64) ([]byte, error) {
	be := binary.BigEndian
	if len(b) < 11 {
		return nil, fmt.Errorf("%w: it ends within a producer", ErrBadSnapshot)
	}
	id, n := int64(be.Uint64(b)), int(b[10])            //nolint:gosec // same bits
	p := &producerEntry{epoch: int16(be.Uint16(b[8:]))} //nolint:gosec // same bits
	b = b[11:]
	if id < 0 || p.epoch < 0 || n == 0 || n > MaxProducerBatches || len(b) < n*snapshotBatchSize {
		return nil, fmt.Errorf("%w: producer %d epoch %d with %d batches", ErrBadSnapshot, id, p.epoch, n)
	}
	p.ring = make([]batchRef, 0, n)
	for range n {
		r := batchRef{
			baseOffset:   int64(be.Uint64(b)),      //nolint:gosec // same bits
			appendTimeMs: int64(be.Uint64(b[8:])),  //nolint:gosec // same bits
			baseSequence: int32(be.Uint32(b[16:])), //nolint:gosec // same bits
			lastDelta:    int32(be.Uint32(b[20:])), //nolint:gosec // same bits
			leaderEpoch:  int32(be.Uint32(b[24:])), //nolint:gosec // same bits
		}
		if r.baseOffset < 0 || r.baseOffset >= end || r.baseSequence < 0 || r.lastDelta < 0 {
			return nil, fmt.Errorf("%w: producer %d, batch at offset %d", ErrBadSnapshot, id, r.baseOffset)
		}
		p.ring = append(p.ring, r)
		b = b[snapshotBatchSize:]
	}
	s.byID[id] = p
	return b, nil
}
