package testcluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// Await polls until the condition returns nil, and fails the test with its last error after a minute.
func (c *Cluster) Await(what string, condition func() error) {
	c.t.Helper()
	deadline := time.Now().Add(startTimeout)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain until %s: %v", what, err)
		}
		if err := lifecycle.Sleep(context.Background(), lifecycle.RealClock(), pollInterval); err != nil {
			c.t.Fatal(err)
		}
	}
}

// AwaitHealthy waits until all nodes run, are registered and unfenced, and all partitions are fully in sync, in the image
// of every node, and these are the same.
func (c *Cluster) AwaitHealthy() {
	c.t.Helper()
	c.Await("the cluster is healthy", func() error {
		for i := 1; i <= c.opts.Nodes; i++ {
			node := c.running(i)
			if node == nil {
				return fmt.Errorf("node %d does not run", i)
			}
			if err := node.Err(); err != nil {
				return fmt.Errorf("node %d failed: %w", i, err)
			}
			if err := healthy(node.Image(), c.opts.Nodes); err != nil {
				return fmt.Errorf("node %d: %w", i, err)
			}
			select {
			case <-node.Ready():
			default:
				return fmt.Errorf("node %d is not ready", i)
			}
			if first := c.running(1); first != nil && first.Image().Offset() != node.Image().Offset() {
				return fmt.Errorf("node %d has another image than node 1", i)
			}
			if b, ok := node.Image().Broker(model.NodeID(i)); !ok || b.Epoch != node.BrokerEpoch() {
				return fmt.Errorf("node %d has not seen its registration", i)
			}
		}
		return nil
	})
}

func healthy(image *metadata.Image, brokers int) error {
	if n := len(image.Brokers()); n != brokers {
		return fmt.Errorf("%d of %d brokers are registered", n, brokers)
	}
	for _, b := range image.Brokers() {
		if !b.Live() {
			return fmt.Errorf("broker %d is fenced or stopping", b.ID)
		}
	}
	for t := range image.Topics() {
		for number, p := range t.AllPartitions() {
			if p.Leader == model.NoNode || len(p.ISR) < len(p.Replicas) {
				return fmt.Errorf("partition %d of %s: leader %d, in sync %v of %v", number, t.Name, p.Leader, p.ISR, p.Replicas)
			}
		}
	}
	return nil
}

// LeaderOf returns the node that leads a partition, as the running nodes know it, once there is one that runs.
func (c *Cluster) LeaderOf(topic string, partition int32) int {
	c.t.Helper()
	leader := 0
	c.Await(fmt.Sprintf("partition %d of %s has a leader", partition, topic), func() error {
		var newest *metadata.Image
		for i := 1; i <= c.opts.Nodes; i++ {
			if node := c.running(i); node != nil && (newest == nil || node.Image().Offset() > newest.Offset()) {
				newest = node.Image()
			}
		}
		if newest == nil {
			return errors.New("no node runs")
		}
		t, ok := newest.Topic(topic)
		if !ok {
			return errors.New("there is no such topic")
		}
		p, ok := t.Partition(partition)
		if !ok || p.Leader < 1 || !c.Running(int(p.Leader)) {
			return errors.New("no node that runs leads it")
		}
		leader = int(p.Leader)
		return nil
	})
	return leader
}

// ActiveController returns the node whose controller decides, once there is one.
func (c *Cluster) ActiveController() int {
	c.t.Helper()
	active := 0
	c.Await("there is an active controller", func() error {
		for i := 1; i <= c.Voters(); i++ {
			if node := c.running(i); node != nil && node.ActiveController() {
				active = i
				return nil
			}
		}
		return errors.New("no controller is active")
	})
	return active
}
