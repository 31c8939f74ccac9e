package metadata

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/internal/model"
)

// MaxFeatureLevel is the highest feature level that this version can run with.
const MaxFeatureLevel = 1

// topicShards is how many parts the topics are split into; a change copies one of them.
const topicShards = 64

// Image is the state of the cluster at one metadata offset. It is immutable and safe for concurrent use; what it returns
// must not be changed.
type Image struct {
	offset         model.MetadataOffset
	timeMs         int64
	clusterID      model.UUID
	featureLevel   int32
	nextProducerID int64
	brokers        []*Broker                          // by id
	names          []topicName                        // by name
	topics         [topicShards]map[model.UUID]*Topic // by the first byte of the id
	partitions     int
	deleted        []*DeletedTopic  // by id
	removed        []RemovedReplica // by topic, partition, broker
}

type topicName struct {
	name string
	id   model.UUID
}

// DeletedTopic is a topic that was deleted and whose data is not gone everywhere yet.
type DeletedTopic struct {
	ID      model.UUID
	Name    string
	Holders []model.NodeID // brokers that have not reported the deletion of their data
}

// RemovedReplica is a copy of a living partition that its holder shall delete.
type RemovedReplica struct {
	TopicPartition model.TopicPartition
	Broker         model.NodeID
}

// Empty returns the image before the first entry: offset 0, nothing in it.
func Empty() *Image { return &Image{} }

// Offset is the number of entries that made the image.
func (i *Image) Offset() model.MetadataOffset { return i.offset }

// TimeMs is the time of the last entry in milliseconds since the Unix epoch; 0 for the empty image.
func (i *Image) TimeMs() int64 { return i.timeMs }

// ClusterID is the id of the cluster; zero before the first entry.
func (i *Image) ClusterID() model.UUID { return i.clusterID }

// FeatureLevel says what kinds of records may be written.
func (i *Image) FeatureLevel() int32 { return i.featureLevel }

// NextProducerID is the first producer id that nobody has.
func (i *Image) NextProducerID() int64 { return i.nextProducerID }

// Broker returns the registered broker of that id.
func (i *Image) Broker(id model.NodeID) (*Broker, bool) {
	at, found := slices.BinarySearchFunc(i.brokers, id, compareBroker)
	if !found {
		return nil, false
	}
	return i.brokers[at], true
}

// Brokers returns the registered brokers by id. The slice belongs to the image.
func (i *Image) Brokers() []*Broker { return i.brokers }

// Topic returns the topic of that name.
func (i *Image) Topic(name string) (*Topic, bool) {
	at, found := i.searchName(name)
	if !found {
		return nil, false
	}
	return i.TopicByID(i.names[at].id)
}

// TopicByID returns the topic of that id; deleted topics are not found.
func (i *Image) TopicByID(id model.UUID) (*Topic, bool) {
	t, ok := i.topics[shardOf(id)][id]
	return t, ok
}

// Topics iterates over the topics by name.
func (i *Image) Topics() iter.Seq[*Topic] {
	return func(yield func(*Topic) bool) {
		for _, n := range i.names {
			t, _ := i.TopicByID(n.id)
			if !yield(t) {
				return
			}
		}
	}
}

// TopicCount is the number of topics.
func (i *Image) TopicCount() int { return len(i.names) }

// PartitionCount is the number of partitions of all topics.
func (i *Image) PartitionCount() int { return i.partitions }

// Partition returns the state of a partition; false where the topic or the partition does not exist.
func (i *Image) Partition(tp model.TopicPartition) (*Partition, bool) {
	t, ok := i.TopicByID(tp.TopicID)
	if !ok {
		return nil, false
	}
	return t.Partition(tp.Partition)
}

// DeletedTopics returns the topics whose data is not deleted everywhere yet, by id. The slice belongs to the image.
func (i *Image) DeletedTopics() []*DeletedTopic { return i.deleted }

// DeletedTopic returns the deleted topic of that id while a holder has not reported.
func (i *Image) DeletedTopic(id model.UUID) (*DeletedTopic, bool) {
	at, found := slices.BinarySearchFunc(i.deleted, id, compareDeleted)
	if !found {
		return nil, false
	}
	return i.deleted[at], true
}

// RemovedReplicas returns the copies that their holders shall delete, by topic id, partition and broker. The slice belongs to
// the image.
func (i *Image) RemovedReplicas() []RemovedReplica { return i.removed }

func (i *Image) searchName(name string) (int, bool) {
	return slices.BinarySearchFunc(i.names, name, func(n topicName, name string) int { return strings.Compare(n.name, name) })
}

func shardOf(id model.UUID) int { return int(id[0]) % topicShards }

// CompareTopicPartitions orders by topic id, then by partition.
func CompareTopicPartitions(a, b model.TopicPartition) int {
	return cmp.Or(compareUUID(a.TopicID, b.TopicID), cmp.Compare(a.Partition, b.Partition))
}

func compareUUID(a, b model.UUID) int { return slices.Compare(a[:], b[:]) }

func compareDeleted(d *DeletedTopic, id model.UUID) int { return compareUUID(d.ID, id) }

func compareRemoved(a, b RemovedReplica) int {
	return cmp.Or(CompareTopicPartitions(a.TopicPartition, b.TopicPartition), cmp.Compare(a.Broker, b.Broker))
}
