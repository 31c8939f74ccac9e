package metadata

import (
	"cmp"
	"maps"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
)

// Delta says what an entry changed. What is named is to be looked up in the image that comes with it. All slices are sorted
// and belong to the delta. Where All is set everything may have changed (a snapshot was loaded) and the lists are empty.
type Delta struct {
	// All says that the image was replaced whole.
	All bool
	// Cause and Actor of the entry; empty for a snapshot.
	Cause, Actor string
	// CreatedTopics are in the image; all of their partitions are in Partitions too.
	CreatedTopics []model.UUID
	// ChangedTopics existed before and had a partition or a setting changed.
	ChangedTopics []model.UUID
	// DeletedTopics are in the image no more (Image.DeletedTopics may name them).
	DeletedTopics []model.UUID
	// ConfigTopics had a setting changed, new topics included.
	ConfigTopics []model.UUID
	// Partitions were created or changed; those of deleted topics are not listed.
	Partitions []model.TopicPartition
	// Brokers registered or changed their state.
	Brokers []model.NodeID
	// Deletions says that Image.DeletedTopics or Image.RemovedReplicas changed.
	Deletions bool
}

// changes collects a delta.
type changes struct {
	created, changed, deleted, config map[model.UUID]bool
	partitions                        map[model.TopicPartition]bool
	brokers                           map[model.NodeID]bool
	deletions                         bool
}

func newChanges() *changes {
	return &changes{
		created: map[model.UUID]bool{}, changed: map[model.UUID]bool{}, deleted: map[model.UUID]bool{},
		config:     map[model.UUID]bool{},
		partitions: map[model.TopicPartition]bool{},
		brokers:    map[model.NodeID]bool{},
	}
}

func (c *changes) delta(cause, actor string) *Delta {
	for id := range c.deleted {
		delete(c.changed, id)
		delete(c.config, id)
	}
	maps.DeleteFunc(c.partitions, func(tp model.TopicPartition, _ bool) bool { return c.deleted[tp.TopicID] })
	return &Delta{
		Cause: cause, Actor: actor,
		CreatedTopics: slices.SortedFunc(maps.Keys(c.created), compareUUID),
		ChangedTopics: slices.SortedFunc(maps.Keys(c.changed), compareUUID),
		DeletedTopics: slices.SortedFunc(maps.Keys(c.deleted), compareUUID),
		ConfigTopics:  slices.SortedFunc(maps.Keys(c.config), compareUUID),
		Partitions:    slices.SortedFunc(maps.Keys(c.partitions), CompareTopicPartitions),
		Brokers:       slices.SortedFunc(maps.Keys(c.brokers), cmp.Compare[model.NodeID]),
		Deletions:     c.deletions,
	}
}

func (c *changes) topicChanged(id model.UUID) {
	if !c.created[id] {
		c.changed[id] = true
	}
}
