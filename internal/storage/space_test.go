package storage

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

const spaceReserve = 64 << 10

func openWithReserve(t *testing.T, fsy fsys.FS, path string, minFree int64) *Dir {
	t.Helper()
	d, err := OpenDir(fsy, path, DirOptions{DirectoryID: testDirOptions().DirectoryID, ReserveBytes: spaceReserve, MinFreeBytes: minFree})
	must(t, err)
	return d
}

// fill appends until the disk refuses, and returns what was taken.
func fill(t *testing.T, l *Log) (all []byte, refused error) {
	t.Helper()
	for i := range 100_000 {
		data, h := makeBatch(t, noProducer, i, 1, 3000, int64(i))
		res, err := l.AppendLeader([][]byte{data}, h, 1, 1)
		if err != nil {
			return all, err
		}
		all = append(all, stamped(data, res.BaseOffset, 1)...)
	}
	t.Fatal("the disk was never full")
	return nil, nil
}

// With the guard the disk is never really full: appends are refused with numbers, all else goes on, and appends too once
// there is room.
func TestAppendsAreRefusedBeforeTheDiskIsFull(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{Capacity: 1 << 20})
	d := openWithReserve(t, mem, "data", 256<<10)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 64 << 10})
	must(t, err)
	all, err := fill(t, l)
	var full *SpaceError
	if !errors.As(err, &full) || !errors.Is(err, fsys.ErrNoSpace) || full.FreeBytes > full.MinFreeBytes+4000 {
		t.Fatalf("refused with %v", err)
	}
	if free, err := d.FreeBytes(); err != nil || free < 200<<10 {
		t.Fatalf("%d bytes are free (%v)", free, err)
	}
	if got := readAll(t, l, 1<<20); !bytes.Equal(got, all) {
		t.Fatalf("%d bytes are readable of %d", len(got), len(all))
	}
	_, err = l.Sync()
	must(t, err)
	must(t, l.Trim(l.LogEndOffset()/2))
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
	appendTo(t, l, 1, 1, 1, 3000)
	must(t, d.Close())
}

// Even when others fill the disk to the last byte: journal, trims, truncations and restarts work, and nothing of it
// fails the directory.
func TestDiskFullToTheLastByte(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{Capacity: 1 << 20})
	exerciseFullDisk(t, mem, "data", "ballast")
}

// The same on a real file system of 2 MiB, which others fill.
func TestRealDiskFull(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no file system of its own: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil { //nolint:noctx // after the test's end
			t.Errorf("%v %s", err, out)
		}
	})
	exerciseFullDisk(t, fsys.OS(), filepath.Join(dir, "data"), filepath.Join(dir, "ballast"))
}

// fillUp writes a file until no byte fits.
func fillUp(t *testing.T, fsy fsys.FS, name string) {
	t.Helper()
	f, err := fsy.Create(name)
	must(t, err)
	for size := 64 << 10; size > 0; {
		if _, err := f.Append(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	must(t, f.Close())
}

func exerciseFullDisk(t *testing.T, fsy fsys.FS, path, ballast string) {
	t.Helper()
	d := openWithReserve(t, fsy, path, 0)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 64 << 10})
	must(t, err)
	var all []byte
	for i := range 100 {
		data, _ := appendTo(t, l, 1, i, 1, 3000)
		all = append(all, data...)
	}
	_, err = l.Sync()
	must(t, err)
	fillUp(t, fsy, ballast)
	for i := range 200 { // many times the space that the last block of a file has left
		must(t, l.Trim(int64(i/100)))
		if err := d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: int64(i % 90)}); err != nil {
			t.Fatalf("checkpoint %d: %v", i, err)
		}
	}
	if _, err := d.fs.Stat(path + "/" + reserveName); !fsys.IsNotExist(err) {
		t.Fatalf("the reserve was not needed: %v", err)
	}
	if _, err := l.TruncateTo(95); err != nil {
		t.Fatal(err)
	}
	must(t, d.Close())
	d = openWithReserve(t, fsy, path, 0)
	l, report, err := d.OpenLog(testPartition(0), Config{SegmentBytes: 64 << 10})
	must(t, err)
	if report.LostData() || l.LogEndOffset() != 95 || l.LogStartOffset() != 1 {
		t.Fatalf("%+v", report)
	}
	size := len(all) / 100
	if got := readAll(t, l, 1<<20); !bytes.Equal(got, all[size:95*size]) {
		t.Fatalf("%d bytes are readable of %d", len(got), 94*size)
	}
	must(t, l.Trim(80))
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 90})) // this frees space by itself
	must(t, fsy.Remove(ballast))
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 91}))
	if _, err := d.fs.Stat(path + "/" + reserveName); err != nil {
		t.Fatalf("the reserve is not kept again: %v", err)
	}
	appendTo(t, l, 1, 1, 1, 3000)
	must(t, d.Close())
}
