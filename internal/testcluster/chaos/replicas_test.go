package chaos

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock-io/penstock/internal/record"
)

// batchAt returns a batch of two records at an offset.
func batchAt(t *testing.T, offset int64, value string) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for range 2 {
		if err := b.Add(record.Record{Value: []byte(value), Timestamp: 1}); err != nil {
			t.Fatal(err)
		}
	}
	batch, err := b.Finish(record.None, -1, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	header, err := record.ParseHeader(batch)
	if err != nil {
		t.Fatal(err)
	}
	record.PutHead(batch, offset, header.Length, 3)
	return batch
}

func writeReplica(t *testing.T, segments map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range segments {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestCompareReplicas(t *testing.T) {
	const first, second = "00000000000000000000.log", "00000000000000000004.log"
	b0, b2, b4 := batchAt(t, 0, "a"), batchAt(t, 2, "b"), batchAt(t, 4, "c")
	leader := writeReplica(t, map[string][]byte{first: join(b0, b2), second: join(b4, make([]byte, 100))})
	// The other one rolled elsewhere and ends in something else that is not committed.
	follower := writeReplica(t, map[string][]byte{first: join(b0, b2, b4, batchAt(t, 6, "not committed"))})
	log, err := CompareReplicas([]string{leader, follower}, 6)
	if err != nil {
		t.Fatal(err)
	}
	if log.Batches != 3 || log.Records != 6 || log.Bytes != int64(len(b0)+len(b2)+len(b4)) {
		t.Fatalf("counted %+v", log)
	}

	torn := append([]byte(nil), b4...)
	torn[len(torn)-1] ^= 1
	for name, other := range map[string]map[string][]byte{
		"other bytes":     {first: join(b0, batchAt(t, 2, "x"), b4)},
		"a batch missing": {first: join(b0, b4)},
		"too short":       {first: join(b0, b2)},
		"nothing":         {},
		"a bad checksum":  {first: join(b0, b2, torn)},
		"zeros within":    {first: join(b0, make([]byte, len(b2)), b4)},
		"offsets lie":     {first: join(b0, b2, batchAt(t, 5, "c"))},
		"garbage between": {first: join(b0, b2, []byte("garbage")), second: b4},
		"a name that is none": {
			first: join(b0, b2, b4), "x.log": nil,
		},
	} {
		if _, err := CompareReplicas([]string{leader, writeReplica(t, other)}, 6); err == nil {
			t.Errorf("%s: not found", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if _, err := CompareReplicas([]string{leader, follower}, 5); err == nil {
		t.Error("a HighWatermark within a batch was taken")
	}
}
