package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestFullDisk fills the disk of one node to the last byte under load, again and again: the first time it leads. It hands over, and goes on
// without a restart once there is room; killed while no byte is free, it starts again.
func TestFullDisk(t *testing.T) {
	const topic, partitions = "full", 1
	c := startDev(t, 3)
	c.createTopic(topic, partitions, 3)
	node := leaderOf(t, c.mustTopic(topic), 0)
	disk := c.ownDisk(node, 320<<20)
	reader := c.startReader(topic, partitions)
	l := c.startLoad(topic, "p0")
	for round := range either(2, 6) {
		l.awaitAnswers(500, 60*time.Second)
		c.awaitHealthy()
		last := round%2 == 1
		if !last {
			c.letLead(node, topic)
		}
		led := leaderOf(t, c.mustTopic(topic), 0) == node
		ballast := disk.fill()
		l.awaitAnswers(200, 60*time.Second)
		c.awaitReason("DISK_FULL", node)
		if !led && !last {
			t.Errorf("node %d did not lead when its disk was full", node)
		}
		c.awaitAnotherLeader(node, topic)
		if last {
			c.kill(node)
			c.start(node)
			c.awaitOnline(node)
			l.awaitAnswers(200, 60*time.Second)
		}
		t.Logf("round %d: the disk of node %d, leader before: %t, was full; killed there and started again: %t", round+1, node, led, last)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	l.awaitAnswers(200, 60*time.Second)
	c.awaitHealthy()
	producer := l.finish()
	promise := Promise{Partitions: partitions, MinISR: 2, Replicas: 3, Fsync: true}
	mustKeep(t, c.check(topic, promise, []Producer{producer}, reader.finish()))
	c.compareStopped(topic)
}

// letLead kills other leaders of the topic's one partition until the node leads it.
func (c *cluster) letLead(node int, topic string) {
	c.t.Helper()
	for range 20 {
		now := leaderOf(c.t, c.mustTopic(topic), 0)
		if now == node {
			return
		}
		led := ledBy(c.mustTopic(topic), int32(now)) //nolint:gosec // small
		c.kill(now)
		c.mustHaveGrown(topic, led)
		c.start(now)
		c.awaitHealthy()
	}
	c.t.Fatalf("node %d never came to lead", node)
}

// awaitAnotherLeader waits until the node does not lead the topic's one partition.
func (c *cluster) awaitAnotherLeader(node int, topic string) {
	c.t.Helper()
	eventually(c.t, time.Minute, fmt.Sprintf("node %d hands over", node), func() error {
		now, err := c.topic(topic)
		if err != nil {
			return err
		}
		if leader := int(now.Partitions[0].Leader); leader <= 0 || leader == node {
			return fmt.Errorf("%d leads", leader)
		}
		return nil
	})
}

// ownDisk is a small disk that one node has for itself.
type ownDisk struct {
	t   *testing.T
	dir string
}

// ownDisk moves the data of a node to a file system in memory of so many bytes. All nodes are stopped for that.
func (c *cluster) ownDisk(node int, bytes int64) ownDisk {
	c.t.Helper()
	c.stopAll()
	dir := filepath.Join(c.nodeDir(node), "data")
	before := dir + ".before"
	if err := errors.Join(os.Rename(dir, before), os.Mkdir(dir, 0o750)); err != nil {
		c.t.Fatal(err)
	}
	if err := syscall.Mount("penstock-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		if errors.Is(err, syscall.EPERM) {
			c.t.Skip("a disk of its own for one node needs the right to mount")
		}
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { // after the nodes have ended
		c.end()
		if err := syscall.Unmount(dir, 0); err != nil {
			c.t.Errorf("unmount %s: %v", dir, err)
		}
	})
	if err := os.CopyFS(dir, os.DirFS(before)); err != nil {
		c.t.Fatal(err)
	}
	c.startAll()
	return ownDisk{c.t, dir}
}

// fill writes a file until no byte is free, and returns its name.
func (d ownDisk) fill() string {
	d.t.Helper()
	name := filepath.Join(d.dir, "ballast")
	file, err := os.Create(name)
	if err != nil {
		d.t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	for size := int64(0); size < 1<<30; size += int64(len(chunk)) {
		_, err := file.Write(chunk)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		d.t.Fatal(err)
	}
	return name
}

// health is what `cluster health` says.
type health struct {
	Brokers []struct {
		ID    int    `json:"id"`
		State string `json:"state"`
	} `json:"brokers"`
	Reasons []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"reasons"`
}

func (c *cluster) health() (h health, err error) {
	r := c.ctl("cluster", "health", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &h); err != nil {
		return h, fmt.Errorf("%w: %s%s", err, r.out, r.err)
	}
	return h, nil
}

// awaitReason waits until the health of the cluster names a reason with a node.
func (c *cluster) awaitReason(code string, node int) {
	c.t.Helper()
	eventually(c.t, 60*time.Second, fmt.Sprintf("cluster health says %s of node %d", code, node), func() error {
		h, err := c.health()
		if err != nil {
			return err
		}
		for _, reason := range h.Reasons {
			if reason.Code == code {
				c.t.Logf("%s: %s", code, reason.Message)
				return nil
			}
		}
		return fmt.Errorf("it says %+v", h.Reasons)
	})
}

// awaitOnline waits until a node serves.
func (c *cluster) awaitOnline(node int) {
	c.t.Helper()
	eventually(c.t, 60*time.Second, fmt.Sprintf("node %d is online", node), func() error {
		h, err := c.health()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(h.Brokers, func(b struct {
			ID    int    `json:"id"`
			State string `json:"state"`
		},
		) bool {
			return b.ID == node && b.State == "online"
		}) {
			return fmt.Errorf("brokers are %+v", h.Brokers)
		}
		return nil
	})
}
