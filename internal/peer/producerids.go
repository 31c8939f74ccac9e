package peer

import (
	"context"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// ProducerIDs hands out producer ids from blocks that the controller allocates. It is safe for concurrent use.
type ProducerIDs struct {
	controllers *Controllers
	nodeID      model.NodeID
	epoch       func() model.BrokerEpoch
	lock        chan struct{} // holds one token; a lock that can be given up waiting for
	next, end   int64         // guarded by lock
}

// NewProducerIDs returns an allocator for a broker whose epoch is asked for with each block.
func NewProducerIDs(controllers *Controllers, nodeID model.NodeID, epoch func() model.BrokerEpoch) *ProducerIDs {
	p := &ProducerIDs{controllers: controllers, nodeID: nodeID, epoch: epoch, lock: make(chan struct{}, 1)}
	p.lock <- struct{}{}
	return p
}

// Next returns a producer id that nobody else has. It asks the controller once a block.
func (p *ProducerIDs) Next(ctx context.Context) (model.ProducerID, error) {
	select {
	case <-p.lock:
	case <-ctx.Done():
		return model.NoProducerID, ctx.Err()
	}
	defer func() { p.lock <- struct{}{} }()
	if p.next == p.end {
		block, err := p.controllers.AllocateProducerIDs(ctx, &internalv1.AllocateProducerIDsRequest{
			BrokerId: int32(p.nodeID), BrokerEpoch: int64(p.epoch()),
		})
		if err != nil {
			return model.NoProducerID, err
		}
		if block.GetCount() <= 0 || block.GetFirstProducerId() < 0 {
			return model.NoProducerID, model.Errorf(model.CodeUnknownServerError, "the controller allocated no producer ids")
		}
		p.next, p.end = block.GetFirstProducerId(), block.GetFirstProducerId()+int64(block.GetCount())
	}
	p.next++
	return model.ProducerID(p.next - 1), nil
}
