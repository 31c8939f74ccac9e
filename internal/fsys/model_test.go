package fsys

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// plainFile is a file of the plain model.
type plainFile struct {
	bytes    []byte
	position int
}

// plain is the plainest model of a file system without faults: directories and files by path.
type plain struct {
	dirs  map[string]bool
	files map[string]*plainFile
}

// kind says what a path is: "dir", "file", or "" for nothing.
func (p *plain) kind(name string) string {
	switch {
	case p.dirs[name]:
		return "dir"
	case p.files[name] != nil:
		return "file"
	default:
		return ""
	}
}

// below returns the paths of a directory and all below it.
func (p *plain) below(dir string) []string {
	var found []string
	for _, name := range append(slices.Collect(maps.Keys(p.dirs)), slices.Collect(maps.Keys(p.files))...) {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			found = append(found, name)
		}
	}
	return found
}

// rename moves a path; ok says that it may be.
func (p *plain) rename(from, to string) (ok bool) {
	a, b := p.kind(from), p.kind(to)
	if a == "" || p.kind(path.Dir(to)) != "dir" || b == "dir" || a == "dir" && b == "file" ||
		strings.HasPrefix(to, from+"/") {
		return false
	}
	if from == to {
		return true
	}
	for _, name := range p.below(from) {
		moved := to + strings.TrimPrefix(name, from)
		if p.dirs[name] {
			delete(p.dirs, name)
			p.dirs[moved] = true
			continue
		}
		p.files[moved] = p.files[name]
		delete(p.files, name)
	}
	return true
}

// trio is the plain model and the two implementations, which get the same operations.
type trio struct {
	model  plain
	disks  [2]FS
	roots  [2]string
	open   map[*plainFile][2]File
	number int
}

// paths are all paths that the operations use.
var paths = []string{"/a", "/b", "/d", "/d/a", "/d/e", "/d/e/a", "/f", "/f/a"}

// try does one operation on both implementations; it must work exactly where the model says so.
func (s *trio) try(t *rapid.T, what string, ok bool, op func(disk FS, root string) error) {
	for i, disk := range s.disks {
		if err := op(disk, s.roots[i]); (err == nil) != ok {
			t.Fatalf("%s on %T: %v, the model says %t", what, disk, err, ok)
		}
	}
}

// actions are the operations by name.
func (s *trio) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"create": s.create, "append": s.append, "overwrite": s.overwrite, "truncate": s.truncate, "preallocate": s.preallocate, "read": s.read,
		"reopen": s.reopen, "mkdir": s.mkdir, "remove": s.remove, "removeAll": s.removeAll, "rename": s.rename,
		"sync": s.sync, "": s.check,
	}
}

func (s *trio) path(t *rapid.T) string { return rapid.SampledFrom(paths).Draw(t, "path") }

// file draws an open file; it skips where there is none.
func (s *trio) file(t *rapid.T) (*plainFile, [2]File) {
	var names []string
	for name, f := range s.model.files {
		if _, ok := s.open[f]; ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		t.Skip("no open file")
	}
	slices.Sort(names)
	f := s.model.files[rapid.SampledFrom(names).Draw(t, "file")]
	return f, s.open[f]
}

func (s *trio) create(t *rapid.T) {
	name := s.path(t)
	ok := s.model.kind(name) == "" && s.model.kind(path.Dir(name)) == "dir"
	var files [2]File
	i := 0
	s.try(t, "create "+name, ok, func(disk FS, root string) error {
		f, err := disk.Create(root + name)
		files[i] = f
		i++
		return err
	})
	if ok {
		f := &plainFile{}
		s.model.files[name] = f
		s.open[f] = files
	}
}

func (s *trio) append(t *rapid.T) {
	f, files := s.file(t)
	sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 100, 4095, 4096, 9000}), 0, 5).Draw(t, "sizes")
	var bufs [][]byte
	var all []byte
	for _, n := range sizes {
		s.number++
		bufs = append(bufs, bytes.Repeat([]byte{byte(s.number)}, n))
		all = append(all, bufs[len(bufs)-1]...)
	}
	for _, g := range files {
		if n, err := g.Append(bufs...); n != len(all) || err != nil {
			t.Fatalf("append: %d of %d, %v", n, len(all), err)
		}
	}
	f.bytes = append(f.bytes[:f.position:f.position], append(all, f.bytes[min(len(f.bytes), f.position+len(all)):]...)...)
	f.position += len(all)
}

func (s *trio) overwrite(t *rapid.T) {
	f, files := s.file(t)
	at := rapid.IntRange(0, 20_000).Draw(t, "offset")
	s.number++
	b := bytes.Repeat([]byte{byte(s.number)}, rapid.SampledFrom([]int{0, 1, 100, 4096, 9000}).Draw(t, "bytes"))
	fits := at+len(b) <= f.position
	for _, g := range files {
		if n, err := g.Overwrite(int64(at), b); (err == nil) != fits || (n == len(b)) != (fits || len(b) == 0) {
			t.Fatalf("overwrite of %d at %d of %d: %d, %v", len(b), at, f.position, n, err)
		}
	}
	if fits {
		copy(f.bytes[at:], b)
	}
}

func (s *trio) truncate(t *rapid.T) {
	f, files := s.file(t)
	size := rapid.IntRange(0, len(f.bytes)+1).Draw(t, "size")
	for _, g := range files {
		if err := g.Truncate(int64(size)); errors.Is(err, fs.ErrInvalid) != (size > len(f.bytes)) {
			t.Fatalf("truncate of %d to %d: %v", len(f.bytes), size, err)
		}
	}
	if size <= len(f.bytes) {
		f.bytes, f.position = f.bytes[:size:size], min(f.position, size)
	}
}

func (s *trio) preallocate(t *rapid.T) {
	f, files := s.file(t)
	size := rapid.IntRange(0, 30_000).Draw(t, "size")
	for _, g := range files {
		if err := g.Preallocate(int64(size)); err != nil {
			t.Fatal(err)
		}
	}
	f.bytes = append(f.bytes, make([]byte, max(0, size-len(f.bytes)))...)
}

func (s *trio) read(t *rapid.T) {
	f, files := s.file(t)
	at, n := rapid.IntRange(0, 40_000).Draw(t, "offset"), rapid.IntRange(0, 10_000).Draw(t, "length")
	want := f.bytes[min(at, len(f.bytes)):min(at+n, len(f.bytes))]
	for _, g := range files {
		p := make([]byte, n)
		if got, err := g.ReadAt(p, int64(at)); !bytes.Equal(p[:got], want) || (err != nil) != (len(want) < n) {
			t.Fatalf("read %d+%d of %d: %d bytes, %v", at, n, len(f.bytes), got, err)
		}
	}
}

// reopen closes a file, if it is open, and opens it: the position goes to the end.
func (s *trio) reopen(t *rapid.T) {
	name := s.path(t)
	f := s.model.files[name]
	s.close(t, f)
	var files [2]File
	i := 0
	s.try(t, "open "+name, f != nil, func(disk FS, root string) error {
		g, err := disk.Open(root + name)
		files[i] = g
		i++
		return err
	})
	if f != nil {
		f.position = len(f.bytes)
		s.open[f] = files
	}
}

// close closes a file where it is open.
func (s *trio) close(t *rapid.T, f *plainFile) {
	files, ok := s.open[f]
	if !ok {
		return
	}
	for _, g := range files {
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	delete(s.open, f)
}

func (s *trio) mkdir(t *rapid.T) {
	name := s.path(t)
	ok := true
	for p := name; p != "/"; p = path.Dir(p) {
		ok = ok && s.model.kind(p) != "file"
	}
	s.try(t, "mkdir "+name, ok, func(disk FS, root string) error { return disk.MkdirAll(root + name) })
	for p := name; ok && p != "/"; p = path.Dir(p) {
		s.model.dirs[p] = true
	}
}

func (s *trio) remove(t *rapid.T) {
	name := s.path(t)
	ok := s.model.kind(name) != "" && len(s.model.below(name)) == 1
	s.try(t, "remove "+name, ok, func(disk FS, root string) error { return disk.Remove(root + name) })
	if ok {
		s.forget(t, name)
	}
}

func (s *trio) removeAll(t *rapid.T) {
	name := s.path(t)
	ok := true
	for p := path.Dir(name); p != "/"; p = path.Dir(p) {
		ok = ok && s.model.kind(p) != "file"
	}
	s.try(t, "remove all of "+name, ok, func(disk FS, root string) error { return disk.RemoveAll(root + name) })
	for _, gone := range s.model.below(name) {
		s.forget(t, gone)
	}
}

// forget takes a path from the model.
func (s *trio) forget(t *rapid.T, name string) {
	s.close(t, s.model.files[name])
	delete(s.model.files, name)
	delete(s.model.dirs, name)
}

func (s *trio) rename(t *rapid.T) {
	from, to := s.path(t), rapid.SampledFrom(paths).Draw(t, "to")
	replaced := s.model.files[to]
	ok := s.model.rename(from, to)
	s.try(t, "rename "+from+" "+to, ok, func(disk FS, root string) error { return disk.Rename(root+from, root+to) })
	if ok && from != to {
		s.close(t, replaced)
	}
}

func (s *trio) sync(t *rapid.T) {
	name := s.path(t)
	isDir := s.model.kind(name) == "dir"
	s.try(t, "sync of "+name, isDir, func(disk FS, root string) error { return disk.SyncDir(root + name) })
	if files, ok := s.open[s.model.files[name]]; ok {
		for _, g := range files {
			if err := g.SyncData(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// check compares everything.
func (s *trio) check(t *rapid.T) {
	var want strings.Builder
	s.model.dump(&want, "/")
	for i, disk := range s.disks {
		got := strings.ReplaceAll(dump(disk, s.roots[i]), s.roots[i], "")
		if got = strings.TrimPrefix(got, " "); got != strings.TrimPrefix(want.String(), "/ ") {
			t.Fatalf("%T holds\n%.2000s\nthe model\n%.2000s", disk, got, want.String())
		}
	}
	for f, files := range s.open {
		for _, g := range files {
			if g.Position() != int64(f.position) {
				t.Fatalf("%T is at %d, the model at %d", g, g.Position(), f.position)
			}
		}
	}
}

// dump describes the model as the function dump describes a file system.
func (p *plain) dump(s *strings.Builder, dir string) {
	fmt.Fprintln(s, dir, nil)
	for _, name := range slices.Sorted(slices.Values(p.below(strings.TrimSuffix(dir, "/")))) {
		switch {
		case name == dir || path.Dir(name) != dir:
		case p.dirs[name]:
			p.dump(s, name)
		default:
			b := p.files[name].bytes
			fmt.Fprintf(s, "%s %d %v%s\n", name, len(b), nil, runs(b))
		}
	}
}

// TestModel: both implementations do what the plain model does.
func TestModel(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(root) }()
		mem := NewMem(rapid.Uint64().Draw(t, "seed"), MemOptions{})
		if err := mem.MkdirAll("/root"); err != nil {
			t.Fatal(err)
		}
		s := &trio{
			model: plain{dirs: map[string]bool{"/": true}, files: make(map[string]*plainFile)},
			disks: [2]FS{OS(), mem}, roots: [2]string{filepath.ToSlash(root), "/root"},
			open: make(map[*plainFile][2]File),
		}
		defer func() {
			for f := range s.open {
				s.close(t, f)
			}
		}()
		t.Repeat(s.actions())
	})
}
