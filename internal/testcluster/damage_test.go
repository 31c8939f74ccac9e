package testcluster_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/testcluster"
)

// flipSealed changes a byte in the middle of a sealed segment of partition 0 of a topic, and returns the file.
func flipSealed(t *testing.T, cluster *testcluster.Cluster, node int, topicID string) string {
	t.Helper()
	var files []string
	cluster.Await("there is a sealed segment", func() error {
		var err error
		if files, err = filepath.Glob(filepath.Join(cluster.DataDir(node), "topics", topicID, "0", "*.log")); err != nil || len(files) < 3 {
			return fmt.Errorf("%d segments, %w", len(files), err)
		}
		return nil
	})
	slices.Sort(files)
	name := files[len(files)-3]
	file, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // our own file
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := file.ReadAt(one, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 4
	if _, err := file.WriteAt(one, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	return name
}

// metric sums up a metric of a node, over its labels.
func metric(t *testing.T, cluster *testcluster.Cluster, node int, name string) (sum float64) {
	t.Helper()
	resp, err := http.Get("http://" + cluster.AdminAddress(node) + "/metrics") //nolint:gosec,noctx // our own node
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^penstock_`+name+`(?:\{.*\})? (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		value, err := strconv.ParseFloat(line[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += value
	}
	return sum
}

// scrubbing lets nodes look at all they hold once a second.
func scrubbing() map[string]string {
	return map[string]string{"scrub.interval": "1s", "scrub.bytes.per.second": "1GiB"}
}

// A byte decays in a sealed segment of a follower, then of a leader, under load: the replica is out of the in-sync set until it has
// fetched anew, the leader hands over, nobody notices, and the replicas are the same in the end.
func TestDecayedBytesUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3, Settings: scrubbing()})
	c, ctx := cluster.Client(), bounded(t, 3*time.Minute)
	l := startLoadWith(ctx, t, c, map[string]string{"segment.bytes": "65536"})
	topic, err := c.DescribeTopic(ctx, "load")
	if err != nil {
		t.Fatal(err)
	}
	for _, victim := range []string{"follower", "leader"} {
		l.awaitMore(cluster, 2000)
		leader := cluster.LeaderOf("load", 0)
		node := leader
		if victim == "follower" {
			node = leader%cluster.Nodes() + 1
		}
		before := metric(t, cluster, node, "replication_damages_total")
		file := flipSealed(t, cluster, node, topic.ID)
		cluster.Await("the damaged file is put aside", func() error {
			_, err := os.Stat(file + ".corrupt")
			return err
		})
		cluster.AwaitHealthy()
		if found := metric(t, cluster, node, "replication_damages_total") - before; found != 1 {
			t.Errorf("the damage of the %s was found %v times", victim, found)
		}
		if now := cluster.LeaderOf("load", 0); victim == "leader" && now == leader {
			t.Errorf("node %d leads again", now)
		}
		l.awaitMore(cluster, 500)
	}
	l.end(ctx, t, c)
	if differing := metric(t, cluster, 1, "replication_differing_partitions"); differing != 0 {
		t.Errorf("%v partitions differ", differing)
	}
	compared := 0.0
	for i := 1; i <= cluster.Nodes(); i++ {
		compared += metric(t, cluster, i, "replication_digest_comparisons_total")
	}
	if compared == 0 {
		t.Error("no digest was compared")
	}
	cluster.StopAll()
	compareReplicas(t, cluster)
}

// What the only replica has lost is an error, what lies around is served, and cluster health says so.
func TestDecayedBytesOfTheOnlyReplica(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3, Settings: scrubbing()})
	c, ctx := cluster.Client(), bounded(t, 2*time.Minute)
	made := createSmall(t, c, "alone", 1, 1, map[string]string{"segment.bytes": "16384"})
	p := newProducer(t, c, client.ProducerConfig{})
	const records = 100
	for i := range records {
		if _, err := p.ProduceSync(ctx, client.Record{Topic: "alone", Value: fmt.Appendf(nil, "%d %0500d", i, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	node := cluster.LeaderOf("alone", 0)
	flipSealed(t, cluster, node, made.ID)
	var reason string
	cluster.Await("cluster health tells", func() error {
		d, err := c.DescribeCluster(ctx)
		if err != nil {
			return err
		}
		for _, r := range d.Reasons {
			if r.Code == "DAMAGED_REPLICAS" && !d.Healthy {
				reason = r.Message
				return nil
			}
		}
		return fmt.Errorf("reasons %v", d.Reasons)
	})
	if want := fmt.Sprintf("alone/0 on broker %d, offsets ", node); !strings.Contains(reason, want) {
		t.Errorf("reason %q", reason)
	}
	lost := 0
	for at := int64(0); at < records; {
		record, err := readAt(t, c, "alone", at)
		if client.IsName(err, "CORRUPT_RECORD") {
			lost++
			at++
			continue
		}
		if err != nil || record.Offset != at || !strings.HasPrefix(string(record.Value), fmt.Sprintf("%d ", at)) {
			t.Fatalf("offset %d: %+v, %v", at, record, err)
		}
		at++
	}
	if lost != 1 {
		t.Errorf("%d records are lost", lost)
	}
	_, err := p.ProduceSync(ctx, client.Record{Topic: "alone", Value: []byte("more")})
	wantName(t, err, "CORRUPT_RECORD")
}

// readAt reads one record.
func readAt(t *testing.T, c *client.Client, topic string, offset int64) (client.Record, error) {
	t.Helper()
	ctx := bounded(t, 30*time.Second)
	consumer, err := c.NewConsumer(client.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := consumer.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := consumer.Assign(ctx, client.Assignment{Topic: topic, From: client.AtOffset(offset), To: client.AtOffset(offset + 1)}); err != nil {
		return client.Record{}, err
	}
	fetch, err := consumer.Poll(ctx)
	if err == nil {
		err = fetch.Err
	}
	if err != nil || len(fetch.Records) == 0 {
		return client.Record{}, err
	}
	return fetch.Records[0], nil
}
