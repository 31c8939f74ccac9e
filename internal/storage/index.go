package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sort"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// An index file is a row of 4 KiB blocks. Each has a header of 16 bytes and up to 255 entries of 16 bytes: a key
// (offset or timestamp) and a value (position or offset), both rising. See docs/format/offset-index.md.
const (
	indexBlockSize    = 4096
	indexHeaderSize   = 16
	indexEntrySize    = 16
	indexBlockCap     = (indexBlockSize - indexHeaderSize) / indexEntrySize
	indexMagic        = 0x5058 // "PX"
	indexVersion      = 1
	maxIndexBytes     = 1 << 30
	indexKindOffset   = 1
	indexKindTime     = 2
	offsetIndexSuffix = ".index"
	timeIndexSuffix   = ".timeindex"
)

// errIndexDoubt says that an index file cannot be believed; it is rebuilt from the segment.
var errIndexDoubt = errors.New("index is in doubt")

// indexEntry maps a base offset to a position in the segment, or a maximal timestamp to the base offset of its batch.
type indexEntry struct {
	key, value int64
}

// floorEntry returns the index of the last entry whose key is <= key, or -1.
func floorEntry(entries []indexEntry, key int64) int {
	return sort.Search(len(entries), func(i int) bool { return entries[i].key > key }) - 1
}

// encodeIndexBlock writes at most indexBlockCap entries to one block.
func encodeIndexBlock(block []byte, kind byte, entries []indexEntry) {
	clear(block)
	be := binary.BigEndian
	be.PutUint16(block[4:], indexMagic)
	block[6], block[7] = indexVersion, kind
	be.PutUint16(block[8:], uint16(len(entries))) //nolint:gosec // at most 255
	for i, e := range entries {
		be.PutUint64(block[indexHeaderSize+i*indexEntrySize:], uint64(e.key))     //nolint:gosec // same bits
		be.PutUint64(block[indexHeaderSize+i*indexEntrySize+8:], uint64(e.value)) //nolint:gosec // same bits
	}
	be.PutUint32(block, crc32.Checksum(block[4:indexBlockSize], castagnoli))
}

// decodeIndexBlock checks one block and appends its entries to into.
func decodeIndexBlock(block []byte, kind byte, into []indexEntry) ([]indexEntry, error) {
	be := binary.BigEndian
	if len(block) != indexBlockSize || be.Uint32(block) != crc32.Checksum(block[4:], castagnoli) {
		return into, fmt.Errorf("%w: block checksum", errIndexDoubt)
	}
	n := int(be.Uint16(block[8:]))
	if be.Uint16(block[4:]) != indexMagic || block[6] != indexVersion || block[7] != kind || n == 0 || n > indexBlockCap {
		return into, fmt.Errorf("%w: block header", errIndexDoubt)
	}
	for i := range n {
		e := indexEntry{
			key:   int64(be.Uint64(block[indexHeaderSize+i*indexEntrySize:])),   //nolint:gosec // same bits
			value: int64(be.Uint64(block[indexHeaderSize+i*indexEntrySize+8:])), //nolint:gosec // same bits
		}
		if len(into) > 0 && (e.key <= into[len(into)-1].key || e.value < into[len(into)-1].value) {
			return into, fmt.Errorf("%w: entries do not rise", errIndexDoubt)
		}
		into = append(into, e)
	}
	return into, nil
}

// decodeIndex reads a whole index file. On a doubt it returns the entries before it with errIndexDoubt.
func decodeIndex(data []byte, kind byte) ([]indexEntry, error) {
	var entries []indexEntry
	var err error
	for len(data) >= indexBlockSize {
		if entries, err = decodeIndexBlock(data[:indexBlockSize], kind, entries); err != nil {
			return entries, err
		}
		data = data[indexBlockSize:]
	}
	if len(data) != 0 {
		return entries, fmt.Errorf("%w: %d bytes behind the last block", errIndexDoubt, len(data))
	}
	return entries, nil
}

// encodeIndex is the inverse of decodeIndex.
func encodeIndex(entries []indexEntry, kind byte) []byte {
	blocks := (len(entries) + indexBlockCap - 1) / indexBlockCap
	data := make([]byte, blocks*indexBlockSize)
	for i := range blocks {
		encodeIndexBlock(data[i*indexBlockSize:(i+1)*indexBlockSize], kind,
			entries[i*indexBlockCap:min((i+1)*indexBlockCap, len(entries))])
	}
	return data
}

// lookupIndexFile finds the last entry with a key <= key by pread: a binary search over the first entries of the
// blocks, then one whole block. found is false where the key lies before the first entry or the file is not there.
func lookupIndexFile(fsy fsys.FS, name string, kind byte, key int64) (e indexEntry, found bool, err error) {
	f, err := fsy.OpenRead(name)
	if fsys.IsNotExist(err) {
		return e, false, nil
	}
	if err != nil {
		return e, false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return e, false, err
	}
	var scratch [indexBlockSize]byte
	var readErr error
	blocks := int(size / indexBlockSize)
	at := sort.Search(blocks, func(i int) bool {
		first := scratch[:8]
		n, err := readFull(f, first, int64(i)*indexBlockSize+indexHeaderSize)
		if err != nil || n < len(first) {
			readErr = errors.Join(readErr, err, errIndexDoubt)
			return true
		}
		return int64(binary.BigEndian.Uint64(first)) > key //nolint:gosec // same bits
	}) - 1
	if readErr != nil || at < 0 {
		return e, false, readErr
	}
	n, err := readFull(f, scratch[:], int64(at)*indexBlockSize)
	if err != nil || n < indexBlockSize {
		return e, false, errors.Join(err, errIndexDoubt)
	}
	var room [indexBlockCap]indexEntry
	entries, err := decodeIndexBlock(scratch[:], kind, room[:0])
	if err != nil {
		return e, false, err
	}
	i := floorEntry(entries, key)
	if i < 0 {
		return e, false, fmt.Errorf("%w: a block begins above its first key", errIndexDoubt)
	}
	return entries[i], true, nil
}

// indexWriter collects the entries of an active segment. Full blocks go to the file; what failed to be written stays
// in memory. Readers may hold slices of pending: entries are only ever added behind them.
type indexWriter struct {
	name    string
	kind    byte
	pending []indexEntry
	stuck   bool // a block could not be written: keep everything in memory until seal
}

// add appends an entry and writes a block when one is full.
func (w *indexWriter) add(fsy fsys.FS, key, value int64) {
	w.pending = append(w.pending, indexEntry{key: key, value: value})
	if len(w.pending) >= indexBlockCap && !w.stuck {
		w.flush(fsy)
	}
}

// flush writes all that is pending. The file is a hint, so a failure only keeps the entries in memory.
func (w *indexWriter) flush(fsy fsys.FS) {
	if len(w.pending) == 0 {
		return
	}
	if err := appendHint(fsy, w.name, encodeIndex(w.pending, w.kind)); err != nil {
		w.stuck = true
		return
	}
	w.pending = nil // never reused: readers may still look at it
}

// restore takes over the entries of a file (or of a rebuild): whole blocks go to a fresh file, the rest stays pending.
func (w *indexWriter) restore(fsy fsys.FS, entries []indexEntry) error {
	w.pending, w.stuck = nil, false
	whole := len(entries) / indexBlockCap * indexBlockCap
	if err := removeIfExists(fsy, w.name); err != nil {
		return err
	}
	if whole > 0 {
		if err := writeHint(fsy, w.name, encodeIndex(entries[:whole], w.kind)); err != nil {
			whole, w.stuck = 0, true // kept in memory instead: a full disk is no reason not to start
		}
	}
	w.pending = append(w.pending, entries[whole:]...)
	return nil
}

// segmentIndex is what a writer keeps to index one segment: both indexes and the largest timestamp.
type segmentIndex struct {
	offsets, times indexWriter
	since          int64 // bytes since the last offset index entry
	lastTimeKey    int64 // key of the newest time index entry
	maxTs          int64
	maxTsOffset    int64 // base offset of the batch that has maxTs
	partial        bool  // batches at the segment's start were not noted here
	digest         batchDigest
}

func newSegmentIndex(s *segment) segmentIndex {
	return segmentIndex{
		offsets:     indexWriter{name: s.indexName(), kind: indexKindOffset},
		times:       indexWriter{name: s.timeIndexName(), kind: indexKindTime},
		lastTimeKey: noTimestamp,
		maxTs:       noTimestamp,
	}
}

// note takes the batch at position at into the indexes: an entry for the first batch that begins more than interval
// bytes behind the last one.
func (x *segmentIndex) note(fsy fsys.FS, h record.Header, at int64, interval int) {
	if x.since > int64(interval) {
		x.offsets.add(fsy, h.BaseOffset, at)
		x.since = 0
		x.noteTime(fsy)
	}
	if h.MaxTimestamp > x.maxTs {
		x.maxTs, x.maxTsOffset = h.MaxTimestamp, h.BaseOffset
	}
	x.since += int64(h.Size())
	x.digest.add(h)
}

func (x *segmentIndex) noteTime(fsy fsys.FS) {
	if x.maxTs > x.lastTimeKey {
		x.times.add(fsy, x.maxTs, x.maxTsOffset)
		x.lastTimeKey = x.maxTs
	}
}

// finish writes what is still in memory; note may go on afterwards.
func (x *segmentIndex) finish(fsy fsys.FS) {
	x.noteTime(fsy)
	x.offsets.flush(fsy)
	x.times.flush(fsy)
}

// removeFiles removes both index files.
func (x *segmentIndex) removeFiles(fsy fsys.FS) error {
	return errors.Join(removeIfExists(fsy, x.offsets.name), removeIfExists(fsy, x.times.name))
}

// walk notes all batches of the segment's file from its start up to end.
func (x *segmentIndex) walk(fsy fsys.FS, f fsys.File, end int64, interval int) error {
	w := newWalker(f, 0, end, false)
	for {
		at := w.pos
		h, ok, err := w.next()
		if err != nil || !ok {
			return err
		}
		x.note(fsy, h, at, interval)
	}
}

// appendHint appends to a hint file, making it when it is not there.
func appendHint(fsy fsys.FS, name string, data []byte) error {
	f, err := fsy.Open(name)
	if fsys.IsNotExist(err) {
		f, err = fsy.Create(name)
	}
	if err != nil {
		return err
	}
	_, err = f.Append(data)
	return errors.Join(err, f.Close())
}
