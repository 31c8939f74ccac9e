package syncjournal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// benchFrames are batches of 16 KiB, each of its own log.
func benchFrames(n int) []Frame {
	frames := make([]Frame, n)
	for i := range frames {
		frames[i] = frame(i, 1+i, 16<<10)
	}
	return frames
}

// BenchmarkWrite makes batches of 16 KiB of as many logs durable by one round; nothing else is synced, a file is released as
// soon as the other one is full.
func BenchmarkWrite(b *testing.B) {
	for _, logs := range []int{16, 64, 256} {
		b.Run(fmt.Sprintf("%d logs", logs), func(b *testing.B) {
			dir := filepath.ToSlash(b.TempDir())
			j, err := Open(fsys.OS(), dir+"/sync-journal", Options{Salt: testSalt})
			must(b, err)
			must(b, j.Clear())
			must(b, j.Prepare())
			frames := benchFrames(logs)
			b.SetBytes(int64(logs) * 16 << 10)
			b.ReportAllocs()
			for b.Loop() {
				g, err := j.Write(frames)
				must(b, err)
				must(b, j.Release(g-1))
			}
			must(b, j.Close())
		})
	}
}

// BenchmarkBareOverwrite is what BenchmarkWrite stands on: the same bytes, written over zeros, and one sync.
func BenchmarkBareOverwrite(b *testing.B) {
	for _, logs := range []int{16, 64, 256} {
		b.Run(fmt.Sprintf("%d logs", logs), func(b *testing.B) {
			name := filepath.Join(b.TempDir(), "a")
			must(b, os.WriteFile(name, make([]byte, DefaultFileBytes), 0o600))
			f, err := fsys.OS().Open(name)
			must(b, err)
			must(b, f.SyncData())
			vector := make([][]byte, 0, logs)
			for _, frame := range benchFrames(logs) {
				vector = append(vector, frame.Data)
			}
			at, size := int64(0), int64(logs)*16<<10
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if at+size > DefaultFileBytes {
					at = 0
				}
				if _, err := f.Overwrite(at, vector...); err != nil {
					b.Fatal(err)
				}
				must(b, f.SyncData())
				at += size
			}
			must(b, f.Close())
		})
	}
}

// BenchmarkRead reads a full journal of 64 MiB files from the page cache, twice: once to find what is live, and once to
// deliver it.
func BenchmarkRead(b *testing.B) {
	dir := filepath.ToSlash(b.TempDir()) + "/sync-journal"
	j, err := Open(fsys.OS(), dir, Options{Salt: testSalt})
	must(b, err)
	must(b, j.Clear())
	must(b, j.Prepare())
	frames := benchFrames(64)
	for err == nil {
		_, err = j.Write(frames)
	}
	wantIs(b, err, ErrFull)
	must(b, j.Close())
	b.SetBytes(2 * DefaultFileBytes)
	for b.Loop() {
		c, err := Read(fsys.OS(), dir)
		must(b, err)
		must(b, c.Each(func(Frame) error { return nil }))
	}
}
