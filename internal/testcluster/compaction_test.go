package testcluster_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/testcluster"
)

// A compacted topic gives the latest value of every key through a change of leaders, and is compacted; a topic that nobody
// writes to any more is emptied by its age.
func TestCompactionAndRetention(t *testing.T) {
	t.Parallel()
	const seed, keys, rounds = 11, 60, 60
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3, Settings: map[string]string{"retention.check.interval": "1s"}})
	c := cluster.Client()
	createTopic(t, c, "compacted", 3, map[string]string{
		"cleanup.policy": "compact", "segment.bytes": "16384", "min.cleanable.dirty.ratio": "0.05",
	})
	createTopic(t, c, "quiet", 3, map[string]string{"retention.ms": "1500"})
	ctx := bounded(t, 2*time.Minute)
	producer, err := c.NewProducer(ctx, client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(partitions) {
		if err := producer.ProduceTo(ctx, p, client.Record{Topic: "quiet", Value: []byte("soon old")}, func(_ client.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][]byte{}
	write := func(rounds int) {
		t.Helper()
		for range rounds {
			var records []client.Record
			for range keys / 2 {
				key := fmt.Sprintf("key-%d", r.IntN(keys))
				value := fmt.Appendf(nil, "%d-%0500d", r.IntN(1e9), 0)
				if r.IntN(6) == 0 {
					value = nil
				}
				want[key] = value
				records = append(records, client.Record{Topic: "compacted", Key: []byte(key), Value: value})
			}
			if _, err := producer.ProduceSync(ctx, records...); err != nil {
				t.Fatal(err)
			}
		}
	}
	verify := func() (records int) {
		t.Helper()
		got := map[string][]byte{}
		all := consumeAll(t, c, "compacted")
		for _, record := range all {
			got[string(record.Key)] = record.Value
		}
		for key, value := range want {
			if have, ok := got[key]; !bytes.Equal(have, value) || (!ok && value != nil) {
				t.Errorf("key %s: %.20q, want %.20q", key, have, value)
			}
		}
		return len(all)
	}
	write(rounds)
	leader := cluster.LeaderOf("compacted", 0)
	cluster.Kill(leader)
	write(rounds)
	verify()
	cluster.Restart(leader)
	cluster.AwaitHealthy()
	write(rounds / 2)
	produced := (2*rounds + rounds/2) * keys / 2
	deadline := time.Now().Add(time.Minute)
	for n := verify(); n > produced/3; n = verify() {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d records are still there", n, produced)
		}
	}
	for p := range int32(partitions) {
		for {
			offsets, err := c.ListOffsets(ctx, "quiet", p, client.AtStart(), client.AtEnd())
			if err != nil {
				t.Fatal(err)
			}
			if offsets[0] == 1 && offsets[1] == 1 {
				break
			}
		}
	}
	if err := producer.Close(ctx); err != nil {
		t.Fatal(err)
	}
}
