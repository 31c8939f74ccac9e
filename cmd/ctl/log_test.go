package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/storage"
)

// makeLogs fills a data directory on the real file system and returns the path of one partition.
func makeLogs(t *testing.T, data string) string {
	t.Helper()
	d, err := storage.OpenDir(fsys.OS(), data, storage.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tp := model.TopicPartition{TopicID: model.NewUUID(), Partition: 3}
	l, err := d.CreateLog(tp, storage.Config{SegmentBytes: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		b := record.NewBuilder(record.BuilderOptions{})
		if err := b.Add(record.Record{Key: []byte{byte('a' + i)}, Value: bytes.Repeat([]byte{0xff, 'x'}, 100), Timestamp: 5}); err != nil {
			t.Fatal(err)
		}
		batch, err := b.Finish(record.None, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
		if err != nil {
			t.Fatal(err)
		}
		h, err := record.Validate([][]byte{batch}, record.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.AppendLeader([][]byte{batch}, h, 1, 5); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(true); err != nil {
		t.Fatal(err)
	}
	if err := d.MarkClean(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(data, "topics", tp.TopicID.String(), "3")
}

// askLog runs brokerctl log, and returns its exit status, its output and what it says to people.
func askLog(t *testing.T, argv ...string) (int, string, string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(t.Context(), append([]string{"log"}, argv...), streams{in: strings.NewReader(""), out: &out, err: &errOut})
	return code, out.String(), errOut.String()
}

func TestLogDumpAndVerify(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	partition := makeLogs(t, data)
	for _, dir := range []string{data, partition} {
		if code, out, text := askLog(t, "verify", dir); code != exitOK || !strings.Contains(out, "1 logs, 20 batches, 20 records") || text != "" {
			t.Errorf("verify %s: %d %q %q", dir, code, out, text)
		}
		code, out, _ := askLog(t, "dump", "--records", "-o", "json", dir)
		dec := json.NewDecoder(strings.NewReader(out))
		for i := range 20 {
			var b struct {
				BaseOffset int64 `json:"base_offset"`
				Records    []struct{ Key string }
			}
			if err := dec.Decode(&b); err != nil || b.BaseOffset != int64(i) || len(b.Records) != 1 || b.Records[0].Key != string(rune('a'+i)) {
				t.Fatalf("batch %d: %+v, %v", i, b, err)
			}
		}
		if code != exitOK || dec.More() {
			t.Errorf("dump %s: %d", dir, code)
		}
	}
	if code, out, _ := askLog(t, "dump", partition); code != exitOK || strings.Count(out, "offsets ") != 20 {
		t.Errorf("dump: %d %q", code, out)
	}
	lock, err := fsys.OS().Lock(filepath.Join(data, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	if code, _, text := askLog(t, "verify", partition); code != exitOK || !strings.Contains(text, "a broker is using this directory") {
		t.Errorf("beside a broker: %d %q", code, text)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(partition, "00000000000000000000.log")
	raw, err := os.ReadFile(name) //nolint:gosec // a test's file
	if err != nil {
		t.Fatal(err)
	}
	raw[100] ^= 1
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, text := askLog(t, "verify", "-o", "json", data)
	var res verifyJSON
	if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitFailed || res.Faults != 1 || res.Findings[0].File != name ||
		res.Findings[0].Position != 0 || res.Findings[0].Offset != 0 || !strings.Contains(text, "1 faults") {
		t.Errorf("a flipped bit: %d %s %q %v", code, out, text, err)
	}
	if code, out, _ := askLog(t, "dump", data); code != exitFailed || strings.Count(out, "DAMAGED") != 1 || strings.Count(out, "offsets ") != 19 {
		t.Errorf("dump of a flipped bit: %d %q", code, out)
	}
	if code, _, text := askLog(t, "verify", t.TempDir()); code != exitUsage || !strings.Contains(text, "data.dir") {
		t.Errorf("an empty directory: %d %q", code, text)
	}
}

func TestLogDumpSideFiles(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	partition := makeLogs(t, data)
	for _, dir := range []string{data, partition} {
		code, out, text := askLog(t, "dump", "--side-files", dir)
		if code != exitOK || text != "" {
			t.Errorf("dump %s: %d %q", dir, code, text)
		}
		for _, want := range []string{
			filepath.Join(data, "checkpoints.journal") + "\n  position 12: checkpoints-positions-and-all-epochs log=", "\n  log-state log=", " epochs=1:0\n",
			filepath.Join(partition, "00000000000000000000.digest") + "\n  position 0: digest base_offset=0 ", ": producers offset=", ": time-index number=",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("dump %s: %q is not in\n%s", dir, want, out)
			}
		}
	}
	name := filepath.Join(partition, "00000000000000000000.digest")
	if err := os.WriteFile(name, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, text := askLog(t, "dump", "--side-files", "-o", "json", data)
	damaged := 0
	for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); {
		var e struct {
			File, Kind, Fault string
			Position          int64
		}
		if err := dec.Decode(&e); err != nil || e.File == "" || e.Kind == "" {
			t.Fatalf("%+v, %v", e, err)
		}
		if e.Fault != "" && e.File == name {
			damaged++
		}
	}
	if code != exitFailed || damaged != 1 || !strings.Contains(text, "1 entries are damaged") {
		t.Errorf("a damaged digest: %d %d %q", code, damaged, text)
	}
	if code, _, _ := askLog(t, "dump", "--side-files", "--records", data); code != exitUsage {
		t.Errorf("records of side files: %d", code)
	}
}

// Who may only read is served, and told of what could not be looked at beside what was found before.
func TestLogVerifyWithoutPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	data := filepath.Join(t.TempDir(), "data")
	partition := makeLogs(t, data)
	if err := os.Chmod(filepath.Join(data, ".lock"), 0o400); err != nil {
		t.Fatal(err)
	}
	if code, out, text := askLog(t, "verify", data); code != exitOK || !strings.Contains(out, "20 batches") || !strings.Contains(text, "warning") {
		t.Errorf("without the lock: %d %q %q", code, out, text)
	}
	if err := os.WriteFile(filepath.Join(data, "stranger"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(partition, "*.log"))
	if err != nil || len(segments) < 2 {
		t.Fatal(segments, err)
	}
	if err := os.Chmod(segments[1], 0); err != nil {
		t.Fatal(err)
	}
	if code, out, text := askLog(t, "verify", data); code != exitFailed || !strings.Contains(out, "stranger") || !strings.Contains(text, segments[1]) {
		t.Errorf("without a segment: %d %q %q", code, out, text)
	}
}
