//go:build unix

package chaos

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDamagedReplica changes a byte within a replica's log while its node is dead: once a follower's, once the
// leader's. What was not known to be synced is checked when the node comes back; it must notice, give up its seat, and fetch
// the lost part from the leader. Nobody may ever read the changed byte.
func TestDamagedReplica(t *testing.T) {
	const topic, partitions = "damaged", 1
	c := startDev(t, 3)
	c.createTopic(topic, partitions, 3)
	reader := c.startReader(topic, partitions)
	l := c.startLoad(topic, "p0")
	l.awaitAnswers(2000, time.Minute)
	for _, victim := range []string{"follower", "leader"} {
		c.awaitHealthy()
		before := c.mustTopic(topic)
		node := leaderOf(t, before, 0)
		if victim == "follower" {
			node = node%c.n + 1
		}
		c.kill(node)
		c.damage(filepath.Join(c.nodeDir(node), "data", "topics", before.ID, "0"))
		c.start(node)
		eventually(t, time.Minute, "node "+strconv.Itoa(node)+" notices the damage, or it did not bite", func() error {
			if !strings.Contains(c.byHand[node].err.String(), "gives up its seat") {
				return errors.New("it says nothing")
			}
			return nil
		})
		c.awaitHealthy()
		l.awaitAnswers(200, time.Minute)
	}
	producer := l.finish()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}
	mustKeep(t, c.check(topic, promise, []Producer{producer}, reader.finish()))
	c.compareStopped(topic)
}

// damage changes one byte in the last tenth of what a partition's first segment holds.
func (c *cluster) damage(dir string) {
	c.t.Helper()
	segments, err := segmentFiles(dir)
	if err != nil || len(segments) == 0 {
		c.t.Fatalf("%s: %v, %v", dir, segments, err)
	}
	content, err := os.ReadFile(segments[0])
	if err != nil {
		c.t.Fatal(err)
	}
	at := len(bytes.TrimRight(content, "\x00")) * 9 / 10
	content[at] ^= 0x10
	if err := os.WriteFile(segments[0], content, 0o600); err != nil {
		c.t.Fatal(err)
	}
}
