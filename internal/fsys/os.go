package fsys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
)

// Modes of what is created: data is for the broker's own user alone.
const (
	fileMode fs.FileMode = 0o600
	dirMode  fs.FileMode = 0o750
)

// osFS is the file system of the machine. It has no state of its own: the locks and the descriptors kept for SyncFS
// belong to the process.
type osFS struct{}

// OS returns the real file system. All values that it returns are the same file system and exclude each other's
// locks.
func OS() FS { return osFS{} }

// Create implements FS.
func (osFS) Create(name string) (File, error) {
	return openOS("create", name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Open implements FS.
func (osFS) Open(name string) (File, error) { return openOS("open", name, os.O_RDWR) }

// OpenRead implements FS.
func (osFS) OpenRead(name string) (File, error) { return openOS("open", name, os.O_RDONLY) }

// MkdirAll implements FS.
func (osFS) MkdirAll(dir string) error { return opError("mkdir", dir, os.MkdirAll(dir, dirMode)) }

// Remove implements FS.
func (osFS) Remove(name string) error { return opError("remove", name, os.Remove(name)) }

// RemoveAll implements FS.
func (osFS) RemoveAll(name string) error { return opError("remove", name, os.RemoveAll(name)) }

// Rename implements FS.
func (osFS) Rename(oldName, newName string) error {
	return opError("rename", oldName+" to "+newName, os.Rename(oldName, newName))
}

// SyncDir implements FS.
func (osFS) SyncDir(dir string) error { return syncError("sync directory", dir, syncDir(dir)) }

// SyncFS implements FS.
func (osFS) SyncFS(dir string) error { return syncError("sync file system of", dir, syncFS(dir)) }

// List implements FS.
func (osFS) List(dir string) ([]FileInfo, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, opError("list", dir, err)
	}
	infos := make([]FileInfo, 0, len(found))
	for _, d := range found {
		info, err := os.Stat(filepath.Join(dir, d.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the directory was read
		}
		if err != nil {
			return nil, opError("list", dir, err)
		}
		infos = append(infos, fileInfo(info))
	}
	return infos, nil
}

// Stat implements FS.
func (osFS) Stat(name string) (FileInfo, error) {
	info, err := os.Stat(name)
	if err != nil {
		return FileInfo{}, opError("stat", name, err)
	}
	return fileInfo(info), nil
}

// FreeBytes implements FS.
func (osFS) FreeBytes(dir string) (int64, error) {
	n, err := freeBytes(dir)
	return n, opError("free space of", dir, err)
}

// fileInfo translates what package os says.
func fileInfo(info fs.FileInfo) FileInfo {
	if info.IsDir() {
		return FileInfo{Name: info.Name(), Dir: true}
	}
	return FileInfo{Name: info.Name(), Size: info.Size()}
}

// heldLocks are the lock files that this process holds, by absolute path. The system's own lock excludes other
// processes everywhere, but other holders of this one only where it belongs to the open file; network file systems
// tie it to the process. The files are kept here so that a lock whose closer was dropped is held all the same.
var heldLocks struct {
	sync.Mutex
	files map[string]*os.File
}

// osLock is a lock that is held.
type osLock struct {
	name   string
	key    string
	file   *os.File
	closed atomic.Bool
}

// Lock implements FS. The lock file stays behind when the lock is released: removing it would let two holders lock two
// files of one name.
func (osFS) Lock(name string) (io.Closer, error) {
	key, err := filepath.Abs(name)
	if err != nil {
		return nil, opError("lock", name, err)
	}
	heldLocks.Lock()
	defer heldLocks.Unlock()
	if heldLocks.files[key] != nil {
		return nil, opError("lock", name, fmt.Errorf("%w (this process holds it)", ErrLocked))
	}
	file, err := lockFile(name)
	if err != nil {
		return nil, opError("lock", name, err)
	}
	if heldLocks.files == nil {
		heldLocks.files = make(map[string]*os.File)
	}
	heldLocks.files[key] = file
	return &osLock{name: name, key: key, file: file}, nil
}

// Close releases the lock.
func (l *osLock) Close() error {
	if l.closed.Swap(true) {
		return opError("unlock", l.name, fs.ErrClosed)
	}
	heldLocks.Lock()
	defer heldLocks.Unlock()
	delete(heldLocks.files, l.key)
	return opError("unlock", l.name, l.file.Close())
}

// lockFile opens and locks a file until the name it locked is the file that bears the name.
func lockFile(name string) (*os.File, error) {
	for {
		file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, fileMode)
		if err != nil {
			return nil, err
		}
		if err := lockHandle(file); err != nil {
			return nil, join(err, file.Close())
		}
		same, err := bearsName(file, name)
		if err != nil {
			return nil, join(err, file.Close())
		}
		if same {
			return file, nil
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
	}
}

// bearsName says whether name still leads to the open file.
func bearsName(file *os.File, name string) (bool, error) {
	mine, err := file.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, named), nil
}

// osFile is a file of the machine.
type osFile struct {
	name     string
	file     *os.File
	conn     syscall.RawConn
	readOnly bool
	position atomic.Int64
	vector   vectorAppend // used by one Append at a time
}

// openOS opens a file and puts the append position at its end.
func openOS(op, name string, flags int) (File, error) {
	file, err := os.OpenFile(name, flags, fileMode)
	if err != nil {
		return nil, opError(op, name, err)
	}
	f, err := newOSFile(name, file, flags&os.O_RDWR == 0)
	if err != nil {
		return nil, opError(op, name, join(err, file.Close()))
	}
	return f, nil
}

// newOSFile wraps an open file; a directory is refused.
func newOSFile(name string, file *os.File, readOnly bool) (*osFile, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, syscall.EISDIR
	}
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	f := &osFile{name: name, file: file, conn: conn, readOnly: readOnly}
	f.position.Store(info.Size())
	f.vector.init(file)
	return f, nil
}

// Name implements File.
func (f *osFile) Name() string { return f.name }

// Position implements File.
func (f *osFile) Position() int64 { return f.position.Load() }

// ReadAt implements File.
func (f *osFile) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.file.ReadAt(p, offset)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, opError("read", f.name, err)
}

// Append implements File.
func (f *osFile) Append(bufs ...[]byte) (int, error) {
	if f.readOnly {
		return 0, opError("append", f.name, fs.ErrPermission)
	}
	at := f.position.Load()
	n, err := f.vector.write(f.conn, bufs, at)
	f.position.Store(at + int64(n))
	return n, opError("append", f.name, err)
}

// Overwrite implements File.
func (f *osFile) Overwrite(offset int64, bufs ...[]byte) (int, error) {
	if f.readOnly {
		return 0, opError("overwrite", f.name, fs.ErrPermission)
	}
	if err := checkOverwrite(offset, bufs, f.position.Load()); err != nil {
		return 0, opError("overwrite", f.name, err)
	}
	n, err := f.vector.write(f.conn, bufs, offset)
	return n, opError("overwrite", f.name, err)
}

// Truncate implements File.
func (f *osFile) Truncate(size int64) error {
	if f.readOnly {
		return opError("truncate", f.name, fs.ErrPermission)
	}
	now, err := f.Size()
	if err != nil {
		return err
	}
	if size < 0 || size > now {
		return opError("truncate", f.name, fmt.Errorf("%w: %d bytes asked of a file of %d", fs.ErrInvalid, size, now))
	}
	if err := f.file.Truncate(size); err != nil {
		return opError("truncate", f.name, err)
	}
	f.position.Store(min(f.position.Load(), size))
	return nil
}

// Preallocate implements File.
func (f *osFile) Preallocate(size int64) error {
	if f.readOnly {
		return opError("preallocate", f.name, fs.ErrPermission)
	}
	now, err := f.Size()
	if err != nil || size <= now {
		return err
	}
	return opError("preallocate", f.name, preallocate(f.file, f.conn, now, size))
}

// SyncData implements File.
func (f *osFile) SyncData() error { return syncError("sync", f.name, syncData(f.file, f.conn)) }

// Size implements File.
func (f *osFile) Size() (int64, error) {
	info, err := f.file.Stat()
	if err != nil {
		return 0, opError("stat", f.name, err)
	}
	return info.Size(), nil
}

// ReadAhead implements File.
func (f *osFile) ReadAhead(on bool) { readAhead(f.conn, on) }

// Close implements File.
func (f *osFile) Close() error { return opError("close", f.name, f.file.Close()) }
