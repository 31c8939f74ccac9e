package storage

import (
	"errors"
	"sync"
	"sync/atomic"
)

// DefaultMaxOpenFiles is how many files of segments a directory keeps open where DirOptions say nothing.
const DefaultMaxOpenFiles = 4096

// descriptors bounds how many segment files are kept open: sealed ones that were read, and active ones whose every byte is
// synced. Those with unsynced bytes stay open whatever the bound, for an error of write-back is told to open files alone.
// The one that was not used for a whole round of the clock goes first.
type descriptors struct {
	limit int

	mu    sync.Mutex
	clock []*openFile
	hand  int
	open  atomic.Int64 // entries of the clock, for those that do not wait for mu
}

// openFile is one file in the clock.
type openFile struct {
	segment *segment
	log     *Log // of an active segment; nil for a sealed one
}

// keep enters a segment whose file was just opened, and closes others beyond the bound. The caller may hold the mu of its own
// log, and no lock of another.
func (d *descriptors) keep(s *segment, l *Log) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.used.Store(true)
	d.clock = append(d.clock, &openFile{segment: s, log: l})
	defer func() { d.open.Store(int64(len(d.clock))) }()
	for tries := 2 * len(d.clock); len(d.clock) > d.limit && tries > 0; tries-- {
		d.hand %= len(d.clock)
		if f := d.clock[d.hand]; f.segment == s || !f.goes() {
			d.hand++
			continue
		}
		last := len(d.clock) - 1
		d.clock[d.hand], d.clock[last] = d.clock[last], nil
		d.clock = d.clock[:last]
	}
}

// goes closes the file where it was not used since the hand came by last, and says whether the entry is done with.
func (f *openFile) goes() bool {
	file := f.segment.file.Load()
	switch {
	case file == nil:
		return true // closed meanwhile
	case f.log == nil && !file.readOnly:
		return true // active since, with an entry of its own
	case f.log != nil && f.log.view.Load().last() != f.segment:
		return true // sealed since: it is closed once it is synced
	case f.segment.used.Swap(false):
		return false
	case f.log != nil:
		return f.log.closeIdle(f.segment)
	default:
		if f.segment.file.CompareAndSwap(file, nil) {
			_ = file.release() //nolint:errcheck // it was read only
		}
		return true
	}
}

func (v *view) last() *segment { return v.segs[len(v.segs)-1] }

// closeIdle closes the file of the active segment where all of it is synced and nobody is writing. It never waits.
func (l *Log) closeIdle(s *segment) bool {
	if !l.syncMu.TryLock() {
		return false
	}
	defer l.syncMu.Unlock()
	if !l.mu.TryLock() {
		return false
	}
	defer l.mu.Unlock()
	if l.closed || l.failed != nil || l.active() != s || l.filed.Load() != l.end || len(l.unsynced) > 0 {
		return false
	}
	if l.trimPreallocated() != nil {
		return false
	}
	return s.letGo() == nil
}

// writer returns the file of the active segment, opened where it was closed for being idle. The caller holds mu.
func (l *Log) writer() (*sharedFile, error) {
	s := l.active()
	if f := s.file.Load(); f != nil && !f.readOnly {
		if !s.used.Load() {
			s.used.Store(true)
		}
		return f, nil
	}
	f, err := l.fs.Open(s.logName())
	if err != nil {
		return nil, err
	}
	if f.Position() != l.pos {
		if err := f.Truncate(l.pos); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	l.preallocated = l.pos
	shared := shareFile(f)
	if reader := s.file.Swap(shared); reader != nil {
		_ = reader.release() //nolint:errcheck // it was read only
	}
	l.dir.files.keep(s, l)
	return shared, nil
}
