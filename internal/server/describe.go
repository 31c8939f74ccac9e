package server

import (
	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// brokersOf describes the registered brokers with their addresses on a listener.
func brokersOf(image *metadata.Image, listener string) []*penstockv1.Broker {
	brokers := make([]*penstockv1.Broker, 0, len(image.Brokers()))
	for _, b := range image.Brokers() {
		out := &penstockv1.Broker{Id: int32(b.ID), Rack: b.Rack, State: stateOf(b), BrokerEpoch: int64(b.Epoch)}
		if l, ok := b.Listener(listener); ok {
			out.Host, out.Port = l.Host, l.Port
		}
		brokers = append(brokers, out)
	}
	return brokers
}

func stateOf(b *metadata.Broker) penstockv1.BrokerState {
	switch {
	case b.Fenced && !b.WasUnfenced:
		return penstockv1.BrokerState_BROKER_STATE_STARTING
	case b.Fenced:
		return penstockv1.BrokerState_BROKER_STATE_FENCED
	case b.Stopping:
		return penstockv1.BrokerState_BROKER_STATE_STOPPING
	default:
		return penstockv1.BrokerState_BROKER_STATE_ONLINE
	}
}

// topicOf describes a topic with all its partitions.
func topicOf(t *metadata.Topic) *penstockv1.TopicMetadata {
	out := &penstockv1.TopicMetadata{
		Name: t.Name, TopicId: t.ID.Bytes(), Internal: model.IsInternalTopic(t.Name),
		Partitions: make([]*penstockv1.PartitionMetadata, 0, t.Partitions()),
	}
	for number, p := range t.AllPartitions() {
		out.Partitions = append(out.Partitions, &penstockv1.PartitionMetadata{
			Partition: number, LeaderId: int32(p.Leader), LeaderEpoch: int32(p.LeaderEpoch),
			PartitionEpoch: int32(p.PartitionEpoch), Replicas: metadata.IDs(p.Replicas),
			Isr: metadata.IDs(p.ISR), Elr: metadata.IDs(p.ELR), PossiblyLossy: p.PossiblyLossy,
		})
	}
	return out
}

// missingTopic describes a topic that does not exist.
func missingTopic(name string) *penstockv1.TopicMetadata {
	return &penstockv1.TopicMetadata{Name: name, Error: wire.ErrorProto(
		model.Errorf(model.CodeUnknownTopicOrPartition, "there is no topic %q: create it first", name))}
}
