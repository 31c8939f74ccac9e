package metadata

import (
	"fmt"
	"maps"
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// Snapshot returns the image as the records that make it. Equal images give equal snapshots; the caller owns it.
func (i *Image) Snapshot() *internalv1.MetadataSnapshot {
	s := &internalv1.MetadataSnapshot{MetadataOffset: uint64(i.offset), TimeMs: i.timeMs}
	if i.featureLevel > 0 {
		s.Records = append(s.Records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_FeatureLevel{
			FeatureLevel: &internalv1.FeatureLevelRecord{Level: i.featureLevel},
		}})
	}
	if !i.clusterID.IsZero() {
		s.Records = append(s.Records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Cluster{
			Cluster: &internalv1.ClusterRecord{ClusterId: i.clusterID.Bytes()},
		}})
	}
	if i.nextProducerID > 0 {
		s.Records = append(s.Records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_ProducerIds{
			ProducerIds: &internalv1.ProducerIDsRecord{NextProducerId: i.nextProducerID},
		}})
	}
	for _, b := range i.brokers {
		if b.PreviousEpoch != model.NoBrokerEpoch {
			s.Records = append(s.Records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_BrokerRegistration{
				BrokerRegistration: b.earlier(),
			}})
		}
		s.Records = append(s.Records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_BrokerRegistration{
			BrokerRegistration: b.record(),
		}})
	}
	for t := range i.Topics() {
		s.Records = append(s.Records, t.records()...)
	}
	for _, d := range i.deleted {
		s.Records = append(s.Records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_DeletedTopic{
			DeletedTopic: &internalv1.DeletedTopicRecord{TopicId: d.ID.Bytes(), Name: d.Name, Holders: IDs(d.Holders)},
		}})
	}
	for _, rr := range i.removed {
		s.Records = append(s.Records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_RemovedReplica{
			RemovedReplica: &internalv1.RemovedReplicaRecord{
				TopicId:   rr.TopicPartition.TopicID.Bytes(),
				Partition: rr.TopicPartition.Partition,
				BrokerId:  int32(rr.Broker),
			},
		}})
	}
	return s
}

func (t *Topic) records() []*internalv1.MetadataRecord {
	out := []*internalv1.MetadataRecord{{Kind: &internalv1.MetadataRecord_Topic{
		Topic: &internalv1.TopicRecord{Name: t.Name, TopicId: t.ID.Bytes()},
	}}}
	for _, key := range slices.Sorted(maps.Keys(t.configs)) {
		value := t.configs[key]
		out = append(out, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_TopicConfig{
			TopicConfig: &internalv1.TopicConfigRecord{TopicId: t.ID.Bytes(), Key: key, Value: &value},
		}})
	}
	for n, p := range t.AllPartitions() {
		out = append(out, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Partition{
			Partition: p.Record(model.TopicPartition{TopicID: t.ID, Partition: n}),
		}})
	}
	return out
}

// FromSnapshot returns the image that the snapshot was made of. Its errors are ErrUnknownRecord and ErrInvalid, wrapped. The
// image keeps no reference to the snapshot.
func FromSnapshot(s *internalv1.MetadataSnapshot) (*Image, error) {
	if err := checkKnown(s); err != nil {
		return nil, err
	}
	ed := newEdit(Empty())
	ed.restoring = true
	ed.img.offset = model.MetadataOffset(s.GetMetadataOffset())
	ed.img.timeMs = s.GetTimeMs()
	for n, r := range s.GetRecords() {
		if err := ed.apply(r); err != nil {
			return nil, fmt.Errorf("snapshot at %d, record %d: %w", s.GetMetadataOffset(), n, err)
		}
	}
	if err := ed.finish(); err != nil {
		return nil, fmt.Errorf("snapshot at %d: %w", s.GetMetadataOffset(), err)
	}
	return ed.img, nil
}
