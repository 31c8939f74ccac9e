package fsys

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestFullDevice appends to the device that is always full.
func TestFullDevice(t *testing.T) {
	f, err := OS().Open("/dev/full")
	must(t, err)
	n, err := f.Append([]byte("a"), []byte("b"))
	wantIs(t, err, ErrNoSpace)
	if n != 0 || f.Position() != 0 {
		t.Fatalf("%d bytes written, position %d", n, f.Position())
	}
	must(t, f.Close())
}

// TestUnsyncable syncs what cannot be synced: the failure has its class.
func TestUnsyncable(t *testing.T) {
	f, err := OS().Open("/dev/full")
	must(t, err)
	wantIs(t, f.SyncData(), ErrSyncFailed)
	must(t, f.Close())
}

// TestReadAhead reads the beginning of a file that is not in memory: with the system's read-ahead more of it comes in than was asked
// for, without it nothing but that.
func TestReadAhead(t *testing.T) {
	const pages = 256
	name := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(name, make([]byte, pages*4096), 0o600))
	for _, on := range []bool{false, true, false} {
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		must(t, file.Sync())
		must(t, unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)) //nolint:gosec // a descriptor
		if n := inMemory(t, file, pages); n > 0 {
			t.Skipf("the file system of %s keeps %d pages in memory", name, n)
		}
		f, err := OS().OpenRead(name)
		must(t, err)
		f.ReadAhead(!on)
		f.ReadAhead(on)
		buf := make([]byte, 4096)
		for at := range int64(2) {
			_, err := f.ReadAt(buf, at*4096)
			must(t, err)
		}
		if n := inMemory(t, file, pages); (n > 2) != on {
			t.Errorf("read-ahead %t: 2 pages were read and %d are in memory", on, n)
		}
		must(t, f.Close())
		f.ReadAhead(on) // changes nothing
		must(t, file.Close())
	}
}

// inMemory counts the pages of a file that the page cache holds.
func inMemory(t *testing.T, file *os.File, pages int) (n int) {
	t.Helper()
	mapped, err := unix.Mmap(int(file.Fd()), 0, pages*4096, unix.PROT_READ, unix.MAP_SHARED) //nolint:gosec // a descriptor
	must(t, err)
	there := make([]byte, pages)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&there[0]))) //nolint:gosec // what the call takes
	must(t, unix.Munmap(mapped))
	if errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range there {
		n += int(p & 1)
	}
	return n
}

// TestSyncFSKeepsItsHandle: the kernel tells an error of write-back to files that were open when it came, so that all syncs of a file
// system go by one handle.
func TestSyncFSKeepsItsHandle(t *testing.T) {
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	must(t, os.Mkdir(below, 0o700))
	first, err := syncHandle(dir)
	must(t, err)
	second, err := syncHandle(below)
	must(t, err)
	if first != second {
		t.Error("another handle for the same file system")
	}
	must(t, OS().SyncFS(below))
}
