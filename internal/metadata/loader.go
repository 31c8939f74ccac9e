package metadata

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// Publisher is told of every new image, in the order of the metadata log, one call at a time. The image already is what
// Loader.Image returns. Publish must not call the loader's Load methods.
type Publisher interface {
	Publish(image *Image, delta *Delta)
}

// PublisherFunc makes a Publisher of a function.
type PublisherFunc func(image *Image, delta *Delta)

// Publish calls the function.
func (f PublisherFunc) Publish(image *Image, delta *Delta) { f(image, delta) }

// Loader keeps the current image of a node and tells the publishers of each change. It is safe for concurrent use.
type Loader struct {
	mu         sync.Mutex // held while loading and publishing
	publishers []Publisher
	image      atomic.Pointer[Image]
}

// NewLoader returns a loader that holds the empty image. Publishers are called in the order given.
func NewLoader(publishers ...Publisher) *Loader {
	l := &Loader{publishers: publishers}
	l.image.Store(Empty())
	return l
}

// Image is the current image.
func (l *Loader) Image() *Image { return l.image.Load() }

// LoadSnapshot replaces the image by the snapshot's, unless the current one is as new: then nothing happens. A snapshot of
// another cluster is refused (ErrInvalid); ErrUnknownRecord means that the node must stop.
func (l *Loader) LoadSnapshot(s *internalv1.MetadataSnapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	current := l.image.Load()
	if model.MetadataOffset(s.GetMetadataOffset()) <= current.offset {
		return nil
	}
	next, err := FromSnapshot(s)
	if err != nil {
		return err
	}
	if !current.clusterID.IsZero() && next.clusterID != current.clusterID {
		return invalid("snapshot of cluster %s, this node belongs to %s", next.clusterID, current.clusterID)
	}
	l.publish(next, &Delta{All: true})
	return nil
}

// LoadEntries applies entries in order; those that the image holds already are skipped. ErrGap says that entries between
// are missing, and then nothing of the rest was applied; ErrUnknownRecord means that the node must stop.
func (l *Loader) LoadEntries(entries ...*internalv1.MetadataEntry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		current := l.image.Load()
		decidedOn := model.MetadataOffset(e.GetDecidedOn())
		if decidedOn < current.offset {
			continue
		}
		if decidedOn > current.offset {
			return fmt.Errorf("%w: have %d, got the entry decided on %d", ErrGap, current.offset, decidedOn)
		}
		next, delta, err := current.Apply(e)
		if err != nil {
			return err
		}
		l.publish(next, delta)
	}
	return nil
}

func (l *Loader) publish(image *Image, delta *Delta) {
	l.image.Store(image)
	for _, p := range l.publishers {
		p.Publish(image, delta)
	}
}
