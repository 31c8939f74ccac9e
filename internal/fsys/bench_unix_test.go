//go:build linux || darwin

package fsys

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// benchVector is 64 KiB in 16 buffers.
func benchVector() [][]byte {
	bufs := make([][]byte, 16)
	for i := range bufs {
		bufs[i] = bytes.Repeat([]byte{byte(i)}, 4096)
	}
	return bufs
}

// benchSpan is after how many bytes the benchmarks start over in the same file, whose pages stay in the cache.
const benchSpan = 64 << 20

// BenchmarkAppend64KiB is File.Append of 64 KiB in 16 buffers.
func BenchmarkAppend64KiB(b *testing.B) {
	f, err := OS().Create(filepath.Join(b.TempDir(), "a"))
	must(b, err)
	must(b, f.Preallocate(benchSpan))
	bufs := benchVector()
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	for b.Loop() {
		if f.Position() == benchSpan {
			f.(*osFile).position.Store(0)
		}
		if _, err := f.Append(bufs...); err != nil {
			b.Fatal(err)
		}
	}
	must(b, f.Close())
}

// BenchmarkPwritev64KiB is the bare system call that BenchmarkAppend64KiB stands on.
func BenchmarkPwritev64KiB(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "a"))
	must(b, err)
	fd, position, bufs := int(f.Fd()), int64(0), benchVector()
	if err := f.Truncate(benchSpan); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	for b.Loop() {
		if position == benchSpan {
			position = 0
		}
		n, err := unix.Pwritev(fd, bufs, position)
		if err != nil {
			b.Fatal(err)
		}
		position += int64(n)
	}
	must(b, f.Close())
}
