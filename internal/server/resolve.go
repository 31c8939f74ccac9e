package server

import (
	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// resolveTopic finds the topic that a request names by name, by id, or by both.
func resolveTopic(image *metadata.Image, name string, rawID []byte) (*metadata.Topic, error) {
	id, err := model.UUIDFromBytes(rawID)
	if err != nil {
		return nil, model.Errorf(model.CodeInvalidRequest, "topic id: %w", err)
	}
	if id.IsZero() {
		if name == "" {
			return nil, model.Errorf(model.CodeInvalidRequest, "the request names no topic: set topic or topic_id")
		}
		t, ok := image.Topic(name)
		if !ok {
			return nil, model.Errorf(model.CodeUnknownTopicOrPartition, "there is no topic %q: create it first", name)
		}
		return t, nil
	}
	t, ok := image.TopicByID(id)
	if !ok {
		return nil, model.Errorf(model.CodeUnknownTopicID, "there is no topic with id %s: it was deleted, perhaps recreated", id)
	}
	if name != "" && name != t.Name {
		return nil, model.Errorf(model.CodeInconsistentTopicID, "topic %q and topic id %s are not the same topic", name, id)
	}
	return t, nil
}

// resolvePartition finds a partition of a topic.
func resolvePartition(t *metadata.Topic, number int32) (model.TopicPartition, error) {
	if _, ok := t.Partition(number); !ok {
		return model.TopicPartition{}, model.Errorf(model.CodeUnknownTopicOrPartition,
			"topic %q has no partition %d: it has %d, from 0 on", t.Name, number, t.Partitions())
	}
	return model.TopicPartition{TopicID: t.ID, Partition: number}, nil
}

// withHint adds the current leader to failures that mean that another broker is to be asked.
func withHint(image *metadata.Image, listener string, tp model.TopicPartition, err error) error {
	switch model.CodeOf(err) { //nolint:exhaustive // all others are not about the leader
	case model.CodeNotLeaderForPartition, model.CodeFencedLeaderEpoch, model.CodeLeaderNotAvailable, model.CodeReplicaNotAvailable:
	default:
		return err
	}
	if hint := leaderHint(image, listener, tp); hint != nil {
		return wire.WithLeader(err, hint)
	}
	return err
}

func leaderHint(image *metadata.Image, listener string, tp model.TopicPartition) *penstockv1.LeaderHint {
	t, ok := image.TopicByID(tp.TopicID)
	if !ok {
		return nil
	}
	p, ok := t.Partition(tp.Partition)
	if !ok {
		return nil
	}
	hint := &penstockv1.LeaderHint{
		Topic: t.Name, TopicId: t.ID.Bytes(), Partition: tp.Partition,
		LeaderId: int32(p.Leader), LeaderEpoch: int32(p.LeaderEpoch),
	}
	if b, ok := image.Broker(p.Leader); ok {
		if l, ok := b.Listener(listener); ok {
			hint.Host, hint.Port = l.Host, l.Port
		}
	}
	return hint
}
