package replication

import (
	"testing"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// Where logs end is told of partitions alone that wait for it.
func TestAwaitedEnds(t *testing.T) {
	c := newCluster(t, 2, nil)
	led, waits := c.topic(1, nil, 1, 2), c.topic(2, nil, 1, 2)
	mustAck(t, c.send(1, led, AcksAll, "0"))
	mustAck(t, c.send(1, waits, AcksAll, "0", "1"))
	if ends := c.nodes[2].mgr.AwaitedEnds(); len(ends) != 0 {
		t.Fatalf("%v", ends)
	}
	nobody, none := int32(model.NoNode), &internalv1.NodeIDs{}
	c.change(changeRecord(waits.TopicID, waits.Partition, &internalv1.PartitionChangeRecord{
		Leader: &nobody, NewLeaderEpoch: true, Isr: none, Elr: none, LastKnown: &internalv1.NodeIDs{Ids: metadata.IDs([]model.NodeID{1, 2})},
	}))
	eventually(t, "broker 2 tells", func() bool {
		ends := c.nodes[2].mgr.AwaitedEnds()
		return len(ends) == 1 && string(ends[0].GetTopicId()) == string(waits.TopicID.Bytes()) && ends[0].GetLogEndOffset() == 2 &&
			ends[0].LogEndOffset != nil && ends[0].GetLastLeaderEpoch() >= 0 && ends[0].GetSeatLostReason() == ""
	})
	c.lead(waits, 2, 2)
	eventually(t, "nobody waits any more", func() bool { return len(c.nodes[2].mgr.AwaitedEnds()) == 0 })
}
