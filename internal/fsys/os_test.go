package fsys

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

// TestOSAppendAndReopen is the shortest way through the real implementation.
func TestOSAppendAndReopen(t *testing.T) {
	disk, dir := OS(), t.TempDir()
	name := filepath.Join(dir, "a")
	f, err := disk.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.Append([]byte("he"), nil, []byte("llo")); n != 5 || err != nil {
		t.Fatalf("append: %d, %v", n, err)
	}
	if err := f.Preallocate(1 << 16); err != nil {
		t.Fatal(err)
	}
	if err := f.SyncData(); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(5); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append([]byte("x")); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("append to a closed file: %v", err)
	}
	if err := f.SyncData(); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("sync of a closed file: %v", err)
	}
	for _, sync := range []func(string) error{disk.SyncDir, disk.SyncFS} {
		if err := sync(dir); err != nil {
			t.Fatal(err)
		}
	}
	f, err = disk.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, []byte("hello")) || f.Position() != 5 {
		t.Fatalf("read %q, %v; position %d", got, err, f.Position())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
