package controller

import (
	"testing"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// TestReasonsOfElections: the words of R11 and R10, and leaderships that a stopping broker hands over.
func TestReasonsOfElections(t *testing.T) {
	ids := func(ids ...model.NodeID) []model.NodeID { return ids }
	for _, c := range []struct {
		name   string
		old    metadata.Partition
		leader model.NodeID
		isr    []model.NodeID
		lossy  bool
		want   string
	}{
		{"the leader died, another was in sync", metadata.Partition{Leader: 1, ISR: ids(1, 2, 3)}, 2, ids(2, 3), false, electedClean},
		{"a leader came back from none", metadata.Partition{Leader: model.NoNode, ISR: ids(1)}, 1, ids(1), false, electedClean},
		{"the leader is about to stop", metadata.Partition{Leader: 1, ISR: ids(1, 2, 3)}, 2, ids(1, 2, 3), false, electedHandover},
		{"nobody was in sync any more", metadata.Partition{Leader: model.NoNode, ELR: ids(3)}, 3, ids(3), false, electedELR},
		{"all seats were lost", metadata.Partition{Leader: model.NoNode, LastKnown: ids(1, 2)}, 2, ids(2), true, electedUnclean},
	} {
		next := c.old
		next.Leader, next.ISR = c.leader, c.isr
		if got := reasonOf(&c.old, &next, c.lossy); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
