package chaos

import (
	"os"
	"syscall"
)

// childAttributes put a child into a group of its own, and end it when the test process dies, however that happens: broker
// dev is then asked to stop its nodes.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// narrow makes a pipe hold as little as possible, so that what was written to it has been read but for a page.
func narrow(pipe *os.File) error {
	const setPipeSize = 1031 // F_SETPIPE_SZ
	raw, err := pipe.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) { _, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, 4096) }); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}
