package storage

import (
	"bytes"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

func TestAppendReadReopen(t *testing.T) {
	for _, mode := range []string{"clean", "kill", "unclean close"} {
		t.Run(mode, func(t *testing.T) {
			fsy := fsys.NewMem(1, fsys.MemOptions{})
			d := openTestDir(t, fsy)
			cfg := Config{SegmentBytes: 20_000, IndexIntervalBytes: 500}
			l, err := d.CreateLog(testPartition(0), cfg)
			if err != nil {
				t.Fatal(err)
			}
			var want []byte
			for i := range 300 {
				data, _ := appendTo(t, l, 1, i, 1+i%5, 20+i%200)
				want = append(want, data...)
			}
			end := l.LogEndOffset()
			if l.SegmentCount() < 5 {
				t.Fatalf("%d segments", l.SegmentCount())
			}
			for _, maxBytes := range []int{0, 1000, 1 << 20} {
				if got := readAll(t, l, maxBytes); !bytes.Equal(got, want) {
					t.Fatalf("read %d bytes with max %d, want %d", len(got), maxBytes, len(want))
				}
			}
			switch mode {
			case "clean":
				if err := l.Close(true); err != nil {
					t.Fatal(err)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			case "unclean close":
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			case "kill":
				if _, err := l.Sync(); err != nil {
					t.Fatal(err)
				}
				if err := d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 17}); err != nil {
					t.Fatal(err)
				}
				fsy = fsy.CrashProcess()
			}
			d = openTestDir(t, fsy)
			l, report, err := d.OpenLog(testPartition(0), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if report.LostData() || report.LogEndOffset != end || l.DurableEnd() != end {
				t.Fatalf("report %+v, durable %d", report, l.DurableEnd())
			}
			if mode == "clean" && report.ScannedBytes != 0 {
				t.Fatalf("scanned %d bytes after a clean close", report.ScannedBytes)
			}
			data, _ := appendTo(t, l, 2, 1000, 3, 50)
			want = append(want, data...)
			if got := readAll(t, l, 700); !bytes.Equal(got, want) {
				t.Fatalf("read %d bytes, want %d", len(got), len(want))
			}
			if epoch, at := l.EpochEndOffset(1); epoch != 1 || at != end {
				t.Fatalf("epoch 1 ends at %d (%d)", at, epoch)
			}
		})
	}
}
