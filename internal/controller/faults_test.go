package controller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// outcome is what a caller knows of a change.
type outcome int

const (
	happened outcome = iota
	didNotHappen
	unknown
)

// create asks the nodes in turn for a topic and says what the caller knows afterwards.
func create(ctx context.Context, ctl *Controller, name string) outcome {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := ctl.CreateTopic(ctx, &internalv1.CreateTopicRequest{
		Name: name, Partitions: proto.Int32(1), ReplicationFactor: proto.Int32(1),
	})
	switch model.CodeOf(err) {
	case model.CodeNone:
		return happened
	case model.CodeNotController:
		return didNotHappen
	default:
		return unknown
	}
}

// TestAcknowledgedChangesSurviveFaults makes topics while controllers are cut off, stopped and started again. What was
// acknowledged must be there at the end, what was refused must not, and all controllers must hold the same image.
func TestAcknowledgedChangesSurviveFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test
	c := startCluster(t, 3, func(cfg *Config) {
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
	})
	newFakeBroker(1).join(c)

	ctx, cancel := context.WithCancel(context.Background())
	outcomes, done := map[string]outcome{}, make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			c.mu.Lock()
			ctl := c.nodes[n%3].ctl
			c.mu.Unlock()
			if ctl != nil && ctl.Active() {
				name := fmt.Sprintf("t%d", n)
				outcomes[name] = create(context.Background(), ctl, name)
			}
		}
	}()
	changes := 0
	for step := range 12 {
		before := c.active()
		n := c.nodes[rng.IntN(3)]
		if step%3 == 0 {
			n = before
		}
		cut := rng.IntN(2) == 0
		if cut {
			c.setCut(n.address, true)
		} else {
			n.stop()
		}
		pause := time.NewTimer(time.Duration(200+rng.IntN(600)) * time.Millisecond)
		<-pause.C
		if c.active() != before {
			changes++
		}
		c.setCut(n.address, false)
		if !cut {
			n.start()
		}
	}
	cancel()
	<-done
	active := c.active()
	counts := map[outcome]int{}
	for name, o := range outcomes {
		counts[o]++
		if _, exists := active.ctl.Image().Topic(name); (o == happened && !exists) || (o == didNotHappen && exists) {
			t.Errorf("topic %s: outcome %d, exists %t", name, o, exists)
		}
	}
	t.Logf("%d made, %d refused, %d unknown, %d changes of the active controller",
		counts[happened], counts[didNotHappen], counts[unknown], changes)
	if counts[happened] == 0 || changes == 0 {
		t.Error("the faults did not bite, or nothing went on")
	}
	for _, n := range c.nodes {
		until(t, "all controllers hold the same image", func() bool {
			return string(encoded(t, n.ctl.Image())) == string(encoded(t, c.active().ctl.Image()))
		})
	}
}
