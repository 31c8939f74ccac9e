package replication

import (
	"context"
	"testing"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// rawStream is a replica stream of broker from to broker to that the test speaks itself.
func (c *cluster) rawStream(from, to model.NodeID) *memStream {
	ctx, cancel := context.WithCancelCause(c.t.Context())
	s := &memStream{
		c:    c,
		from: from, to: to, ctx: ctx, cancel: cancel,
		requests: make(chan *internalv1.ReplicateRequest, 64), frames: make(chan *wire.ReplicateResponse, 64),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	self, _ := c.image.Broker(from)
	s.requests <- &internalv1.ReplicateRequest{Hello: &internalv1.ReplicaHello{
		ClusterId: c.image.ClusterID().Bytes(), BrokerId: int32(from), BrokerEpoch: int64(self.Epoch), LeaderId: int32(to), CreditBytes: 1 << 20,
	}}
	serve := c.nodes[to].mgr.ServeReplica
	c.nodes[to].group.Go("serve", func(context.Context) error {
		cancel(serve(ctx, memServer{s}))
		s.drain()
		return nil
	})
	c.t.Cleanup(func() { cancel(context.Canceled) })
	return s
}

// frame returns the next frame that ok accepts.
func (s *memStream) frame(t *testing.T, what string, ok func(*internalv1.ReplicateResponse, int) bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case f := <-s.frames:
			found := ok(&f.Head, f.Payload.Len())
			f.Free()
			if found {
				return
			}
		case <-deadline:
			t.Fatalf("no frame with %s", what)
		}
	}
}

// A subscription that was overtaken by a newer one on another stream is refused and drops nothing (R8).
func TestR8OvertakenSubscriptionDropsNothing(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.link(1, 2, false)
	tp := c.topic(1, nil, 1, 2)
	newer, older := c.rawStream(2, 1), c.rawStream(2, 1)
	subscribe := func(id uint64) *internalv1.ReplicateRequest {
		return &internalv1.ReplicateRequest{Subscribe: []*internalv1.ReplicaSubscribe{{
			SubscriptionId: id, TopicId: tp.TopicID.Bytes(), LastFetchedEpoch: int32(model.NoLeaderEpoch), CreditBytes: 1 << 20,
		}}}
	}
	newer.requests <- subscribe(1 << 40)
	newer.frame(t, "progress", func(h *internalv1.ReplicateResponse, _ int) bool {
		return h.GetSubscriptionId() == 1<<40 && h.GetErrorCode() == 0
	})
	older.requests <- subscribe(1<<40 - 1)
	older.frame(t, "a refusal", func(h *internalv1.ReplicateResponse, _ int) bool {
		return h.GetSubscriptionId() == 1<<40-1 && h.GetErrorCode() == int32(model.CodeFencedLeaderEpoch)
	})
	mustAck(t, c.send(1, tp, AcksLeader, "0"))
	newer.frame(t, "the record", func(h *internalv1.ReplicateResponse, bytes int) bool {
		return h.GetSubscriptionId() == 1<<40 && bytes > 0
	})
}
