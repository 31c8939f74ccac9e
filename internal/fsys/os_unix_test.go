//go:build linux || darwin

package fsys

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeDevice is a pwritev that takes at most limit bytes a call, is interrupted before every second one, and fails once
// it holds full bytes.
type fakeDevice struct {
	t           *testing.T
	got         []byte
	limit, full int
	calls       int
}

func (d *fakeDevice) pwritev(fd int, bufs [][]byte, offset int64) (int, error) {
	d.calls++
	switch {
	case fd != 7 || offset != int64(100+len(d.got)) || len(bufs) == 0 || len(bufs) > iovMax || len(bufs[0]) == 0:
		d.t.Fatalf("write of %d buffers to %d at %d after %d bytes", len(bufs), fd, offset, len(d.got))
	case d.calls%2 == 1:
		return -1, unix.EINTR
	case len(d.got) == d.full:
		return -1, unix.ENOSPC
	}
	all := bytes.Join(bufs, nil)
	n := min(len(all), d.limit, d.full-len(d.got))
	d.got = append(d.got, all[:n]...)
	return n, nil
}

// TestWriteVector: short and interrupted writes are carried on, failures tell what was written, and the caller's vector
// stays as it is.
func TestWriteVector(t *testing.T) {
	var bufs [][]byte
	for i := range 3000 {
		bufs = append(bufs, bytes.Repeat([]byte{byte(i)}, i%5))
	}
	all := bytes.Join(bufs, nil)
	for _, c := range []struct{ limit, full int }{{1, 1 << 20}, {7, 1 << 20}, {1 << 20, 1 << 20}, {7, 5000}, {3, 0}} {
		d := &fakeDevice{t: t, limit: c.limit, full: c.full}
		n, scratch, err := writeVector(d.pwritev, 7, bufs, 100, nil)
		want := min(len(all), c.full)
		if n != want || !bytes.Equal(d.got, all[:want]) || errors.Is(err, unix.ENOSPC) != (want < len(all)) || len(scratch) > 0 {
			t.Fatalf("limit %d, full at %d: %d of %d bytes, %v", c.limit, c.full, n, want, err)
		}
		if !bytes.Equal(bytes.Join(bufs, nil), all) || len(bufs[4]) != 4 {
			t.Fatal("the vector was changed")
		}
	}
	none := func(int, [][]byte, int64) (int, error) { return 0, nil }
	if _, _, err := writeVector(none, 7, bufs, 0, nil); !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("a device that writes nothing: %v", err)
	}
}

// TestSystemErrors: what the system says is found again, with its class.
func TestSystemErrors(t *testing.T) {
	for _, cause := range []error{unix.ENOSPC, unix.EDQUOT} {
		err := opError("append", "a", &fs.PathError{Op: "write", Path: "a", Err: os.NewSyscallError("pwritev", cause)})
		wantIs(t, err, ErrNoSpace)
		wantIs(t, err, cause)
		err = syncError("sync", "a", cause)
		wantIs(t, err, ErrNoSpace)
		wantIs(t, err, ErrSyncFailed)
		wantIs(t, err, cause)
	}
	wantIs(t, syncError("sync", "a", unix.EIO), ErrSyncFailed)
	if errors.Is(opError("append", "a", unix.EIO), ErrNoSpace) || opError("x", "a", nil) != nil || syncError("x", "a", nil) != nil {
		t.Fatal("classes are given to errors that are not of them")
	}
}

// lockHelper is the variable that makes this test binary lock a file, say so, and wait for its end.
const lockHelper = "PENSTOCK_TEST_LOCK_FILE"

// TestLockExcludesProcesses: a lock holds against other processes and goes with the death of its holder.
func TestLockExcludesProcesses(t *testing.T) {
	if name := os.Getenv(lockHelper); name != "" {
		holdLock(name)
		return
	}
	name := filepath.Join(t.TempDir(), ".lock")
	holder := exec.Command(os.Args[0], "-test.run=^TestLockExcludesProcesses$")
	holder.Env = append(os.Environ(), lockHelper+"="+name)
	holder.Stderr = os.Stderr
	in, err := holder.StdinPipe()
	must(t, err)
	defer func() { _ = in.Close() }()
	out, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "locked\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	_, err = OS().Lock(name)
	wantIs(t, err, ErrLocked)
	must(t, holder.Process.Kill())
	if err := holder.Wait(); err == nil {
		t.Fatal("the killed process ended well")
	}
	lock, err := OS().Lock(name)
	must(t, err)
	must(t, lock.Close())
}

// holdLock is the other process: it locks and waits to be killed, or for the test to be gone.
func holdLock(name string) {
	if _, err := OS().Lock(name); err != nil {
		_, _ = os.Stdout.WriteString(strconv.Quote(err.Error()) + "\n")
		return
	}
	_, _ = os.Stdout.WriteString("locked\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestLockFollowsTheName: a lock file that was removed while it was locked no longer guards its name.
func TestLockFollowsTheName(t *testing.T) {
	name := filepath.Join(t.TempDir(), ".lock")
	file, err := lockFile(name)
	must(t, err)
	must(t, os.Remove(name))
	lock, err := OS().Lock(name)
	must(t, err)
	if same, err := bearsName(file, name); same || err != nil {
		t.Fatalf("the removed file bears the name: %v", err)
	}
	must(t, lock.Close())
	must(t, file.Close())
}
