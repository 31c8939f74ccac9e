package replication

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

func TestIdlePartitionsAreNotLookedAt(t *testing.T) {
	c := newCluster(t, 2, nil)
	for i := range byte(20) {
		mustAck(t, c.send(1, c.topic(i, nil, 1, 2), AcksAll, "x"))
	}
	for _, n := range c.nodes {
		eventually(t, "no partition needs time", func() bool { return len(n.mgr.ticking.list(nil)) == 0 })
		n.mgr.fetchMu.Lock()
		if len(n.mgr.fetchers) > 1 {
			t.Errorf("broker %d has %d fetchers", n.id, len(n.mgr.fetchers))
		}
		n.mgr.fetchMu.Unlock()
	}
}

func TestQuietLogsOfOSModeAreFlushed(t *testing.T) {
	c := newCluster(t, 1, func(o *Options) { o.CheckpointInterval = 20 * time.Millisecond })
	tp := c.topic(1, map[string]string{"flush.mode": "os"}, 1)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	eventually(t, "it is on the disk", func() bool {
		state, err := c.nodes[1].mgr.PartitionState(tp)
		return err == nil && state.DurableEnd == 1
	})
}

func TestHighWatermarkIsCheckpointed(t *testing.T) {
	c := newCluster(t, 2, func(o *Options) { o.CheckpointInterval = 20 * time.Millisecond })
	tp := c.topic(1, nil, 1, 2)
	mustAck(t, c.send(1, tp, AcksAll, "0", "1", "2"))
	for _, n := range c.nodes {
		log := n.mgr.partitions[tp].log
		eventually(t, "the high watermark is noted", func() bool { return log.CheckpointedHighWatermark() == 3 })
	}
}

func TestFlushModeChangesUnderWay(t *testing.T) {
	c := newCluster(t, 2, nil)
	tp := c.topic(1, map[string]string{"flush.mode": "os"}, 1, 2)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	c.configure(tp, "flush.mode", "fsync")
	// What was written in os mode counts only once it is flushed.
	if receipt := mustAck(t, c.send(1, tp, AcksAll, "1")); receipt.FSynced != 2 {
		t.Errorf("receipt %+v", receipt)
	}
	for _, n := range c.nodes {
		eventually(t, "all of it is on the disk", func() bool { return n.mgr.partitions[tp].log.DurableEnd() == 2 })
	}
}

func TestDamagedFollowerFetchesAnew(t *testing.T) {
	c := newCluster(t, 3, func(o *Options) { o.CheckpointInterval = 20 * time.Millisecond })
	tp := c.topic(1, nil, 1, 2, 3)
	var want []string
	for _, v := range []string{"a", "b", "c", "d"} {
		want = append(want, strings.Repeat(v, 1000))
		mustAck(t, c.send(1, tp, AcksAll, want[len(want)-1]))
	}
	log := c.nodes[3].mgr.partitions[tp].log
	eventually(t, "the high watermark is noted", func() bool { return log.CheckpointedHighWatermark() == 4 })
	c.nodes[3].stop(false)
	c.fence(3)
	flip(t, c.nodes[3].fs, "/data/topics/"+tp.TopicID.String()+"/0/00000000000000000000.log", 1070+16) // the second batch is none any more
	c.nodes[3].start()
	if lost := c.nodes[3].lost; len(lost) != 1 || !strings.Contains(lost[0].GetSeatLostReason(), "damaged from offset 1") {
		t.Errorf("replicas %v", lost)
	}
	eventually(t, "broker 3 rejoins", func() bool { return len(c.partition(tp).ISR) == 3 })
	c.agree(tp, want, 1, 2, 3)
}

// flip changes one byte of a file.
func flip(t *testing.T, fs fsys.FS, name string, at int64) {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, f.Position())
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0xff
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append(data); err != nil {
		t.Fatal(err)
	}
	if err := f.SyncData(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMetricsAreRegistered(t *testing.T) {
	registry := prometheus.NewRegistry()
	c := newCluster(t, 1, func(o *Options) { o.Metrics = registry })
	mustAck(t, c.send(1, c.topic(1, nil, 1), AcksAll, "x"))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		values[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	if values["replication_leaders"] != 1 || values["replication_appended_bytes_total"] == 0 || values["replication_under_replicated_partitions"] != 0 {
		t.Errorf("metrics %v", values)
	}
	if _, err := NewManager(Options{}); err == nil {
		t.Error("a manager was made of nothing")
	}
}

func TestFullDisk(t *testing.T) {
	c := newCluster(t, 2, func(o *Options) { o.CheckpointInterval = 20 * time.Millisecond })
	tp := c.topic(1, map[string]string{"min.insync.replicas": "2"}, 1, 2) // nobody could take over
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	mem := c.nodes[1].mem
	mem.SetCapacity(1)
	if err := mustFail(t, c.send(1, tp, AcksAll, strings.Repeat("x", 1000)), model.CodeNoSpace); IsIndefinite(err) {
		t.Errorf("indefinite: %v", err)
	}
	mem.SetCapacity(0)
	mustAck(t, c.send(1, tp, AcksAll, "1"))
	c.configure(tp, "min.insync.replicas", "1")
	// The follower's disk fills: it falls behind, leaves the ISR where it may, and comes back.
	c.nodes[2].mem.SetCapacity(1)
	receipt := mustAck(t, c.send(1, tp, AcksAll, "2"))
	if receipt.ISR != 1 {
		t.Errorf("receipt %+v", receipt)
	}
	c.nodes[2].mem.SetCapacity(0)
	eventually(t, "broker 2 rejoins", func() bool { return len(c.partition(tp).ISR) == 2 })
	c.agree(tp, []string{"0", "1", "2"}, 1, 2)
	// Checkpoints that could not be written make the stop unclean; nothing is lost by it.
	for _, id := range []model.NodeID{2, 1} {
		c.nodes[id].stop(false)
		c.nodes[id].start()
	}
	eventually(t, "both are in sync", func() bool { return len(c.partition(tp).ISR) == 2 })
	c.agree(tp, []string{"0", "1", "2"}, 1, 2)
}
