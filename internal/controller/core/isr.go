package core

import (
	"errors"
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// AlterPartition decides the proposals of a leader, each on its own (rules R2, R3). An error concerns the whole request.
func (b *Batch) AlterPartition(req *internalv1.AlterPartitionRequest) (*internalv1.AlterPartitionResponse, error) {
	if _, err := checkBroker(b.Image(), req.GetBrokerId(), req.GetBrokerEpoch()); err != nil {
		return nil, err
	}
	resp := &internalv1.AlterPartitionResponse{}
	for _, proposal := range req.GetPartitions() {
		epoch, err := b.alterPartition(model.NodeID(req.GetBrokerId()), proposal)
		result := &internalv1.PartitionIsrResult{PartitionEpoch: int32(epoch)}
		if err != nil {
			result.ErrorCode = int32(model.CodeOf(err))
			result.Message = detailOf(err)
		}
		resp.Results = append(resp.Results, result)
	}
	resp.MetadataOffset = uint64(b.draft.Offset())
	return resp, nil
}

// alterPartition decides one proposal and returns the partition epoch after it.
func (b *Batch) alterPartition(leader model.NodeID, proposal *internalv1.PartitionIsr) (model.PartitionEpoch, error) {
	t, tp, p, err := b.findPartition(proposal.GetTopicId(), proposal.GetPartition())
	if err != nil {
		return -1, err
	}
	if err := checkProposal(p, leader, proposal); err != nil {
		return p.PartitionEpoch, err
	}
	isr, err := b.proposedISR(p, leader, proposal)
	if err != nil {
		return p.PartitionEpoch, err
	}
	next := *p
	next.ISR = isr
	for _, id := range p.ISR {
		next.ELR = with(next.ELR, id)
	}
	settle(&next, minISROf(t, p))
	record := change(tp, p, &next, false)
	if record == nil {
		// A leader that does not know what became of an earlier proposal proposes what is: the partition epoch must move on, so
		// that the earlier one can no longer take effect and the leader learns of it by the image.
		record = &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_PartitionChange{
			PartitionChange: &internalv1.PartitionChangeRecord{
				TopicId: tp.TopicID.Bytes(), Partition: tp.Partition, Isr: &internalv1.NodeIDs{Ids: metadata.IDs(p.ISR)},
			},
		}}
	}
	if err := b.add("isr-changed", brokerActor(leader), record); err != nil {
		return p.PartitionEpoch, err
	}
	return p.PartitionEpoch + 1, nil
}

// checkProposal compares what the proposal was decided on with what is.
func checkProposal(p *metadata.Partition, leader model.NodeID, proposal *internalv1.PartitionIsr) error {
	leaderEpoch := model.LeaderEpoch(proposal.GetLeaderEpoch())
	switch {
	case leaderEpoch < p.LeaderEpoch:
		return model.Errorf(model.CodeFencedLeaderEpoch, "leader epoch %d is over, the current one is %d", leaderEpoch, p.LeaderEpoch)
	case leaderEpoch > p.LeaderEpoch:
		return model.Errorf(model.CodeUnknownLeaderEpoch, "leader epoch %d is not known, the current one is %d", leaderEpoch, p.LeaderEpoch)
	case p.Leader != leader:
		return model.Errorf(model.CodeNotLeaderForPartition, "broker %d does not lead the partition, %d does", leader, p.Leader)
	case model.PartitionEpoch(proposal.GetPartitionEpoch()) != p.PartitionEpoch:
		return model.Errorf(model.CodeInvalidUpdateVersion, "partition epoch is %d, the proposal was decided on %d",
			p.PartitionEpoch, proposal.GetPartitionEpoch())
	}
	return nil
}

// proposedISR returns the proposed set in the order of the replicas, or why it cannot be. Every member must be the
// incarnation that was seen in sync, and be let in.
func (b *Batch) proposedISR(p *metadata.Partition, leader model.NodeID, proposal *internalv1.PartitionIsr) ([]model.NodeID, error) {
	var members []model.NodeID
	for _, m := range proposal.GetIsr() {
		id := model.NodeID(m.GetBrokerId())
		if !p.HasReplica(id) || slices.Contains(members, id) {
			return nil, model.Errorf(model.CodeInvalidRequest, "broker %d is no replica, or named twice; replicas are %v", id, p.Replicas)
		}
		members = append(members, id)
		broker, ok := b.Image().Broker(id)
		switch {
		case !ok || broker.Fenced:
			return nil, model.Errorf(model.CodeIneligibleReplica, "broker %d is fenced or not registered", id)
		case int64(broker.Epoch) != m.GetBrokerEpoch():
			return nil, model.Errorf(model.CodeIneligibleReplica, "broker %d has epoch %d; epoch %d was seen in sync",
				id, broker.Epoch, m.GetBrokerEpoch())
		case broker.Stopping && !p.InISR(id):
			return nil, model.Errorf(model.CodeIneligibleReplica, "broker %d is about to stop", id)
		}
	}
	if !slices.Contains(members, leader) {
		return nil, model.Errorf(model.CodeInvalidRequest, "the leader %d is not in the proposed in-sync set %v", leader, members)
	}
	return keep(p.Replicas, func(id model.NodeID) bool { return slices.Contains(members, id) }), nil
}

// detailOf is the text of an error without its code.
func detailOf(err error) string {
	var e *model.Error
	if errors.As(err, &e) {
		return e.Detail
	}
	return err.Error()
}
