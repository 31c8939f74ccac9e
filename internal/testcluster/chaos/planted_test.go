//go:build unix

package chaos

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/documents"
)

// leaderAhead is the schedule that a leader which acknowledges alone does not survive: both followers stand still while
// producers send on; then the leader is killed, and the followers decide without it.
func leaderAhead(t *testing.T, c *cluster, patience time.Duration) *Report {
	t.Helper()
	const topic, partitions = "ahead", 1
	c.createTopic(topic, partitions, 3)
	l := c.startLoad(topic, "p0")
	l.awaitAnswers(100, time.Minute)
	l.rush(inFlight)
	before := c.mustTopic(topic)
	leader := leaderOf(t, before, 0)
	led := ledBy(before, int32(leader))
	var followers []int
	for i := 1; i <= c.n; i++ {
		if i != leader {
			followers = append(followers, i)
			c.signal(i, syscall.SIGSTOP)
		}
	}
	_, atFreeze := l.counts()
	l.answeredOrPassed(150_000, patience)
	_, atKill := l.counts()
	l.setBurst(false)
	seen := l.watchFor(led)
	c.kill(leader)
	for _, i := range followers {
		c.signal(i, syscall.SIGCONT)
	}
	l.awaitAck(seen, 60*time.Second)
	c.mustHaveGrown(topic, led)
	t.Logf("%d records were acknowledged while both followers stood still", atKill-atFreeze)
	producer := l.finishAnyhow()
	return c.check(topic, Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}, []Producer{producer})
}

// TestLeaderKilledAhead runs the schedule against the real program.
func TestLeaderKilledAhead(t *testing.T) {
	report := leaderAhead(t, startDev(t, 3), 1500*time.Millisecond)
	mustKeep(t, report)
}

// TestPlantedLeaderAcksAlone runs the schedule against a broker in which the leader acknowledges alone: the checker must say
// that acknowledged records are lost. It shows that the harness can fail.
func TestPlantedLeaderAcksAlone(t *testing.T) {
	bin := thePrograms(t)
	bin.broker = filepath.Join(buildDir, "broker-planted")
	commands, err := documents.Lines(repository, "TestPlantedLeaderAcksAlone")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range commands { // there is one: docs/testing.md says how such a broker is built
		command = strings.Replace(command, "go build", `go build -o "$BROKER"`, 1)
		if r := run(t, repository, []string{"CGO_ENABLED=0", "BROKER=" + bin.broker}, "", "bash", "-euc", command); r.code != 0 {
			t.Fatalf("%s: %s", command, r.err)
		}
	}
	c := newCluster(t, bin, 3)
	c.startAll()
	report := leaderAhead(t, c, 20*time.Second)
	if lost := report.Broken(RuleLost) + report.Broken(RuleMoved); lost == 0 {
		t.Error("the planted bug was not found: no acknowledged record is missing")
	}
}
