package replication

import (
	"fmt"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// BenchmarkAppend appends 64 KiB batches with acks=all, 2 MiB under way, to real files in a temporary directory.
func BenchmarkAppend(b *testing.B) {
	for _, rf := range []int{1, 3} {
		for _, mode := range []string{"os", "fsync"} {
			b.Run(fmt.Sprintf("rf=%d/%s", rf, mode), func(b *testing.B) { benchmarkAppend(b, rf, mode) })
		}
	}
}

func benchmarkAppend(b *testing.B, rf int, mode string) {
	const partitions, window = 6, 32
	c := &cluster{
		t: b, image: metadata.Empty(), nodes: map[model.NodeID]*testNode{}, cut: map[[2]model.NodeID]bool{},
		streams: map[*memStream]bool{}, reported: map[model.UUID][]model.NodeID{},
		options: func(o *Options) { o.Core.LagTimeMax = 0 },
	}
	c.change(clusterRecord())
	var replicas []model.NodeID
	for id := model.NodeID(1); int(id) <= rf; id++ {
		c.nodes[id] = &testNode{c: c, id: id, fs: fsys.OS(), path: b.TempDir()}
		c.nodes[id].start()
		replicas = append(replicas, id)
	}
	defer c.stopAll()
	var tps []model.TopicPartition
	for i := range byte(partitions) {
		tps = append(tps, c.topic(i+1, map[string]string{"flush.mode": mode, "segment.bytes": "67108864"}, replicas...))
	}
	batch, header := batchOf(b, -1, -1, strings.Repeat("x", 64<<10-100))
	b.SetBytes(int64(len(batch)))
	slots := make(chan struct{}, window)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		slots <- struct{}{}
		c.nodes[1].mgr.Append(AppendRequest{
			TP: tps[i%partitions], Batch: [][]byte{batch}, Header: header, Acks: AcksAll, LeaderEpoch: model.NoLeaderEpoch,
			Done: func(_ Receipt, err error) {
				if err != nil {
					b.Error(err)
				}
				<-slots
			},
		})
	}
	for range window {
		slots <- struct{}{}
	}
}
