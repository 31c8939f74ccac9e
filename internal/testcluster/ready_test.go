package testcluster_test

import (
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/internal/testcluster"
)

// A voter that has lost its quorum still runs, and is not ready: it cannot know whether it still leads anything. The others'
// return makes it ready again; so they are themselves.
func TestAVoterWithoutItsQuorumIsNotReady(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	ready := func(i int) error {
		if reasons := cluster.Node(i).Unready(); len(reasons) > 0 {
			return fmt.Errorf("node %d: %+v", i, reasons)
		}
		return nil
	}
	for i := 1; i <= 3; i++ {
		cluster.Await("every node is ready", func() error { return ready(i) })
	}
	cluster.Kill(2)
	cluster.Kill(3)
	cluster.Await("the session of node 1 is lost and its metadata stale", func() error {
		lost := map[string]bool{}
		for _, r := range cluster.Node(1).Unready() {
			lost[r.Code] = true
		}
		if !lost["SESSION_LOST"] || !lost["METADATA_STALE"] {
			return fmt.Errorf("it says %v", lost)
		}
		return nil
	})
	cluster.Restart(2)
	cluster.Await("node 1 is ready again", func() error { return ready(1) })
	cluster.Await("node 2 is ready again", func() error { return ready(2) })
}
