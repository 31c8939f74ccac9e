package controller

import (
	"context"
	"strconv"

	"github.com/hashicorp/raft"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/model"
)

// request is a caller's wish on its way through the loop.
type request struct {
	ctx context.Context //nolint:containedctx // the caller's, looked at when its turn comes
	// touch is called when the request arrives; done means that it is answered without a decision. May be nil.
	touch func(s *core.State) (done bool, err error)
	// decide decides the request into the batch.
	decide func(b *core.Batch) error
	// err is what decide returned.
	err error
	// answer gets the outcome once; it has room for it.
	answer chan error
}

// do runs a request through the loop. The errors are those of decide, NOT_CONTROLLER (nothing happened), SHUTTING_DOWN,
// REQUEST_TIMED_OUT when ctx ends first and UNKNOWN_OUTCOME: with the last two the request may still take effect.
func (c *Controller) do(ctx context.Context, r *request) error {
	if !c.active.Load() {
		return c.notController()
	}
	r.ctx, r.answer = ctx, make(chan error, 1)
	select {
	case c.requests <- r:
	case <-c.loopEnded:
		return errStopping()
	case <-ctx.Done():
		return timedOut(ctx)
	}
	select {
	case err := <-r.answer:
		return err
	case <-c.loopEnded:
		select {
		case err := <-r.answer:
			return err
		default:
			return errStopping()
		}
	case <-ctx.Done():
		return timedOut(ctx)
	}
}

func timedOut(ctx context.Context) error {
	return model.Errorf(model.CodeRequestTimedOut, "the controller did not answer in time: %w", ctx.Err())
}

// ask runs a request whose decision gives a response.
func ask[R any](ctx context.Context, c *Controller, decide func(b *core.Batch) (R, error)) (R, error) {
	var resp R
	err := c.do(ctx, &request{decide: func(b *core.Batch) (err error) {
		resp, err = decide(b)
		return err
	}})
	if err != nil {
		var none R
		return none, err
	}
	return resp, nil
}

// RegisterBroker registers an incarnation of a broker.
func (c *Controller) RegisterBroker(ctx context.Context, req *internalv1.RegisterBrokerRequest) (*internalv1.RegisterBrokerResponse, error) {
	return ask(ctx, c, func(b *core.Batch) (*internalv1.RegisterBrokerResponse, error) { return b.RegisterBroker(req) })
}

// AlterPartition changes in-sync sets. The outcome of each proposal is in the response; the error concerns them all.
func (c *Controller) AlterPartition(ctx context.Context, req *internalv1.AlterPartitionRequest) (*internalv1.AlterPartitionResponse, error) {
	return ask(ctx, c, func(b *core.Batch) (*internalv1.AlterPartitionResponse, error) { return b.AlterPartition(req) })
}

// GiveUpSeats takes replicas out of ISR and ELR that cannot go on. The outcome for each is in the response.
func (c *Controller) GiveUpSeats(ctx context.Context, req *internalv1.GiveUpSeatsRequest) (*internalv1.GiveUpSeatsResponse, error) {
	return ask(ctx, c, func(b *core.Batch) (*internalv1.GiveUpSeatsResponse, error) { return b.GiveUpSeats(req) })
}

// CreateTopic makes a topic.
func (c *Controller) CreateTopic(ctx context.Context, req *internalv1.CreateTopicRequest) (*internalv1.CreateTopicResponse, error) {
	id := model.NewUUID()
	return ask(ctx, c, func(b *core.Batch) (*internalv1.CreateTopicResponse, error) { return b.CreateTopic(req, id) })
}

// DeleteTopic deletes a topic.
func (c *Controller) DeleteTopic(ctx context.Context, req *internalv1.DeleteTopicRequest) (*internalv1.DeleteTopicResponse, error) {
	return ask(ctx, c, func(b *core.Batch) (*internalv1.DeleteTopicResponse, error) { return b.DeleteTopic(req) })
}

// AddPartitions gives a topic more partitions.
func (c *Controller) AddPartitions(ctx context.Context, req *internalv1.AddPartitionsRequest) (*internalv1.AddPartitionsResponse, error) {
	return ask(ctx, c, func(b *core.Batch) (*internalv1.AddPartitionsResponse, error) { return b.AddPartitions(req) })
}

// AlterTopicConfig changes settings of a topic.
func (c *Controller) AlterTopicConfig(
	ctx context.Context, req *internalv1.AlterTopicConfigRequest,
) (*internalv1.AlterTopicConfigResponse, error) {
	return ask(ctx, c, func(b *core.Batch) (*internalv1.AlterTopicConfigResponse, error) { return b.AlterTopicConfig(req) })
}

// AllocateProducerIDs hands out a block of producer ids.
func (c *Controller) AllocateProducerIDs(ctx context.Context,
	req *internalv1.AllocateProducerIDsRequest,
) (*internalv1.AllocateProducerIDsResponse, error) {
	return ask(ctx, c, func(b *core.Batch) (*internalv1.AllocateProducerIDsResponse, error) {
		return b.AllocateProducerIDs(req)
	})
}

// ReportDeleted notes that a broker's data of deleted topics is gone.
func (c *Controller) ReportDeleted(ctx context.Context, req *internalv1.ReportDeletedRequest) (*internalv1.ReportDeletedResponse, error) {
	return ask(ctx, c, func(b *core.Batch) (*internalv1.ReportDeletedResponse, error) { return b.ReportDeleted(req) })
}

// Session is the broker's side of a heartbeat stream. Its methods must not be called concurrently.
type Session struct {
	controller *Controller
	broker     model.NodeID
	epoch      model.BrokerEpoch
	beaten     bool
	goodbye    bool
}

// OpenSession begins a heartbeat stream; the first Beat says whose it is. It must be ended by End.
func (c *Controller) OpenSession() *Session { return &Session{controller: c} }

// Beat answers a heartbeat. After an error the stream is to be ended: NOT_CONTROLLER sends the broker elsewhere,
// STALE_BROKER_EPOCH and BROKER_ID_NOT_REGISTERED tell it that it lives no more.
func (s *Session) Beat(ctx context.Context, req *internalv1.HeartbeatRequest) (*internalv1.HeartbeatResponse, error) {
	resp, err := s.controller.Heartbeat(ctx, req)
	if err != nil {
		return nil, err
	}
	s.broker, s.epoch, s.beaten = model.NodeID(req.GetBrokerId()), model.BrokerEpoch(req.GetBrokerEpoch()), true
	s.goodbye = s.goodbye || req.GetGoodbye()
	return resp, nil
}

// End says that the stream is over. Without a goodbye before it the broker is probed, and fenced early where that fails.
func (s *Session) End() {
	if s.beaten && !s.goodbye {
		s.controller.ConnectionLost(s.broker, s.epoch)
	}
}

// Heartbeat answers one heartbeat.
func (c *Controller) Heartbeat(ctx context.Context, req *internalv1.HeartbeatRequest) (*internalv1.HeartbeatResponse, error) {
	var resp *internalv1.HeartbeatResponse
	err := c.do(ctx, &request{
		touch: func(s *core.State) (bool, error) {
			answer, err := s.Touch(req, c.cfg.Clock.Now())
			resp = answer
			return answer != nil, err
		},
		decide: func(b *core.Batch) error {
			answer, err := b.Heartbeat(req)
			resp = answer
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	c.troubles.note(req)
	return resp, nil
}

// lostSession is a heartbeat stream that ended without goodbye.
type lostSession struct {
	broker model.NodeID
	epoch  model.BrokerEpoch
}

// ConnectionLost says that the connection of a broker's heartbeat stream ended without goodbye. The broker is probed; one
// that refuses, does not answer in time, or answers as another incarnation is fenced before its session ends. It returns at
// once.
func (c *Controller) ConnectionLost(broker model.NodeID, epoch model.BrokerEpoch) {
	select {
	case c.lost <- lostSession{broker: broker, epoch: epoch}:
	case <-c.loopEnded:
	}
}

// DescribeQuorum shows the quorum as its leader sees it.
func (c *Controller) DescribeQuorum(context.Context, *internalv1.DescribeQuorumRequest) (*internalv1.DescribeQuorumResponse, error) {
	r := c.raft.Load()
	if r == nil || r.State() != raft.Leader {
		return nil, c.notController()
	}
	image := c.hub.Image()
	resp := &internalv1.DescribeQuorumResponse{
		LeaderId:       int32(c.cfg.NodeID),
		Term:           r.CurrentTerm(),
		CommitIndex:    r.CommitIndex(),
		AppliedIndex:   r.AppliedIndex(),
		MetadataOffset: uint64(image.Offset()),
		FeatureLevel:   image.FeatureLevel(),
	}
	resp.Troubles, resp.Disks = c.troubles.list(image)
	configuration := r.GetConfiguration()
	if err := configuration.Error(); err != nil {
		return nil, model.Errorf(model.CodeUnknownServerError, "read the quorum's configuration: %w", err)
	}
	for _, server := range configuration.Configuration().Servers {
		id, err := strconv.ParseInt(string(server.ID), 10, 32)
		if err != nil || server.Suffrage != raft.Voter {
			continue
		}
		resp.Voters = append(resp.Voters, &internalv1.QuorumVoter{Id: int32(id), Address: string(server.Address)})
	}
	return resp, nil
}
