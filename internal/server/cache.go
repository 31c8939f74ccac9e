package server

import (
	"context"
	"sync"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// Cache is the metadata that requests are answered from. It is the last publisher of a node: what it shows, replication
// has taken in before. It is safe for concurrent use.
type Cache struct {
	mu      sync.Mutex
	image   *metadata.Image
	changed chan struct{} // closed with the next image
}

// NewCache returns a cache with the empty image.
func NewCache() *Cache { return &Cache{image: metadata.Empty(), changed: make(chan struct{})} }

// Publish takes in an image.
func (c *Cache) Publish(image *metadata.Image, _ *metadata.Delta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.image = image
	close(c.changed)
	c.changed = make(chan struct{})
}

// Image returns the image in force.
func (c *Cache) Image() *metadata.Image {
	image, _ := c.Watch()
	return image
}

// Watch returns the image in force and a channel that is closed when there is a newer one.
func (c *Cache) Watch() (*metadata.Image, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.image, c.changed
}

// Await waits until the image is at least as new as the offset, or ctx ends.
func (c *Cache) Await(ctx context.Context, offset model.MetadataOffset) error {
	for {
		image, changed := c.Watch()
		if image.Offset() >= offset {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return model.Errorf(model.CodeRequestTimedOut,
				"this broker has not caught up with the metadata: it is at %d and needs %d: %w", image.Offset(), offset, ctx.Err())
		}
	}
}
