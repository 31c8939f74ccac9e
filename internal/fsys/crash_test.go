package fsys

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// seeds is how many crashes of one state are looked at.
const seeds = 300

// outcomes crashes copies of a file system under many seeds and counts what look says of each.
func outcomes(t tester, disk *Mem, look func(found *Mem) string) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for seed := range uint64(seeds) {
		counts[look(disk.Clone(seed).Crash())]++
	}
	return counts
}

// wantOutcomes ends the test unless exactly the wanted outcomes were seen.
func wantOutcomes(t tester, got map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if got[w] == 0 {
			t.Errorf("%q was never seen in %d crashes: %v", w, seeds, got)
		}
	}
	for g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("%q must not be seen: %v", g, got)
		}
	}
}

// pageOf is a page filled with one letter.
func pageOf(letter string) []byte { return bytes.Repeat([]byte(letter), PageSize) }

// letters says what a file holds, a letter a page: its first byte, 0 for zeros, and ! where the page is not of one
// byte throughout.
func letters(b []byte) string {
	var s strings.Builder
	for start := 0; start < len(b); start += PageSize {
		p := b[start:min(start+PageSize, len(b))]
		switch {
		case bytes.Count(p, p[:1]) != len(p):
			s.WriteByte('!')
		case p[0] == 0:
			s.WriteByte('0')
		default:
			s.WriteByte(p[0])
		}
	}
	return s.String()
}

// fileLetters is a look at one file.
func fileLetters(t tester, name string) func(*Mem) string {
	return func(found *Mem) string { return letters(readFile(t, found, name)) }
}

// names is a look at one directory: names and, in brackets, the first byte of each file.
func names(t tester, dir string) func(*Mem) string {
	return func(found *Mem) string {
		infos, err := found.List(dir)
		must(t, err)
		var s []string
		for _, i := range infos {
			first := ""
			if b := []byte(nil); !i.Dir {
				b = readFile(t, found, dir+"/"+i.Name)
				first = "[" + string(b[:min(1, len(b))]) + "]"
			}
			s = append(s, i.Name+first)
		}
		return strings.Join(s, " ")
	}
}

// durableFile makes a file whose contents and name are durable.
func durableFile(t tester, disk *Mem, name string, bufs ...[]byte) File {
	t.Helper()
	f := create(t, disk, name, bufs...)
	must(t, f.SyncData())
	must(t, disk.SyncFS("/"))
	return f
}

func TestCrashKeepsSyncedBytes(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := durableFile(t, disk, "a", pageOf("A"), []byte("tail"))
	if _, err := f.Append(bytes.Repeat([]byte("x"), 10_000)); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(seeds) {
		got := readFile(t, disk.Clone(seed).Crash(), "a")
		if want := append(pageOf("A"), "tail"...); !bytes.HasPrefix(got, want) {
			t.Fatalf("seed %d: synced bytes are gone: %d bytes, %s", seed, len(got), letters(got))
		}
	}
}

func TestCrashKeepsPagesIndependently(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := durableFile(t, disk, "a", pageOf("A"))
	_, err := f.Append(pageOf("B"), pageOf("C"))
	must(t, err)
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "A", "AB", "A0C", "ABC", "A00", "AB0")
}

func TestCrashShowsOldContentsBetweenOverwrittenPages(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := durableFile(t, disk, "a", pageOf("A"), pageOf("B"), pageOf("C"))
	_, err := f.Overwrite(0, pageOf("x"), pageOf("y"))
	must(t, err)
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "ABC", "xBC", "AyC", "xyC")
	must(t, f.SyncData())
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "xyC")
}

func TestCrashShowsPreallocatedZeros(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := durableFile(t, disk, "a", pageOf("A"))
	must(t, f.Preallocate(3*PageSize))
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "A", "A00")
	must(t, f.SyncData())
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "A00")
	_, err := f.Append(pageOf("B"), pageOf("C"))
	must(t, err)
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "A00", "AB0", "A0C", "ABC")
}

// TestCrashTearsAtAppends: a page may be found as it was after an earlier append.
func TestCrashTearsAtAppends(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := durableFile(t, disk, "a", []byte("A"))
	for _, b := range []string{"B", "C"} {
		_, err := f.Append([]byte(b))
		must(t, err)
	}
	look := func(found *Mem) string { return string(readFile(t, found, "a")) }
	wantOutcomes(t, outcomes(t, disk, look), "A", "AB", "ABC", "A\x00\x00", "AB\x00")
}

func TestCrashUndoesTruncation(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := durableFile(t, disk, "a", pageOf("A"), pageOf("B"), pageOf("C"))
	must(t, f.Truncate(PageSize))
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "A", "ABC")
	_, err := f.Append(pageOf("X"))
	must(t, err)
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "A", "A0", "AX", "ABC", "AXC")
	must(t, f.SyncData())
	wantOutcomes(t, outcomes(t, disk, fileLetters(t, "a")), "AX")
}

func TestTruncationThenPreallocationSyncsZeros(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := durableFile(t, disk, "a", pageOf("A"), pageOf("B"), pageOf("C"))
	must(t, f.Truncate(PageSize+10))
	must(t, f.Preallocate(3*PageSize))
	must(t, f.SyncData())
	want := append(append(pageOf("A"), "BBBBBBBBBB"...), make([]byte, 2*PageSize-10)...)
	for seed := range uint64(20) {
		if got := readFile(t, disk.Clone(seed).Crash(), "a"); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %s", seed, letters(got))
		}
	}
}

func TestCrashLosesNames(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	must(t, disk.MkdirAll("d"))
	must(t, disk.SyncDir("/"))
	for _, name := range []string{"d/a", "d/b"} {
		must(t, create(t, disk, name, []byte("1")).SyncData())
	}
	wantOutcomes(t, outcomes(t, disk, names(t, "d")), "", "a[1]", "b[1]", "a[1] b[1]")
	must(t, disk.SyncDir("d"))
	wantOutcomes(t, outcomes(t, disk, names(t, "d")), "a[1] b[1]")
	must(t, disk.Remove("d/a"))
	must(t, disk.Remove("d/b"))
	wantOutcomes(t, outcomes(t, disk, names(t, "d")), "", "a[1]", "b[1]", "a[1] b[1]")
}

// TestCrashLosesDirectories: a synced file in a directory whose own name is not durable can be lost.
func TestCrashLosesDirectories(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	must(t, disk.MkdirAll("d/e"))
	must(t, create(t, disk, "d/e/a", []byte("1")).SyncData())
	must(t, disk.SyncDir("d/e"))
	must(t, disk.SyncDir("d"))
	wantOutcomes(t, outcomes(t, disk, names(t, "/")), "", "d")
	must(t, disk.SyncDir("/"))
	wantOutcomes(t, outcomes(t, disk, names(t, "d/e")), "a[1]")
	must(t, disk.RemoveAll("d"))
	wantOutcomes(t, outcomes(t, disk, names(t, "/")), "", "d")
}

// TestCrashWithinReplacement is the way whole files are replaced: temp, sync, rename, sync the directory.
func TestCrashWithinReplacement(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	must(t, durableFile(t, disk, "f", []byte("1")).Close())
	temp := create(t, disk, "f.tmp", []byte("2"))
	must(t, temp.SyncData())
	must(t, disk.Rename("f.tmp", "f"))
	wantOutcomes(t, outcomes(t, disk, names(t, "/")), "f[1]", "f[1] f.tmp[2]", "f[2]")
	must(t, disk.SyncDir("/"))
	wantOutcomes(t, outcomes(t, disk, names(t, "/")), "f[2]")
}

// TestCrashWithinReplacementUnsynced: without the sync of the temporary file the new one can be found empty.
func TestCrashWithinReplacementUnsynced(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	must(t, durableFile(t, disk, "f", []byte("1")).Close())
	create(t, disk, "f.tmp", []byte("2"))
	must(t, disk.Rename("f.tmp", "f"))
	must(t, disk.SyncDir("/"))
	wantOutcomes(t, outcomes(t, disk, names(t, "/")), "f[]", "f[2]", "f[\x00]")
}

func TestCrashWithinMoves(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	must(t, disk.MkdirAll("d"))
	must(t, durableFile(t, disk, "a", []byte("1")).Close())
	must(t, disk.MkdirAll("new"))
	must(t, disk.Rename("a", "new/a"))
	must(t, disk.Rename("new", "d/new"))
	look := func(found *Mem) string {
		var all []string
		for _, dir := range []string{"/", "new", "d", "d/new"} {
			if _, err := found.Stat(dir); err == nil {
				all = append(all, dir+": "+names(t, dir)(found))
			}
		}
		return strings.Join(all, "; ")
	}
	moved := "/: d; d: new; d/new: a[1]"
	wantOutcomes(t, outcomes(t, disk, look), "/: a[1] d; d: ", "/: a[1] d new; new: ; d: ", "/: d new; new: a[1]; d: ",
		"/: a[1] d; d: new; d/new: ", moved)
	must(t, disk.SyncDir("d/new"))
	wantOutcomes(t, outcomes(t, disk, look), "/: d new; new: a[1]; d: ", moved)
	must(t, disk.SyncDir("d"))
	wantOutcomes(t, outcomes(t, disk, look), moved)
}

// TestCrashWithinMovesOut: a directory is found removed only without the file that was moved out of it.
func TestCrashWithinMovesOut(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	must(t, disk.MkdirAll("d"))
	must(t, durableFile(t, disk, "d/a", []byte("1")).Close())
	must(t, disk.Rename("d/a", "a"))
	must(t, disk.Remove("d"))
	wantOutcomes(t, outcomes(t, disk, names(t, "/")), "d", "a[1] d", "a[1]")
}

// TestSyncTakesEarlierChangesAlong: the sync of one directory never makes a change durable without those before it that
// it stands on, in whatever directory.
func TestSyncTakesEarlierChangesAlong(t *testing.T) {
	for name, c := range map[string]struct {
		changes func(disk *Mem) []error
		syncs   []string
		want    string
	}{
		"moved twice": {func(disk *Mem) []error {
			return []error{disk.Rename("a", "d/a"), disk.Rename("d/a", "e/a")}
		}, []string{"e"}, "/e/a"},
		"moved out of a removed directory": {func(disk *Mem) []error {
			return []error{disk.Rename("a", "d/a"), disk.SyncFS("/"), disk.Rename("d/a", "e/a"), disk.Remove("d")}
		}, []string{"/"}, "/e/a"},
		"moved to a name used before": {func(disk *Mem) []error {
			return []error{disk.MkdirAll("d/x"), disk.Remove("d/x"), disk.Rename("a", "d/x")}
		}, []string{"/", "d"}, "/d/x"},
	} {
		t.Run(name, func(t *testing.T) {
			disk := NewMem(1, MemOptions{})
			must(t, disk.MkdirAll("d"))
			must(t, disk.MkdirAll("e"))
			must(t, durableFile(t, disk, "a", []byte("1")).Close())
			for _, err := range c.changes(disk) {
				must(t, err)
			}
			for _, dir := range c.syncs {
				must(t, disk.SyncDir(dir))
			}
			wantOutcomes(t, outcomes(t, disk, func(found *Mem) string {
				var where []string
				for _, line := range strings.Split(dump(found, "/"), "\n") {
					if file, rest, ok := strings.Cut(line, " "); ok && strings.HasSuffix(rest, " 1*31") {
						where = append(where, file)
					}
				}
				return strings.Join(where, " ")
			}), c.want)
		})
	}
}

// TestFailedSync: what a failed sync dropped is never written, although later syncs succeed.
func TestFailedSync(t *testing.T) {
	seen := make(map[string]int)
	for seed := range uint64(seeds) {
		disk := NewMem(seed, MemOptions{})
		f := durableFile(t, disk, "a", pageOf("A"))
		_, err := f.Append(pageOf("B"), pageOf("C"))
		must(t, err)
		disk.FailAt(disk.Ops()+1, fmt.Errorf("the device is gone"))
		wantIs(t, f.SyncData(), ErrSyncFailed)
		before := letters(readAll(t, f))
		must(t, f.SyncData())
		_, err = f.Append(pageOf("D"))
		must(t, err)
		must(t, f.SyncData())
		seen[before+" "+fileLetters(t, "a")(disk.Crash())]++
	}
	wantOutcomes(t, seen, "ABC A0CD", "ABC AB0D", "ABC A00D", "A0C A0CD", "AB0 AB0D", "A00 A00D")
}

// TestFailedSyncThenWrite: a dropped page that is written to again is dirty as a whole.
func TestFailedSyncThenWrite(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	for disk.disk.reverts {
		disk = NewMem(disk.disk.rng.Uint64(), MemOptions{})
	}
	f := durableFile(t, disk, "a", []byte("A"))
	_, err := f.Append([]byte("B"))
	must(t, err)
	disk.FailAt(disk.Ops()+1, fmt.Errorf("the device is gone"))
	wantIs(t, f.SyncData(), ErrSyncFailed)
	must(t, f.SyncData())
	look := func(found *Mem) string { return string(readFile(t, found, "a")) }
	wantOutcomes(t, outcomes(t, disk, look), "A\x00")
	_, err = f.Append([]byte("C"))
	must(t, err)
	must(t, f.SyncData())
	wantOutcomes(t, outcomes(t, disk, look), "ABC")
}

// TestFailedDirectorySync: later syncs of the directory may do nothing.
func TestFailedDirectorySync(t *testing.T) {
	for _, op := range []Op{OpSyncDir, OpSyncFS} {
		seen := make(map[string]int)
		for seed := range uint64(seeds) {
			disk := NewMem(seed, MemOptions{})
			must(t, create(t, disk, "a").Close())
			broken := true
			disk.SetInjector(func(o Op, _ string) error {
				if broken && o == op {
					return errors.New("the device is gone")
				}
				return nil
			})
			sync := map[Op]func(string) error{OpSyncDir: disk.SyncDir, OpSyncFS: disk.SyncFS}[op]
			wantIs(t, sync("/"), ErrSyncFailed)
			broken = false
			must(t, sync("/"))
			found := disk.Crash()
			seen[names(t, "/")(found)]++
			must(t, create(t, found, "b").Close())
			must(t, found.SyncDir("/"))
			if got := names(t, "/")(found.Crash()); !strings.Contains(got, "b[]") {
				t.Fatalf("seed %d: the directory is deaf after the crash: %s", seed, got)
			}
		}
		wantOutcomes(t, seen, "", "a[]")
	}
}

func TestCrashEndsTheProcess(t *testing.T) {
	for name, crash := range map[string]func(*Mem) *Mem{"power": (*Mem).Crash, "process": (*Mem).CrashProcess} {
		t.Run(name, func(t *testing.T) {
			disk := NewMem(1, MemOptions{})
			f := durableFile(t, disk, "a", []byte("1"))
			lock, err := disk.Lock("lock")
			must(t, err)
			must(t, disk.SyncFS("/"))
			ops := disk.Ops()
			next := crash(disk)
			for _, dead := range deadOperations(disk, f) {
				wantIs(t, dead, ErrCrashed)
			}
			wantIs(t, lock.Close(), ErrCrashed)
			if f.Position() != 1 || f.Name() != "a" || next.Ops() != ops {
				t.Fatalf("position %d, name %s, %d operations", f.Position(), f.Name(), next.Ops())
			}
			if got := readFile(t, next, "a"); string(got) != "1" {
				t.Fatalf("a dead process wrote: %q", got)
			}
			lock, err = next.Lock("lock")
			must(t, err)
			must(t, lock.Close())
		})
	}
}

// deadOperations does everything with a file system and a file and returns the errors.
func deadOperations(disk *Mem, f File) []error {
	_, appended := f.Append([]byte("x"))
	_, read := f.ReadAt(make([]byte, 1), 0)
	_, size := f.Size()
	_, created := disk.Create("b")
	_, opened := disk.Open("a")
	_, readOnly := disk.OpenRead("a")
	_, list := disk.List("/")
	_, stat := disk.Stat("a")
	_, free := disk.FreeBytes("/")
	_, locked := disk.Lock("lock")
	return []error{
		appended, read, size, created, opened, readOnly, list, stat, free, locked, f.SyncData(), f.Truncate(0),
		f.Preallocate(10), f.Close(), disk.MkdirAll("d"), disk.Remove("a"), disk.RemoveAll("a"), disk.Rename("a", "b"),
		disk.SyncDir("/"), disk.SyncFS("/"),
	}
}

// TestCrashProcessKeepsTheCache: kill -9 loses nothing, and what it left is still not durable.
func TestCrashProcessKeepsTheCache(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	must(t, durableFile(t, disk, "a", []byte("1")).Close())
	must(t, disk.Rename("a", "b"))
	_, err := open(t, disk, "b").Append([]byte("2"))
	must(t, err)
	create(t, disk, "c", []byte("3"))
	next := disk.CrashProcess()
	if got := names(t, "/")(next) + " " + string(readFile(t, next, "b")); got != "b[1] c[3] 12" {
		t.Fatalf("after kill -9: %s", got)
	}
	if got := outcomes(t, next, names(t, "/")); got["a[1]"] == 0 || got["b[1] c[3]"] == 0 {
		t.Fatalf("after kill -9 and a power loss: %v", got)
	}
}

func TestCloneIsIndependent(t *testing.T) {
	disk := NewMem(1, MemOptions{Capacity: 100})
	f := durableFile(t, disk, "a", []byte("1"))
	twin := disk.Clone(2)
	_, err := f.Append([]byte("2"))
	must(t, err)
	must(t, disk.Rename("a", "b"))
	if got := names(t, "/")(twin); got != "a[1]" || string(readFile(t, twin, "a")) != "1" {
		t.Fatalf("the clone changed: %s", got)
	}
	_, err = open(t, twin, "a").Append(make([]byte, 200))
	wantIs(t, err, ErrNoSpace)
	if got := readAll(t, f); string(got) != "12" {
		t.Fatalf("the original changed: %q", got)
	}
}
