package fsys

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// implementations are the file systems that must behave alike, each with an empty directory to work in.
var implementations = map[string]func(t *testing.T) (FS, string){
	"os": func(t *testing.T) (FS, string) { return OS(), filepath.ToSlash(t.TempDir()) },
	"mem": func(t *testing.T) (FS, string) {
		disk := NewMem(1, MemOptions{})
		must(t, disk.MkdirAll("/data"))
		return disk, "/data"
	},
}

// tester is what the helpers need of a test, a benchmark or a property's run.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// must ends the test at an error.
func must(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantIs ends the test unless err is target.
func wantIs(t tester, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want one that is %v", err, target)
	}
}

// create makes a file with contents, which it leaves open.
func create(t tester, disk FS, name string, bufs ...[]byte) File {
	t.Helper()
	f, err := disk.Create(name)
	must(t, err)
	_, err = f.Append(bufs...)
	must(t, err)
	return f
}

// open opens a file.
func open(t tester, disk FS, name string) File {
	t.Helper()
	f, err := disk.Open(name)
	must(t, err)
	return f
}

// readFile returns all of a file.
func readFile(t tester, disk FS, name string) []byte {
	t.Helper()
	f, err := disk.OpenRead(name)
	must(t, err)
	got := readAll(t, f)
	must(t, f.Close())
	return got
}

// readAll returns all of an open file.
func readAll(t tester, f File) []byte {
	t.Helper()
	size, err := f.Size()
	must(t, err)
	got := make([]byte, size)
	n, err := f.ReadAt(got, 0)
	if err != nil && !errors.Is(err, io.EOF) || int64(n) != size {
		t.Fatalf("read of %s: %d of %d bytes, %v", f.Name(), n, size, err)
	}
	return got
}

// TestConformance runs each case on every implementation.
func TestConformance(t *testing.T) {
	cases := []struct {
		name string
		run  func(t *testing.T, disk FS, dir string)
	}{
		{"append", conformAppend},
		{"append many buffers", conformManyBuffers},
		{"read", conformRead},
		{"read only", conformReadOnly},
		{"overwrite", conformOverwrite},
		{"truncate", conformTruncate},
		{"preallocate", conformPreallocate},
		{"open at the end", conformOpenAtEnd},
		{"closed file", conformClosed},
		{"create and open errors", conformOpenErrors},
		{"directories", conformDirectories},
		{"remove", conformRemove},
		{"remove while open", conformRemoveOpen},
		{"rename", conformRename},
		{"sync", conformSync},
		{"lock", conformLock},
		{"free space", conformFree},
		{"readers beside the writer", conformConcurrent},
	}
	for name, start := range implementations {
		t.Run(name, func(t *testing.T) {
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					disk, dir := start(t)
					c.run(t, disk, dir)
				})
			}
		})
	}
}

func conformAppend(t *testing.T, disk FS, dir string) {
	name := path.Join(dir, "a")
	f := create(t, disk, name)
	bufs := [][]byte{[]byte("one "), nil, []byte("two "), {}, []byte("three")}
	before := slices.Clone(bufs)
	if n, err := f.Append(bufs...); n != 13 || err != nil {
		t.Fatalf("append: %d, %v", n, err)
	}
	for i := range bufs {
		if !bytes.Equal(bufs[i], before[i]) {
			t.Fatalf("buffer %d was changed", i)
		}
	}
	for _, none := range [][][]byte{nil, {nil}, {{}, {}}} {
		if n, err := f.Append(none...); n != 0 || err != nil {
			t.Fatalf("append of nothing: %d, %v", n, err)
		}
	}
	if f.Position() != 13 || f.Name() != name {
		t.Fatalf("position %d, name %q", f.Position(), f.Name())
	}
	if got := readAll(t, f); string(got) != "one two three" {
		t.Fatalf("read %q", got)
	}
	must(t, f.Close())
}

func conformManyBuffers(t *testing.T, disk FS, dir string) {
	f := create(t, disk, path.Join(dir, "a"), []byte("head"))
	want := []byte("head")
	bufs := make([][]byte, 2500)
	for i := range bufs {
		bufs[i] = bytes.Repeat([]byte{byte(i)}, i%4)
		want = append(want, bufs[i]...)
	}
	if n, err := f.Append(bufs...); n != len(want)-4 || err != nil {
		t.Fatalf("append: %d of %d, %v", n, len(want)-4, err)
	}
	if !bytes.Equal(readAll(t, f), want) {
		t.Fatal("contents differ")
	}
	must(t, f.Close())
}

func conformRead(t *testing.T, disk FS, dir string) {
	f := create(t, disk, path.Join(dir, "a"), []byte("0123456789"))
	for _, c := range []struct {
		at   int64
		len  int
		want string
		err  error
	}{
		{0, 10, "0123456789", nil},
		{3, 4, "3456", nil},
		{8, 4, "89", io.EOF},
		{10, 1, "", io.EOF},
		{99, 1, "", io.EOF},
		{10, 0, "", nil},
		{99, 0, "", nil},
		{0, 0, "", nil},
	} {
		p := make([]byte, c.len)
		n, err := f.ReadAt(p, c.at)
		if string(p[:n]) != c.want || !errors.Is(err, c.err) {
			t.Fatalf("ReadAt %d+%d: %q, %v", c.at, c.len, p[:n], err)
		}
	}
	if n, err := f.ReadAt(make([]byte, 1), -1); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("ReadAt -1: %d, %v", n, err)
	}
	must(t, f.Close())
}

func conformReadOnly(t *testing.T, disk FS, dir string) {
	name := path.Join(dir, "a")
	w := create(t, disk, name, []byte("abc"))
	r, err := disk.OpenRead(name)
	must(t, err)
	n, err := r.Append([]byte("x"))
	if n != 0 {
		t.Fatalf("appended %d bytes", n)
	}
	wantIs(t, err, fs.ErrPermission)
	_, err = r.Overwrite(0, []byte("x"))
	wantIs(t, err, fs.ErrPermission)
	wantIs(t, r.Truncate(0), fs.ErrPermission)
	wantIs(t, r.Preallocate(10), fs.ErrPermission)
	if _, err := w.Append([]byte("def")); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, r); string(got) != "abcdef" {
		t.Fatalf("the reader sees %q", got)
	}
	must(t, r.Close())
	must(t, w.Close())
}

func conformOverwrite(t *testing.T, disk FS, dir string) {
	f := create(t, disk, path.Join(dir, "a"), []byte("0123456789"))
	bufs := [][]byte{[]byte("ab"), nil, []byte("c")}
	if n, err := f.Overwrite(4, bufs...); n != 3 || err != nil || string(bufs[0]) != "ab" || f.Position() != 10 {
		t.Fatalf("overwrite: %d, %v, position %d", n, err, f.Position())
	}
	if n, err := f.Overwrite(7, []byte("xyz")); n != 3 || err != nil {
		t.Fatalf("overwrite up to the end: %d, %v", n, err)
	}
	if n, err := f.Overwrite(10); n != 0 || err != nil {
		t.Fatalf("overwrite of nothing: %d, %v", n, err)
	}
	must(t, f.Preallocate(20))
	for _, at := range []int64{-1, 8, 10, 15, 30} {
		n, err := f.Overwrite(at, []byte("123"))
		if n != 0 || !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("overwrite of 3 bytes at %d, 10 were appended: %d, %v", at, n, err)
		}
	}
	if got := readAll(t, f); string(got) != "0123abcxyz"+strings.Repeat("\x00", len(got)-10) {
		t.Fatalf("read %q", got)
	}
	must(t, f.SyncData())
	must(t, f.Close())
}

func conformTruncate(t *testing.T, disk FS, dir string) {
	f := create(t, disk, path.Join(dir, "a"), bytes.Repeat([]byte("x"), 10_000))
	wantIs(t, f.Truncate(10_001), fs.ErrInvalid)
	wantIs(t, f.Truncate(-1), fs.ErrInvalid)
	must(t, f.Truncate(10_000))
	must(t, f.Preallocate(20_000))
	must(t, f.Truncate(15_000))
	if size, err := f.Size(); size != 15_000 || err != nil || f.Position() != 10_000 {
		t.Fatalf("size %d, %v, position %d: cutting preallocated space must not move the position", size, err, f.Position())
	}
	must(t, f.Truncate(5_000))
	must(t, f.Preallocate(8_000))
	want := append(bytes.Repeat([]byte("x"), 5_000), make([]byte, 3_000)...)
	if got := readAll(t, f); !bytes.Equal(got, want) || f.Position() != 5_000 {
		t.Fatalf("old bytes show after truncate and preallocate, position %d", f.Position())
	}
	must(t, f.Truncate(0))
	if size, err := f.Size(); size != 0 || err != nil || f.Position() != 0 {
		t.Fatalf("size %d, %v, position %d", size, err, f.Position())
	}
	must(t, f.Close())
}

func conformPreallocate(t *testing.T, disk FS, dir string) {
	f := create(t, disk, path.Join(dir, "a"), []byte("abc"))
	must(t, f.Preallocate(2))
	must(t, f.Preallocate(10_000))
	must(t, f.Preallocate(9_000))
	if size, err := f.Size(); size != 10_000 || err != nil || f.Position() != 3 {
		t.Fatalf("size %d, %v, position %d", size, err, f.Position())
	}
	if _, err := f.Append([]byte("def")); err != nil {
		t.Fatal(err)
	}
	want := append([]byte("abcdef"), make([]byte, 9_994)...)
	if got := readAll(t, f); !bytes.Equal(got, want) || f.Position() != 6 {
		t.Fatalf("contents differ, position %d", f.Position())
	}
	must(t, f.Close())
}

func conformOpenAtEnd(t *testing.T, disk FS, dir string) {
	name := path.Join(dir, "a")
	must(t, create(t, disk, name, []byte("abc")).Close())
	f := open(t, disk, name)
	if f.Position() != 3 {
		t.Fatalf("position %d", f.Position())
	}
	_, err := f.Append([]byte("def"))
	must(t, err)
	must(t, f.Close())
	if got := readFile(t, disk, name); string(got) != "abcdef" {
		t.Fatalf("read %q", got)
	}
}

func conformClosed(t *testing.T, disk FS, dir string) {
	f := create(t, disk, path.Join(dir, "a"), []byte("abc"))
	must(t, f.Close())
	_, err := f.Append([]byte("x"))
	wantIs(t, err, fs.ErrClosed)
	_, err = f.Overwrite(0, []byte("x"))
	wantIs(t, err, fs.ErrClosed)
	_, err = f.ReadAt(make([]byte, 1), 0)
	wantIs(t, err, fs.ErrClosed)
	_, err = f.Size()
	wantIs(t, err, fs.ErrClosed)
	wantIs(t, f.Truncate(0), fs.ErrClosed)
	wantIs(t, f.Preallocate(10), fs.ErrClosed)
	wantIs(t, f.Close(), fs.ErrClosed)
	err = f.SyncData()
	wantIs(t, err, fs.ErrClosed)
	if errors.Is(err, ErrSyncFailed) {
		t.Fatalf("%v: the sync of a closed file says nothing about the disk", err)
	}
}

func conformOpenErrors(t *testing.T, disk FS, dir string) {
	name, missing := path.Join(dir, "a"), path.Join(dir, "none")
	must(t, create(t, disk, name).Close())
	must(t, disk.MkdirAll(path.Join(dir, "d")))
	for _, taken := range []string{"a", "d"} {
		_, err := disk.Create(path.Join(dir, taken))
		wantIs(t, err, fs.ErrExist)
	}
	_, err := disk.Create(path.Join(missing, "a"))
	wantIs(t, err, fs.ErrNotExist)
	for _, openFile := range []func(string) (File, error){disk.Open, disk.OpenRead} {
		f, err := openFile(missing)
		if f != nil || !IsNotExist(err) {
			t.Fatalf("open of a missing file: %v, %v", f, err)
		}
		if f, err := openFile(path.Join(dir, "d")); err == nil || f != nil {
			t.Fatal("a directory was opened as a file")
		}
	}
	_, err = disk.Stat(missing)
	wantIs(t, err, fs.ErrNotExist)
	_, err = disk.List(missing)
	wantIs(t, err, fs.ErrNotExist)
	wantIs(t, disk.MkdirAll(""), fs.ErrNotExist)
	if _, err := disk.List(name); err == nil {
		t.Fatal("a file was listed")
	}
	if err := disk.MkdirAll(path.Join(name, "d")); err == nil {
		t.Fatal("a directory was made in a file")
	}
	if _, err := disk.Stat(path.Join(name, "d")); err == nil {
		t.Fatal("a file has an entry")
	}
}

func conformDirectories(t *testing.T, disk FS, dir string) {
	must(t, disk.MkdirAll(path.Join(dir, "b/c/d")))
	must(t, disk.MkdirAll(path.Join(dir, "b/c")))
	must(t, create(t, disk, path.Join(dir, "c"), []byte("abc")).Close())
	must(t, create(t, disk, path.Join(dir, "a"), []byte("a")).Close())
	got, err := disk.List(dir)
	must(t, err)
	if want := []FileInfo{{"a", 1, false}, {"b", 0, true}, {"c", 3, false}}; !slices.Equal(got, want) {
		t.Fatalf("list: %v", got)
	}
	if got, err := disk.List(path.Join(dir, "b/c/d")); len(got) != 0 || err != nil {
		t.Fatalf("list of an empty directory: %v, %v", got, err)
	}
	if got, err := disk.Stat(path.Join(dir, "b")); got != (FileInfo{Name: "b", Dir: true}) || err != nil {
		t.Fatalf("stat: %v, %v", got, err)
	}
	if got, err := disk.Stat(path.Join(dir, "b/../c")); got != (FileInfo{Name: "c", Size: 3}) || err != nil {
		t.Fatalf("stat: %v, %v", got, err)
	}
}

func conformRemove(t *testing.T, disk FS, dir string) {
	name := path.Join(dir, "d/a")
	must(t, disk.MkdirAll(path.Dir(name)))
	must(t, create(t, disk, name).Close())
	if err := disk.Remove(path.Dir(name)); err == nil {
		t.Fatal("a directory with entries was removed")
	}
	must(t, disk.Remove(name))
	wantIs(t, disk.Remove(name), fs.ErrNotExist)
	must(t, disk.Remove(path.Dir(name)))
	must(t, disk.RemoveAll(path.Join(dir, "none/none")))
	must(t, disk.MkdirAll(path.Join(dir, "t/u/v")))
	must(t, create(t, disk, path.Join(dir, "t/u/a"), []byte("x")).Close())
	must(t, disk.RemoveAll(path.Join(dir, "t")))
	if got, err := disk.List(dir); len(got) != 0 || err != nil {
		t.Fatalf("left: %v, %v", got, err)
	}
}

func conformRemoveOpen(t *testing.T, disk FS, dir string) {
	name := path.Join(dir, "a")
	f := create(t, disk, name, []byte("abc"))
	must(t, disk.Remove(name))
	_, err := f.Append([]byte("def"))
	must(t, err)
	must(t, create(t, disk, name, []byte("new")).Close())
	if got := readAll(t, f); string(got) != "abcdef" {
		t.Fatalf("the removed file reads %q", got)
	}
	must(t, f.SyncData())
	must(t, f.Close())
	if got := readFile(t, disk, name); string(got) != "new" {
		t.Fatalf("the new file reads %q", got)
	}
}

func conformRename(t *testing.T, disk FS, dir string) {
	a, b, d := path.Join(dir, "a"), path.Join(dir, "b"), path.Join(dir, "d")
	f := create(t, disk, a, []byte("abc"))
	must(t, create(t, disk, b, []byte("old")).Close())
	must(t, disk.MkdirAll(path.Join(d, "e")))
	must(t, disk.Rename(a, b))
	must(t, disk.Rename(b, b))
	wantIs(t, disk.Rename(a, b), fs.ErrNotExist)
	_, err := f.Append([]byte("def"))
	must(t, err)
	must(t, f.Close())
	if got := readFile(t, disk, b); string(got) != "abcdef" {
		t.Fatalf("read %q", got)
	}
	wantIs(t, disk.Rename(b, d), fs.ErrExist)
	wantIs(t, disk.Rename(b, path.Join(dir, "none/a")), fs.ErrNotExist)
	for _, bad := range [][2]string{{d, b}, {d, path.Join(d, "e/f")}} {
		if err := disk.Rename(bad[0], bad[1]); err == nil {
			t.Fatalf("rename of %s to %s went through", bad[0], bad[1])
		}
	}
	must(t, disk.Rename(b, path.Join(d, "e/a")))
	must(t, disk.Rename(d, d+".stray"))
	if got := readFile(t, disk, d+".stray/e/a"); string(got) != "abcdef" {
		t.Fatalf("read %q", got)
	}
}

func conformSync(t *testing.T, disk FS, dir string) {
	f := create(t, disk, path.Join(dir, "a"), []byte("abc"))
	must(t, f.SyncData())
	must(t, disk.SyncDir(dir))
	must(t, disk.SyncFS(dir))
	must(t, disk.SyncFS(dir))
	must(t, f.Close())
	for _, sync := range []func(string) error{disk.SyncDir, disk.SyncFS} {
		err := sync(path.Join(dir, "none"))
		wantIs(t, err, fs.ErrNotExist)
		if errors.Is(err, ErrSyncFailed) {
			t.Fatalf("%v: a missing directory says nothing about the disk", err)
		}
	}
	if err := disk.SyncDir(path.Join(dir, "a")); err == nil || errors.Is(err, ErrSyncFailed) {
		t.Fatalf("sync of a file as a directory: %v", err)
	}
}

func conformLock(t *testing.T, disk FS, dir string) {
	name := path.Join(dir, ".lock")
	lock, err := disk.Lock(name)
	must(t, err)
	_, err = disk.Lock(name)
	wantIs(t, err, ErrLocked)
	other, err := disk.Lock(name + "2")
	must(t, err)
	must(t, other.Close())
	must(t, lock.Close())
	wantIs(t, lock.Close(), fs.ErrClosed)
	lock, err = disk.Lock(name)
	must(t, err)
	must(t, lock.Close())
	_, err = disk.Lock(path.Join(dir, "none/a"))
	wantIs(t, err, fs.ErrNotExist)
	if _, err := disk.Lock(dir); err == nil {
		t.Fatal("a directory was locked")
	}
}

func conformFree(t *testing.T, disk FS, dir string) {
	if free, err := disk.FreeBytes(dir); free <= 0 || err != nil {
		t.Fatalf("free: %d, %v", free, err)
	}
	_, err := disk.FreeBytes(path.Join(dir, "none"))
	wantIs(t, err, fs.ErrNotExist)
}

// conformConcurrent reads and syncs beside the writer: every byte below the position must be there.
func conformConcurrent(t *testing.T, disk FS, dir string) {
	f := create(t, disk, path.Join(dir, "a"))
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			p := make([]byte, 100)
			for {
				if end := f.Position(); end >= 100 {
					if _, err := f.ReadAt(p, end-100); err != nil || p[99] != 'x' {
						t.Errorf("read below the position %d: %v, %q", end, err, p[99])
						return
					}
				}
				if err := f.SyncData(); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	chunk := bytes.Repeat([]byte("x"), 50)
	for range 100 {
		if _, err := f.Append(chunk, chunk); err != nil {
			t.Error(err)
		}
	}
	close(done)
	readers.Wait()
	must(t, f.Close())
}
