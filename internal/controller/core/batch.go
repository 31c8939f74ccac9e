package core

import (
	"slices"
	"strings"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// Batch decides requests into one entry. Its methods may be called in any number and order; each sees what the earlier ones
// decided. A method that returns an error has decided nothing.
type Batch struct {
	state  *State
	now    time.Time
	draft  *metadata.Draft
	causes []string
	actors []string
}

// Begin begins a batch on the last committed image.
func (s *State) Begin(now time.Time) *Batch {
	return &Batch{state: s, now: now, draft: s.image.Draft(now.UnixMilli())}
}

// Image is the image as it will be once the entry is committed.
func (b *Batch) Image() *metadata.Image { return b.draft.Image() }

// Entry returns the entry, or nil where nothing changes. The batch is over with it.
func (b *Batch) Entry() *internalv1.MetadataEntry {
	return b.draft.Entry(strings.Join(b.causes, ","), strings.Join(b.actors, ","))
}

// CreateCluster decides the first entry of a cluster; nothing where it has one already.
func (b *Batch) CreateCluster(id model.UUID) error {
	if !b.Image().ClusterID().IsZero() {
		return nil
	}
	return b.add("cluster-created", controllerActor,
		&internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Cluster{
			Cluster: &internalv1.ClusterRecord{ClusterId: id.Bytes()},
		}},
		&internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_FeatureLevel{
			FeatureLevel: &internalv1.FeatureLevelRecord{Level: b.state.cfg.FeatureLevel},
		}},
	)
}

// AllocateProducerIDs decides a block of producer ids for a broker.
func (b *Batch) AllocateProducerIDs(req *internalv1.AllocateProducerIDsRequest) (*internalv1.AllocateProducerIDsResponse, error) {
	broker, err := checkBroker(b.Image(), req.GetBrokerId(), req.GetBrokerEpoch())
	if err != nil {
		return nil, err
	}
	first, count := b.Image().NextProducerID(), b.state.cfg.ProducerIDBlock
	err = b.add("producer-ids-allocated", brokerActor(broker.ID), &internalv1.MetadataRecord{
		Kind: &internalv1.MetadataRecord_ProducerIds{
			ProducerIds: &internalv1.ProducerIDsRecord{NextProducerId: first + int64(count)},
		},
	})
	if err != nil {
		return nil, err
	}
	return &internalv1.AllocateProducerIDsResponse{FirstProducerId: first, Count: count}, nil
}

// add puts records into the entry with their reason. What the image refuses here is a fault of this package.
func (b *Batch) add(cause, actor string, records ...*internalv1.MetadataRecord) error {
	if len(records) == 0 {
		return nil
	}
	if err := b.draft.Add(records...); err != nil {
		return model.Errorf(model.CodeUnknownServerError, "the controller decided on records that do not fit: %w", err)
	}
	if !slices.Contains(b.causes, cause) {
		b.causes = append(b.causes, cause)
	}
	if !slices.Contains(b.actors, actor) {
		b.actors = append(b.actors, actor)
	}
	return nil
}

// attempt runs fn, which may add several times, and takes everything back where it fails.
func (b *Batch) attempt(fn func() error) error {
	draft, causes, actors := *b.draft, len(b.causes), len(b.actors)
	if err := fn(); err != nil {
		*b.draft, b.causes, b.actors = draft, b.causes[:causes], b.actors[:actors]
		return err
	}
	return nil
}

const controllerActor = "controller"

// Len is the number of records decided so far.
func (b *Batch) Len() int { return b.draft.Len() }
