package core

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// AddPartitions decides more partitions for a topic, with as many replicas as it has. What is there stays as it is.
func (b *Batch) AddPartitions(req *internalv1.AddPartitionsRequest) (*internalv1.AddPartitionsResponse, error) {
	t, err := b.findTopic(req.GetName(), req.GetTopicId())
	if err != nil {
		return nil, err
	}
	if model.IsInternalTopic(t.Name) {
		return nil, model.Errorf(model.CodeInvalidTopic, "topic %q belongs to Penstock itself: its partitions are fixed", t.Name)
	}
	have, total := t.Partitions(), int(req.GetTotal())
	switch {
	case total > metadata.MaxPartitionsPerTopic:
		return nil, model.Errorf(model.CodeInvalidPartitions, "%d partitions; a topic has between 1 and %d", total, metadata.MaxPartitionsPerTopic)
	case total <= have:
		return nil, model.Errorf(model.CodeInvalidPartitions,
			"topic %q has %d partitions, the total must be more than that; partitions cannot be taken away", t.Name, have)
	}
	rf, registered := replicasOf(t), len(b.Image().Brokers())
	if rf > registered {
		return nil, model.Errorf(model.CodeInvalidReplicationFactor,
			"topic %q has replication factor %d, and %d brokers are registered; start more brokers and try again", t.Name, rf, registered)
	}
	placed, err := place(b.Image(), t, total-have, rf)
	if err != nil {
		return nil, err
	}
	resp := &internalv1.AddPartitionsResponse{TopicId: t.ID.Bytes(), PreviousTotal: int32(have)} //nolint:gosec // bounded
	records := make([]*internalv1.MetadataRecord, 0, len(placed))
	for n, p := range placed {
		r := p.Record(model.TopicPartition{TopicID: t.ID, Partition: int32(have + n)}) //nolint:gosec // bounded
		resp.Partitions = append(resp.Partitions, r)
		records = append(records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Partition{Partition: r}})
	}
	if !req.GetValidateOnly() {
		if err := b.add("partitions-added", cmp.Or(req.GetActor(), "anonymous"), records...); err != nil {
			return nil, err
		}
	}
	resp.MetadataOffset = uint64(b.draft.Offset())
	return resp, nil
}

// replicasOf is the number of replicas of a topic's partitions; the largest where they differ.
func replicasOf(t *metadata.Topic) int {
	rf := 1
	for _, p := range t.AllPartitions() {
		rf = max(rf, len(p.Replicas))
	}
	return rf
}

// checkMinISR refuses a min.insync.replicas that can never be met.
func checkMinISR(s metadata.TopicSettings, rf int) error {
	if s.MinInsyncReplicas > rf {
		return model.Errorf(model.CodeInvalidConfig,
			"topic setting min.insync.replicas: %d with replication factor %d would refuse every acks=all; at most %d", s.MinInsyncReplicas, rf, rf)
	}
	return nil
}

// AlterTopicConfig decides changes of a topic's settings, all or none.
func (b *Batch) AlterTopicConfig(req *internalv1.AlterTopicConfigRequest) (*internalv1.AlterTopicConfigResponse, error) {
	t, err := b.findTopic(req.GetName(), req.GetTopicId())
	if err != nil {
		return nil, err
	}
	configs, err := alteredConfigs(t, req)
	if err != nil {
		return nil, err
	}
	settings, err := metadata.ParseTopicSettings(configs)
	if err != nil {
		return nil, err
	}
	if err := checkMinISR(settings, replicasOf(t)); err != nil {
		return nil, err
	}
	resp := &internalv1.AlterTopicConfigResponse{TopicId: t.ID.Bytes(), Configs: configs}
	if !req.GetValidateOnly() {
		records := append(configRecords(t, configs), settledAnew(t, settings)...)
		if err := b.add("topic-config-changed", cmp.Or(req.GetActor(), "anonymous"), records...); err != nil {
			return nil, err
		}
	}
	resp.MetadataOffset = uint64(b.draft.Offset())
	return resp, nil
}

// alteredConfigs is what the topic sets after the request.
func alteredConfigs(t *metadata.Topic, req *internalv1.AlterTopicConfigRequest) (map[string]string, error) {
	if len(req.GetSet())+len(req.GetUnset()) == 0 {
		return nil, model.Errorf(model.CodeInvalidRequest, "no setting to set or unset")
	}
	configs := maps.Clone(t.Configs())
	if configs == nil {
		configs = map[string]string{}
	}
	maps.Copy(configs, req.GetSet())
	for _, key := range req.GetUnset() {
		if _, err := metadata.TopicSettingByKey(key); err != nil {
			return nil, err
		}
		if _, both := req.GetSet()[key]; both {
			return nil, model.Errorf(model.CodeInvalidConfig, "topic setting %s is to be set and unset at once", key)
		}
		delete(configs, key)
	}
	return configs, nil
}

// configRecords turns what the topic sets now into configs; nothing where they are the same.
func configRecords(t *metadata.Topic, configs map[string]string) []*internalv1.MetadataRecord {
	old := t.Configs()
	keys := maps.Clone(configs)
	maps.Copy(keys, old)
	var records []*internalv1.MetadataRecord
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		r := &internalv1.TopicConfigRecord{TopicId: t.ID.Bytes(), Key: key}
		before, was := old[key]
		after, is := configs[key]
		if was == is && before == after {
			continue
		}
		if is {
			r.Value = proto.String(after)
		}
		records = append(records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_TopicConfig{TopicConfig: r}})
	}
	return records
}

// settledAnew are the changes of partitions whose ISR is large enough by the new settings and was not by the old ones (R11):
// the HighWatermark moves again with them, and eligible leader replicas do not follow it.
func settledAnew(t *metadata.Topic, settings metadata.TopicSettings) []*internalv1.MetadataRecord {
	var records []*internalv1.MetadataRecord
	for n, p := range t.AllPartitions() {
		next := *p
		settle(&next, settings.EffectiveMinISR(len(p.Replicas)))
		if r := change(model.TopicPartition{TopicID: t.ID, Partition: n}, p, &next, false); r != nil {
			records = append(records, r)
		}
	}
	return records
}
