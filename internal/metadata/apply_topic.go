package metadata

import (
	"fmt"
	"maps"
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

func (ed *edit) topic(r *internalv1.TopicRecord) error {
	id, err := uuidOf(r.GetTopicId(), "topic id")
	if err != nil {
		return err
	}
	if err := model.ValidateTopicName(r.GetName()); err != nil {
		return invalid("%v", err)
	}
	at, found := ed.img.searchName(r.GetName())
	if found {
		return invalid("topic %q exists", r.GetName())
	}
	if _, exists := ed.img.TopicByID(id); exists {
		return invalid("topic id %s exists", id)
	}
	if _, deleted := ed.img.DeletedTopic(id); deleted || ed.changes.deleted[id] {
		return invalid("topic id %s was deleted", id)
	}
	ed.copyNames()
	ed.img.names = slices.Insert(ed.img.names, at, topicName{name: r.GetName(), id: id})
	ed.setTopic(&Topic{Name: r.GetName(), ID: id, settings: DefaultTopicSettings()})
	ed.changes.created[id] = true
	return nil
}

func (ed *edit) topicConfig(r *internalv1.TopicConfigRecord) error {
	id, err := uuidOf(r.GetTopicId(), "topic id")
	if err != nil {
		return err
	}
	t, err := ed.ownTopic(id)
	if err != nil {
		return err
	}
	configs := maps.Clone(t.configs)
	if r.Value == nil {
		delete(configs, r.GetKey())
	} else {
		if configs == nil {
			configs = map[string]string{}
		}
		configs[r.GetKey()] = r.GetValue()
	}
	settings, err := ParseTopicSettings(configs)
	if err != nil {
		// A setting that was checked before it was recorded, by a version that knows more than this one.
		return fmt.Errorf("%w: %w; upgrade the node", ErrUnknownRecord, err)
	}
	if len(configs) == 0 {
		configs = nil
	}
	t.configs, t.settings = configs, settings
	ed.changes.topicChanged(id)
	ed.changes.config[id] = true
	return nil
}

func (ed *edit) partition(r *internalv1.PartitionRecord) error {
	id, err := uuidOf(r.GetTopicId(), "topic id")
	if err != nil {
		return err
	}
	p := partitionFromRecord(r)
	tp := model.TopicPartition{TopicID: id, Partition: r.GetPartition()}
	if err := p.check(); err != nil {
		return fmt.Errorf("partition %s: %w", tp, err)
	}
	t, err := ed.ownTopic(id)
	if err != nil {
		return err
	}
	if old, exists := t.Partition(tp.Partition); exists {
		if ed.restoring || p.PartitionEpoch <= old.PartitionEpoch || p.LeaderEpoch < old.LeaderEpoch ||
			(p.Leader != old.Leader && p.LeaderEpoch == old.LeaderEpoch) {
			return invalid("partition %s: epochs (%d, %d) do not follow (%d, %d)",
				tp, p.LeaderEpoch, p.PartitionEpoch, old.LeaderEpoch, old.PartitionEpoch)
		}
		ed.setPartition(t, tp.Partition, p)
		return nil
	}
	if int(tp.Partition) != t.partitions || t.partitions >= MaxPartitionsPerTopic {
		return invalid("partition %s: the topic has %d", tp, t.partitions)
	}
	ed.addPartition(t, p)
	return nil
}

func (ed *edit) partitionChange(r *internalv1.PartitionChangeRecord) error {
	id, err := uuidOf(r.GetTopicId(), "topic id")
	if err != nil {
		return err
	}
	tp := model.TopicPartition{TopicID: id, Partition: r.GetPartition()}
	t, err := ed.ownTopic(id)
	if err != nil {
		return err
	}
	old, exists := t.Partition(tp.Partition)
	if !exists {
		return invalid("no partition %s", tp)
	}
	p, err := old.change(r)
	if err != nil {
		return fmt.Errorf("partition %s: %w", tp, err)
	}
	ed.setPartition(t, tp.Partition, p)
	return nil
}

// change returns the partition after the record.
func (p *Partition) change(r *internalv1.PartitionChangeRecord) (*Partition, error) {
	next := *p
	if r.Leader == nil && !r.GetNewLeaderEpoch() && r.GetIsr() == nil && r.GetElr() == nil && r.GetLastKnown() == nil &&
		r.GetReplicas() == nil && r.PossiblyLossy == nil {
		return nil, invalid("a change that changes nothing")
	}
	if r.Leader != nil {
		next.Leader = model.NodeID(r.GetLeader())
		if next.Leader != p.Leader && !r.GetNewLeaderEpoch() {
			return nil, invalid("leader %d after %d without a new leader epoch", next.Leader, p.Leader)
		}
	}
	if r.GetNewLeaderEpoch() {
		next.LeaderEpoch++
	}
	set := func(to *[]model.NodeID, ids *internalv1.NodeIDs) {
		if ids != nil {
			*to = NodeIDs(ids.GetIds())
		}
	}
	set(&next.Replicas, r.GetReplicas())
	set(&next.ISR, r.GetIsr())
	set(&next.ELR, r.GetElr())
	set(&next.LastKnown, r.GetLastKnown())
	if r.PossiblyLossy != nil {
		next.PossiblyLossy = r.GetPossiblyLossy()
	}
	next.PartitionEpoch++
	return &next, next.check()
}

func (ed *edit) addPartition(t *Topic, p *Partition) {
	i := int32(t.partitions) //nolint:gosec // bounded by MaxPartitionsPerTopic
	if t.partitions%chunkSize == 0 {
		t.chunks = append(t.chunks, nil)
		ed.ownChunks[chunkKey{t.ID, len(t.chunks) - 1}] = true
	}
	last := len(t.chunks) - 1
	if !ed.ownChunks[chunkKey{t.ID, last}] {
		t.chunks[last] = slices.Clone(t.chunks[last])
		ed.ownChunks[chunkKey{t.ID, last}] = true
	}
	t.chunks[last] = append(t.chunks[last], p)
	t.partitions++
	ed.img.partitions++
	ed.partitionChanged(t.ID, i)
}

func (ed *edit) setPartition(t *Topic, i int32, p *Partition) {
	n := int(i / chunkSize)
	if !ed.ownChunks[chunkKey{t.ID, n}] {
		t.chunks[n] = slices.Clone(t.chunks[n])
		ed.ownChunks[chunkKey{t.ID, n}] = true
	}
	t.chunks[n][i%chunkSize] = p
	ed.partitionChanged(t.ID, i)
}

func (ed *edit) partitionChanged(id model.UUID, i int32) {
	ed.changes.topicChanged(id)
	ed.changes.partitions[model.TopicPartition{TopicID: id, Partition: i}] = true
}

func (ed *edit) deletedTopic(r *internalv1.DeletedTopicRecord) error {
	id, err := uuidOf(r.GetTopicId(), "topic id")
	if err != nil {
		return err
	}
	if !ed.restoring {
		if err := ed.dropTopic(id, r.GetName()); err != nil {
			return err
		}
	}
	ed.changes.deletions = true
	holders := NodeIDs(r.GetHolders())
	slices.Sort(holders)
	holders = slices.Compact(holders)
	if len(holders) == 0 {
		return nil
	}
	at, found := slices.BinarySearchFunc(ed.img.deleted, id, compareDeleted)
	if found {
		return invalid("topic %s is deleted already", id)
	}
	ed.copyDeleted()
	ed.img.deleted = slices.Insert(ed.img.deleted, at, &DeletedTopic{ID: id, Name: r.GetName(), Holders: holders})
	return nil
}

// dropTopic takes a topic and what belongs to it out of the image.
func (ed *edit) dropTopic(id model.UUID, name string) error {
	t, ok := ed.img.TopicByID(id)
	if !ok || t.Name != name {
		return invalid("no topic %q of id %s", name, id)
	}
	at, _ := ed.img.searchName(name)
	ed.copyNames()
	ed.img.names = slices.Delete(ed.img.names, at, at+1)
	ed.copyShard(id)
	delete(ed.img.topics[shardOf(id)], id)
	ed.img.partitions -= t.partitions
	ed.copyRemoved()
	ed.img.removed = slices.DeleteFunc(ed.img.removed, func(rr RemovedReplica) bool { return rr.TopicPartition.TopicID == id })
	if ed.changes.created[id] {
		delete(ed.changes.created, id)
	}
	ed.changes.deleted[id] = true
	return nil
}

func (ed *edit) replicaDeleted(r *internalv1.ReplicaDeletedRecord) error {
	id, err := uuidOf(r.GetTopicId(), "topic id")
	if err != nil {
		return err
	}
	broker := model.NodeID(r.GetBrokerId())
	ed.changes.deletions = true
	if r.Partition != nil {
		rr := RemovedReplica{TopicPartition: model.TopicPartition{TopicID: id, Partition: r.GetPartition()}, Broker: broker}
		at, found := slices.BinarySearchFunc(ed.img.removed, rr, compareRemoved)
		if !found {
			return invalid("no removed replica of %s on broker %d", rr.TopicPartition, broker)
		}
		ed.copyRemoved()
		ed.img.removed = slices.Delete(ed.img.removed, at, at+1)
		return nil
	}
	at, found := slices.BinarySearchFunc(ed.img.deleted, id, compareDeleted)
	if !found || !slices.Contains(ed.img.deleted[at].Holders, broker) {
		return invalid("broker %d holds nothing of a deleted topic %s", broker, id)
	}
	ed.copyDeleted()
	d := *ed.img.deleted[at]
	d.Holders = slices.DeleteFunc(slices.Clone(d.Holders), func(n model.NodeID) bool { return n == broker })
	if len(d.Holders) == 0 {
		ed.img.deleted = slices.Delete(ed.img.deleted, at, at+1)
	} else {
		ed.img.deleted[at] = &d
	}
	return nil
}

func (ed *edit) removedReplica(r *internalv1.RemovedReplicaRecord) error {
	id, err := uuidOf(r.GetTopicId(), "topic id")
	if err != nil {
		return err
	}
	rr := RemovedReplica{
		TopicPartition: model.TopicPartition{TopicID: id, Partition: r.GetPartition()},
		Broker:         model.NodeID(r.GetBrokerId()),
	}
	p, ok := ed.img.Partition(rr.TopicPartition)
	if !ok {
		return invalid("no partition %s", rr.TopicPartition)
	}
	at, found := slices.BinarySearchFunc(ed.img.removed, rr, compareRemoved)
	if found || p.HasReplica(rr.Broker) {
		return invalid("broker %d is a replica of %s or removed already", rr.Broker, rr.TopicPartition)
	}
	ed.copyRemoved()
	ed.img.removed = slices.Insert(ed.img.removed, at, rr)
	ed.changes.deletions = true
	return nil
}

func (ed *edit) copyDeleted() {
	if !ed.ownDeleted {
		ed.img.deleted = slices.Clone(ed.img.deleted)
		ed.ownDeleted = true
	}
}

func (ed *edit) copyRemoved() {
	if !ed.ownRemoved {
		ed.img.removed = slices.Clone(ed.img.removed)
		ed.ownRemoved = true
	}
}
