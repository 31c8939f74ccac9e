package replication

import (
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/model"
)

// A replica that was written in flush.mode=os counts as fsynced only after one full flush, which it notes on its own disk: the
// topic's setting does not tell what a broker has flushed that was down when it changed.
func TestReplicasOfOSModeAreMarkedUntilTheyAreFlushed(t *testing.T) {
	lostPageCache := false
	c := newCluster(t, 2, func(o *Options) { o.PageCacheLost = lostPageCache })
	fsync := c.topic(1, nil, 1, 2)
	tp := c.topic(2, map[string]string{"flush.mode": "os"}, 1, 2)
	mustAck(t, c.send(1, fsync, AcksAll, "a"))
	mustAck(t, c.send(1, tp, AcksAll, "a"))
	// Each time broker 2 starts on a machine that seems to have lost its page cache.
	restart := func(change func(), lost bool) {
		t.Helper()
		c.nodes[2].stop(false)
		c.fence(2)
		change()
		lostPageCache = true
		c.nodes[2].start()
		lostPageCache = false
		for _, r := range c.nodes[2].lost {
			of, err := model.UUIDFromBytes(r.GetTopicId())
			if err != nil {
				t.Fatal(err)
			}
			want := lost && of == tp.TopicID
			if got := strings.Contains(r.GetSeatLostReason(), "flush.mode=os"); got != want {
				t.Errorf("topic %s: lost %q, want %v", of, r.GetSeatLostReason(), want)
			}
		}
		eventually(t, "broker 2 is in sync", func() bool { return c.partition(tp).InISR(2) && c.partition(fsync).InISR(2) })
	}
	marked := func() bool {
		p, err := c.nodes[2].mgr.lookup(tp)
		if err != nil {
			t.Fatal(err)
		}
		on, err := p.log.OSMode()
		if err != nil {
			t.Fatal(err)
		}
		return on
	}
	restart(func() {}, true)
	if !marked() {
		t.Error("the mark went though the topic is still in os mode")
	}
	restart(func() { c.configure(tp, "flush.mode", "fsync") }, true) // it was down when the setting changed
	eventually(t, "the log is flushed and the mark goes", func() bool { return !marked() })
	restart(func() {}, false)
	c.configure(tp, "flush.mode", "os")
	eventually(t, "the mark is back", marked)
	mustAck(t, c.send(1, tp, AcksAll, "b"))
	c.configure(tp, "flush.mode", "fsync")
	eventually(t, "flushed", func() bool { return !marked() })
	receipt := mustAck(t, c.send(1, tp, AcksAll, "c"))
	if receipt.FSynced != 2 {
		t.Errorf("%+v", receipt)
	}
	c.agree(tp, []string{"a", "b", "c"}, 1, 2)
}
