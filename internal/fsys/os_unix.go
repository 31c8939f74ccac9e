//go:build linux || darwin

package fsys

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// iovMax is the most buffers that one vector write takes (IOV_MAX).
const iovMax = 1024

// isNoSpace says whether a system error means a full device or quota.
func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// pwritev is one vector write at an offset; it can be short.
type pwritev func(fd int, bufs [][]byte, offset int64) (int, error)

// vectorAppend writes vectors without an allocation of its own: the descriptor is borrowed through a function made once.
type vectorAppend struct {
	run     func(fd uintptr)
	bufs    [][]byte
	scratch [][]byte
	offset  int64
	n       int
	err     error
}

// init binds the function that borrows the descriptor.
func (v *vectorAppend) init(*os.File) {
	v.run = func(fd uintptr) {
		v.n, v.scratch, v.err = writeVector(unix.Pwritev, int(fd), v.bufs, v.offset, v.scratch)
	}
}

// write writes all buffers at an offset and returns how many bytes were written.
func (v *vectorAppend) write(conn syscall.RawConn, bufs [][]byte, offset int64) (int, error) {
	v.bufs, v.offset, v.n, v.err = bufs, offset, 0, nil
	err := conn.Control(v.run)
	v.bufs = nil
	if err != nil {
		return 0, fs.ErrClosed // the only reason not to lend the descriptor
	}
	return v.n, v.err
}

// writeVector calls pw until all buffers are written or it fails. It returns the bytes written and the scratch vector,
// emptied, for the next call.
func writeVector(pw pwritev, fd int, bufs [][]byte, offset int64, scratch [][]byte) (int, [][]byte, error) {
	total, skip := 0, 0 // skip counts the written bytes of bufs[0]
	for {
		for len(bufs) > 0 && skip >= len(bufs[0]) {
			skip -= len(bufs[0])
			bufs = bufs[1:]
		}
		if len(bufs) == 0 {
			return total, scratch, nil
		}
		batch := bufs[:min(len(bufs), iovMax)]
		if skip > 0 {
			scratch = append(scratch[:0], batch...)
			scratch[0] = scratch[0][skip:]
			batch = scratch
		}
		n, err := pw(fd, batch, offset+int64(total))
		clear(scratch)
		scratch = scratch[:0]
		n = max(n, 0)
		total += n
		skip += n
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return total, scratch, err
		case n == 0:
			return total, scratch, io.ErrShortWrite
		}
	}
}

// control borrows the descriptor for one call, repeated while a signal interrupts it.
func control(conn syscall.RawConn, call func(fd int) error) error {
	var result error
	err := conn.Control(func(fd uintptr) {
		result = retryInterrupted(func() error { return call(int(fd)) })
	})
	if err != nil {
		return fs.ErrClosed // the only reason not to lend the descriptor
	}
	return result
}

// retryInterrupted repeats a call while a signal interrupts it.
func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	d, err := openDir(dir)
	if err != nil {
		return err
	}
	return join(d.Sync(), d.Close())
}

// openDir opens a directory and nothing else.
func openDir(dir string) (*os.File, error) {
	return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// lockHandle locks an open file, or says ErrLocked. The lock belongs to the open file: it goes with its last descriptor.
func lockHandle(file *os.File) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	err = control(conn, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// freeBytes returns the space left for unprivileged processes.
func freeBytes(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := retryInterrupted(func() error { return unix.Statfs(dir, &stat) }); err != nil {
		return 0, err
	}
	return int64(stat.Bavail) * blockSize(&stat), nil
}
