package storage

import (
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

func benchLog(b *testing.B) *Log {
	b.Helper()
	d, err := OpenDir(fsys.OS(), b.TempDir(), DirOptions{})
	must(b, err)
	b.Cleanup(func() { must(b, d.Close()) })
	l, err := d.CreateLog(testPartition(0), Config{})
	must(b, err)
	return l
}

func BenchmarkAppendLeader(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			l := benchLog(b)
			data, h := makeBatch(b, noProducer, 1, 1, size-80, 1000)
			vec := [][]byte{data}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if l.LogEndOffset()%(1<<12) == 1<<12-1 && l.SizeBytes() > 1<<29 {
					b.StopTimer()
					must(b, l.Reset(l.LogEndOffset()+1, nil)) // bound the disk space
					b.StartTimer()
				}
				if _, err := l.AppendLeader(vec, h, 1, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, where := range []string{"tail", "sealed"} {
		b.Run(where, func(b *testing.B) {
			l := benchLog(b)
			data, h := makeBatch(b, noProducer, 1, 1, 64<<10-80, 1000)
			for range 1000 {
				_, err := l.AppendLeader([][]byte{data}, h, 1, 1)
				must(b, err)
			}
			if where == "sealed" {
				must(b, l.Roll())
				_, err := l.Sync() // closes the sealed file
				must(b, err)
			}
			buf := make([]byte, 1<<20)
			at := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				if where == "tail" {
					at = 998
				}
				res, err := l.Read(at, 256<<10, l.LogEndOffset(), buf)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(res.Data)))
				if at = res.NextOffset; at >= 996 {
					at = 0
				}
			}
		})
	}
}
