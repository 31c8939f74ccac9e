package fsys

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// padded returns a page of a state, zeros where the state has ended.
func padded(state []byte, i int) []byte {
	p := make([]byte, PageSize)
	if start := i * PageSize; start < len(state) {
		copy(p, state[start:])
	}
	return p
}

// TestCrashContents: after a crash each page is as it was at some moment since the last sync before which none had failed,
// or as that with a later truncation, and the size lies between the smallest and the largest since.
func TestCrashContents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := NewMem(rapid.Uint64().Draw(t, "seed"), MemOptions{})
		f := durableFile(t, disk, "a")
		states := [][]byte{{}} // at the last sync and after each change since
		number, failed := 0, false
		change := func(op func() error) {
			if err := op(); err != nil {
				t.Fatal(err)
			}
			states = append(states, readAll(t, f))
		}
		for range rapid.IntRange(0, 20).Draw(t, "operations") {
			size, err := f.Size()
			must(t, err)
			switch rapid.IntRange(0, 12).Draw(t, "operation") {
			case 0:
				to := rapid.Int64Range(0, size).Draw(t, "size")
				for _, earlier := range states { // the cut can be durable without what was overwritten before it
					states = append(states, earlier[:min(int64(len(earlier)), to)])
				}
				change(func() error { return f.Truncate(to) })
			case 1:
				change(func() error { return f.Preallocate(size + rapid.Int64Range(0, 10_000).Draw(t, "growth")) })
			case 2:
				must(t, f.SyncData())
				if !failed {
					states = [][]byte{readAll(t, f)}
				}
			case 4: // from now on no sync says that what was written before is there
				failed = failed || rapid.IntRange(0, 3).Draw(t, "fails") == 0
				if failed {
					disk.FailAt(disk.Ops()+1, errors.New("the device is gone"))
					wantIs(t, f.SyncData(), ErrSyncFailed)
					states = append(states, readAll(t, f))
				}
			case 5, 6:
				number++
				at := rapid.Int64Range(0, f.Position()).Draw(t, "offset")
				n := rapid.Int64Range(0, min(9000, f.Position()-at)).Draw(t, "bytes")
				change(func() error {
					_, err := f.Overwrite(at, bytes.Repeat([]byte{byte(number)}, int(n)))
					return err
				})
			case 3: // somebody else's crash point: the page cache stays
				disk = disk.CrashProcess()
				f = open(t, disk, "a")
			default:
				number++
				n := rapid.SampledFrom([]int{1, 50, 1500, PageSize, 9000}).Draw(t, "bytes")
				change(func() error {
					_, err := f.Append(bytes.Repeat([]byte{byte(number)}, n))
					return err
				})
			}
		}
		for range 5 {
			checkFound(t, readFile(t, disk.Clone(rapid.Uint64().Draw(t, "crash")).Crash(), "a"), states)
		}
	})
}

// checkFound checks what a crash left against the states that the file has had since its last sync.
func checkFound(t *rapid.T, found []byte, states [][]byte) {
	smallest, largest := len(states[0]), 0
	for _, s := range states {
		smallest, largest = min(smallest, len(s)), max(largest, len(s))
	}
	if len(found) < smallest || len(found) > largest {
		t.Fatalf("found %d bytes; the file had from %d to %d", len(found), smallest, largest)
	}
	for i := range pageCount(int64(len(found))) {
		page := padded(found, i)
		if !slices.ContainsFunc(states, func(s []byte) bool { return bytes.Equal(page, padded(s, i)) }) {
			t.Fatalf("page %d was never as it was found: %x", i, page)
		}
	}
	if len(states) == 1 && !bytes.Equal(found, states[0]) {
		t.Fatal("a synced file has changed")
	}
}

// nameHistory is what the names of a tree have been since the last sync of everything.
type nameHistory struct {
	disk    *Mem
	always  map[string]bool // files (by path) that were there at every moment
	kept    map[string]bool // files (by contents) that were there at the sync and were neither removed nor replaced
	exact   map[string]string
	root    string // the names of the root at its last sync, "?" when changed since
	changed bool
	number  int
}

// files returns the contents of all files by path; a tree without end fails.
func files(t *rapid.T, disk FS, dir string, into map[string]string) map[string]string {
	if strings.Count(dir, "/") > 20 {
		t.Fatalf("the tree has no end: %s", dir)
	}
	infos, err := disk.List(dir)
	must(t, err)
	for _, i := range infos {
		name := path.Join(dir, i.Name)
		if i.Dir {
			into[name+"/"] = ""
			files(t, disk, name, into)
			continue
		}
		into[name] = string(readFile(t, disk, name))
	}
	return into
}

// rootNames are the names in the root.
func rootNames(t *rapid.T, disk FS) string {
	infos, err := disk.List("/")
	must(t, err)
	var s []string
	for _, i := range infos {
		s = append(s, i.Name)
	}
	return strings.Join(s, " ")
}

// syncAll makes everything durable and begins the history anew.
func (h *nameHistory) syncAll(t *rapid.T) {
	must(t, h.disk.SyncFS("/"))
	h.exact = files(t, h.disk, "/", make(map[string]string))
	h.always, h.kept = make(map[string]bool), make(map[string]bool)
	for name, id := range h.exact {
		h.always[name] = true
		h.kept[id] = true
	}
	h.root, h.changed = rootNames(t, h.disk), false
}

// step does one operation, which may be refused, and notes what it did to the names.
func (h *nameHistory) step(t *rapid.T) {
	all := files(t, h.disk, "/", map[string]string{"/": ""})
	dirs := slices.Sorted(maps.Keys(all))
	name := strings.TrimSuffix(rapid.SampledFrom(dirs).Draw(t, "path"), "/")
	dirs = slices.DeleteFunc(dirs, func(name string) bool { return !strings.HasSuffix(name, "/") })
	dir := rapid.SampledFrom(dirs).Draw(t, "directory")
	to := dir + rapid.SampledFrom([]string{"a", "b", "d", "e", "f"}).Draw(t, "name")
	if name == "" {
		name = to
	}
	touched := []string{name}
	var err error
	switch rapid.SampledFrom([]string{
		"sync all", "sync", "sync", "mkdir", "remove", "remove all", "rename", "rename",
		"rename", "rename", "create", "create",
	}).Draw(t, "operation") {
	case "sync all":
		h.syncAll(t)
		return
	case "sync":
		must(t, h.disk.SyncDir(dir))
		if dir == "/" {
			h.root = rootNames(t, h.disk)
		}
		return
	case "mkdir":
		touched = []string{to}
		err = h.disk.MkdirAll(to)
	case "remove":
		err = h.disk.Remove(name)
	case "remove all":
		err = h.disk.RemoveAll(name)
	case "rename":
		touched = append(touched, to)
		err = h.disk.Rename(name, to)
	case "create":
		touched = []string{to}
		var f File
		if f, err = h.disk.Create(to); err == nil {
			h.number++
			_, err = f.Append(fmt.Append(nil, h.number))
			must(t, errors.Join(err, f.SyncData(), f.Close()))
		}
	}
	if err == nil {
		h.note(t, touched)
	}
}

// note strikes out what is no longer there.
func (h *nameHistory) note(t *rapid.T, touched []string) {
	h.changed = true
	if slices.ContainsFunc(touched, func(name string) bool { return path.Dir(name) == "/" }) {
		h.root = "?"
	}
	now := files(t, h.disk, "/", make(map[string]string))
	ids := make(map[string]bool)
	for _, id := range now {
		ids[id] = true
	}
	maps.DeleteFunc(h.always, func(name string, _ bool) bool { _, there := now[name]; return !there })
	maps.DeleteFunc(h.kept, func(id string, _ bool) bool { return !ids[id] })
}

// TestCrashNames: whatever is lost, no file that was durable and kept ends without a name or with two, a path that
// always led to a file still leads to one, synced directories are as they were, and the tree stays a tree.
func TestCrashNames(t *testing.T) {
	for range 10 { // a run is short, and many are needed to meet the rare orders
		rapid.Check(t, crashNames)
	}
}

// crashNames is one run of TestCrashNames.
func crashNames(t *rapid.T) {
	h := &nameHistory{disk: NewMem(rapid.Uint64().Draw(t, "seed"), MemOptions{})}
	must(t, h.disk.MkdirAll("/d/e/f"))
	must(t, h.disk.MkdirAll("/s"))
	for _, name := range []string{"/a", "/b", "/d/a", "/d/e/a", "/d/e/f/a", "/s/a"} {
		h.number++
		durableFile(t, h.disk, name, fmt.Append(nil, h.number))
	}
	h.syncAll(t)
	for range rapid.IntRange(1, 25).Draw(t, "operations") {
		h.step(t)
	}
	for range 20 {
		h.check(t, h.disk.Clone(rapid.Uint64().Draw(t, "crash")).Crash())
	}
}

// check looks at what a crash left.
func (h *nameHistory) check(t *rapid.T, disk *Mem) {
	found := files(t, disk, "/", make(map[string]string))
	count := make(map[string]int)
	for _, id := range found {
		count[id]++
	}
	for id, n := range count {
		if n > 1 && id != "" {
			t.Fatalf("file %s has %d names: %v", id, n, found)
		}
	}
	for id := range h.kept {
		if count[id] == 0 && id != "" {
			t.Fatalf("file %s has lost its name: %v", id, found)
		}
	}
	for name := range h.always {
		if _, there := found[name]; !there {
			t.Fatalf("%s was always there and is not: %v", name, found)
		}
	}
	if !h.changed && !maps.Equal(found, h.exact) {
		t.Fatalf("found %v, synced was %v", found, h.exact)
	}
	if got := rootNames(t, disk); h.root != "?" && got != h.root {
		t.Fatalf("the root was synced with %q and has %q", h.root, got)
	}
}
