package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
)

// The journal is a header and a row of frames: length, CRC-32C, body. docs/format/checkpoints-journal.md.
const (
	journalMagic       = 0x5053544a // "PSTJ"
	journalVersion     = 1
	journalHeaderSize  = 12
	journalFrameHead   = 8
	maxJournalBody     = 16 << 20
	maxJournalBytes    = 1 << 30
	journalFrameState  = 1
	journalFrameEpochs = 2
	journalFrameForget = 3
	journalFrameLost   = 4
	journalFrameTold   = 5
	journalFrameRaised = 6
	journalFrameRow    = 7
	journalFrameWhole  = 8
	journalBodyHead    = 21 // kind, topic id, partition
)

// logState is what the journal knows about one log. epochs is never changed in place.
type logState struct {
	recoveryPoint, highWatermark, logStart int64
	epochs                                 []EpochStart

	// raised is what the sync journal had made durable when it was replayed, where that lies above the recovery point: a log that
	// ends below has lost something. Unlike below the recovery point, epochs is not known to be whole there.
	raised int64

	// whole says that epochs is whole above the recovery point too, and rows holds every row of batches there that has gaps: a batch
	// that neither tells of is not what was written, or was never durable.
	whole bool
	rows  []headRow // in their order; never changed in place

	lost     bool // the log has lost records, which nobody has recorded yet
	unplaced bool // nothing else is known
}

func (s logState) samePositions(o logState) bool {
	return s.recoveryPoint == o.recoveryPoint && s.highWatermark == o.highWatermark && s.logStart == o.logStart && s.raised == o.raised
}

// point is the end of what is known to have been durable.
func (s logState) point() int64 { return max(s.recoveryPoint, s.raised) }

func journalHeader() []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, journalMagic)
	b = be.AppendUint32(b, journalVersion)
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendFrame(b []byte, kind byte, tp model.TopicPartition, values ...int64) []byte {
	be := binary.BigEndian
	start := len(b)
	b = append(b, make([]byte, journalFrameHead)...)
	b = append(b, kind)
	b = append(b, tp.TopicID[:]...)
	b = be.AppendUint32(b, uint32(tp.Partition)) //nolint:gosec // same bits
	for _, v := range values {
		b = be.AppendUint64(b, uint64(v)) //nolint:gosec // same bits
	}
	body := b[start+journalFrameHead:]
	be.PutUint32(b[start:], uint32(len(body))) //nolint:gosec // bounded by maxJournalBody
	be.PutUint32(b[start+4:], crc32.Checksum(body, castagnoli))
	return b
}

func appendStateFrame(b []byte, tp model.TopicPartition, s logState) []byte {
	return appendFrame(b, journalFrameState, tp, s.recoveryPoint, s.highWatermark, s.logStart)
}

// appendEpochsFrame writes positions and epoch starts as one frame: each is believed only together with the other.
func appendEpochsFrame(b []byte, tp model.TopicPartition, s logState) []byte {
	kind := byte(journalFrameEpochs)
	if s.whole {
		kind = journalFrameWhole
	}
	values := make([]int64, 0, 3+2*len(s.epochs))
	values = append(values, s.recoveryPoint, s.highWatermark, s.logStart)
	for _, e := range s.epochs {
		values = append(values, int64(e.Epoch), e.StartOffset)
	}
	return appendFrame(b, kind, tp, values...)
}

func appendRowFrame(b []byte, tp model.TopicPartition, row headRow) []byte {
	return appendFrame(b, journalFrameRow, tp, row.from, row.to, row.bytes, row.crc)
}

// appendLogFrames writes everything that is known of a log.
func appendLogFrames(b []byte, tp model.TopicPartition, s logState) []byte {
	if !s.unplaced {
		b = appendEpochsFrame(b, tp, s)
	}
	if s.raised > 0 {
		b = appendFrame(b, journalFrameRaised, tp, s.raised)
	}
	for _, row := range s.rows {
		b = appendRowFrame(b, tp, row)
	}
	if s.lost {
		b = appendFrame(b, journalFrameLost, tp)
	}
	return b
}

// decodeJournal folds all frames up to the first bad one. good is the number of bytes that were believed; the rest
// was cut short or damaged.
func decodeJournal(data []byte) (states map[model.TopicPartition]logState, good int) {
	states = map[model.TopicPartition]logState{}
	if len(data) < journalHeaderSize || !slices.Equal(data[:journalHeaderSize], journalHeader()) {
		return states, 0
	}
	be := binary.BigEndian
	good = journalHeaderSize
	for len(data)-good >= journalFrameHead {
		n := int64(be.Uint32(data[good:]))
		if n < journalBodyHead || n > maxJournalBody || n > int64(len(data)-good-journalFrameHead) {
			break
		}
		body := data[good+journalFrameHead:][:n]
		if be.Uint32(data[good+4:]) != crc32.Checksum(body, castagnoli) || applyFrame(states, body) != nil {
			break
		}
		good += journalFrameHead + int(n)
	}
	return states, good
}

// journalTorn says whether what lies behind the good beginning of a journal is no more than a last write that a crash cut short:
// a frame that the file ends within, or of which whole sectors were never written. Only the last write can be torn, for what was
// acknowledged was synced before; with a whole frame behind, or one that is whole under another length, it is damage.
func journalTorn(data []byte, good int) bool {
	rest := data[good:]
	if good < journalHeaderSize {
		return false // the file was synced before it got its name
	}
	if wholeBody(rest) {
		return false
	}
	for at := range rest {
		if wholeFrame(rest[at:]) {
			return false
		}
	}
	if allZero(rest) {
		return true
	}
	be := binary.BigEndian
	if len(rest) < journalFrameHead+journalBodyHead {
		return true
	}
	n := int64(be.Uint32(rest))
	if n > int64(len(rest)-journalFrameHead) {
		return n <= maxJournalBody && n%8 == journalBodyHead%8
	}
	frame := good + journalFrameHead + int(max(n, 0))
	for at := (good/sectorSize + 1) * sectorSize; at < frame; at += sectorSize {
		if allZero(data[at:min(at+sectorSize, frame)]) {
			return true
		}
	}
	return false
}

// wholeFrame says whether a whole frame begins b.
func wholeFrame(b []byte) bool {
	be := binary.BigEndian
	if len(b) < journalFrameHead+journalBodyHead {
		return false
	}
	n := int64(be.Uint32(b))
	return n >= journalBodyHead && n%8 == journalBodyHead%8 && n <= int64(len(b)-journalFrameHead) &&
		be.Uint32(b[4:]) == crc32.Checksum(b[journalFrameHead:][:n], castagnoli)
}

// wholeBody says whether a frame begins b whose CRC is that of its body, whatever length its head says.
func wholeBody(b []byte) bool {
	if len(b) < journalFrameHead+journalBodyHead {
		return false
	}
	want, body := binary.BigEndian.Uint32(b[4:]), b[journalFrameHead:]
	crc := crc32.Checksum(body[:journalBodyHead], castagnoli)
	for n := journalBodyHead; crc != want; n += 8 {
		if n+8 > len(body) {
			return false
		}
		crc = crc32.Update(crc, castagnoli, body[n:n+8])
	}
	return true
}

// applyFrame folds one frame; it never panics on any body.
func applyFrame(states map[model.TopicPartition]logState, body []byte) error {
	be := binary.BigEndian
	var tp model.TopicPartition
	copy(tp.TopicID[:], body[1:17])
	tp.Partition = int32(be.Uint32(body[17:])) //nolint:gosec // same bits
	rest := body[journalBodyHead:]
	if len(rest)%8 != 0 || tp.Partition < 0 {
		return fmt.Errorf("journal frame of %d bytes for %s", len(body), tp)
	}
	values := make([]int64, len(rest)/8)
	for i := range values {
		values[i] = int64(be.Uint64(rest[8*i:])) //nolint:gosec // same bits
	}
	kind := body[0]
	switch kind {
	case journalFrameForget:
		delete(states, tp)
		return nil
	case journalFrameLost, journalFrameTold:
		state, known := states[tp]
		state.lost, state.unplaced = kind == journalFrameLost, state.unplaced || !known
		states[tp] = state
		if state.unplaced && !state.lost {
			delete(states, tp)
		}
		return nil
	}
	if kind == journalFrameRaised {
		if len(values) != 1 || values[0] < 0 {
			return fmt.Errorf("journal frame of kind %d with values %v for %s", kind, values, tp)
		}
		state := states[tp]
		state.raised, state.unplaced = values[0], false
		states[tp] = state
		return nil
	}
	if kind == journalFrameRow {
		return applyRow(states, tp, values)
	}
	if len(values) < 3 || slices.Min(values[:3]) < 0 {
		return fmt.Errorf("journal positions %v of %s", values, tp)
	}
	state := states[tp]
	state.recoveryPoint, state.highWatermark, state.logStart, state.unplaced = values[0], values[1], values[2], false
	state.raised = 0
	switch {
	case kind == journalFrameState && len(values) == 3:
		state.rows = rowsAbove(state.rows, state.recoveryPoint)
	case kind == journalFrameEpochs || kind == journalFrameWhole:
		if state.whole = kind == journalFrameWhole; state.whole {
			state.rows = rowsAbove(state.rows, state.recoveryPoint)
		} else {
			state.rows = nil
		}
		epochs, err := decodeEpochs(values[3:])
		if err != nil {
			return err
		}
		state.epochs = epochs
	default:
		return fmt.Errorf("journal frame of kind %d with %d values for %s", kind, len(values), tp)
	}
	states[tp] = state
	return nil
}

// applyRow folds a frame of kind 7.
func applyRow(states map[model.TopicPartition]logState, tp model.TopicPartition, values []int64) error {
	state, known := states[tp]
	if !known || state.unplaced || len(values) != 4 || values[0] < 0 || values[1] < values[0] || values[2] < 0 || values[3] < unknownHeads || values[3] > math.MaxUint32 {
		return fmt.Errorf("journal row %v of %s", values, tp)
	}
	state.rows = headRow{from: values[0], to: values[1], bytes: values[2], crc: values[3]}.onto(state.rows)
	states[tp] = state
	return nil
}

func decodeEpochs(values []int64) ([]EpochStart, error) {
	if len(values)%2 != 0 {
		return nil, fmt.Errorf("journal epochs frame of %d values", len(values))
	}
	var c epochCache
	for i := 0; i < len(values); i += 2 {
		epoch := model.LeaderEpoch(values[i]) //nolint:gosec // compared below
		if int64(epoch) != values[i] || values[i+1] < 0 || (i > 0 && epoch <= c.latest()) {
			return nil, fmt.Errorf("journal epoch %d at %d", values[i], values[i+1])
		}
		if _, err := c.assign(epoch, values[i+1]); err != nil {
			return nil, err
		}
	}
	return c.starts, nil
}
