package storage

import (
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// What checkpoints.journal says is believed to be whole up to a write that a crash cut short. Where it was damaged or lost, more of a log
// may have been durable than it says: what is bad there need not be the tail that a power loss left, and nothing whole behind it is
// cut. The logs that this holds for are on file until each was opened and stands in the journal again: the journal itself is written anew at
// once. docs/format/checkpoints-journal.md describes the file.
const (
	unsureName = "checkpoints.unsure"
	unsureMax  = 1 << 30
)

// encodeUnsure writes one log a line, and a CRC-32C of all lines.
func encodeUnsure(logs map[model.TopicPartition]bool) []byte {
	var b strings.Builder
	for _, tp := range slices.SortedFunc(maps.Keys(logs), comparePartitions) {
		b.WriteString(tp.String() + "\n")
	}
	return fmt.Appendf([]byte(b.String()), "%s=%08x\n", checksumField, crc32.Checksum([]byte(b.String()), castagnoli))
}

// decodeUnsure reads the file; false where it cannot be believed.
func decodeUnsure(data []byte) (map[model.TopicPartition]bool, bool) {
	body, _, ok := strings.Cut(string(data), checksumField+"=")
	if !ok || string(data[len(body):]) != fmt.Sprintf("%s=%08x\n", checksumField, crc32.Checksum([]byte(body), castagnoli)) {
		return nil, false
	}
	logs := map[model.TopicPartition]bool{}
	for line := range strings.Lines(body) {
		id, number, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "/")
		topic, err := model.ParseUUID(id)
		n, numberErr := strconv.ParseInt(number, 10, 32)
		if err != nil || numberErr != nil {
			return nil, false
		}
		logs[model.TopicPartition{TopicID: topic, Partition: int32(n)}] = true
	}
	return logs, true
}

// readUnsure says which of the logs found an earlier start was unsure of; of all where that cannot be believed. there says that there is
// a file.
func readUnsure(fsy fsys.FS, root string, found []model.TopicPartition) (logs map[model.TopicPartition]bool, there bool, err error) {
	data, err := readFile(fsy, path.Join(root, unsureName), unsureMax)
	if fsys.IsNotExist(err) {
		return map[model.TopicPartition]bool{}, false, nil
	}
	if err != nil && !isMediumError(err) {
		return nil, false, err
	}
	logs, ok := decodeUnsure(data)
	if err != nil || !ok {
		return allOf(found), true, nil
	}
	here := allOf(found)
	maps.DeleteFunc(logs, func(tp model.TopicPartition, _ bool) bool { return !here[tp] })
	return logs, true, nil
}

func allOf(found []model.TopicPartition) map[model.TopicPartition]bool {
	logs := make(map[model.TopicPartition]bool, len(found))
	for _, tp := range found {
		logs[tp] = true
	}
	return logs
}

// doubt notes durably which of the logs found are unsure, before the journal is written anew.
func (d *Dir) doubt(found []model.TopicPartition) func(journalBad bool) error {
	return func(journalBad bool) error {
		logs, there, err := readUnsure(d.fs, d.path, found)
		if err != nil {
			return err
		}
		noted := len(logs)
		if journalBad {
			logs = allOf(found)
		}
		d.unsure = logs
		name := path.Join(d.path, unsureName)
		switch {
		case len(logs) == 0 && there:
			return removeIfExists(d.fs, name)
		case len(logs) == 0 || there && len(logs) == noted && !journalBad:
			return nil
		}
		return d.space.within(func() error { return writeFileAtomic(d.fs, name, encodeUnsure(logs)) })
	}
}

// isUnsure says whether more of a log may have been durable than the journal knows.
func (d *Dir) isUnsure(tp model.TopicPartition) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unsure[tp]
}

// settleUnsure notes that a log stands in the journal as it is, or is gone. The file goes with the last one; where it comes back, or
// cannot be removed, the next start does it.
func (d *Dir) settleUnsure(tp model.TopicPartition) {
	d.mu.Lock()
	last := d.unsure[tp] && len(d.unsure) == 1
	delete(d.unsure, tp)
	d.mu.Unlock()
	if last && d.journal.commit() == nil {
		_ = removeIfExists(d.fs, path.Join(d.path, unsureName)) //nolint:errcheck // see above
	}
}

// keeps says whether what is bad at an offset at or above the recovery point may have been durable, so that nothing whole is cut behind
// it: the log is unsure, or the place was marked as damaged while the log was open, when it had been whole.
func (r *recovery) keeps(offset int64) bool {
	return r.unsure || slices.ContainsFunc(r.places, func(m mark) bool { return m.from <= offset && offset < m.to })
}

// keepsBehind says whether later segments hold anything that stays where segment i ends at the writer's position.
func (r *recovery) keepsBehind(i int) (bool, error) {
	if !r.keeps(r.log.end) {
		return false, nil
	}
	return holdData(r.log.fs, r.log.segs[i+1:])
}

// oversteps says whether a batch of the segment being scanned has offsets of a later one that holds anything: its base offset, which
// lies outside the CRC, is not what was written.
func (r *recovery) oversteps(h record.Header) bool {
	l := r.log
	if r.at == len(l.segs)-1 || h.NextOffset() <= l.segs[r.at+1].base {
		return false
	}
	bound, err := boundOf(l.fs, l.segs, r.at)
	return err == nil && h.NextOffset() > bound
}

// wholeBehind finds the next batch behind bytes at pos that are none, or none in its place, which is whole and whose offsets are at or
// above next and below bound. The length that stands at pos is followed where it leads to one. Otherwise all that lies behind is looked
// through for a batch from which on batches follow each other to the end: a record may well hold what looks like a batch.
func wholeBehind(f fsys.File, pos, size, next, bound int64) (e indexEntry, found bool, err error) {
	follows := func(at int64, toTheEnd bool) (bool, error) {
		w := newWalker(f, at, size, true)
		h, ok, err := w.next()
		if err != nil || !ok || h.BaseOffset < next || h.NextOffset() > bound {
			return false, ignoreBadBatch(err)
		}
		e = indexEntry{key: h.BaseOffset, value: at}
		for after := h.NextOffset(); toTheEnd; after = h.NextOffset() {
			begins := w.pos
			if h, ok, err = w.next(); err != nil {
				end, zeroErr := lastNonZero(f, begins, size)
				return zeroErr == nil && end == begins, errors.Join(ignoreBadBatch(err), zeroErr)
			}
			if !ok || h.BaseOffset < after {
				return !ok, nil
			}
		}
		return true, nil
	}
	w := newWalker(f, pos, size, false)
	if _, ok, err := w.next(); err == nil && ok {
		if found, err := follows(w.pos, false); err != nil || found {
			return e, found, err
		}
	} else if err := ignoreBadBatch(err); err != nil {
		return e, false, err
	}
	const overlap = record.HeaderSize - 1
	buf := make([]byte, min(crcChunk, max(size-pos, record.HeaderSize)))
	for at := pos + 1; at+record.HeaderSize <= size; at += int64(len(buf)) - overlap {
		n, err := readFull(f, buf, at)
		if err != nil {
			return e, false, err
		}
		for i := 0; i+record.HeaderSize <= n; i++ {
			if int8(buf[i+batchMagicAt]) != record.Magic { //nolint:gosec // same bits
				continue
			}
			h, err := record.ParseHeader(buf[i:n])
			if err != nil || h.BaseOffset < next || h.NextOffset() > bound || at+int64(i+h.Size()) > size {
				continue
			}
			if found, err := follows(at+int64(i), true); err != nil || found {
				return e, found, err
			}
		}
	}
	return e, false, nil
}

// ignoreBadBatch leaves errors of reading.
func ignoreBadBatch(err error) error {
	if errors.Is(err, errBadBatch) {
		return nil
	}
	return err
}

// boundOf is the offset that no batch of segment i of a log reaches beyond: where the next segment begins that holds anything.
func boundOf(fsy fsys.FS, segs []*segment, i int) (int64, error) {
	for _, s := range segs[i+1:] {
		if zero, err := isZero(fsy, s); isMediumError(err) || err == nil && !zero {
			return s.base, nil
		} else if err != nil {
			return 0, err
		}
	}
	return math.MaxInt64, nil
}
