//go:build unix

package chaos

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// TestAllNodesKilled kills all nodes at once with -9 under load, broker dev with them, and starts them again.
func TestAllNodesKilled(t *testing.T) {
	const topic, partitions = "blackout", 6
	c := startDev(t, 3)
	c.createTopic(topic, partitions, 3)
	reader := c.startReader(topic, partitions)
	l := c.startLoad(topic, "p0")
	for range either(1, 10) {
		c.awaitHealthy()
		l.rush(inFlight)
		all := map[int32]int32{}
		for _, p := range c.mustTopic(topic).Partitions {
			all[p.Partition] = p.LeaderEpoch
		}
		seen := l.watchFor(all)
		killed := time.Now()
		c.killEverything()
		l.setBurst(false)
		c.startAll()
		at := l.awaitAck(seen, time.Minute)
		t.Logf("from the kill of all to the next acknowledgement: %v", at.Sub(killed).Round(time.Millisecond))
		c.mustHaveGrown(topic, all)
	}
	producer := l.finish()
	c.awaitHealthy()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}
	mustKeep(t, c.check(topic, promise, []Producer{producer}, reader.finish()))
	c.compareStopped(topic)
}

// TestRandomFaults strikes at random and does not wait until the cluster has got over it: one or more nodes die, stand still
// or stop, and come back at random times. Records may fail here, but no promise may break. Of five nodes two are no voters.
func TestRandomFaults(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprintf("%d nodes", n), func(t *testing.T) { randomFaults(t, n, either(4, 60)) })
	}
}

func randomFaults(t *testing.T, nodes, rounds int) {
	const topic, partitions = "random", 6
	if nodes > 3 && !*long {
		t.Skip("only with -chaos.long")
	}
	c := startDev(t, nodes)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d (-chaos.seed)", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	c.createTopic(topic, partitions, 3)
	reader := c.startReader(topic, partitions)
	loads := []*load{c.startLoad(topic, "p0"), c.startLoad(topic, "p1", "-z", "zstd")}
	for _, l := range loads {
		l.awaitAnswers(100, time.Minute)
	}
	strikes := map[string]int{}
	for range rounds {
		loads[0].setBurst(random.IntN(8) == 0)
		loads[1].setBurst(random.IntN(8) == 0)
		what, victims := c.strike(random)
		strikes[what] += victims
		pause(time.Duration(random.IntN(1500)) * time.Millisecond)
		if random.IntN(2) == 0 {
			c.awaitHealthy()
		}
	}
	t.Logf("strikes: %v", strikes)
	c.awaitHealthy()
	var producers []Producer
	for _, l := range loads {
		l.setBurst(false)
		l.awaitAnswers(100, 60*time.Second)
		producers = append(producers, l.finishAnyhow())
	}
	c.awaitHealthy()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}
	report := c.check(topic, promise, producers, reader.finish())
	if !report.OK() {
		t.Error("promises were broken")
	}
	if report.Acked < report.Sent/2 {
		t.Error("hardly anything was acknowledged")
	}
	c.compareStopped(topic)
}

// strike does one thing to some nodes, sometimes all, and brings them back after a while. It returns what it did, and to how
// many.
func (c *cluster) strike(random *rand.Rand) (what string, victims int) {
	c.t.Helper()
	nodes := random.Perm(c.n)[:[]int{1, 1, 1, 2, 2, c.n}[random.IntN(6)]]
	for i := range nodes {
		nodes[i]++
	}
	away := time.Duration(random.IntN(1000)) * time.Millisecond
	switch random.IntN(4) {
	case 0, 1:
		c.kill(nodes...)
		pause(away)
		for _, i := range nodes {
			c.start(i)
		}
		return "kill -9", len(nodes)
	case 2:
		for _, i := range nodes {
			c.signal(i, syscall.SIGSTOP)
		}
		pause(away * 5)
		for _, i := range nodes {
			c.signal(i, syscall.SIGCONT)
		}
		return "freeze", len(nodes)
	default:
		var pids []int
		for _, i := range nodes {
			pids = append(pids, c.pid(i))
			c.signal(i, syscall.SIGTERM)
		}
		for k, pid := range pids {
			eventually(c.t, stopTimeout, fmt.Sprintf("node %d has stopped", nodes[k]), func() error {
				if alive(pid) {
					return fmt.Errorf("process %d lives", pid)
				}
				return nil
			})
		}
		pause(away)
		for _, i := range nodes {
			c.start(i)
		}
		return "stop", len(nodes)
	}
}

// pause lets time pass: the length of a fault, not a wait for anything.
func pause(d time.Duration) { <-time.After(d) }
