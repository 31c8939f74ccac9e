package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// sideWindow is how much of a file is held at once, but for a frame that is larger.
const sideWindow = 256 << 10

// windowReader gives pieces of a file that rise.
type windowReader struct {
	file fsys.File
	size int64
	at   int64
	buf  []byte
}

// bytes returns n bytes at a position, fewer at the end of the file; they are valid until the next call.
func (w *windowReader) bytes(pos int64, n int) ([]byte, error) {
	n = int(min(int64(n), max(0, w.size-pos)))
	if pos >= w.at && pos+int64(n) <= w.at+int64(len(w.buf)) {
		return w.buf[pos-w.at:][:n], nil
	}
	want := int(min(int64(max(n, sideWindow)), w.size-pos))
	if cap(w.buf) < want || cap(w.buf) > 2*max(want, sideWindow) {
		w.buf = make([]byte, want)
	}
	w.buf = w.buf[:want]
	got, err := readFull(w.file, w.buf, pos)
	w.at, w.buf = pos, w.buf[:got]
	if got >= n {
		err = nil
	}
	return w.buf[:min(n, got)], err
}

// journal shows checkpoints.journal: its frames, and what those that are believed come to.
func (d sideDump) journal(name string) (err error) {
	f, err := d.o.fs.OpenRead(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	j := journalDump{sideDump: d, name: name, states: map[model.TopicPartition]logState{}, believed: true}
	j.file, j.size = f, size
	read := j.frames()
	if own := (errVisit{}); errors.As(read, &own) {
		return read
	}
	for _, tp := range slices.SortedFunc(maps.Keys(j.states), comparePartitions) {
		if !d.wanted(tp) {
			continue
		}
		s := j.states[tp]
		e := SideEntry{File: name, Position: -1, Kind: "log-state", Fields: []SideField{{"log", tp.String()}, {"lost", s.lost}}}
		if !s.unplaced {
			e.Fields = append(e.Fields, SideField{"recovery_point", s.recoveryPoint}, SideField{"high_watermark", s.highWatermark},
				SideField{"log_start_offset", s.logStart}, SideField{"replayed_to", s.raised}, SideField{"epochs", epochPairs(s.epochs)},
				SideField{"epochs_whole", s.whole}, SideField{"rows", len(s.rows)})
		}
		if err := d.visit(e); err != nil {
			return err
		}
	}
	return read
}

// journalDump walks the frames of checkpoints.journal.
type journalDump struct {
	sideDump
	windowReader

	name     string
	states   map[model.TopicPartition]logState
	believed bool // nothing was wrong before
}

func (j *journalDump) frames() error {
	head, err := j.bytes(0, journalHeaderSize)
	if err != nil {
		return err
	}
	if j.size == 0 {
		return j.visit(SideEntry{File: j.name, Position: 0, Kind: "checkpoints-damage", Fault: "the file is empty"})
	}
	pos := int64(journalHeaderSize)
	if !slices.Equal(head, journalHeader()) {
		if pos, err = j.damage(0, "the header cannot be believed"); err != nil {
			return err
		}
	}
	for pos < j.size {
		body, why, err := j.frameAt(pos)
		if err != nil {
			return err
		}
		if why == "" {
			if fault := j.show(pos, body); fault != nil {
				return fault
			}
			pos += int64(journalFrameHead + len(body))
			continue
		}
		if pos, err = j.damage(pos, why); err != nil {
			return err
		}
	}
	return nil
}

// frameAt returns the body of the frame at a position, or why there is none.
func (j *journalDump) frameAt(pos int64) (body []byte, why string, err error) {
	be := binary.BigEndian
	head, err := j.bytes(pos, journalFrameHead+1)
	if err != nil {
		return nil, "", err
	}
	if len(head) <= journalFrameHead {
		return nil, fmt.Sprintf("%d bytes are no frame", len(head)), nil
	}
	n := int64(be.Uint32(head))
	if n < journalBodyHead || n%8 != journalBodyHead%8 || n > maxJournalBody {
		return nil, fmt.Sprintf("a frame of %d bytes", n), nil
	}
	if left := j.size - pos - journalFrameHead; n > left {
		return nil, fmt.Sprintf("a frame of %d bytes, %d are left", n, left), nil
	}
	whole, err := j.bytes(pos, journalFrameHead+int(n))
	if err != nil {
		return nil, "", err
	}
	if int64(len(whole)) < journalFrameHead+n {
		return nil, "the file is shorter than it was", nil
	}
	body = whole[journalFrameHead:]
	if said, is := be.Uint32(whole[4:]), crc32.Checksum(body, castagnoli); said != is {
		return nil, fmt.Sprintf("CRC %08x, computed %08x", said, is), nil
	}
	return body, "", nil
}

var journalFrameNames = map[byte]string{
	journalFrameState: "positions", journalFrameEpochs: "positions-and-epochs", journalFrameForget: "forget", journalFrameLost: "lost",
	journalFrameTold: "told", journalFrameRaised: "replayed-to", journalFrameRow: "row", journalFrameWhole: "positions-and-all-epochs",
}

// show shows a frame, and folds it where it is believed.
func (j *journalDump) show(pos int64, body []byte) error {
	be := binary.BigEndian
	var tp model.TopicPartition
	copy(tp.TopicID[:], body[1:17])
	tp.Partition = int32(be.Uint32(body[17:])) //nolint:gosec // same bits
	values := make([]int64, (len(body)-journalBodyHead)/8)
	for i := range values {
		values[i] = int64(be.Uint64(body[journalBodyHead+8*i:])) //nolint:gosec // same bits
	}
	kind, ok := journalFrameNames[body[0]]
	if !ok {
		kind = fmt.Sprintf("kind-%d", body[0])
	}
	scratch := map[model.TopicPartition]logState{tp: j.states[tp]}
	states := j.states
	if !j.believed {
		states = scratch
	}
	fault := ""
	if err := applyFrame(states, body); err != nil {
		fault, j.believed = err.Error(), false
	}
	if !j.wanted(tp) {
		return nil
	}
	e := SideEntry{
		File: j.name, Position: pos, Kind: "checkpoints-" + kind, Fault: fault,
		Fields: []SideField{{"log", tp.String()}, {"believed", j.believed}},
	}
	switch k := body[0]; {
	case (k == journalFrameState || k == journalFrameEpochs || k == journalFrameWhole) && len(values) >= 3:
		e.Fields = append(e.Fields, SideField{"recovery_point", values[0]}, SideField{"high_watermark", values[1]}, SideField{"log_start_offset", values[2]})
		if rest := values[3:]; k != journalFrameState {
			epochs := make(epochPairs, 0, len(rest)/2)
			for i := 0; i+1 < len(rest); i += 2 {
				epochs = append(epochs, EpochStart{Epoch: model.LeaderEpoch(rest[i]), StartOffset: rest[i+1]}) //nolint:gosec // shown as it is
			}
			e.Fields = append(e.Fields, SideField{"epochs", epochs})
		}
	case k == journalFrameRaised && len(values) == 1:
		e.Fields = append(e.Fields, SideField{"offset", values[0]})
	case k == journalFrameRow && len(values) == 4:
		e.Fields = append(e.Fields, SideField{"from", values[0]}, SideField{"to", values[1]}, SideField{"bytes", values[2]}, SideField{"heads_crc", values[3]})
	case len(values) > 0:
		e.Fields = append(e.Fields, SideField{"values", values})
	}
	return j.visit(e)
}

// damage shows that no frame begins at a position, and returns where the next whole one does, or the file's size.
func (j *journalDump) damage(pos int64, why string) (next int64, err error) {
	for next = pos + 1; next < j.size; next++ {
		if pos < journalHeaderSize && next < journalHeaderSize {
			next = journalHeaderSize
		}
		kind, err := j.bytes(next, journalFrameHead+1)
		if err != nil {
			return 0, err
		}
		if len(kind) <= journalFrameHead {
			next = j.size
			break
		}
		if _, known := journalFrameNames[kind[journalFrameHead]]; !known {
			continue
		}
		if _, none, err := j.frameAt(next); err != nil {
			return 0, err
		} else if none == "" {
			break
		}
	}
	kind := "checkpoints-damage"
	if next >= j.size && j.believed {
		torn, err := j.torn(pos)
		if err != nil {
			return 0, err
		}
		if torn {
			kind = "checkpoints-unfinished"
		}
	}
	j.believed = false
	e := SideEntry{File: j.name, Position: pos, Kind: kind, Fields: []SideField{{"bytes", next - pos}}}
	if kind == "checkpoints-unfinished" {
		e.Fields = append(e.Fields, SideField{"why", why})
	} else {
		e.Fault = why + "; nothing behind it is believed"
	}
	return next, j.visit(e)
}

// torn says whether what lies from a position to the end is what a crash leaves of the last write. More than the largest frame
// is not looked at.
func (j *journalDump) torn(pos int64) (bool, error) {
	from := max(0, pos/sectorSize-1) * sectorSize
	if j.size-pos > maxJournalBody+journalFrameHead+sectorSize {
		return false, nil
	}
	data, err := j.bytes(from, int(j.size-from))
	if err != nil || int64(len(data)) < j.size-from {
		return false, err
	}
	return journalTorn(data, int(pos-from)), nil
}

// marks shows what is on file as damaged.
func (d sideDump) marks(name string) error {
	data, err := readFile(d.o.fs, name, marksMax)
	if err != nil {
		return err
	}
	marks, ok := decodeMarks(data)
	if !ok {
		return d.visit(SideEntry{File: name, Kind: "damaged", Fault: "the list cannot be believed"})
	}
	for i, m := range marks {
		if err := d.visit(SideEntry{File: name, Position: int64(8 + i*markSize), Kind: "damaged", Fields: []SideField{
			{"from", m.from}, {"to", m.to}, {"segment_base", m.base}, {"segment_position", m.position}, {"behind", m.behind}, {"by_digest", m.byDigest},
		}}); err != nil {
			return err
		}
	}
	return nil
}

func (d sideDump) cleanPoint(name string) error {
	data, err := readFile(d.o.fs, name, 1<<10)
	if err != nil {
		return err
	}
	p, ok := decodeCleanPoint(data)
	if !ok {
		return d.visit(SideEntry{File: name, Kind: "compacted", Fault: "it cannot be believed"})
	}
	return d.visit(SideEntry{File: name, Kind: "compacted", Fields: []SideField{{"first_dirty", p.firstDirty}, {"next_horizon", p.horizon}}})
}

func (d sideDump) digest(name string) error {
	data, err := readFile(d.o.fs, name, digestSize)
	if err != nil {
		return err
	}
	g, err := decodeDigest(data)
	if err != nil {
		return d.visit(SideEntry{File: name, Kind: "digest", Fault: err.Error()})
	}
	return d.visit(SideEntry{File: name, Kind: "digest", Fields: []SideField{
		{"base_offset", g.BaseOffset},
		{"next_offset", g.NextOffset},
		{"bytes", g.SizeBytes},
		{"batches", g.Batches},
		{"max_timestamp", g.MaxTimestamp},
		{"sum", fmt.Sprintf("%016x", g.Sum)},
	}})
}

// producers shows a snapshot, and each producer of it with what it wrote last.
func (d sideDump) producers(name string) error {
	data, err := readFile(d.o.fs, name, maxSnapshotBytes)
	if err != nil {
		return err
	}
	state, info, err := decodeProducers(data)
	if err != nil {
		return d.visit(SideEntry{File: name, Kind: "producers", Fault: err.Error()})
	}
	if err := d.visit(SideEntry{File: name, Kind: "producers", Fields: []SideField{
		{"offset", info.offset},
		{"segment_base", info.segmentBase},
		{"segment_size", info.position},
		{"max_timestamp", info.maxTimestamp},
		{"producers", len(state.byID)},
	}}); err != nil {
		return err
	}
	pos := int64(snapshotHeader)
	for _, id := range slices.Sorted(maps.Keys(state.byID)) {
		p := state.byID[id]
		last := p.last()
		if err := d.visit(SideEntry{File: name, Position: pos, Kind: "producer", Fields: []SideField{
			{"producer_id", id},
			{"producer_epoch", p.epoch},
			{"batches", len(p.ring)},
			{"oldest_offset", p.at(0).baseOffset},
			{"last_offset", last.baseOffset + int64(last.lastDelta)},
			{"last_sequence", last.baseSequence},
			{"leader_epoch", last.leaderEpoch},
			{"append_time", last.appendTimeMs},
		}}); err != nil {
			return err
		}
		pos += 11 + int64(len(p.ring))*snapshotBatchSize
	}
	return nil
}

// index shows the blocks of an index.
func (d sideDump) index(name, what string, kind byte) (err error) {
	f, err := d.o.fs.OpenRead(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	var block [indexBlockSize]byte
	var before []indexEntry // the last entry, which the next block rises from
	for at := int64(0); at < size; at += indexBlockSize {
		n, err := readFull(f, block[:], at)
		if err != nil && !isMediumError(err) {
			return err
		}
		entries := slices.Clone(before)
		if err == nil {
			entries, err = decodeIndexBlock(block[:n], kind, entries)
		}
		e := SideEntry{File: name, Position: at, Kind: what}
		if err != nil {
			e.Fault = err.Error()
		} else {
			list := make(pairs, 0, indexBlockCap)
			for _, one := range entries[len(before):] {
				list = append(list, [2]int64{one.key, one.value})
			}
			e.Fields = []SideField{{"number", len(list)}, {"entries", list}}
			before = entries[len(entries)-1:]
		}
		if err := d.visit(e); err != nil {
			return err
		}
	}
	return nil
}
