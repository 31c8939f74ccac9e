package fsys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
)

// script does many operations drawn from a seed on a file system, crashes included, and returns a transcript of all
// that it saw.
func script(seed uint64, plan func(*Mem)) string {
	rng := rand.New(rand.NewPCG(seed, 1))
	disk := NewMem(seed, MemOptions{Capacity: 200_000})
	plan(disk)
	var log strings.Builder
	note := func(what ...any) { fmt.Fprintln(&log, what...) }
	pick := func() string { return []string{"a", "b", "d/a", "d/b", "d/e/a"}[rng.IntN(5)] }
	note(disk.MkdirAll("d/e"))
	handles := make(map[string]File)
	for range 150 {
		name := pick()
		switch k := rng.IntN(20); {
		case k < 9 && handles[name] != nil:
			n, err := handles[name].Append(bytes.Repeat([]byte{byte('a' + k)}, rng.IntN(9000)))
			note("append", name, n, err)
		case k < 11:
			f, err := disk.Create(name)
			if err == nil {
				handles[name] = f
			}
			note("create", name, err)
		case k == 11 && handles[name] != nil:
			note("truncate", handles[name].Truncate(handles[name].Position()/2))
		case k == 12 && handles[name] != nil:
			note("preallocate", handles[name].Preallocate(20_000))
		case k < 15 && handles[name] != nil:
			note("sync", name, handles[name].SyncData())
		case k == 15:
			note("remove", name, disk.Remove(name))
		case k == 16:
			note("rename", name, disk.Rename(name, pick()))
		case k == 17:
			note("sync directory", disk.SyncDir("d"), disk.SyncDir("/"))
		case k == 18:
			disk = map[bool]func() *Mem{true: disk.Crash, false: disk.CrashProcess}[rng.IntN(2) == 0]()
			clear(handles)
			note(dump(disk, "/"))
		}
	}
	note(dump(disk.Crash(), "/"))
	return log.String()
}

// runs describes bytes exactly: how many of which, in order.
func runs(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		rest := bytes.TrimLeft(b, string(b[:1]))
		if b[0] >= 0x80 { // not a character of its own
			rest = b[1:]
		}
		fmt.Fprintf(&s, " %d*%02x", len(b)-len(rest), b[0])
		b = rest
	}
	return s.String()
}

// dump describes all that a file system holds.
func dump(disk FS, dir string) string {
	var s strings.Builder
	infos, err := disk.List(dir)
	fmt.Fprintln(&s, dir, err)
	for _, i := range infos {
		name := strings.TrimSuffix(dir, "/") + "/" + i.Name
		if i.Dir {
			s.WriteString(dump(disk, name))
			continue
		}
		b := make([]byte, i.Size)
		f, err := disk.OpenRead(name)
		if err == nil {
			_, err = f.ReadAt(b, 0)
			err = errors.Join(err, f.Close())
		}
		fmt.Fprintf(&s, "%s %d %v%s\n", name, i.Size, err, runs(b))
	}
	return s.String()
}

// TestDeterminism: the seed and the operations decide every byte.
func TestDeterminism(t *testing.T) {
	different := make(map[string]bool)
	for seed := range uint64(40) {
		plan := func(m *Mem) { m.FailAt(20+int64(seed), errors.New("planned")) }
		first, second := script(seed, plan), script(seed, plan)
		if first != second {
			t.Fatalf("seed %d: two runs differ", seed)
		}
		different[first] = true
	}
	if len(different) != 40 {
		t.Fatalf("%d different runs of 40 seeds", len(different))
	}
}

// TestFailEveryOperation fails, then stops the machine at, each operation of a script in turn.
func TestFailEveryOperation(t *testing.T) {
	broken := errors.New("planned failure")
	for k := int64(1); k <= 120; k++ {
		if log := script(7, func(m *Mem) { m.FailAt(k, broken) }); strings.Count(log, broken.Error()) > 1 {
			t.Fatalf("operation %d: more than one failure", k)
		}
		script(7, func(m *Mem) { m.CrashAt(k) })
	}
}

func TestFailAtCountsOperations(t *testing.T) {
	broken := errors.New("planned failure")
	steps := func(disk *Mem) []error {
		f, created := disk.Create("a")
		if created != nil {
			return []error{created}
		}
		_, appended := f.Append([]byte("abc"))
		_, read := f.ReadAt(make([]byte, 1), 0)
		_, size := f.Size()
		_, stat := disk.Stat("a")
		return []error{created, appended, read, size, stat, f.Preallocate(5), f.Truncate(0), f.SyncData(), disk.SyncDir("/")}
	}
	calm := NewMem(1, MemOptions{})
	want := len(steps(calm))
	if calm.Ops() != int64(want) {
		t.Fatalf("%d operations counted of %d", calm.Ops(), want)
	}
	for k := range want {
		disk := NewMem(1, MemOptions{})
		disk.FailAt(int64(k)+1, broken)
		for i, err := range steps(disk) {
			if errors.Is(err, broken) != (i == k) {
				t.Fatalf("failure planned at %d; step %d: %v", k, i, err)
			}
		}
	}
}

func TestCrashAtStopsTheMachine(t *testing.T) {
	cut := make(map[bool]int)
	for seed := range uint64(100) {
		disk := NewMem(seed, MemOptions{})
		f := durableFile(t, disk, "a", []byte("start "))
		disk.CrashAt(disk.Ops() + 1)
		_, err := f.Append(make([]byte, 500), make([]byte, 500))
		wantIs(t, err, ErrCrashed)
		wantIs(t, f.SyncData(), ErrCrashed)
		_, err = disk.Stat("a")
		wantIs(t, err, ErrCrashed)
		next := disk.CrashProcess()
		got := readFile(t, next, "a")
		if !bytes.HasPrefix(got, []byte("start ")) || len(got) >= 1006 {
			t.Fatalf("seed %d: %d bytes", seed, len(got))
		}
		cut[len(got) > 6]++
	}
	if cut[true] == 0 || cut[false] == 0 {
		t.Fatalf("appends cut within and before: %v", cut)
	}
}

func TestShortAppend(t *testing.T) {
	short := make(map[string]int)
	for seed := range uint64(100) {
		disk := NewMem(seed, MemOptions{})
		f := create(t, disk, "a", []byte("12"))
		disk.FailAt(disk.Ops()+1, syscall.EIO)
		n, err := f.Append([]byte("34"), []byte("56"))
		wantIs(t, err, syscall.EIO)
		if n >= 4 || f.Position() != int64(2+n) || string(readAll(t, f)) != "123456"[:2+n] {
			t.Fatalf("seed %d: %d bytes written, position %d, %q", seed, n, f.Position(), readAll(t, f))
		}
		short[fmt.Sprint(n)]++
	}
	wantOutcomes(t, short, "0", "1", "2", "3")
}

func TestInjector(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	disk.SetInjector(func(op Op, path string) error {
		if op == OpRead && strings.HasSuffix(path, ".log") {
			return syscall.EIO
		}
		return nil
	})
	f, g := create(t, disk, "0.log", []byte("abc")), create(t, disk, "0.index", []byte("abc"))
	_, err := f.ReadAt(make([]byte, 3), 0)
	wantIs(t, err, syscall.EIO)
	if want := "read 0.log: "; !strings.HasPrefix(err.Error(), want) || strings.Count(err.Error(), want) != 1 {
		t.Fatalf("error text: %v", err)
	}
	_, err = g.ReadAt(make([]byte, 3), 0)
	must(t, err)
	disk.SetInjector(nil)
	_, err = f.ReadAt(make([]byte, 3), 0)
	must(t, err)
}

func TestCapacity(t *testing.T) {
	disk := NewMem(1, MemOptions{Capacity: 10})
	f := create(t, disk, "a", []byte("1234567"))
	n, err := f.Append([]byte("8"), []byte("90123"))
	wantIs(t, err, ErrNoSpace)
	if n != 3 || string(readAll(t, f)) != "1234567890" {
		t.Fatalf("%d bytes written: %q", n, readAll(t, f))
	}
	wantIs(t, f.Preallocate(11), ErrNoSpace)
	must(t, f.Truncate(4))
	must(t, f.Preallocate(8))
	if n, err := f.Append([]byte("5678")); n != 4 || err != nil {
		t.Fatalf("append into preallocated space: %d, %v", n, err)
	}
	wantFree(t, disk, 2)
	disk.SetCapacity(5)
	_, err = f.Append([]byte("x"))
	wantIs(t, err, ErrNoSpace)
	wantFree(t, disk, 0)
	disk.SetCapacity(20)
	must(t, disk.Remove("a"))
	wantFree(t, disk, 12)
	must(t, f.Close())
	wantFree(t, disk, 20)
	must(t, create(t, disk, "a", []byte("12345")).Close())
	must(t, create(t, disk, "b", []byte("123")).Close())
	must(t, disk.Rename("b", "a"))
	wantFree(t, disk, 17)
	create(t, disk, "c", []byte("12"))
	must(t, disk.Remove("c"))
	wantFree(t, disk.CrashProcess(), 17)
}

// wantFree ends the test unless that many bytes are free.
func wantFree(t *testing.T, disk FS, want int64) {
	t.Helper()
	if free, err := disk.FreeBytes("/"); free != want || err != nil {
		t.Fatalf("free: %d, %v, want %d", free, err, want)
	}
}

// TestStats: every counter moves with its fault, and only with it.
func TestStats(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := create(t, disk, "a", []byte("abc"))
	must(t, f.SyncData())
	must(t, disk.SyncDir("/"))
	if got := disk.Crash().Stats(); got != (MemStats{Crashes: 1}) {
		t.Fatalf("a crash without anything to lose: %+v", got)
	}
	var all MemStats
	for seed := range uint64(100) {
		disk = NewMem(seed, MemOptions{})
		f = durableFile(t, disk, "a", pageOf("A"), pageOf("B"))
		must(t, f.Truncate(PageSize))
		for range 2 {
			_, err := f.Append([]byte("x"))
			must(t, err)
		}
		create(t, disk, "b")
		g := durableFile(t, disk.Clone(seed), "c", []byte("x"))
		_, err := g.Append([]byte("y"))
		must(t, err)
		twin := g.(*memFile).mem
		twin.FailAt(twin.Ops()+1, syscall.EIO)
		wantIs(t, g.SyncData(), ErrSyncFailed)
		twin.SetCapacity(1)
		_, err = g.Append([]byte("z"))
		wantIs(t, err, ErrNoSpace)
		if got := twin.Stats(); got != (MemStats{Failed: 1, PagesDropped: 1, ShortAppends: 1}) {
			t.Fatalf("a failed sync and a full device: %+v", got)
		}
		got := disk.Crash().Stats()
		if got.PagesKept+got.PagesLost != 1 || got.NamesKept+got.NamesLost != 1 {
			t.Fatalf("one page and one name to lose: %+v", got)
		}
		all.PagesKept += got.PagesKept
		all.PagesLost += got.PagesLost
		all.PagesTorn += got.PagesTorn
		all.TruncationsUndone += got.TruncationsUndone
		all.NamesKept += got.NamesKept
		all.NamesLost += got.NamesLost
	}
	if min(all.PagesKept, all.PagesLost, all.PagesTorn, all.TruncationsUndone, all.NamesKept, all.NamesLost) == 0 {
		t.Fatalf("in 100 crashes: %+v", all)
	}
}

func TestFlipAndBreakRead(t *testing.T) {
	disk := NewMem(1, MemOptions{})
	f := durableFile(t, disk, "a", []byte("0123456789"))
	must(t, disk.Flip("a", 3, 1))
	if got := readAll(t, f); string(got) != "0121456789" {
		t.Fatalf("after the flip: %q", got)
	}
	wantIs(t, disk.Flip("a", 10, 0), fs.ErrInvalid)
	wantIs(t, disk.Flip("a", 0, 8), fs.ErrInvalid)
	wantIs(t, disk.Flip("b", 0, 0), fs.ErrNotExist)
	wantIs(t, disk.Flip("/", 0, 0), fs.ErrInvalid)
	must(t, disk.BreakRead("a", 5, 2))
	wantIs(t, disk.BreakRead("a", 5, 0), fs.ErrInvalid)
	disk = disk.Crash()
	f = open(t, disk, "a")
	p := make([]byte, 10)
	n, err := f.ReadAt(p, 0)
	wantIs(t, err, syscall.EIO)
	if string(p[:n]) != "01214" {
		t.Fatalf("read before the broken range: %q", p[:n])
	}
	if n, err := f.ReadAt(p, 7); n != 3 || !errors.Is(err, io.EOF) {
		t.Fatalf("read after the broken range: %d, %v", n, err)
	}
	must(t, f.Truncate(4))
	_, err = f.Append([]byte("456789"))
	must(t, err)
	if got := readAll(t, f); string(got) != "0121456789" {
		t.Fatalf("after writing anew: %q", got)
	}
}

func TestNoPreallocate(t *testing.T) {
	f := create(t, NewMem(1, MemOptions{NoPreallocate: true}).Clone(2), "a", []byte("abc"))
	must(t, f.Preallocate(100))
	if size, err := f.Size(); size != 3 || err != nil {
		t.Fatalf("size %d, %v", size, err)
	}
}

func TestErrorText(t *testing.T) {
	disk := NewMem(1, MemOptions{Capacity: 1})
	f := create(t, disk, "a")
	_, full := f.Append([]byte("ab"))
	disk.FailAt(disk.Ops()+1, syscall.EIO)
	for err, want := range map[error]string{
		full:         "append a: no space left on device",
		f.SyncData(): "sync a: sync failed: " + syscall.EIO.Error(),
		opError("append", "a", &fs.PathError{Op: "write", Path: "a", Err: syscall.ENOSPC}): "append a: no space left on device",
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
	if OpSyncData.String() != "sync" || Op(99).String() != "operation 99" {
		t.Errorf("names: %s, %s", OpSyncData, Op(99))
	}
}
