package storage

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

const (
	segmentSuffix = ".log"
	corruptSuffix = ".corrupt"
	// noTimestamp is the maximal timestamp of a segment without batches.
	noTimestamp int64 = math.MinInt64
	// unknownTimestamp marks a sealed segment whose maximal timestamp was not looked up yet.
	unknownTimestamp int64 = math.MaxInt64
)

// fileName returns "<offset, 20 digits><suffix>".
func fileName(offset int64, suffix string) string { return fmt.Sprintf("%020d%s", offset, suffix) }

// parseFileName is the inverse of fileName.
func parseFileName(name, suffix string) (int64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	offset, err := strconv.ParseInt(digits, 10, 64)
	return offset, err == nil && offset >= 0 && digits[0] != '+'
}

// sharedFile is an open file that closes when its owner and the last reader have let go of it.
type sharedFile struct {
	fsys.File
	refs     atomic.Int32
	readOnly bool
	bare     atomic.Bool // the system does not read ahead
}

// readAhead says whether the system may read ahead. Where two disagree at the same time, one of them has the last word.
func (s *sharedFile) readAhead(on bool) {
	if s.bare.Load() == on {
		s.bare.Store(!on)
		s.ReadAhead(on)
	}
}

func shareFile(f fsys.File) *sharedFile {
	s := &sharedFile{File: f}
	s.refs.Store(1)
	return s
}

// acquire takes a reference; false says that the file is closed already.
func (s *sharedFile) acquire() bool {
	for {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives a reference back; the last one closes the file.
func (s *sharedFile) release() error {
	if s.refs.Add(-1) == 0 {
		return s.Close()
	}
	return nil
}

// segment is one file of batches. base and path never change; next, size and maxTimestamp are those of a sealed
// segment and are set before it is published as such.
type segment struct {
	base int64
	path string // of the .log file, without the suffix
	as   string // the name that the file has meanwhile, where a verification sees one that has not taken its place yet
	// file is open while the segment is active or has unsynced bytes.
	file atomic.Pointer[sharedFile]

	next         int64
	size         int64
	maxTimestamp atomic.Int64

	files *descriptors // bounds the open files; nil keeps none
	used  atomic.Bool  // since the bound was looked at last

	// gone is set when a cleaned segment has taken the place of this one: its file is no more, or another's.
	gone atomic.Bool
	// entries are the indexes of a cleaned segment until their files are there.
	entries atomic.Pointer[segmentEntries]
}

func newSegment(dir string, base int64) *segment {
	s := &segment{base: base, path: dir + "/" + fileName(base, "")}
	s.maxTimestamp.Store(unknownTimestamp)
	return s
}

func (s *segment) logName() string {
	if s.as != "" {
		return s.as
	}
	return s.path + segmentSuffix
}

func (s *segment) indexName() string     { return s.path + offsetIndexSuffix }
func (s *segment) timeIndexName() string { return s.path + timeIndexSuffix }

// open returns the file for reading; the caller releases it. errRetry says that the segment was replaced: look at a new view.
func (s *segment) open(fsy fsys.FS) (*sharedFile, error) {
	if f := s.file.Load(); f != nil && f.acquire() {
		if !s.used.Load() {
			s.used.Store(true)
		}
		return f, nil
	}
	f, err := fsy.OpenRead(s.logName())
	if s.gone.Load() {
		if err == nil {
			err = f.Close()
		}
		return nil, errors.Join(errRetry, err)
	}
	if err != nil {
		return nil, err
	}
	shared := shareFile(f)
	shared.readOnly = true
	if s.files != nil {
		shared.refs.Store(2) // the reader's, and the one of the segment
		if s.file.CompareAndSwap(nil, shared) {
			s.files.keep(s, nil)
		} else {
			shared.refs.Store(1)
		}
	}
	return shared, nil
}

// letGo drops the owner's reference.
func (s *segment) letGo() error {
	if f := s.file.Swap(nil); f != nil {
		return f.release()
	}
	return nil
}

// remove deletes the segment's files; the log first, so that hints never outlive their segment's absence for long.
func (s *segment) remove(fsy fsys.FS) error {
	err := s.letGo()
	for _, name := range []string{s.logName(), s.indexName(), s.timeIndexName(), s.digestName()} {
		err = errors.Join(err, removeIfExists(fsy, name))
	}
	return err
}

const (
	headerChunk = 4 << 10
	crcChunk    = 256 << 10
)

// walker steps over the batches of a file from a position on, reading it in chunks.
type walker struct {
	file  fsys.File
	pos   int64 // of the next batch
	limit int64 // nothing is read from here on
	crc   bool  // check each batch whole

	buf   []byte
	bufAt int64 // file position of buf
	bufN  int   // valid bytes of buf
}

func newWalker(f fsys.File, pos, limit int64, crc bool) *walker {
	chunk := headerChunk
	if crc {
		chunk = crcChunk
	}
	return &walker{file: f, pos: pos, limit: limit, crc: crc, buf: make([]byte, min(int64(chunk), max(limit-pos, record.HeaderSize)))}
}

// newWalkerIn is a walker that checks batches whole and reads into buf where that is large enough.
func newWalkerIn(buf []byte, f fsys.File, pos, limit int64) *walker {
	if int64(cap(buf)) < min(crcChunk, limit-pos) {
		return newWalker(f, pos, limit, true)
	}
	return &walker{file: f, pos: pos, limit: limit, crc: true, buf: buf[:min(cap(buf), crcChunk)]}
}

// holdsNext says whether the next batch was read already, whole, or none is left. Of a length that is none it says so too.
func (w *walker) holdsNext() bool {
	off := w.pos - w.bufAt
	if w.pos >= w.limit {
		return true
	}
	if off < 0 || off+record.HeaderSize > int64(w.bufN) {
		return false
	}
	h, err := record.ParseHeader(w.buf[off:w.bufN])
	return err != nil || off+int64(h.Size()) <= int64(w.bufN)
}

// errBadBatch says that no whole valid batch begins at the walker's position.
var errBadBatch = errors.New("no valid batch")

// window returns n bytes at the walker's position, fewer only at the limit.
func (w *walker) window(n int) ([]byte, error) {
	if have := w.limit - w.pos; int64(n) > have {
		n = int(have)
	}
	if off := w.pos - w.bufAt; off >= 0 && off+int64(n) <= int64(w.bufN) {
		return w.buf[off:][:n], nil
	}
	if n > cap(w.buf) {
		w.buf = make([]byte, n)
	}
	w.buf = w.buf[:max(n, len(w.buf))]
	want := min(int64(len(w.buf)), w.limit-w.pos)
	got, err := readFull(w.file, w.buf[:want], w.pos)
	w.bufAt, w.bufN = w.pos, got
	if got >= n {
		err = nil // what cannot be read lies behind
	}
	return w.buf[:min(n, got)], err
}

// next returns the header of the batch at w.pos and steps over it. ok is false at the limit. An error that wraps
// errBadBatch leaves the position before the bad bytes.
func (w *walker) next() (h record.Header, ok bool, err error) {
	if w.pos >= w.limit {
		return h, false, nil
	}
	head, err := w.window(record.HeaderSize)
	if err != nil {
		return h, false, err
	}
	if h, err = record.ParseHeader(head); err != nil {
		return h, false, fmt.Errorf("%w at position %d: %w", errBadBatch, w.pos, err)
	}
	if int64(h.Size()) > w.limit-w.pos {
		return h, false, fmt.Errorf("%w at position %d: %d bytes of %d", errBadBatch, w.pos, w.limit-w.pos, h.Size())
	}
	if w.crc {
		whole, err := w.window(h.Size())
		if err != nil {
			return h, false, err
		}
		if len(whole) < h.Size() {
			return h, false, fmt.Errorf("%w at position %d: %d bytes of %d", errBadBatch, w.pos, len(whole), h.Size())
		}
		if err := record.CheckCRC(whole); err != nil {
			return h, false, fmt.Errorf("%w at position %d: %w", errBadBatch, w.pos, err)
		}
	}
	w.pos += int64(h.Size())
	return h, true, nil
}

// overlaps says whether the batch behind h, which the walker has just passed, begins at or above least and yet within h's
// offsets: then it is h that is not in its place, for it leaves offsets out. The bytes of h are not kept.
func (w *walker) overlaps(h record.Header, least int64) bool {
	head, err := w.window(record.HeaderSize)
	if err != nil || len(head) < record.HeaderSize {
		return false
	}
	behind, err := record.ParseHeader(head)
	return err == nil && behind.BaseOffset >= least && behind.BaseOffset < h.NextOffset()
}
