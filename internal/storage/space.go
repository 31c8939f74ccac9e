package storage

import (
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/internal/fsys"
)

const (
	reserveName = ".reserve"
	// DefaultReserveBytes is what a broker keeps back for its own bookkeeping: journal, meta.properties, snapshots.
	DefaultReserveBytes = 4 << 20
	// DefaultMinFreeBytes is where a broker stops taking appends: what is left is for everything else on the disk.
	DefaultMinFreeBytes = 64 << 20
	// spaceStep bounds how much is appended between two looks at the free space.
	spaceStep = 16 << 20
)

// SpaceError refuses an append before the disk is full. It unwraps to fsys.ErrNoSpace. Reading and trimming go on.
type SpaceError struct {
	// FreeBytes is what is left on the file system, MinFreeBytes what must stay free.
	FreeBytes, MinFreeBytes int64
	// Dir is the data directory.
	Dir string
}

// Error says how much is left and what to do.
func (e *SpaceError) Error() string {
	return fmt.Sprintf("%v: %d bytes are free in %s, %d must stay free; delete or trim topics, or make the disk larger",
		fsys.ErrNoSpace, e.FreeBytes, e.Dir, e.MinFreeBytes)
}

// Unwrap returns fsys.ErrNoSpace.
func (e *SpaceError) Unwrap() error { return fsys.ErrNoSpace }

// space guards the free space of a data directory. Appends are refused below minFree; a reserve file, given up when even
// that is used up, keeps the journal and trims going.
type space struct {
	fs      fsys.FS
	dir     string
	reserve int64 // size of the reserve file; 0 keeps none
	minFree int64 // 0 does not look

	budget atomic.Int64 // bytes that may be appended before the next look
	free   atomic.Int64 // at the last look
	full   atomic.Bool  // an append was refused, and there is not yet clearly more room

	mu   sync.Mutex
	held atomic.Bool // the reserve file is there, whole; changed with mu
}

// take asks for size bytes of an append. It looks at the disk only when the budget of the last look is used up.
func (s *space) take(size int64) error {
	if s.minFree <= 0 || s.budget.Add(-size) >= 0 {
		return nil
	}
	free, err := s.fs.FreeBytes(s.dir)
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	s.free.Store(free)
	room := free - s.minFree - size
	if room < 0 {
		s.full.Store(true)
		return fmt.Errorf("append %d bytes: %w", size, &SpaceError{FreeBytes: free, MinFreeBytes: s.minFree, Dir: s.dir})
	}
	s.budget.Store(min(room/4, spaceStep))
	return nil
}

// noteRefused takes note of an append that the disk itself had no room for.
func (s *space) noteRefused(err error) {
	if errors.Is(err, fsys.ErrNoSpace) {
		s.full.Store(true)
	}
}

// fullMargin is the part of minFree that must be free beyond it before a disk that was full counts as one with room: what
// moves away from a full disk shall not come back for a few bytes.
const fullMargin = 8

// isFull says whether appends were refused for lack of space and would soon be again. It looks at the disk only then.
func (s *space) isFull() bool {
	if !s.full.Load() {
		return false
	}
	free, err := s.fs.FreeBytes(s.dir)
	if err != nil || free <= s.minFree+s.minFree/fullMargin {
		return true
	}
	s.full.Store(false)
	return false
}

// mayPreallocate says whether size bytes ahead of the need are a small part of what is free.
func (s *space) mayPreallocate(size int64) bool {
	return s.minFree <= 0 || size <= (s.free.Load()-s.minFree)/8
}

// within runs a step of the directory's own bookkeeping; where the disk is full it gives the reserve up and runs it once more.
func (s *space) within(step func() error) error {
	err := step()
	if err == nil || !errors.Is(err, fsys.ErrNoSpace) || errors.Is(err, fsys.ErrSyncFailed) || !s.giveUp() {
		return err
	}
	return step()
}

// giveUp removes the reserve file and says whether there was one.
func (s *space) giveUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held.Load() {
		return false
	}
	s.held.Store(false)
	return s.fs.Remove(path.Join(s.dir, reserveName)) == nil
}

// keep makes the reserve file where it is missing and there is room. Without room there is none, and that is no error.
func (s *space) keep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.Load() || s.reserve <= 0 {
		return nil
	}
	free, err := s.fs.FreeBytes(s.dir)
	if err != nil || free < s.minFree/2+2*s.reserve {
		return err
	}
	name := path.Join(s.dir, reserveName)
	if err := removeIfExists(s.fs, name); err != nil {
		return err
	}
	f, err := s.fs.Create(name)
	if err != nil {
		return ignoreFull(err)
	}
	err = f.Preallocate(s.reserve)
	if size, sizeErr := f.Size(); err == nil && sizeErr == nil && size < s.reserve { // no means to preallocate
		_, err = f.Append(make([]byte, s.reserve))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return ignoreFull(errors.Join(err, s.fs.Remove(name)))
	}
	s.held.Store(true)
	return nil
}

// find takes over the reserve file of the process before.
func (s *space) find() {
	info, err := s.fs.Stat(path.Join(s.dir, reserveName))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held.Store(err == nil && !info.Dir && info.Size > 0)
}

func ignoreFull(err error) error {
	if errors.Is(err, fsys.ErrNoSpace) {
		return nil
	}
	return err
}
