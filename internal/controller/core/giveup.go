package core

import (
	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// GiveUpSeats decides for replicas that cannot go on while their broker runs, each on its own. An error concerns the whole
// request.
func (b *Batch) GiveUpSeats(req *internalv1.GiveUpSeatsRequest) (*internalv1.GiveUpSeatsResponse, error) {
	if _, err := checkBroker(b.Image(), req.GetBrokerId(), req.GetBrokerEpoch()); err != nil {
		return nil, err
	}
	resp := &internalv1.GiveUpSeatsResponse{}
	for _, seat := range req.GetSeats() {
		result := &internalv1.GivenUpSeatResult{}
		if err := b.giveUpSeat(model.NodeID(req.GetBrokerId()), seat); err != nil {
			result.ErrorCode, result.Message = int32(model.CodeOf(err)), detailOf(err)
		}
		resp.Results = append(resp.Results, result)
	}
	resp.MetadataOffset = uint64(b.draft.Offset())
	return resp, nil
}

// giveUpSeat takes one replica out of ISR and ELR, and the leadership from it. The partition gets a new leader epoch in any case,
// so that nothing that its leader knows of the replica's position counts any more (R2): the replica may cut its log once it
// follows in that epoch, and not before. Nothing changes where no other replica could surely lead.
func (b *Batch) giveUpSeat(id model.NodeID, seat *internalv1.GivenUpSeat) error {
	t, tp, p, err := b.findPartition(seat.GetTopicId(), seat.GetPartition())
	if err != nil {
		return err
	}
	epoch := model.LeaderEpoch(seat.GetLeaderEpoch())
	switch {
	case !p.HasReplica(id):
		return model.Errorf(model.CodeReplicaNotAvailable, "broker %d holds no replica of the partition", id)
	case epoch < p.LeaderEpoch:
		return model.Errorf(model.CodeFencedLeaderEpoch, "leader epoch %d is over, the current one is %d", epoch, p.LeaderEpoch)
	case epoch > p.LeaderEpoch:
		return model.Errorf(model.CodeUnknownLeaderEpoch, "leader epoch %d is not known, the current one is %d", epoch, p.LeaderEpoch)
	}
	becomes, cause := lost, "replica-damaged"
	if seat.GetLogWhole() {
		becomes, cause = fenced, "replica-stuck"
	}
	minISR := minISROf(t, p)
	next := b.seats().reseat(tp, p, minISR, func(replica model.NodeID) fate {
		if replica == id {
			return becomes
		}
		return stays
	})
	switch {
	case next.Leader == model.NoNode || next.Leader == id || (next.PossiblyLossy && next.Leader != p.Leader):
		return model.Errorf(model.CodeIneligibleReplica,
			"no other live replica surely has all that was acknowledged; broker %d keeps its seat until one is in sync", id)
	case seat.GetLogWhole() && b.state.full(next.Leader):
		return model.Errorf(model.CodeIneligibleReplica,
			"every other replica in sync is on a full disk too; broker %d keeps its seat", id)
	case seat.GetLogWhole() && len(next.ISR) < minISR:
		return model.Errorf(model.CodeIneligibleReplica,
			"without broker %d fewer than min.insync.replicas (%d) would be in sync; it keeps its seat", id, minISR)
	}
	return b.add(cause, brokerActor(id), change(tp, p, &next, true))
}

// findPartition finds what a broker names by topic id.
func (b *Batch) findPartition(topic []byte, partition int32) (*metadata.Topic, model.TopicPartition, *metadata.Partition, error) {
	topicID, err := model.UUIDFromBytes(topic)
	tp := model.TopicPartition{TopicID: topicID, Partition: partition}
	if err != nil {
		return nil, tp, nil, model.Errorf(model.CodeInvalidRequest, "topic id: %w", err)
	}
	t, ok := b.Image().TopicByID(topicID)
	if !ok {
		return nil, tp, nil, model.Errorf(model.CodeUnknownTopicID, "no topic %s; it was deleted", topicID)
	}
	p, ok := t.Partition(tp.Partition)
	if !ok {
		return nil, tp, nil, model.Errorf(model.CodeUnknownTopicOrPartition, "topic %s has no partition %d", t.Name, tp.Partition)
	}
	return t, tp, p, nil
}
