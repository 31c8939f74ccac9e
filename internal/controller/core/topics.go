package core

import (
	"cmp"
	"maps"
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// CreateTopic decides a new topic. The id must be fresh; it is not used where the request is refused or only checked.
func (b *Batch) CreateTopic(req *internalv1.CreateTopicRequest, id model.UUID) (*internalv1.CreateTopicResponse, error) {
	if err := b.checkName(req); err != nil {
		return nil, err
	}
	partitions := b.state.cfg.DefaultPartitions
	if req.Partitions != nil {
		partitions = req.GetPartitions()
	}
	if partitions < 1 || partitions > metadata.MaxPartitionsPerTopic {
		return nil, model.Errorf(model.CodeInvalidPartitions, "%d partitions; a topic has between 1 and %d",
			partitions, metadata.MaxPartitionsPerTopic)
	}
	rf, err := b.replicationFactor(req)
	if err != nil {
		return nil, err
	}
	settings, err := metadata.ParseTopicSettings(req.GetConfigs())
	if err != nil {
		return nil, err
	}
	if err := checkMinISR(settings, rf); err != nil {
		return nil, err
	}
	placed, err := place(b.Image(), nil, int(partitions), rf)
	if err != nil {
		return nil, err
	}
	resp := &internalv1.CreateTopicResponse{MetadataOffset: uint64(b.draft.Offset())}
	for n, p := range placed {
		resp.Partitions = append(resp.Partitions, p.Record(model.TopicPartition{TopicID: id, Partition: int32(n)})) //nolint:gosec // bounded
	}
	if req.GetValidateOnly() {
		for _, p := range resp.GetPartitions() {
			p.TopicId = nil
		}
		return resp, nil
	}
	if err := b.add("topic-created", cmp.Or(req.GetActor(), "anonymous"), topicRecords(req, id, resp.GetPartitions())...); err != nil {
		return nil, err
	}
	resp.TopicId = id.Bytes()
	resp.MetadataOffset = uint64(b.draft.Offset())
	return resp, nil
}

func topicRecords(req *internalv1.CreateTopicRequest, id model.UUID, parts []*internalv1.PartitionRecord) []*internalv1.MetadataRecord {
	records := []*internalv1.MetadataRecord{{Kind: &internalv1.MetadataRecord_Topic{
		Topic: &internalv1.TopicRecord{Name: req.GetName(), TopicId: id.Bytes()},
	}}}
	for _, key := range slices.Sorted(maps.Keys(req.GetConfigs())) {
		value := req.GetConfigs()[key]
		records = append(records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_TopicConfig{
			TopicConfig: &internalv1.TopicConfigRecord{TopicId: id.Bytes(), Key: key, Value: &value},
		}})
	}
	for _, p := range parts {
		records = append(records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Partition{Partition: p}})
	}
	return records
}

func (b *Batch) checkName(req *internalv1.CreateTopicRequest) error {
	name := req.GetName()
	if err := model.ValidateTopicName(name); err != nil {
		return model.Errorf(model.CodeInvalidTopic, "%w", err)
	}
	if model.IsInternalTopic(name) && !req.GetAllowInternal() {
		return model.Errorf(model.CodeInvalidTopic, "topic name %q: names that begin with %q are reserved for Penstock; choose another",
			name, model.InternalTopicPrefix)
	}
	if _, exists := b.Image().Topic(name); exists {
		return model.Errorf(model.CodeTopicAlreadyExists, "topic %q exists", name)
	}
	return nil
}

// replicationFactor is the one asked for, or the default where there are as many brokers. Registered brokers count, fenced
// ones too.
func (b *Batch) replicationFactor(req *internalv1.CreateTopicRequest) (int, error) {
	registered := len(b.Image().Brokers())
	if req.ReplicationFactor == nil {
		return max(1, min(int(b.state.cfg.DefaultReplicationFactor), registered)), nil
	}
	rf := int(req.GetReplicationFactor())
	if rf < 1 {
		return 0, model.Errorf(model.CodeInvalidReplicationFactor, "replication factor %d; it is at least 1", rf)
	}
	if rf > registered {
		return 0, model.Errorf(model.CodeInvalidReplicationFactor,
			"replication factor %d with %d registered brokers; ask for less, or start more brokers and try again", rf, registered)
	}
	return rf, nil
}

// DeleteTopic decides that a topic is gone. Every broker that may hold data of it is named, and stays so until it reports.
func (b *Batch) DeleteTopic(req *internalv1.DeleteTopicRequest) (*internalv1.DeleteTopicResponse, error) {
	t, err := b.findTopic(req.GetName(), req.GetTopicId())
	if err != nil {
		return nil, err
	}
	if model.IsInternalTopic(t.Name) {
		return nil, model.Errorf(model.CodeInvalidTopic, "topic %q belongs to Penstock itself and cannot be deleted", t.Name)
	}
	record := &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_DeletedTopic{
		DeletedTopic: &internalv1.DeletedTopicRecord{TopicId: t.ID.Bytes(), Name: t.Name, Holders: metadata.IDs(holders(b.Image(), t))},
	}}
	if err := b.add("topic-deleted", cmp.Or(req.GetActor(), "anonymous"), record); err != nil {
		return nil, err
	}
	return &internalv1.DeleteTopicResponse{TopicId: t.ID.Bytes(), MetadataOffset: uint64(b.draft.Offset())}, nil
}

// findTopic finds the topic by id, by name, or by both.
func (b *Batch) findTopic(name string, rawID []byte) (*metadata.Topic, error) {
	if len(rawID) == 0 {
		t, ok := b.Image().Topic(name)
		if !ok {
			return nil, model.Errorf(model.CodeUnknownTopicOrPartition, "no topic %q", name)
		}
		return t, nil
	}
	id, err := model.UUIDFromBytes(rawID)
	if err != nil {
		return nil, model.Errorf(model.CodeInvalidRequest, "topic id: %w", err)
	}
	t, ok := b.Image().TopicByID(id)
	if !ok {
		return nil, model.Errorf(model.CodeUnknownTopicID, "no topic %s", id)
	}
	if name != "" && name != t.Name {
		return nil, model.Errorf(model.CodeInconsistentTopicID, "topic %s has the name %q, not %q", id, t.Name, name)
	}
	return t, nil
}

// holders are the brokers that may hold data of the topic, by id.
func holders(image *metadata.Image, t *metadata.Topic) []model.NodeID {
	set := map[model.NodeID]bool{}
	for _, p := range t.AllPartitions() {
		for _, id := range p.Replicas {
			set[id] = true
		}
	}
	for _, r := range image.RemovedReplicas() {
		if r.TopicPartition.TopicID == t.ID {
			set[r.Broker] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// ReportDeleted notes that a broker's data of deleted topics is gone. Topics that do not wait for it are passed over, so that
// a report can be repeated.
func (b *Batch) ReportDeleted(req *internalv1.ReportDeletedRequest) (*internalv1.ReportDeletedResponse, error) {
	broker, err := checkBroker(b.Image(), req.GetBrokerId(), req.GetBrokerEpoch())
	if err != nil {
		return nil, err
	}
	var records []*internalv1.MetadataRecord
	seen := map[model.UUID]bool{}
	for _, raw := range req.GetTopicIds() {
		id, err := model.UUIDFromBytes(raw)
		if err != nil {
			return nil, model.Errorf(model.CodeInvalidRequest, "topic id: %w", err)
		}
		d, ok := b.Image().DeletedTopic(id)
		if !ok || seen[id] || !slices.Contains(d.Holders, broker.ID) {
			continue
		}
		seen[id] = true
		records = append(records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_ReplicaDeleted{
			ReplicaDeleted: &internalv1.ReplicaDeletedRecord{TopicId: id.Bytes(), BrokerId: int32(broker.ID)},
		}})
	}
	if err := b.add("replica-deleted", brokerActor(broker.ID), records...); err != nil {
		return nil, err
	}
	return &internalv1.ReportDeletedResponse{}, nil
}
