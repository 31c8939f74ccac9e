package fsys

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// syncData makes a file durable. File.Sync is F_FULLFSYNC here; fsync alone leaves the data in the drive's cache.
func syncData(file *os.File, _ syscall.RawConn) error { return file.Sync() }

// preallocate extends a file from now to size bytes of allocated zeros. A file system that cannot is left alone.
func preallocate(file *os.File, conn syscall.RawConn, now, size int64) error {
	err := control(conn, func(fd int) error {
		store := unix.Fstore_t{Flags: unix.F_ALLOCATEALL, Posmode: unix.F_PEOFPOSMODE, Length: size - now}
		return unix.FcntlFstore(uintptr(fd), unix.F_PREALLOCATE, &store)
	})
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	return file.Truncate(size)
}

// readAhead switches the read-ahead of an open file.
func readAhead(conn syscall.RawConn, on bool) {
	arg := 0
	if on {
		arg = 1
	}
	_ = control(conn, func(fd int) error { //nolint:errcheck // a hint
		_, err := unix.FcntlInt(uintptr(fd), unix.F_RDAHEAD, arg)
		return err
	})
}

// syncFS has no system call that waits: it syncs the tree below dir file by file.
func syncFS(dir string) error { return syncTree(dir) }

// blockSize is the unit of the block counts.
func blockSize(stat *unix.Statfs_t) int64 { return int64(stat.Bsize) }
