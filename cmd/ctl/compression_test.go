package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/testcluster"
)

// What is produced to a topic with compression.type is stored with it on every replica, whatever the producer chose, and the
// same bytes on each; consumers get what was produced.
func TestCompressionType(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster: not in -short")
	}
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := commands{t: t, bootstrap: strings.Join(cluster.Bootstrap(), ",")}
	c.fails(exitFailed, "not one of producer, uncompressed, gzip", "topic", "create", "logs", "--config", "compression.type=brotli")
	c.ok("topic", "create", "logs", "--partitions", "1", "--config", "compression.type=zstd")
	var topic topicJSON
	c.json(&topic, "topic", "describe", "logs")
	var lines []string
	for i, codec := range []string{"none", "gzip", "zstd"} {
		var part []string
		for n := range 200 {
			part = append(part, fmt.Sprintf("line %d of part %d, as logs have it", n, i))
		}
		if code, out, notes := c.run(strings.Join(part, "\n")+"\n", false, "produce", "logs", "-z", codec); code != exitOK {
			t.Fatalf("produce -z %s: exit %d\n%s%s", codec, code, out, notes)
		}
		lines = append(lines, part...)
	}
	if out, _ := c.ok("consume", "logs", "-O", "start", "-e"); strings.TrimSpace(out) != strings.Join(lines, "\n") {
		t.Errorf("consumed %d bytes: %.200s", len(out), out)
	}
	cluster.AwaitHealthy()
	cluster.StopAll()
	var first []batchJSON
	for node := 1; node <= cluster.Nodes(); node++ {
		out, _ := c.ok("-o", "json", "log", "dump", filepath.Join(cluster.DataDir(node), "topics", topic.TopicID, "0"))
		var batches []batchJSON
		for dec, records := json.NewDecoder(strings.NewReader(out)), int32(0); records < int32(len(lines)); { //nolint:gosec // few
			var b batchJSON
			if err := dec.Decode(&b); err != nil {
				t.Fatalf("node %d: %v\n%s", node, err, out)
			}
			if b.Codec != "zstd" || b.Fault != "" {
				t.Errorf("node %d: the batch at offset %d is stored as %s: %s", node, b.BaseOffset, b.Codec, b.Fault)
			}
			b.File = ""
			batches, records = append(batches, b), records+b.Count
		}
		if node == 1 {
			first = batches
		}
		if fmt.Sprint(batches) != fmt.Sprint(first) {
			t.Errorf("node %d has %+v, node 1 %+v", node, batches, first)
		}
	}
}
