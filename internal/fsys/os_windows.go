package fsys

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// isNoSpace says whether a system error means a full device or quota.
func isNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// vectorAppend writes a vector buffer by buffer: there is no vector write for files in the page cache here.
type vectorAppend struct{ file *os.File }

// init keeps the file.
func (v *vectorAppend) init(file *os.File) { v.file = file }

// write writes all buffers at an offset and returns how many bytes were written.
func (v *vectorAppend) write(_ syscall.RawConn, bufs [][]byte, offset int64) (int, error) {
	total := 0
	for _, b := range bufs {
		n, err := v.file.WriteAt(b, offset+int64(total))
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// syncData makes a file durable, metadata included.
func syncData(file *os.File, _ syscall.RawConn) error { return file.Sync() }

// preallocate does nothing: extending the valid length of a file writes the zeros.
func preallocate(*os.File, syscall.RawConn, int64, int64) error { return nil }

// syncDir checks that the directory is there. Directories cannot be flushed here without special rights; NTFS keeps
// its entries in a journal, in order.
func syncDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return syscall.ENOTDIR
	}
	return nil
}

// readAhead does nothing: the system takes such a hint only where a file is opened.
func readAhead(syscall.RawConn, bool) {}

// syncFS syncs the tree below dir file by file: flushing a volume needs special rights.
func syncFS(dir string) error { return syncTree(dir) }

// lockHandle locks an open file, or says ErrLocked.
func lockHandle(file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = conn.Control(func(handle uintptr) {
		const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
		result = windows.LockFileEx(windows.Handle(handle), flags, 0, 1, 0, new(windows.Overlapped))
	})
	if errors.Is(result, windows.ERROR_LOCK_VIOLATION) || errors.Is(result, windows.ERROR_IO_PENDING) {
		return ErrLocked
	}
	return join(err, result)
}

// freeBytes returns the space left for this user.
func freeBytes(dir string) (int64, error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(name, &free, nil, nil); err != nil {
		return 0, err
	}
	return int64(free), nil
}
