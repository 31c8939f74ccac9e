package replication

import "testing"

// A log that is made while the deleter looks around is not taken for one of an unknown topic.
func TestNewLogsAreNotTakenForUnknownOnes(t *testing.T) {
	c := newCluster(t, 1, nil)
	mgr := c.nodes[1].mgr
	for i := range 100 {
		signal(mgr.deletions)
		tp := c.topic(byte(1+i), nil, 1)
		mustAck(t, c.send(1, tp, AcksAll, "kept"))
	}
	c.stopAll()
	logs, err := c.nodes[1].fs.List("/data/topics")
	if err != nil || len(logs) != 100 {
		t.Fatalf("%d logs, %v", len(logs), err)
	}
	for i := range 100 {
		dir := "/data/topics/" + testUUID(byte(1+i)).String()
		if _, err := c.nodes[1].fs.Stat(dir + "/0"); err != nil {
			t.Errorf("the log of topic %d: %v", i, err)
		}
	}
}
