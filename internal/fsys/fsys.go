package fsys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Errors that implementations wrap. Test for them with errors.Is; a missing file is fs.ErrNotExist, an existing one
// fs.ErrExist, as in package os.
var (
	// ErrNoSpace says that the device, or the quota of the data directory, is full. The operation may have taken effect
	// in part; the caller decides by the byte count returned with it.
	ErrNoSpace = errors.New("no space left on device")
	// ErrLocked says that another process (or another holder in this one) has the lock file locked.
	ErrLocked = errors.New("locked by another process")
	// ErrSyncFailed says that data or a directory may not have reached the disk. What was written since the last good
	// sync is in an unknown state for ever: a later sync that succeeds proves nothing about it.
	ErrSyncFailed = errors.New("sync failed")
	// ErrCrashed is returned by every operation of a process that a simulated crash has ended: on its handles, its locks
	// and its file system.
	ErrCrashed = errors.New("file system crashed")
)

// FileInfo describes a directory entry.
type FileInfo struct {
	// Name is the last element of the path.
	Name string
	// Size is the size in bytes, preallocated space included; 0 for directories.
	Size int64
	// Dir says that the entry is a directory.
	Dir bool
}

// FS is the file system seen by everything that keeps data. Paths are slash-separated and are used as given (the real
// implementation resolves relative ones against the working directory). Creating, renaming and removing are durable
// only after SyncDir of the parent directory; file contents only after File.SyncData. Implementations are safe for
// concurrent use.
type FS interface {
	// Create opens a new empty file for reading and appending; it fails with fs.ErrExist where name exists.
	Create(name string) (File, error)
	// Open opens an existing file for reading and appending; its append position is the file's size.
	Open(name string) (File, error)
	// OpenRead opens an existing file for reading only; writing through it fails with fs.ErrPermission.
	OpenRead(name string) (File, error)
	// MkdirAll makes a directory and its missing parents. It makes nothing durable.
	MkdirAll(dir string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// RemoveAll removes a tree; a missing one is no error.
	RemoveAll(name string) error
	// Rename replaces newName by oldName atomically.
	Rename(oldName, newName string) error
	// SyncDir makes the entries of a directory durable. A failure wraps ErrSyncFailed.
	SyncDir(dir string) error
	// SyncFS makes everything written to the file system that holds dir durable, files of other directories and all
	// directory entries included; where the system has no call for it, everything below dir. A failure wraps
	// ErrSyncFailed.
	SyncFS(dir string) error
	// List returns the entries of a directory sorted by name.
	List(dir string) ([]FileInfo, error)
	// Stat describes one file or directory.
	Stat(name string) (FileInfo, error)
	// Lock takes an exclusive lock on name, making the file when needed; ErrLocked where somebody else holds it. The
	// lock goes with Close and with the end of the process.
	Lock(name string) (io.Closer, error)
	// FreeBytes returns how many bytes an unprivileged process can still write below dir.
	FreeBytes(dir string) (int64, error)
}

// File is an append-only file with random reads, and with overwriting for the few that know what they replace. Append,
// Overwrite, Truncate, Preallocate and Close are for one goroutine at a time; ReadAt and SyncData may run beside them.
// ReadAt sees every byte whose Append or Overwrite returned before it was called.
type File interface {
	io.ReaderAt
	io.Closer
	// Name returns the path the file was opened with.
	Name() string
	// Append writes the buffers in order at the append position, as one vector, and moves the position by the n bytes
	// that were written. n is smaller than the sum of the buffers only together with an error. The buffers are neither
	// changed nor kept; the slice of slices is not changed either.
	Append(bufs ...[]byte) (n int, err error)
	// Overwrite writes the buffers in order at an offset, as one vector, over bytes that were appended: all of them must
	// lie below the append position (fs.ErrInvalid), which does not move. n is smaller than the sum of the buffers only
	// together with an error. The buffers are neither changed nor kept. It is durable only after SyncData; until then a
	// power loss leaves the old or the new contents, each page on its own.
	Overwrite(offset int64, bufs ...[]byte) (n int, err error)
	// Position returns the append position: the end of what was appended, at most Size.
	Position() int64
	// Truncate cuts the file to size bytes and moves the append position down to it; growing a file is an
	// error (fs.ErrInvalid). Like what is appended it is durable only after SyncData.
	Truncate(size int64) error
	// Preallocate makes sure that the file has space for size bytes and that its size is at least that; bytes past the
	// append position read as zeros. It never moves the position. A file system without the means does nothing.
	Preallocate(size int64) error
	// SyncData makes the file's bytes (and the size needed to read them) durable. A failure wraps ErrSyncFailed; the
	// error of a closed or crashed handle does not, for it says nothing about the disk.
	SyncData() error
	// Size returns the file's size in bytes, preallocated space included.
	Size() (int64, error)
	// ReadAhead says whether the system may read more than is asked for, where it takes reads through this handle for
	// sequential ones, as it does at first. It is a hint: without the means, or on a closed handle, nothing changes.
	ReadAhead(on bool)
}

// checkOverwrite says why buffers may not be written at an offset of a file whose append position is end.
func checkOverwrite(offset int64, bufs [][]byte, end int64) error {
	total := int64(0)
	for _, b := range bufs {
		total += int64(len(b))
	}
	if offset < 0 || offset > end || total > end-offset {
		return fmt.Errorf("%w: %d bytes at %d, %d were appended", fs.ErrInvalid, total, offset, end)
	}
	return nil
}

// IsNotExist reports whether err says that a file does not exist.
func IsNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
