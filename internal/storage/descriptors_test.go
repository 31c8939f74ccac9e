package storage

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// openSegmentFiles counts the segments of a directory's logs whose file is open.
func openSegmentFiles(d *Dir) (n int) {
	for _, l := range d.openLogs() {
		for _, s := range l.view.Load().segs {
			if s.file.Load() != nil {
				n++
			}
		}
	}
	return n
}

// Many logs share few descriptors: idle ones are closed, also for writing, and opened again when they are needed.
func TestOpenFilesAreBounded(t *testing.T) {
	const limit, partitions = 5, 30
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d, err := OpenDir(mem, "data", DirOptions{DirectoryID: testDirOptions().DirectoryID, MaxOpenFiles: limit})
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	logs, want := make([]*Log, partitions), make([][]byte, partitions)
	for i := range logs {
		logs[i], err = d.CreateLog(testPartition(int32(i)), Config{SegmentBytes: 2000, IndexIntervalBytes: 100}) //nolint:gosec // small
		must(t, err)
	}
	for i := range 2000 {
		n := rng.IntN(partitions)
		l := logs[n]
		switch rng.IntN(4) {
		case 0, 1:
			data, _ := appendTo(t, l, 1, i, 1, 300)
			want[n] = append(want[n], data...)
			_, err := l.Sync()
			must(t, err)
		case 2:
			if at := l.LogEndOffset(); at > 0 {
				_, err := l.Read(rng.Int64N(at), 1000, at, nil)
				must(t, err)
			}
		default:
			if at := l.LogEndOffset(); at > 5 && rng.IntN(10) == 0 {
				end, err := l.TruncateTo(at - 2)
				must(t, err)
				want[n] = want[n][:int(end)*len(want[n])/int(at)]
			}
		}
		// One file of a log that was just synced may be there on top.
		if open := openSegmentFiles(d); open > limit+partitions/3 {
			t.Fatalf("step %d: %d files are open, the bound is %d", i, open, limit)
		}
	}
	for i, l := range logs {
		if got := readAll(t, l, 1000); !bytes.Equal(got, want[i]) {
			t.Fatalf("log %d: %d bytes of %d", i, len(got), len(want[i]))
		}
	}
	if open := openSegmentFiles(d); open > limit+1 {
		t.Fatalf("%d files are open at rest, the bound is %d", open, limit)
	}
	must(t, d.Close())
}

func TestOpenFilesAreBoundedBesideReaders(t *testing.T) {
	d, err := OpenDir(fsys.NewMem(1, fsys.MemOptions{}), "data", DirOptions{DirectoryID: testDirOptions().DirectoryID, MaxOpenFiles: 3})
	must(t, err)
	var wg sync.WaitGroup
	for i := range int32(6) {
		l, err := d.CreateLog(testPartition(i), Config{SegmentBytes: 2000})
		must(t, err)
		appendTo(t, l, 1, 0, 1, 300)
		wg.Go(func() {
			for n := range 200 {
				appendTo(t, l, 1, n, 1, 300)
				if _, err := l.Sync(); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // small
			for range 400 {
				end := l.LogEndOffset()
				if res, err := l.Read(rng.Int64N(end), 500, end, nil); err != nil || len(res.Data) == 0 {
					t.Errorf("%d bytes, %v", len(res.Data), err)
				}
			}
		})
	}
	wg.Wait()
	must(t, d.Close())
}
