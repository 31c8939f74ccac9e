package testcluster_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/testcluster"
)

// logsOf returns what the logs of a node's data directory hold, by "topic id/partition", up to the last whole batch.
func logsOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "topics", "*", "*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	logs := map[string][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // our own file
		if err != nil {
			t.Fatal(err)
		}
		partition := filepath.Dir(file)
		key := filepath.Join(filepath.Base(filepath.Dir(partition)), filepath.Base(partition))
		logs[key] = append(logs[key], wholeBatches(text)...)
	}
	return logs
}

func wholeBatches(text []byte) []byte {
	at := 0
	for at < len(text) {
		header, err := record.ParseHeader(text[at:])
		if err != nil || at+header.Size() > len(text) {
			break
		}
		at += header.Size()
	}
	return text[:at]
}

// compareReplicas wants the same bytes in the logs of all nodes, which do not run.
func compareReplicas(t *testing.T, cluster *testcluster.Cluster) {
	t.Helper()
	first := logsOf(t, cluster.DataDir(1))
	total := 0
	for i := 2; i <= cluster.Nodes(); i++ {
		other := logsOf(t, cluster.DataDir(i))
		if len(other) != len(first) {
			t.Errorf("node %d holds %d logs, node 1 %d", i, len(other), len(first))
		}
		for key, want := range first {
			total += len(want)
			if got := other[key]; !bytes.Equal(got, want) {
				t.Errorf("log %s: node %d has %d bytes (%x), node 1 %d (%x)", key, i, len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
			}
		}
	}
	if total == 0 {
		t.Error(errors.New("there was nothing to compare"))
	}
	t.Logf("%d logs on each of %d nodes are the same", len(first), cluster.Nodes())
}
