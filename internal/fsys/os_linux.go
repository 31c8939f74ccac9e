package fsys

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// syncData makes the bytes of a file durable, with the metadata needed to read them.
func syncData(_ *os.File, conn syscall.RawConn) error { return control(conn, unix.Fdatasync) }

// preallocate extends a file from now to size bytes of allocated zeros. A file system that cannot is left alone.
func preallocate(_ *os.File, conn syscall.RawConn, now, size int64) error {
	err := control(conn, func(fd int) error { return unix.Fallocate(fd, 0, now, size-now) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// readAhead switches the read-ahead of an open file.
func readAhead(conn syscall.RawConn, on bool) {
	advice := unix.FADV_RANDOM
	if on {
		advice = unix.FADV_NORMAL
	}
	_ = control(conn, func(fd int) error { return unix.Fadvise(fd, 0, 0, advice) }) //nolint:errcheck // a hint
}

// syncHandles keeps one open directory a file system for SyncFS, by device. The kernel reports an error of background
// write-back once to every open file; a handle opened anew after another process was told would hear nothing of it.
var syncHandles struct {
	sync.Mutex
	byDevice map[uint64]*os.File
}

// syncFS writes out the whole file system that holds dir.
func syncFS(dir string) error {
	handle, err := syncHandle(dir)
	if err != nil {
		return err
	}
	conn, err := handle.SyscallConn()
	if err != nil {
		return err
	}
	return control(conn, unix.Syncfs)
}

// syncHandle returns the kept directory of the file system that holds dir.
func syncHandle(dir string) (*os.File, error) {
	opened, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	info, err := opened.Stat()
	if err != nil {
		return nil, join(err, opened.Close())
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, join(errors.New("no device number in its description"), opened.Close())
	}
	syncHandles.Lock()
	defer syncHandles.Unlock()
	if kept := syncHandles.byDevice[stat.Dev]; kept != nil {
		return kept, opened.Close()
	}
	if syncHandles.byDevice == nil {
		syncHandles.byDevice = make(map[uint64]*os.File)
	}
	syncHandles.byDevice[stat.Dev] = opened
	return opened, nil
}

// blockSize is the unit of the block counts.
func blockSize(stat *unix.Statfs_t) int64 {
	if stat.Frsize > 0 {
		return stat.Frsize
	}
	return stat.Bsize
}
