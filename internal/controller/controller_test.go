package controller

import (
	"testing"
)

func TestThreeEmptyVotersBeginACluster(t *testing.T) {
	c := startCluster(t, 3, nil)
	active := c.active()
	id := active.ctl.ClusterID()
	if id.IsZero() {
		t.Fatal("the cluster has no id")
	}
	for _, n := range c.nodes {
		until(t, "every controller knows the cluster", func() bool { return n.ctl.ClusterID() == id })
		if n.ctl.QuorumState() != QuorumStateEstablished {
			t.Errorf("node %d holds metadata and says %d", n.id, n.ctl.QuorumState())
		}
	}
	for i := range 3 {
		newFakeBroker(int32ID(i + 1)).join(c)
	}
	resp := createTopic(c, "t")
	if len(resp.GetPartitions()) != 3 || len(resp.GetPartitions()[0].GetReplicas()) != 3 {
		t.Fatalf("%v", resp)
	}
}
