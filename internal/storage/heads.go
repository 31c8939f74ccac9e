package storage

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"
	"sort"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// The base offset and the leader epoch of a batch lie outside its CRC. Above the recovery point the next batch gives most wrong
// ones away, but the last batch has none. So the journal is told of what is not the rule before it is written: that a leader
// epoch begins, and that batches do not follow each other without a gap. This must hold:
//
//  1. Before bytes of a batch are written, the journal's file says its leader epoch, at its offset, and of a row of batches that has a
//     gap where it begins and ends, and a CRC of all heads.
//  2. Before a position is reported as durable the journal is synced.
//
// So above the recovery point a batch of another epoch than the journal's, or behind a gap that it does not know, is not what was
// written; or it was never durable, where a power loss took the end of the journal. Recovery ends the log there.

// headRow is a row of batches, appended by one write, of which not all follow without a gap. An empty one is no row.
type headRow struct {
	from, to int64 // the log's end before and after it
	bytes    int64 // what it takes
	crc      int64 // CRC-32C of the first 16 bytes of each batch, unknownHeads where a cut has left the beginning of a row
}

// unknownHeads stands in for the CRC of a row.
const unknownHeads = -1

// onto returns rows with the row behind them: what was known of batches behind its beginning is void, they were never written or are gone.
func (row headRow) onto(rows []headRow) []headRow {
	n := len(rows)
	for n > 0 && rows[n-1].from >= row.from {
		n--
	}
	if n < len(rows) { // others may hold what is written over; what lies behind the end nobody holds
		rows = rows[:n:n]
	}
	if n > 0 && rows[n-1].to > row.from {
		rows = append(rows[:n-1:n-1], headRow{from: rows[n-1].from, to: row.from, crc: unknownHeads})
	}
	if row.to > row.from {
		return append(rows, row)
	}
	return rows
}

// changes says whether the row changes anything about rows.
func (row headRow) changes(rows []headRow) bool {
	return row.to > row.from || (len(rows) > 0 && rows[len(rows)-1].to > row.from)
}

// rowsAbove returns the rows that do not lie below an offset.
func rowsAbove(rows []headRow, offset int64) []headRow {
	for len(rows) > 0 && rows[0].to <= offset {
		rows = rows[1:]
	}
	return rows
}

// add takes the next batch into the row's CRC.
func (row *headRow) add(h record.Header) {
	var head [record.HeadSize]byte
	record.PutHead(head[:], h.BaseOffset, h.Length, h.LeaderEpoch)
	row.bytes += int64(h.Size())
	row.crc = int64(crc32.Update(uint32(row.crc), castagnoli, head[:])) //nolint:gosec // of 32 bits
}

// toldHeads is what a log has told the journal of batches before it appended them.
type toldHeads struct {
	epochs bool  // the log's epochs, and none that it has forgotten
	rows   int64 // no row that it has told of ends behind that
	// times is how often it has told something, synced how much of that is durable.
	times, synced uint64
}

// unsynced is what a sync has to make durable, 0 for nothing.
func (t *toldHeads) unsynced() uint64 {
	if t.times == t.synced {
		return 0
	}
	return t.times
}

// tell lets the journal say what recovery cannot see from the batches that are about to be written: epochs is the leader epoch cache with
// them, row is empty where they follow each other without a gap. The caller holds mu.
func (l *Log) tell(epochs epochCache, row headRow) error {
	if l.told.epochs && len(epochs.starts) == len(l.epochs.starts) && row.to == row.from && l.told.rows <= l.end {
		return nil
	}
	return l.tellJournal(epochs, row)
}

func (l *Log) tellJournal(epochs epochCache, row headRow) error {
	l.told.epochs, l.told.rows = false, max(l.told.rows, row.to) // until the batches are there
	state := l.journalState()
	state.epochs = slices.Clip(epochs.starts)
	if err := l.dir.journal.append(logUpdate{tp: l.tp, state: state, tells: true, row: row, voids: &l.cuts}); err != nil {
		return fmt.Errorf("log %s: append: %w", l.tp, err)
	}
	l.told.rows = row.to
	l.told.times++
	return nil
}

// follow takes over the epochs of batches that were written. The caller holds mu.
func (l *Log) follow(epochs epochCache) {
	l.epochs, l.told.epochs = epochs, true
}

// headsOf returns the leader epoch cache with the batches of data, which were checked, and the row that they are.
func (l *Log) headsOf(data []byte) (epochs epochCache, row headRow, err error) {
	epochs, row = l.epochs.fork(), headRow{from: l.end, to: l.end}
	next, gaps := l.end, false
	for len(data) > 0 {
		h, err := record.ParseHeader(data)
		if err != nil {
			return epochs, row, err
		}
		if _, err := epochs.assign(model.LeaderEpoch(h.LeaderEpoch), max(h.BaseOffset, next)); err != nil {
			return epochs, row, err
		}
		row.add(h)
		gaps = gaps || h.BaseOffset > next
		next, data = h.NextOffset(), data[h.Size():]
	}
	if !gaps {
		return epochs, headRow{from: l.end, to: l.end}, nil
	}
	row.to = next
	return epochs, row, nil
}

// syncTold makes durable what the journal was told ahead of what is being synced.
func (d *Dir) syncTold(p pendingSync) error {
	if p.told == 0 {
		return nil
	}
	return d.journal.commit()
}

// headCheck compares the heads of batches above the recovery point with what the journal was told of them.
type headCheck struct {
	state      logState
	start      int64 // of the log
	firstDirty int64 // compaction may have left gaps below

	untold bool // there are gaps that the journal does not know
}

// aheadMax bounds by how much a leader epoch rises from one batch to the next, where nothing else is known of it.
const aheadMax = 1 << 16

// errNeverDurable is an errBadBatch of a leader epoch that the journal does not know and that no flipped bit explains: a power loss took the
// end of the journal, which would have been synced before the batch, or anything behind it, was reported as durable.
var errNeverDurable = fmt.Errorf("%w, never synced", errBadBatch)

// check says what is wrong with the head of a batch that lies behind offset next, last where no segment begins behind it; nil also where
// the journal does not know everything. A gap before the end of another segment is believed: compaction makes them, and the next segment
// begins where the batches end.
func (c *headCheck) check(h record.Header, next int64, last bool) error {
	if !c.state.whole || h.NextOffset() <= max(c.state.recoveryPoint, c.start) {
		return nil
	}
	known := epochCache{starts: c.state.epochs}
	if want := known.at(max(h.BaseOffset, next, c.start)); want != model.LeaderEpoch(h.LeaderEpoch) {
		bad := errBadBatch
		if ahead := int64(h.LeaderEpoch) - int64(want); ahead > 0 && ahead <= aheadMax && bits.OnesCount32(uint32(h.LeaderEpoch)^uint32(want)) > 1 { //nolint:gosec // same bits
			bad = errNeverDurable
		}
		return fmt.Errorf("%w: epoch %d at offset %d, the journal was told of epoch %d", bad, h.LeaderEpoch, h.BaseOffset, want)
	}
	if h.BaseOffset <= next || h.BaseOffset <= c.firstDirty || c.inRow(next, h) {
		return nil
	}
	c.untold = true
	if last {
		return fmt.Errorf("%w: base offset %d behind offset %d, and the journal was told of no gap", errBadBatch, h.BaseOffset, next-1)
	}
	return nil
}

// inRow says whether a batch behind offset next is of a row with gaps.
func (c *headCheck) inRow(next int64, h record.Header) bool {
	rows := c.state.rows
	i := sort.Search(len(rows), func(i int) bool { return rows[i].from > next })
	return i > 0 && h.NextOffset() <= rows[i-1].to
}

// checkRow says what is wrong with the heads of the row of batches that begins at a position, at offset next; nil where none begins there, or
// where it is not whole: then it was never durable, or the batch where it ends shows what is wrong.
func (c *headCheck) checkRow(f fsys.File, pos, size, next int64) error {
	i, found := slices.BinarySearchFunc(c.state.rows, next, func(row headRow, next int64) int { return cmp.Compare(row.from, next) })
	if !found || !c.state.whole || c.state.rows[i].crc == unknownHeads {
		return nil
	}
	want, got := c.state.rows[i], headRow{from: next, to: next}
	w := newWalker(f, pos, size, false)
	for got.bytes < want.bytes {
		h, ok, err := w.next()
		if errors.Is(err, errBadBatch) || isMediumError(err) || (err == nil && !ok) {
			return nil
		}
		if err != nil {
			return err
		}
		got.add(h)
		got.to = h.NextOffset()
	}
	if got != want {
		return fmt.Errorf("%w: the heads of the batches of offsets %d to %d are not those that were appended", errBadBatch, want.from, want.to-1)
	}
	return nil
}

// endOfRow returns the end of the last row that the journal knows, 0 for none.
func (s logState) endOfRow() int64 {
	if len(s.rows) == 0 {
		return 0
	}
	return s.rows[len(s.rows)-1].to
}
