package metadata

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// Apply folds one entry into the image and returns the new image and what changed; the receiver stays as it is. The errors
// are ErrStaleEntry, ErrUnknownRecord and ErrInvalid, wrapped; on an error nothing of the entry takes effect. The image keeps
// no reference to the entry.
func (i *Image) Apply(e *internalv1.MetadataEntry) (*Image, *Delta, error) {
	if err := checkKnown(e); err != nil {
		return nil, nil, err
	}
	if model.MetadataOffset(e.GetDecidedOn()) != i.offset {
		return nil, nil, fmt.Errorf("%w: decided on %d, current is %d", ErrStaleEntry, e.GetDecidedOn(), i.offset)
	}
	if e.GetTimeMs() < i.timeMs {
		return nil, nil, invalid("time %d ms is before the last entry's %d ms", e.GetTimeMs(), i.timeMs)
	}
	ed := newEdit(i)
	ed.img.offset++
	ed.img.timeMs = e.GetTimeMs()
	for n, r := range e.GetRecords() {
		if err := ed.apply(r); err != nil {
			return nil, nil, fmt.Errorf("entry decided on %d (%s), record %d: %w", e.GetDecidedOn(), e.GetCause(), n, err)
		}
	}
	if err := ed.finish(); err != nil {
		return nil, nil, err
	}
	return ed.img, ed.changes.delta(e.GetCause(), e.GetActor()), nil
}

// checkKnown finds fields that this version does not know, anywhere in the message.
func checkKnown(m proto.Message) error {
	return checkKnownMessage(m.ProtoReflect())
}

func checkKnownMessage(m protoreflect.Message) error {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%w: %s has a field that this version does not know; upgrade the node",
			ErrUnknownRecord, m.Descriptor().FullName())
	}
	fields := m.Descriptor().Fields()
	for n := range fields.Len() {
		field := fields.Get(n)
		if field.Kind() != protoreflect.MessageKind || !m.Has(field) {
			continue
		}
		if !field.IsList() {
			if err := checkKnownMessage(m.Get(field).Message()); err != nil {
				return err
			}
			continue
		}
		list := m.Get(field).List()
		for k := range list.Len() {
			if err := checkKnownMessage(list.Get(k).Message()); err != nil {
				return err
			}
		}
	}
	return nil
}

// edit is an image in the making. It copies what it changes, once.
type edit struct {
	img       *Image
	changes   *changes
	restoring bool // a snapshot is being loaded

	ownBrokers, ownNames, ownDeleted, ownRemoved bool
	ownShards                                    [topicShards]bool
	ownTopics                                    map[model.UUID]bool
	ownChunks                                    map[chunkKey]bool
}

type chunkKey struct {
	topic model.UUID
	chunk int
}

func newEdit(base *Image) *edit {
	img := *base
	return &edit{img: &img, changes: newChanges(), ownTopics: map[model.UUID]bool{}, ownChunks: map[chunkKey]bool{}}
}

// finish checks what only the whole entry can fulfil.
func (ed *edit) finish() error {
	for id := range ed.changes.created {
		if t, ok := ed.img.TopicByID(id); ok && t.partitions == 0 {
			return invalid("a topic was made without partitions")
		}
	}
	return nil
}

func (ed *edit) apply(r *internalv1.MetadataRecord) error {
	switch k := r.GetKind().(type) {
	case *internalv1.MetadataRecord_FeatureLevel:
		return ed.featureLevel(k.FeatureLevel)
	case *internalv1.MetadataRecord_Cluster:
		return ed.cluster(k.Cluster)
	case *internalv1.MetadataRecord_BrokerRegistration:
		return ed.registration(k.BrokerRegistration)
	case *internalv1.MetadataRecord_BrokerFenced:
		return ed.brokerState(k.BrokerFenced, func(b *Broker) { b.Fenced = true })
	case *internalv1.MetadataRecord_BrokerUnfenced:
		return ed.brokerState(k.BrokerUnfenced, func(b *Broker) { b.Fenced, b.WasUnfenced = false, true })
	case *internalv1.MetadataRecord_BrokerStopping:
		return ed.brokerState(k.BrokerStopping, func(b *Broker) { b.Stopping = true })
	case *internalv1.MetadataRecord_Topic:
		return ed.topic(k.Topic)
	case *internalv1.MetadataRecord_TopicConfig:
		return ed.topicConfig(k.TopicConfig)
	case *internalv1.MetadataRecord_Partition:
		return ed.partition(k.Partition)
	case *internalv1.MetadataRecord_PartitionChange:
		return ed.partitionChange(k.PartitionChange)
	case *internalv1.MetadataRecord_DeletedTopic:
		return ed.deletedTopic(k.DeletedTopic)
	case *internalv1.MetadataRecord_ReplicaDeleted:
		return ed.replicaDeleted(k.ReplicaDeleted)
	case *internalv1.MetadataRecord_ProducerIds:
		return ed.producerIDs(k.ProducerIds)
	case *internalv1.MetadataRecord_RemovedReplica:
		return ed.removedReplica(k.RemovedReplica)
	default:
		return fmt.Errorf("%w: a record without a kind", ErrUnknownRecord)
	}
}

func (ed *edit) featureLevel(r *internalv1.FeatureLevelRecord) error {
	if r.GetLevel() > MaxFeatureLevel {
		return fmt.Errorf("%w: feature level %d, this version knows up to %d; upgrade the node",
			ErrUnknownRecord, r.GetLevel(), MaxFeatureLevel)
	}
	if r.GetLevel() < max(1, ed.img.featureLevel) {
		return invalid("feature level %d is below 1 or below the one in force, %d", r.GetLevel(), ed.img.featureLevel)
	}
	ed.img.featureLevel = r.GetLevel()
	return nil
}

func (ed *edit) cluster(r *internalv1.ClusterRecord) error {
	id, err := uuidOf(r.GetClusterId(), "cluster id")
	if err != nil {
		return err
	}
	if !ed.img.clusterID.IsZero() {
		return invalid("the cluster is named already: %s", ed.img.clusterID)
	}
	ed.img.clusterID = id
	return nil
}

func (ed *edit) producerIDs(r *internalv1.ProducerIDsRecord) error {
	if r.GetNextProducerId() <= ed.img.nextProducerID {
		return invalid("next producer id %d is not above %d", r.GetNextProducerId(), ed.img.nextProducerID)
	}
	ed.img.nextProducerID = r.GetNextProducerId()
	return nil
}

func (ed *edit) registration(r *internalv1.BrokerRegistrationRecord) error {
	if (r.GetRestored() != nil) != ed.restoring {
		return invalid("restored state of broker %d belongs in snapshots, and only there", r.GetBrokerId())
	}
	b, err := brokerFromRecord(r, model.BrokerEpoch(ed.img.offset)) //nolint:gosec // offsets stay far below 2^63
	if err != nil {
		return err
	}
	if s := r.GetRestored(); s != nil {
		b.Epoch = model.BrokerEpoch(s.GetBrokerEpoch())
		b.Fenced, b.Stopping, b.WasUnfenced = s.GetFenced(), s.GetStopping(), s.GetWasUnfenced()
	}
	at, found := slices.BinarySearchFunc(ed.img.brokers, b.ID, compareBroker)
	if found {
		old := ed.img.brokers[at]
		if old.Epoch >= b.Epoch {
			return invalid("broker %d is registered twice, with epochs %d and %d", b.ID, old.Epoch, b.Epoch)
		}
		b.PreviousEpoch = old.lastUnfenced()
	}
	ed.copyBrokers()
	if found {
		ed.img.brokers[at] = b
	} else {
		ed.img.brokers = slices.Insert(ed.img.brokers, at, b)
	}
	ed.changes.brokers[b.ID] = true
	return nil
}

// brokerRecord is what the records that change the state of a broker have in common.
type brokerRecord interface {
	GetBrokerId() int32
	GetBrokerEpoch() int64
}

func (ed *edit) brokerState(r brokerRecord, set func(*Broker)) error {
	id := model.NodeID(r.GetBrokerId())
	at, found := slices.BinarySearchFunc(ed.img.brokers, id, compareBroker)
	if !found {
		return invalid("broker %d is not registered", id)
	}
	if have := ed.img.brokers[at].Epoch; int64(have) != r.GetBrokerEpoch() {
		return invalid("broker %d has epoch %d, not %d", id, have, r.GetBrokerEpoch())
	}
	ed.copyBrokers()
	b := *ed.img.brokers[at]
	set(&b)
	ed.img.brokers[at] = &b
	ed.changes.brokers[id] = true
	return nil
}

func (ed *edit) copyBrokers() {
	if !ed.ownBrokers {
		ed.img.brokers = slices.Clone(ed.img.brokers)
		ed.ownBrokers = true
	}
}

// ownTopic returns the topic for writing, with its shard and its chunk list copied.
func (ed *edit) ownTopic(id model.UUID) (*Topic, error) {
	t, ok := ed.img.TopicByID(id)
	if !ok {
		return nil, invalid("no topic %s", id)
	}
	if ed.ownTopics[id] {
		return t, nil
	}
	own := *t
	own.chunks = slices.Clone(t.chunks)
	ed.setTopic(&own)
	return &own, nil
}

func (ed *edit) setTopic(t *Topic) {
	ed.copyShard(t.ID)
	ed.img.topics[shardOf(t.ID)][t.ID] = t
	ed.ownTopics[t.ID] = true
}

func (ed *edit) copyShard(id model.UUID) {
	n := shardOf(id)
	if ed.ownShards[n] {
		return
	}
	shard := maps.Clone(ed.img.topics[n])
	if shard == nil {
		shard = map[model.UUID]*Topic{}
	}
	ed.img.topics[n] = shard
	ed.ownShards[n] = true
}

func (ed *edit) copyNames() {
	if !ed.ownNames {
		ed.img.names = slices.Clone(ed.img.names)
		ed.ownNames = true
	}
}
