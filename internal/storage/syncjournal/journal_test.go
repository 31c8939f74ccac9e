package syncjournal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

const (
	testDir  = "data/sync-journal"
	testFile = 16 * pageBytes
	testSalt = 0x1234_5678_9abc_def0
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantIs(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want one that is %v", err, target)
	}
}

func logOf(n int) model.TopicPartition {
	var id model.UUID
	copy(id[:], fmt.Sprintf("topic %d", n%3))
	return model.TopicPartition{TopicID: id, Partition: int32(n)} //nolint:gosec // small
}

// newDisk is an empty disk with a data directory.
func newDisk(t testing.TB, seed uint64) *fsys.Mem {
	t.Helper()
	disk := fsys.NewMem(seed, fsys.MemOptions{})
	must(t, disk.MkdirAll("data"))
	must(t, disk.SyncDir("/"))
	return disk
}

func openTest(t testing.TB, fsy fsys.FS) *Journal {
	t.Helper()
	j, err := Open(fsy, testDir, Options{FileBytes: testFile, Salt: testSalt})
	must(t, err)
	return j
}

// ready is a journal that can be written.
func ready(t testing.TB, fsy fsys.FS) *Journal {
	t.Helper()
	j := openTest(t, fsy)
	must(t, j.Clear())
	must(t, j.Prepare())
	return j
}

// frame is a frame of a log whose bytes are told by number and size.
func frame(log, number, size int) Frame {
	return Frame{
		Log: logOf(log), SegmentBase: int64(log), Position: int64(100 * number), EndOffset: int64(number),
		Data: bytes.Repeat([]byte(fmt.Sprintf("%d/%d ", log, number)), size)[:size],
	}
}

func write(t testing.TB, j *Journal, frames ...Frame) uint64 {
	t.Helper()
	g, err := j.Write(frames)
	must(t, err)
	return g
}

func describe(f Frame) string {
	return fmt.Sprintf("%d %d@%d-%d %d:%08x", f.Log.Partition, f.SegmentBase, f.Position, f.EndOffset, len(f.Data), crc32.ChecksumIEEE(f.Data))
}

// found reads a directory: its live frames and what else Read says.
func found(t testing.TB, fsy fsys.FS) ([]string, *Contents) {
	t.Helper()
	c, err := Read(fsy, testDir)
	must(t, err)
	frames := []string{}
	must(t, c.Each(func(f Frame) error {
		frames = append(frames, describe(f))
		return nil
	}))
	checkDump(t, fsy, frames, c)
	return frames, c
}

// wantFound fails unless exactly these frames are live, in this order, and nothing is damaged.
func wantFound(t testing.TB, fsy fsys.FS, want ...Frame) *Contents {
	t.Helper()
	frames, c := found(t, fsy)
	var descriptions []string
	ends := make(map[model.TopicPartition]End)
	for _, f := range want {
		descriptions = append(descriptions, describe(f))
		ends[f.Log] = End{Offset: max(ends[f.Log].Offset, f.EndOffset)}
	}
	if !slices.Equal(frames, descriptions) {
		t.Fatalf("found %d frames\n%.2000s\nwant %d\n%.2000s", len(frames), frames, len(want), descriptions)
	}
	if !maps.Equal(c.Ends, ends) || len(c.Damage) > 0 {
		t.Fatalf("ends %v, want %v; damage %v", c.Ends, ends, c.Damage)
	}
	return c
}

func TestWhatWasWrittenIsFoundAfterAPowerLoss(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	want := []Frame{frame(1, 1, 10), frame(2, 1, 5000), frame(1, 2, 4096), frame(3, 7, 1)}
	if g := write(t, j, want[0], want[1]); g != 1 || j.Generation() != 1 || j.OldestLive() != 1 {
		t.Fatalf("written in generation %d, %d is the newest, %d the oldest", g, j.Generation(), j.OldestLive())
	}
	write(t, j, want[2])
	write(t, j, want[3])
	for seed := range uint64(50) {
		wantFound(t, disk.Clone(seed).Crash(), want...)
	}
}

func TestMissingAndEmptyDirectoriesHoldNothing(t *testing.T) {
	disk := newDisk(t, 1)
	wantFound(t, disk)
	j := openTest(t, disk)
	must(t, j.Clear())
	if infos, err := disk.List("data"); err != nil || len(infos) > 0 {
		t.Fatalf("made %v, %v", infos, err)
	}
	must(t, j.Prepare())
	wantFound(t, disk)
	must(t, j.Close())
}

func TestForgottenFramesNeverComeBack(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10), frame(2, 1, 10))
	must(t, j.Forget([]model.TopicPartition{logOf(1), logOf(9)}))
	if j.Holds(logOf(1)) || !j.Holds(logOf(2)) {
		t.Fatal("holds what it forgot, or forgot what it holds")
	}
	wantFound(t, disk.Clone(1).Crash(), frame(2, 1, 10))
	write(t, j, frame(1, 5, 20))
	wantFound(t, disk.Clone(1).Crash(), frame(2, 1, 10), frame(1, 5, 20))
	ops := disk.Ops()
	must(t, j.Forget([]model.TopicPartition{logOf(3), logOf(9)}))
	if disk.Ops() != ops {
		t.Fatal("forgetting what is not there touches the disk")
	}
}

func TestForgetReachesIntoTheEarlierGeneration(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10), frame(2, 1, 10))
	for n := 2; j.Generation() == 1; n++ {
		write(t, j, frame(3, n, 9000))
	}
	must(t, j.Forget([]model.TopicPartition{logOf(1), logOf(3)}))
	wantFound(t, disk.Clone(1).Crash(), frame(2, 1, 10))
}

func TestReleaseFreesTheFileForTheNextGeneration(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	want := map[uint64][]Frame{}
	n := 0
	fill := func() error {
		for {
			n++
			f := frame(n%5, n, 9000)
			g, err := j.Write([]Frame{f})
			if err != nil {
				return err
			}
			want[g] = append(want[g], f)
		}
	}
	wantIs(t, fill(), ErrFull)
	if j.Generation() != 2 || j.OldestLive() != 1 {
		t.Fatalf("full at generation %d, oldest %d", j.Generation(), j.OldestLive())
	}
	for g := uint64(1); g < 6; g++ {
		wantFound(t, disk.Clone(g).Crash(), slices.Concat(want[g], want[g+1])...)
		must(t, j.Release(g))
		wantFound(t, disk.Clone(g).Crash(), want[g+1]...)
		wantIs(t, fill(), ErrFull)
		if j.OldestLive() != g+1 || j.Generation() != g+2 {
			t.Fatalf("after the release of %d: oldest %d, newest %d", g, j.OldestLive(), j.Generation())
		}
	}
	ops := disk.Ops()
	must(t, j.Release(3))
	if disk.Ops() != ops {
		t.Fatal("a second release touches the disk")
	}
	must(t, j.Release(1000)) // all of them
	if j.OldestLive() != j.Generation()+1 || j.Holds(logOf(1)) {
		t.Fatalf("oldest %d, newest %d", j.OldestLive(), j.Generation())
	}
	wantFound(t, disk.Clone(1).Crash())
	write(t, j, frame(1, 1, 10))
	wantFound(t, disk.Clone(1).Crash(), frame(1, 1, 10))
}

func TestForgetFitsWhereWriteDoesNot(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	for n := 1; ; n++ {
		if _, err := j.Write([]Frame{frame(n%5, n, 100)}); err != nil {
			wantIs(t, err, ErrFull)
			break
		}
	}
	must(t, j.Forget([]model.TopicPartition{logOf(0), logOf(1), logOf(2), logOf(3), logOf(4)}))
	wantFound(t, disk.Clone(1).Crash())
}

func TestClearMakesNothingLive(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10))
	must(t, j.Clear())
	wantFound(t, disk.Clone(1).Crash())
	write(t, j, frame(1, 2, 10)) // goes on in the next generation
	wantFound(t, disk.Clone(1).Crash(), frame(1, 2, 10))

	again := openTest(t, disk.CrashProcess())
	_, err := again.Write([]Frame{frame(1, 3, 10)})
	wantIs(t, err, ErrNotReady)
	wantIs(t, again.Prepare(), ErrNotReady)
	must(t, again.Clear())
	wantFound(t, again.fs)
	must(t, again.Prepare())
	write(t, again, frame(1, 4, 10))
	wantFound(t, again.fs, frame(1, 4, 10))
	must(t, again.Clear())
	must(t, again.Close())
	_, err = again.Write([]Frame{frame(1, 5, 10)})
	wantIs(t, err, ErrNotReady)

	third := openTest(t, again.fs)
	must(t, third.Clear())
	ops := opsThatWrite(again.fs.(*fsys.Mem))
	must(t, third.Clear())
	if *ops != 0 {
		t.Fatalf("%d writes where nothing is live", *ops)
	}
}

// A process is killed while it releases or clears, at each of its operations, and a power loss follows once the next one has
// started: what that one found void, and has built upon, does not come back.
func TestWhatWasFoundVoidStaysVoid(t *testing.T) {
	ends := map[string]func(*Journal) error{
		"release": func(j *Journal) error { return j.Release(1) },
		"clear":   (*Journal).Clear,
		"another size": func(j *Journal) error {
			other, err := Open(j.fs, testDir, Options{FileBytes: 2 * testFile, Salt: 7})
			if err != nil {
				return err
			}
			return other.Clear()
		},
	}
	for name, end := range ends {
		void := 0
		for k, again := 1, true; again; k++ {
			for seed := range uint64(8) {
				disk := newDisk(t, seed)
				j := ready(t, disk)
				write(t, j, frame(1, 1, 10))
				left := k
				disk.SetInjector(func(fsys.Op, string) error {
					if left--; left <= 0 {
						return fsys.ErrCrashed
					}
					return nil
				})
				again = end(j) != nil
				next := disk.CrashProcess()
				next.SetInjector(nil)
				if got, _ := found(t, next); len(got) > 0 {
					continue // replayed once more
				}
				void++
				must(t, openTest(t, next).Clear())
				if got, _ := found(t, next.Crash()); len(got) > 0 {
					t.Fatalf("%s, killed at its operation %d, seed %d: a power loss brings back %v", name, k, seed, got)
				}
			}
		}
		if void == 0 {
			t.Fatalf("%s: nothing was ever void", name)
		}
	}
}

// opsThatWrite counts what changes the contents of files from now on.
func opsThatWrite(disk *fsys.Mem) *int {
	n := 0
	disk.SetInjector(func(op fsys.Op, _ string) error {
		if op == fsys.OpAppend || op == fsys.OpOverwrite || op == fsys.OpSyncData || op == fsys.OpSyncDir {
			n++
		}
		return nil
	})
	return &n
}

func TestRefusedFramesLeaveNoTrace(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	for _, bad := range []Frame{
		{Log: logOf(1)},
		{Log: model.TopicPartition{Partition: -1}, Data: []byte("x")},
		{Log: logOf(1), Position: -1, Data: []byte("x")},
		{Log: logOf(1), SegmentBase: -1, Data: []byte("x")},
		{Log: logOf(1), EndOffset: -1, Data: []byte("x")},
	} {
		_, err := j.Write([]Frame{frame(1, 1, 10), bad})
		wantIs(t, err, ErrBadFrame)
	}
	_, err := j.Write([]Frame{frame(1, 1, testFile)})
	wantIs(t, err, ErrRoundTooLarge)
	if _, err := j.Write(nil); err != nil || j.Generation() != 0 {
		t.Fatalf("a write of nothing: %v, generation %d", err, j.Generation())
	}
	wantFound(t, disk)
}

func TestAFailedSyncFailsTheJournalForEver(t *testing.T) {
	for _, fault := range []fsys.Op{fsys.OpOverwrite, fsys.OpSyncData} {
		disk := newDisk(t, 1)
		j := ready(t, disk)
		write(t, j, frame(1, 1, 10))
		fails := true
		disk.SetInjector(func(op fsys.Op, _ string) error {
			if op == fault && fails {
				fails = false
				return errors.New("the device is gone")
			}
			return nil
		})
		_, err := j.Write([]Frame{frame(1, 2, 10)})
		wantIs(t, err, ErrFailed)
		if fault == fsys.OpSyncData {
			wantIs(t, err, fsys.ErrSyncFailed)
		}
		_, err = j.Write([]Frame{frame(1, 3, 10)})
		wantIs(t, err, ErrFailed)
		wantIs(t, j.Forget([]model.TopicPartition{logOf(1)}), ErrFailed)
		wantIs(t, j.Release(1), ErrFailed)
		wantIs(t, j.Clear(), ErrFailed)
		wantIs(t, j.Prepare(), ErrFailed)
		if j.Ready() {
			t.Fatal("a failed journal is ready")
		}
	}
}

func TestPrepareOnAFullDiskCanBeRepeated(t *testing.T) {
	disk := newDisk(t, 1)
	disk.SetCapacity(testFile + 1000)
	j := openTest(t, disk)
	must(t, j.Clear())
	wantIs(t, j.Prepare(), fsys.ErrNoSpace)
	_, err := j.Write([]Frame{frame(1, 1, 10)})
	wantIs(t, err, ErrNotReady)
	infos, err := disk.List(testDir)
	if err != nil || len(infos) != 1 {
		t.Fatalf("left %v, %v", infos, err)
	}
	disk.SetCapacity(0)
	must(t, j.Prepare())
	write(t, j, frame(1, 1, 10))
	wantFound(t, disk, frame(1, 1, 10))
}

// A journal whose files cannot be made holds nothing: it can be tried again, and a stop is clean all the same.
func TestPrepareThatFailsCanBeRepeatedUnlessASyncFailed(t *testing.T) {
	for _, op := range []fsys.Op{fsys.OpMkdirAll, fsys.OpCreate, fsys.OpAppend, fsys.OpOverwrite, fsys.OpRename, fsys.OpOpen} {
		disk := newDisk(t, 1)
		j := openTest(t, disk)
		must(t, j.Clear())
		fails := true
		disk.SetInjector(func(found fsys.Op, _ string) error {
			if found == op && fails {
				fails = false
				return errors.New("not now")
			}
			return nil
		})
		if err := j.Prepare(); err == nil || j.Ready() || errors.Is(err, ErrFailed) {
			t.Fatalf("%s: prepared %t, %v", op, j.Ready(), err)
		}
		must(t, j.Clear())
		must(t, j.Prepare())
		write(t, j, frame(1, 1, 10))
		wantFound(t, disk.Crash(), frame(1, 1, 10))
	}
	for _, op := range []fsys.Op{fsys.OpSyncData, fsys.OpSyncDir} {
		disk := newDisk(t, 1)
		j := openTest(t, disk)
		must(t, j.Clear())
		disk.SetInjector(func(found fsys.Op, _ string) error {
			if found == op {
				return errors.New("not now")
			}
			return nil
		})
		wantIs(t, j.Prepare(), ErrFailed)
	}
}

// A process is killed at any operation of making the files. The next one, which may find them whole, makes their names durable before
// anything in them counts.
func TestFilesOfADeadProcessBecomeDurable(t *testing.T) {
	k := int64(1)
	for killed := true; killed; k++ {
		disk := newDisk(t, 1)
		j := openTest(t, disk)
		must(t, j.Clear())
		disk.CrashAt(disk.Ops() + k)
		err := j.Prepare()
		if killed = errors.Is(err, fsys.ErrCrashed); !killed {
			must(t, err)
		}
		disk = disk.CrashProcess()
		j = ready(t, disk)
		write(t, j, frame(1, 1, 10))
		for seed := range uint64(10) {
			wantFound(t, disk.Clone(seed).Crash(), frame(1, 1, 10))
		}
	}
	if k < 10 {
		t.Fatalf("%d operations", k)
	}
}

func TestAnotherFileSizeReplacesTheFiles(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10))
	disk = disk.CrashProcess()
	wantFound(t, disk, frame(1, 1, 10))
	j, err := Open(disk, testDir, Options{FileBytes: 2 * testFile, Salt: 7})
	must(t, err)
	must(t, j.Clear())
	wantFound(t, disk)
	must(t, j.Prepare())
	write(t, j, frame(1, 2, testFile))
	wantFound(t, disk, frame(1, 2, testFile))
}

// Writers, a releaser, one that forgets and readers of the numbers, at once, on the machine's own file system; then the
// files are read as the next process finds them.
func TestConcurrentUse(t *testing.T) {
	dir := filepath.ToSlash(t.TempDir()) + "/sync-journal"
	j, err := Open(fsys.OS(), dir, Options{FileBytes: 1 << 20, Salt: testSalt})
	must(t, err)
	must(t, j.Clear())
	must(t, j.Prepare())
	const writers, rounds = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range rounds {
				_, err := j.Write([]Frame{frame(w, n, 20_000)})
				if errors.Is(err, ErrFull) {
					err = j.Release(j.OldestLive())
				}
				if err != nil {
					t.Error(err)
				}
				if w == 0 && n%10 == 0 {
					if err := j.Forget([]model.TopicPartition{logOf(w)}); err != nil || j.Holds(logOf(w)) {
						t.Errorf("forget: %v, still held %t", err, j.Holds(logOf(w)))
					}
				}
				if !j.Ready() || j.OldestLive() > j.Generation()+1 {
					t.Error("not ready")
				}
			}
		})
	}
	wg.Wait()
	must(t, j.Close())
	c, err := Read(fsys.OS(), dir)
	must(t, err)
	last := make(map[model.TopicPartition]int64)
	must(t, c.Each(func(f Frame) error {
		if want := frame(int(f.Log.Partition), int(f.EndOffset), 20_000); describe(f) != describe(want) || f.EndOffset <= last[f.Log] {
			t.Errorf("found %s behind %d, want %s", describe(f), last[f.Log], describe(want))
		}
		last[f.Log] = f.EndOffset
		return nil
	}))
	if len(c.Damage) > 0 || len(last) == 0 {
		t.Fatalf("%d logs, damage %v", len(last), c.Damage)
	}
}

func TestEachEndsWithTheFirstError(t *testing.T) {
	disk := newDisk(t, 1)
	j := ready(t, disk)
	write(t, j, frame(1, 1, 10), frame(1, 2, 10))
	c, err := Read(disk, testDir)
	must(t, err)
	stop, calls := errors.New("stop"), 0
	wantIs(t, c.Each(func(Frame) error { calls++; return stop }), stop)
	if calls != 1 {
		t.Fatalf("called %d times", calls)
	}
	must(t, disk.Flip(path.Join(testDir, fileNames[1]), pageBytes+200, 1))
	if err := c.Each(func(Frame) error { return nil }); err == nil {
		t.Fatal("what has changed since it was checked was delivered")
	}
}

func TestForgettingManyLogsTakesSeveralRounds(t *testing.T) {
	disk := newDisk(t, 1)
	j, err := Open(disk, testDir, Options{FileBytes: 2 << 20, Salt: testSalt})
	must(t, err)
	must(t, j.Clear())
	must(t, j.Prepare())
	logs := make([]model.TopicPartition, 2*forgetsARound+1)
	frames := make([]Frame, len(logs))
	for i := range logs {
		frames[i] = frame(i, 1, 1)
		logs[i] = frames[i].Log
	}
	write(t, j, frames...)
	must(t, j.Forget(logs[:len(logs)-1]))
	wantFound(t, disk.Clone(1).Crash(), frames[len(logs)-1])
}
