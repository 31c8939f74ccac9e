package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/testcluster"
)

// TestNoQuorum kills two of three nodes. What needs a controller says that there is no quorum, with exit status 3 and within
// its timeout; what is left is shown with what is known of it.
func TestNoQuorum(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster: not in -short")
	}
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := commands{t: t, bootstrap: strings.Join(cluster.Bootstrap(), ",")}
	c.ok("topic", "create", "t", "--partitions", "6")
	cluster.AwaitHealthy()
	cluster.Kill(2)
	cluster.Kill(3)
	const timeout, patience = 3 * time.Second, 20 * time.Second
	// Until node 1 has noticed, it may take a change on as the active controller, and not know what becomes of it.
	cluster.Await("node 1 knows that there is no quorum", func() error {
		code, _, notes := c.run("", false, "--timeout", "1s", "controller", "status")
		if code != exitUnhealthy || !strings.Contains(notes, "NO_QUORUM") {
			return fmt.Errorf("exit status %d: %s", code, notes)
		}
		return nil
	})
	// All at once: each waits its whole time.
	t.Run("changes", func(t *testing.T) {
		for _, line := range []string{
			"topic create other", "topic delete t --yes", "topic add-partitions t --total 9", "topic config t --set flush.mode=os", "controller status",
		} {
			t.Run(line, func(t *testing.T) {
				t.Parallel()
				c, begin := commands{t: t, bootstrap: c.bootstrap}, time.Now()
				c.fails(exitUnhealthy, "NO_QUORUM", append([]string{"--timeout", timeout.String()}, strings.Fields(line)...)...)
				if took := time.Since(begin); took > patience {
					t.Errorf("it took %v with --timeout %v", took, timeout)
				}
			})
		}
	})
	begin := time.Now()
	var d topicJSON
	c.json(&d, "--timeout", timeout.String(), "topic", "describe", "t")
	if took := time.Since(begin); took > patience {
		t.Errorf("topic describe took %v with --timeout %v", took, timeout)
	}
	shown := 0
	for _, p := range d.Partitions {
		if *p.Leader == 1 {
			shown++
		}
		if known := p.HighWatermark != nil; known != (*p.Leader == 1) {
			t.Errorf("partition %d, led by node %d: offsets are known: %v", p.Partition, *p.Leader, known)
		}
	}
	if shown == 0 {
		t.Errorf("node 1 leads nothing: %+v", d)
	}
	if code, out, _ := c.run("", false, "cluster", "health", "--timeout", timeout.String()); code != exitUnhealthy || !strings.Contains(out, "NO_QUORUM") {
		t.Errorf("cluster health: exit status %d:\n%s", code, out)
	}
}
