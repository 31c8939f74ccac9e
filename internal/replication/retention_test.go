package replication

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/storage"
)

func quickRetention(o *Options) {
	o.CheckpointInterval, o.RetentionInterval = 20*time.Millisecond, 20*time.Millisecond
}

func (n *testNode) state(tp model.TopicPartition) PartitionState {
	s, err := n.mgr.PartitionState(tp)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return s
}

// metricValue reads a counter or a gauge.
func metricValue(t testing.TB, metric prometheus.Collector) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(metric); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(len(families), err)
	}
	m := families[0].GetMetric()[0]
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

// keyed makes a batch of one record at the present time.
func keyed(t testing.TB, key string, value []byte) ([]byte, record.Header) {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	if err := b.Add(record.Record{Key: []byte(key), Value: value, Timestamp: time.Now().UnixMilli()}); err != nil {
		t.Fatal(err)
	}
	batch, err := b.Finish(record.None, -1, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	batch = slices.Clone(batch)
	header, err := record.Validate([][]byte{batch}, record.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return batch, header
}

func (c *cluster) put(id model.NodeID, tp model.TopicPartition, key string, value []byte) {
	c.t.Helper()
	batch, header := keyed(c.t, key, value)
	mustAck(c.t, c.produce(id, tp, AcksAll, 10*time.Second, batch, header))
}

// latest reads what a replica holds: how many records, and the last value of each key; tombstones stand as "".
func (n *testNode) latest(tp model.TopicPartition) (records int, values map[string]string) {
	p, err := n.mgr.lookup(tp)
	if err != nil {
		n.c.t.Fatal(err)
	}
	values = map[string]string{}
	it := new(record.Iterator)
	for at, hw := p.log.LogStartOffset(), p.hw.Load(); at < hw; {
		read, err := p.log.Read(at, 1<<20, hw, nil)
		if err != nil || len(read.Data) == 0 {
			n.c.t.Fatalf("broker %d: read at %d of %d: %d bytes, %v", n.id, at, hw, len(read.Data), err)
		}
		for s := record.NewScanner(read.Data, record.Limits{}); s.Next(); {
			if err := it.Reset(s.Batch(), record.Limits{}); err != nil {
				n.c.t.Fatal(err)
			}
			for it.Next() {
				records++
				values[string(it.Record().Key)] = string(it.Record().Value)
			}
		}
		at = read.NextOffset
	}
	return records, values
}

// A partition that nobody writes to is emptied when its records are too old, on all replicas, and goes on from there.
func TestRetentionOfAQuietPartition(t *testing.T) {
	c := newCluster(t, 3, quickRetention)
	tp := c.topic(1, map[string]string{"retention.ms": "-1"}, 1, 2, 3)
	for range 5 {
		mustAck(t, c.send(1, tp, AcksAll, "of 1970", "too"))
	}
	c.agree(tp, slices.Repeat([]string{"of 1970", "too"}, 5), 1, 2, 3)
	if d, err := c.nodes[1].mgr.Retention(tp); err != nil || len(d.Kept) != 2 || d.Kept[0].Reason != storage.KeptForever || d.Kept[1].Reason != storage.KeptAnySize {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := c.nodes[2].mgr.Retention(tp); !model.IsCode(err, model.CodeNotLeaderForPartition) {
		t.Errorf("a follower explains: %v", err)
	}
	c.configure(tp, "retention.ms", "3600000")
	c.startsAt(tp, 10, 1, 2, 3)
	for id := model.NodeID(1); id <= 3; id++ {
		eventually(t, fmt.Sprintf("broker %d frees the space", id), func() bool { return c.nodes[id].state(tp).SizeBytes == 0 })
	}
	if n := metricValue(t, c.nodes[1].mgr.metrics.retentionSegments); n < 1 {
		t.Error("the leader's metric did not move")
	}
	if n := metricValue(t, c.nodes[2].mgr.metrics.retentionSegments); n != 0 {
		t.Error("a follower decided by itself")
	}
	c.put(1, tp, "k", []byte("young"))
	c.lead(tp, 2, 1, 2, 3)
	eventually(t, "the new leader leads", func() bool { return c.nodes[2].state(tp).Role == "leader" && c.nodes[2].state(tp).HighWatermark == 11 })
	c.put(2, tp, "k", []byte("younger"))
	c.nodes[3].stop(false)
	c.nodes[3].start()
	c.startsAt(tp, 10, 1, 2, 3)
	for id := model.NodeID(1); id <= 2; id++ {
		eventually(t, fmt.Sprintf("broker %d holds the latest", id), func() bool {
			_, values := c.nodes[id].latest(tp)
			return values["k"] == "younger"
		})
	}
	if d, err := c.nodes[2].mgr.Retention(tp); err != nil || len(d.Kept) == 0 || d.Kept[0].Reason != storage.KeptByTime || d.Kept[0].UntilMs == 0 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestRetentionBySize(t *testing.T) {
	c := newCluster(t, 2, quickRetention)
	tp := c.topic(1, map[string]string{"retention.bytes": "40000", "segment.bytes": "16384"}, 1, 2)
	for i := range 150 {
		c.put(1, tp, "k", fmt.Appendf(nil, "%01000d", i))
	}
	for id := model.NodeID(1); id <= 2; id++ {
		eventually(t, fmt.Sprintf("broker %d deletes", id), func() bool {
			size := c.nodes[id].state(tp).SizeBytes
			return size >= 40000 && size < 40000+2*16384
		})
	}
	if n, _ := c.nodes[2].latest(tp); n < 35 {
		t.Errorf("%d records are left", n)
	}
}

// A broker that finds the clock far ahead of when it looked last empties no partition.
func TestRetentionPausesWhereTheClockIsDoubtful(t *testing.T) {
	c := newCluster(t, 1, quickRetention)
	tp := c.topic(1, map[string]string{"retention.ms": "-1"}, 1)
	mustAck(t, c.send(1, tp, AcksAll, "old"))
	c.nodes[1].stop(true)
	if err := c.nodes[1].mem.RemoveAll("/data/clock.seen"); err != nil {
		t.Fatal(err)
	}
	f, err := c.nodes[1].mem.Create("/data/clock.seen")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append(fmt.Appendf(nil, "%d", time.Now().Add(-48*time.Hour).UnixMilli())); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c.nodes[1].start()
	c.lead(tp, 1, 1)
	c.configure(tp, "retention.ms", "3600000")
	paused := c.nodes[1].mgr.metrics.retentionPaused
	eventually(t, "deletions pause", func() bool { return metricValue(t, paused) == 1 })
	if got := c.nodes[1].values(tp); !slices.Equal(got, []string{"old"}) {
		t.Errorf("left: %q", got)
	}
	if d, err := c.nodes[1].mgr.Retention(tp); err != nil || !d.Paused || d.Kept[0].Reason != storage.KeptClockJumped {
		t.Errorf("%+v, %v", d, err)
	}
}

// A compacted topic keeps the latest value of each key on every replica: through changes of the leader, and on a replica that
// was away and catches up from a log with gaps. A tombstone stays while a replica has not got it.
func TestCompactionThroughLeaderChanges(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test
	c := newCluster(t, 3, quickRetention)
	tp := c.topic(1, map[string]string{
		"cleanup.policy": "compact", "segment.bytes": "16384", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "0",
		"min.insync.replicas": "1",
	}, 1, 2, 3)
	want := map[string]string{}
	write := func(leader model.NodeID, n int) {
		for range n {
			key := fmt.Sprintf("key-%d", r.IntN(25))
			if r.IntN(5) == 0 {
				c.put(leader, tp, key, nil)
				delete(want, key)
				continue
			}
			value := fmt.Sprintf("%d-%01000d", r.IntN(1000), 0)
			c.put(leader, tp, key, []byte(value))
			want[key] = value
		}
	}
	compacted := func(ids ...model.NodeID) {
		t.Helper()
		for _, id := range ids {
			eventually(t, fmt.Sprintf("broker %d compacts", id), func() bool {
				return c.nodes[id].state(tp).SizeBytes < 25*1200+3*16384
			})
		}
	}
	check := func(ids ...model.NodeID) {
		t.Helper()
		end := c.nodes[ids[0]].state(tp).LogEndOffset
		for _, id := range ids {
			eventually(t, fmt.Sprintf("broker %d is up to date", id), func() bool {
				s := c.nodes[id].state(tp)
				return s.HighWatermark == end && s.LogEndOffset == end
			})
			_, values := c.nodes[id].latest(tp)
			maps.DeleteFunc(values, func(_, v string) bool { return v == "" })
			if !maps.Equal(values, want) {
				t.Fatalf("broker %d holds other values for %d keys than the %d that were written", id, len(values), len(want))
			}
		}
	}
	write(1, 200)
	compacted(1, 2, 3)
	check(1, 2, 3)

	// Broker 3 is away; nothing that it has not heard of is forgotten.
	c.nodes[3].stop(false)
	c.lead(tp, 1, 1, 2)
	eventually(t, "the ISR shrinks", func() bool { return len(c.nodes[1].state(tp).ISR) == 2 })
	c.put(1, tp, "deleted meanwhile", []byte("x"))
	c.put(1, tp, "deleted meanwhile", nil)
	write(1, 150)
	compacted(1, 2)
	check(1, 2)
	for id := model.NodeID(1); id <= 2; id++ {
		if _, values := c.nodes[id].latest(tp); !slices.Contains(slices.Collect(maps.Keys(values)), "deleted meanwhile") {
			t.Errorf("broker %d forgot a tombstone that broker 3 has not got", id)
		}
	}
	c.lead(tp, 2, 1, 2)
	eventually(t, "broker 2 leads", func() bool { return c.nodes[2].state(tp).Role == "leader" })
	write(2, 100)
	c.nodes[3].start()
	eventually(t, "broker 3 is back in sync", func() bool { return len(c.nodes[2].state(tp).ISR) == 3 })
	write(2, 50)
	check(2, 1, 3)
	c.lead(tp, 3, 1, 2, 3)
	eventually(t, "broker 3 leads", func() bool { return c.nodes[3].state(tp).Role == "leader" })
	write(3, 100)
	compacted(1, 2, 3)
	check(3, 1, 2)
	for id := model.NodeID(1); id <= 3; id++ {
		eventually(t, fmt.Sprintf("broker %d forgets the tombstone", id), func() bool {
			_, values := c.nodes[id].latest(tp)
			_, there := values["deleted meanwhile"]
			return !there
		})
		c.nodes[id].stop(false)
		c.nodes[id].start()
	}
}
