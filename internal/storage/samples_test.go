package storage

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// sampleLines returns real log lines, or lines with the same oddities.
func sampleLines(t *testing.T) [][]byte {
	t.Helper()
	dir := os.Getenv("PENSTOCK_SAMPLE_LOGS")
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	must(t, err)
	var all []byte
	if dir == "" || len(names) == 0 {
		t.Log("input: made-up lines; set PENSTOCK_SAMPLE_LOGS for real ones")
		for i := range 3000 {
			all = append(all, bytes.Repeat([]byte{byte('a' + i%26)}, i%200)...)
			all = append(all, "\r\r\n"[i%2:]...)
		}
		all = append(all, "a last line without an end"...)
	}
	for _, name := range names {
		t.Logf("input: %s", name)
		data, err := os.ReadFile(name) //nolint:gosec // named by whoever runs the test
		must(t, err)
		all = append(all, data...)
	}
	return bytes.Split(all, []byte("\n"))
}

// Real lines survive appends, rolls, a clean restart and a kill on the machine's own file system, byte for byte.
func TestRealLogsOnTheRealFileSystem(t *testing.T) {
	lines := sampleLines(t)
	path := filepath.ToSlash(t.TempDir())
	d, err := OpenDir(fsys.OS(), path, DirOptions{})
	must(t, err)
	cfg := Config{SegmentBytes: 256 << 10}
	l, err := d.CreateLog(testPartition(0), cfg)
	must(t, err)
	codecs := []record.Codec{record.None, record.Zstd, record.LZ4, record.Snappy, record.Gzip}
	b := record.NewBuilder(record.BuilderOptions{MaxBytes: 32 << 10})
	flush := func() {
		if b.Count() == 0 {
			return
		}
		data, err := b.Finish(codecs[int(l.LogEndOffset())%len(codecs)], record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
		must(t, err)
		h, err := record.Validate([][]byte{data}, record.Limits{})
		must(t, err)
		_, err = l.AppendLeader([][]byte{data[:70], data[70:]}, h, 1, 1)
		must(t, err)
		b.Reset()
	}
	for i, line := range lines {
		r := record.Record{Value: line, Timestamp: int64(i)}
		if !b.Fits(r) {
			flush()
		}
		must(t, b.Add(r))
	}
	flush()
	for _, clean := range []bool{true, false} {
		must(t, l.Close(clean))
		must(t, d.Close())
		d, err = OpenDir(fsys.OS(), path, DirOptions{})
		must(t, err)
		var report RecoveryReport
		l, report, err = d.OpenLog(testPartition(0), cfg)
		must(t, err)
		if report.LostData() || l.LogEndOffset() != int64(len(lines)) {
			t.Fatalf("%d lines, %+v", len(lines), report)
		}
		compareLines(t, readAll(t, l, 100<<10), lines)
	}
	must(t, d.Close())
}

func compareLines(t *testing.T, data []byte, lines [][]byte) {
	t.Helper()
	i := 0
	for len(data) > 0 {
		h, err := record.ParseHeader(data)
		must(t, err)
		it, err := record.Records(data[:h.Size()], record.Limits{})
		must(t, err)
		for it.Next() {
			if r := it.Record(); r.Offset != int64(i) || !bytes.Equal(r.Value, lines[i]) {
				t.Fatalf("line %d: offset %d, %q instead of %q", i, r.Offset, r.Value, lines[i])
			}
			i++
		}
		must(t, it.Err())
		data = data[h.Size():]
	}
	if i != len(lines) {
		t.Fatalf("%d lines of %d", i, len(lines))
	}
}
