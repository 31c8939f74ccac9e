//go:build unix

package chaos

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
)

// inFlight is how many records at least are under way when a leader is killed.
const inFlight = 500

// check takes the last view, holds the history against its promises and says what was found.
func (c *cluster) check(topic string, promise Promise, producers []Producer, views ...View) *Report {
	c.t.Helper()
	views = append(views, c.view(topic, "the first reading of all"), c.view(topic, "the last reading of all"))
	report := Check(History{Producers: producers, Views: views}, promise)
	c.t.Log(report)
	return report
}

// mustKeep fails the test when a promise was broken, and when not everything was acknowledged.
func mustKeep(t *testing.T, report *Report) {
	t.Helper()
	if !report.OK() {
		t.Errorf("promises were broken")
	}
	if report.Acked != report.Sent {
		t.Errorf("only %d of %d records were acknowledged", report.Acked, report.Sent)
	}
}

// ledBy returns the leader epochs of the partitions that a node leads.
func ledBy(topic client.Topic, node int32) map[int32]int32 {
	led := map[int32]int32{}
	for _, p := range topic.Partitions {
		if p.Leader == node {
			led[p.Partition] = p.LeaderEpoch
		}
	}
	return led
}

func leaderOf(t *testing.T, topic client.Topic, partition int32) int {
	t.Helper()
	for _, p := range topic.Partitions {
		if p.Partition == partition && p.Leader > 0 {
			return int(p.Leader)
		}
	}
	t.Fatalf("partition %d has no leader: %+v", partition, topic)
	return 0
}

// mustHaveGrown is the counter that shows that a fault of the leader bit: every partition that it led has a newer epoch.
func (c *cluster) mustHaveGrown(topic string, before map[int32]int32) {
	c.t.Helper()
	if len(before) == 0 {
		c.t.Fatal("the node led nothing: the fault did not bite")
	}
	eventually(c.t, time.Minute, "the leader epochs have grown", func() error {
		now, err := c.topic(topic)
		if err != nil {
			return err
		}
		for _, p := range now.Partitions {
			if epoch, led := before[p.Partition]; led && (p.LeaderEpoch <= epoch || p.Leader < 0) {
				return fmt.Errorf("partition %d: leader %d, leader epoch %d, which was %d before: the fault did not bite",
					p.Partition, p.Leader, p.LeaderEpoch, epoch)
			}
		}
		return nil
	})
}

// awaitAck waits for the time that a watch reports.
func (l *load) awaitAck(seen <-chan time.Time, within time.Duration) time.Time {
	l.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case at := <-seen:
		return at
	case <-l.proc.ended:
		l.t.Fatalf("brokerctl produce ended: %v\n%s", l.proc.waitErr, tail(l.proc.err.String()))
	case <-timer.C:
		sent, answered := l.counts()
		l.t.Fatalf("no acknowledgement by a new leader within %v of the fault; %d of %d records are answered", within, answered, sent)
	}
	return time.Time{}
}

func logGaps(t *testing.T, what string, gaps []time.Duration) {
	t.Helper()
	slices.Sort(gaps)
	t.Logf("%s: %d faults, from fault to next acknowledgement by a new leader: p50 %v, max %v, all %v", what, len(gaps),
		gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond), gaps)
}

// TestLeaderKills kills the leader of the busiest partition with -9 again and again, with hundreds of records in flight;
// every other time a leader that is the active controller too, where there is one.
func TestLeaderKills(t *testing.T) {
	for _, mode := range []string{"fsync", "os"} {
		t.Run(mode, func(t *testing.T) { leaderKills(t, mode) })
	}
}

func leaderKills(t *testing.T, mode string) {
	const topic, partitions = "kills", 6
	if mode != "fsync" && !*long {
		t.Skip("only with -chaos.long")
	}
	c := startDev(t, 3)
	c.createTopic(topic, partitions, 3, "flush.mode="+mode)
	reader := c.startReader(topic, partitions)
	l := c.startLoad(topic, "p0")
	l.awaitAnswers(100, time.Minute)
	var gaps []time.Duration
	for round := range either(3, 20) {
		c.awaitHealthy()
		underWay := l.rush(inFlight)
		before := c.mustTopic(topic)
		leader, role := leaderOf(t, before, l.busiest()), ""
		if controller := c.controller(); controller == leader || round%2 == 0 && len(ledBy(before, int32(controller))) > 0 {
			leader, role = controller, " and active controller"
		}
		led := ledBy(before, int32(leader))
		seen := l.watchFor(led)
		killed := time.Now()
		c.kill(leader)
		at := l.awaitAck(seen, time.Minute)
		l.setBurst(false)
		gaps = append(gaps, at.Sub(killed))
		c.mustHaveGrown(topic, led)
		t.Logf("kill %d: node %d, leader of %d partitions%s, %d records in flight, next acknowledgement after %v",
			round+1, leader, len(led), role, underWay, gaps[round].Round(time.Millisecond))
		c.start(leader)
	}
	logGaps(t, "leader kills", gaps)
	c.awaitHealthy()
	if _, answered := l.counts(); answered < either(0, 100_000) {
		l.setBurst(true)
		l.awaitAnswers(100_000-answered, 120*time.Second)
	}
	producer := l.finish()
	c.awaitHealthy()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: mode == "fsync"}
	mustKeep(t, c.check(topic, promise, []Producer{producer}, reader.finish()))
	if n := len(producer.Receipts); n < either(1000, 100_000) {
		t.Errorf("only %d receipts", n)
	}
	c.compareStopped(topic)
}

// TestSingleReplicaKills kills the only node with -9 under load, and starts it again.
func TestSingleReplicaKills(t *testing.T) {
	const topic, partitions = "single", 3
	c := startDev(t, 1)
	c.createTopic(topic, partitions, 1)
	l := c.startLoad(topic, "p0")
	l.awaitAnswers(100, time.Minute)
	var gaps []time.Duration
	for range either(5, 50) {
		c.awaitHealthy()
		l.rush(inFlight)
		led := ledBy(c.mustTopic(topic), 1)
		seen := l.watchFor(led)
		killed := time.Now()
		c.kill(1)
		l.setBurst(false)
		c.start(1)
		gaps = append(gaps, l.awaitAck(seen, time.Minute).Sub(killed))
		c.mustHaveGrown(topic, led)
	}
	logGaps(t, "kills of the only replica", gaps)
	producer := l.finish()
	promise := Promise{Partitions: partitions, MinISR: 1, Replicas: 1, Fsync: true}
	mustKeep(t, c.check(topic, promise, []Producer{producer}))
	c.compareStopped(topic)
}

// TestFrozenLeader stops the leader's process without ending it, until another one leads, and lets it go on: it must find
// out that it is no leader any more before it answers anybody.
func TestFrozenLeader(t *testing.T) {
	const topic, partitions = "frozen", 6
	c := startDev(t, 3)
	c.createTopic(topic, partitions, 3)
	reader := c.startReader(topic, partitions)
	l := c.startLoad(topic, "p0")
	l.awaitAnswers(100, time.Minute)
	var gaps []time.Duration
	for range either(1, 5) {
		c.awaitHealthy()
		l.rush(inFlight)
		before := c.mustTopic(topic)
		leader := leaderOf(t, before, l.busiest())
		led := ledBy(before, int32(leader))
		pid := c.pid(leader)
		seen := l.watchFor(led)
		frozen := time.Now()
		c.signal(leader, syscall.SIGSTOP)
		at := l.awaitAck(seen, 60*time.Second)
		l.setBurst(false)
		gaps = append(gaps, at.Sub(frozen))
		c.mustHaveGrown(topic, led)
		c.signal(leader, syscall.SIGCONT)
		c.awaitHealthy()
		if c.pid(leader) != pid {
			t.Errorf("node %d did not live through the freeze", leader)
		}
	}
	logGaps(t, "frozen leaders", gaps)
	producer := l.finish()
	c.awaitHealthy()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}
	mustKeep(t, c.check(topic, promise, []Producer{producer}, reader.finish()))
	c.compareStopped(topic)
}

// TestFollowerKill kills a node that leads nothing of the topic: producers must hardly notice, and it must catch up.
func TestFollowerKill(t *testing.T) {
	const topic, partitions = "followers", 1
	c := startDev(t, 3)
	c.createTopic(topic, partitions, 3)
	l := c.startLoad(topic, "p0")
	l.awaitAnswers(100, time.Minute)
	for range either(1, 5) {
		c.awaitHealthy()
		l.rush(inFlight)
		before := c.mustTopic(topic).Partitions[0]
		follower := before.ISR[slices.IndexFunc(before.ISR, func(id int32) bool { return id != before.Leader })]
		killed := time.Now()
		c.kill(int(follower))
		l.awaitAnswers(window+1, time.Minute) // more than was under way
		l.setBurst(false)
		now := before
		eventually(t, time.Minute, "the kill has bitten", func() error {
			if now = c.mustTopic(topic).Partitions[0]; slices.Contains(now.ISR, follower) || now.PartitionEpoch <= before.PartitionEpoch {
				return fmt.Errorf("ISR %v, before it %v", now.ISR, before.ISR)
			}
			return nil
		})
		if now.Leader != before.Leader || now.LeaderEpoch != before.LeaderEpoch {
			t.Errorf("the leader changed from %d (epoch %d) to %d (epoch %d) though a follower died",
				before.Leader, before.LeaderEpoch, now.Leader, now.LeaderEpoch)
		}
		t.Logf("follower %d killed; %d records answered within %v", follower, window+1, time.Since(killed).Round(time.Millisecond))
		c.start(int(follower))
	}
	producer := l.finish()
	c.awaitHealthy()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}
	mustKeep(t, c.check(topic, promise, []Producer{producer}))
	c.compareStopped(topic)
}

// TestAllNodesStopStart stops the whole cluster cleanly under load and starts it again: the producer goes on by itself.
func TestAllNodesStopStart(t *testing.T) {
	const topic, partitions = "stopped", 6
	c := startDev(t, 3)
	c.createTopic(topic, partitions, 3)
	l := c.startLoad(topic, "p0")
	for range either(1, 5) {
		l.rush(inFlight)
		l.setBurst(false)
		all := map[int32]int32{}
		for _, p := range c.mustTopic(topic).Partitions {
			all[p.Partition] = p.LeaderEpoch
		}
		seen := l.watchFor(all)
		begin := time.Now()
		c.stopAll()
		c.startAll()
		at := l.awaitAck(seen, time.Minute)
		t.Logf("from the interrupt to the next acknowledgement: %v", at.Sub(begin).Round(time.Millisecond))
		c.mustHaveGrown(topic, all)
		c.awaitHealthy()
	}
	producer := l.finish()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}
	mustKeep(t, c.check(topic, promise, []Producer{producer}))
	c.compareStopped(topic)
}
