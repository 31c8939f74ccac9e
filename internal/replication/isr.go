package replication

import (
	"context"
	"sync"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
)

// alterPartitionTimeout bounds one request to the controller.
const alterPartitionTimeout = 5 * time.Second

// proposalQueue gathers proposals while a request is under way.
type proposalQueue struct {
	wake chan struct{}
	mu   sync.Mutex
	list []queuedProposal
}

type queuedProposal struct {
	p        *partition
	proposal core.Proposal
}

func (q *proposalQueue) add(p *partition, proposal core.Proposal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, queuedProposal{p: p, proposal: proposal})
	signal(q.wake)
}

func (q *proposalQueue) take() []queuedProposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = nil
	return list
}

// proposeLoop sends proposals, all that wait in one request.
func (m *Manager) proposeLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.proposals.wake:
		}
		if list := m.proposals.take(); len(list) > 0 {
			m.sendProposals(ctx, list)
		}
	}
}

func (m *Manager) sendProposals(ctx context.Context, list []queuedProposal) {
	m.mu.RLock()
	epoch := m.brokerEpoch
	m.mu.RUnlock()
	req := &internalv1.AlterPartitionRequest{BrokerId: int32(m.opts.NodeID), BrokerEpoch: int64(epoch)}
	for _, q := range list {
		isr := &internalv1.PartitionIsr{
			TopicId: q.p.tp.TopicID.Bytes(), Partition: q.p.tp.Partition,
			LeaderEpoch: int32(q.proposal.LeaderEpoch), PartitionEpoch: int32(q.proposal.PartitionEpoch),
		}
		for _, member := range q.proposal.ISR {
			isr.Isr = append(isr.Isr, &internalv1.IsrMember{BrokerId: int32(member.ID), BrokerEpoch: int64(member.BrokerEpoch)})
		}
		req.Partitions = append(req.Partitions, isr)
	}
	ctx, cancel := context.WithTimeout(ctx, alterPartitionTimeout)
	defer cancel()
	resp, err := m.opts.Controller.AlterPartition(ctx, req)
	if err != nil {
		m.opts.Logger.Warn("proposing in-sync sets failed, it is tried again", "partitions", len(list), "error", err)
	}
	for i, q := range list {
		outcome := core.ProposalUnknown // an error says nothing about attempts before it
		if err == nil && i < len(resp.GetResults()) {
			result := resp.GetResults()[i]
			outcome = core.OutcomeOf(model.ErrorCode(result.GetErrorCode()))
			if outcome != core.ProposalAccepted {
				m.opts.Logger.Info("in-sync set not accepted", "partition", q.p.tp.String(),
					"code", model.ErrorCode(result.GetErrorCode()).String(), "detail", result.GetMessage())
			}
		}
		m.run(q.p, func(*effects) core.Output { return q.p.replica.ProposalDone(q.proposal.Seq, outcome, m.now()) })
	}
}
