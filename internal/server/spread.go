package server

import (
	"context"
	"maps"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// spreadTimeout is how long the answer to a change is held back at most for brokers that have not heard of it.
const spreadTimeout = 3 * time.Second

// Others reaches other nodes.
type Others interface {
	// AwaitMetadata returns when the node at the peer address has taken the metadata into use up to the offset. It waits for a node
	// that cannot be reached, until ctx ends.
	AwaitMetadata(ctx context.Context, address string, offset model.MetadataOffset) error
}

// spread waits for changes of the metadata to be in force at all brokers, so that whoever is told of a change finds it at the
// broker that he asks next, whichever that is.
type spread struct {
	cache   *Cache
	others  Others
	group   *lifecycle.Group
	clock   lifecycle.Clock
	timeout time.Duration
}

// await returns when this broker and all others that serve clients have the metadata in use up to the offset. It has no
// outcome: the change is made whether or not they hear of it in time, and ctx still has time left for an answer.
func (s spread) await(ctx context.Context, offset model.MetadataOffset) {
	wait := s.timeout
	if deadline, bounded := ctx.Deadline(); bounded {
		wait = min(wait, deadline.Sub(s.clock.Now())/2)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if s.cache.Await(ctx, offset) != nil {
		return
	}
	image, changed := s.cache.Watch()
	asked := image.Brokers()
	waitedFor, heard := map[model.NodeID]bool{}, make(chan model.NodeID, len(asked))
	for _, b := range asked {
		if !serves(image, b.ID) {
			continue
		}
		waitedFor[b.ID] = true
		if !s.group.Go("spread", func(context.Context) error {
			_ = s.others.AwaitMetadata(ctx, b.PeerAddress, offset) // a broker that fails cannot be helped by waiting
			heard <- b.ID
			return nil
		}) {
			return
		}
	}
	for len(waitedFor) > 0 {
		select {
		case id := <-heard:
			delete(waitedFor, id)
		case <-changed:
			image, changed = s.cache.Watch()
			maps.DeleteFunc(waitedFor, func(id model.NodeID, _ bool) bool { return !serves(image, id) })
		case <-ctx.Done():
			return
		}
	}
}

// serves reports whether clients may find the broker at work.
func serves(image *metadata.Image, id model.NodeID) bool {
	b, ok := image.Broker(id)
	return ok && !b.Fenced
}
