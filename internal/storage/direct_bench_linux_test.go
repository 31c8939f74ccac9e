package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/penstock-io/penstock/internal/fsys"
)

const directAlign = 4096

// aligned is n bytes at an address that direct I/O takes.
func aligned(n int) []byte {
	raw := make([]byte, n+directAlign)
	skip := int(-uintptr(unsafe.Pointer(&raw[0])) & (directAlign - 1)) //nolint:gosec // the address, for its alignment alone
	return raw[skip:][:n]
}

// directTail writes batches around the page cache, and keeps the tail that readers would read in memory: batches are copied into it,
// and written from there in whole blocks, the last of which is written again when more follows.
type directTail struct {
	file *os.File
	tail []byte
	end  int64 // of what was appended
	keep bool  // copy batches of any size; without, whole aligned buffers are written as they are
}

func (d *directTail) append(b *testing.B, data []byte) {
	out, at := data, d.end
	if d.keep {
		size := int64(len(d.tail))
		if d.end%size+int64(len(data)) > size-directAlign { // begin anew, with the block that is not full
			d.end = (d.end + size - 1) / size * size // the figures need no more
		}
		from := d.end % size
		copy(d.tail[from:], data)
		begin := from &^ (directAlign - 1)
		out = d.tail[begin : (from+int64(len(data))+directAlign-1)&^(directAlign-1)]
		at = d.end - (from - begin)
	}
	_, err := d.file.WriteAt(out, at)
	must(b, err)
	d.end += int64(len(data))
}

// 96 MiB in batches of 64 KiB and of 1 MiB into space that was asked for ahead: through the page cache; around it, from aligned
// buffers of whole blocks; and around it with batches that end anywhere and a tail of 16 MiB in memory. Each without a sync and with
// one fdatasync for each MiB.
func BenchmarkDirect(b *testing.B) {
	const total = 96 << 20
	for _, size := range []int{64 << 10, 1 << 20} {
		for _, sync := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dKiB/sync-%t", size>>10, sync), func(b *testing.B) {
				dir := b.TempDir()
				ways := []string{"cached", "direct", "tail"}
				took := make([][]float64, len(ways))
				tail, whole := aligned(16<<20), aligned(size)
				for i := range whole {
					whole[i] = byte(i * 7)
				}
				for round := 0; b.Loop(); round++ {
					for turn := range ways {
						i := (round + turn) % len(ways)
						name := filepath.Join(dir, fmt.Sprint(round, i))
						took[i] = append(took[i], writeDirect(b, name, ways[i], whole, tail, total, sync))
						must(b, os.Remove(name))
					}
				}
				for i, name := range ways {
					ratios := make([]float64, len(took[i]))
					for r := range ratios {
						ratios[r] = took[i][r] / took[0][r]
					}
					slices.Sort(ratios)
					slices.Sort(took[i])
					b.ReportMetric(took[i][len(ratios)/2], name+"-s")
					b.ReportMetric(ratios[len(ratios)/2], name+"-median")
					b.ReportMetric(ratios[0], name+"-least")
					b.ReportMetric(ratios[len(ratios)-1], name+"-most")
				}
			})
		}
	}
}

// writeDirect writes total bytes one of the ways and returns the seconds that took.
func writeDirect(b *testing.B, name, way string, whole, tail []byte, total int, sync bool) float64 {
	b.Helper()
	f, err := fsys.OS().Create(name)
	must(b, err)
	must(b, f.Preallocate(int64(total)+(32<<20)))
	must(b, f.SyncData())
	d := &directTail{tail: tail, keep: way == "tail"}
	d.file, err = os.OpenFile(name, os.O_RDWR|unix.O_DIRECT, 0) //nolint:gosec // the benchmark's own file
	must(b, err)
	data := whole
	if d.keep {
		data = whole[:len(whole)-100] // batches seldom fill their last block
	}
	began := time.Now()
	for done, synced := 0, 0; done < total; {
		if way == "cached" {
			_, err := f.Append(data)
			must(b, err)
		} else {
			d.append(b, data)
		}
		if done += len(whole); sync && done-synced >= 1<<20 {
			must(b, f.SyncData())
			synced = done
		}
	}
	took := time.Since(began).Seconds()
	must(b, f.Close())
	must(b, d.file.Close())
	return took
}
