package record

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// sampleLogs returns the logs in the folder PENSTOCK_SAMPLE_LOGS, or one made up with the oddities of real ones.
func sampleLogs(t *testing.T) map[string][]byte {
	t.Helper()
	dir := os.Getenv("PENSTOCK_SAMPLE_LOGS")
	if dir == "" {
		t.Log("input: a sample made here (PENSTOCK_SAMPLE_LOGS is not set)")
		made := "first line\r\nstray \r carriage return\n\nempty line above\r\n\xff\xfe no UTF-8\n" +
			string(bytes.Repeat([]byte("081109 203518 143 INFO dfs.DataNode: Receiving block blk_-1608999687919862906\r\n"), 300)) +
			"last line without an end"
		return map[string][]byte{"made.log": []byte(made)}
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no *.log in %s: %v", dir, err)
	}
	logs := map[string][]byte{}
	for _, name := range names {
		if logs[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
		t.Logf("input: %s, %d bytes", name, len(logs[filepath.Base(name)]))
	}
	return logs
}

// Logs, a record a line, come back byte for byte under every codec.
func TestSampleLogs(t *testing.T) {
	for name, text := range sampleLogs(t) {
		for _, codec := range Codecs() {
			var got []byte
			size := 0
			b := NewBuilder(BuilderOptions{MaxBytes: 64 << 10})
			flush := func() {
				batch, err := b.Finish(codec, -1, -1, -1)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := Validate(pieces(batch, 16<<10), Limits{}); err != nil {
					t.Fatal(err)
				}
				records, err := readAll(batch, Limits{MaxUncompressedBytes: 64 << 10})
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range records {
					got = append(append(got, r.Value...), '\n')
				}
				size += len(batch)
				b.Reset()
			}
			for line := range bytes.SplitSeq(text, []byte{'\n'}) {
				r := Record{Key: []byte(name), Value: line, Timestamp: goldenTime}
				if !b.Fits(r) {
					flush()
				}
				if err := b.Add(r); err != nil {
					t.Fatal(err)
				}
			}
			flush()
			if got = got[:len(got)-1]; !bytes.Equal(got, text) {
				t.Fatalf("%s, %s: %d bytes came back of %d", name, codec, len(got), len(text))
			}
			t.Logf("%s, %s: %d bytes of log in %d bytes of batches", name, codec, len(text), size)
		}
	}
}
