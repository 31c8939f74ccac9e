package peer

import (
	"context"

	"github.com/penstock-io/penstock/api/gen/internalv1"
)

// GiveUpSeats takes replicas out of ISR and ELR that cannot go on. Repeating it is safe: it names leader epochs, which end with it.
func (c *Controllers) GiveUpSeats(ctx context.Context, req *internalv1.GiveUpSeatsRequest) (resp *internalv1.GiveUpSeatsResponse, err error) {
	err = c.call(ctx, false, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.GiveUpSeats(ctx, req)
		return err
	})
	return resp, err
}

// CreateTopic asks the active controller to make a topic.
func (c *Controllers) CreateTopic(ctx context.Context, req *internalv1.CreateTopicRequest) (resp *internalv1.CreateTopicResponse, err error) {
	err = c.call(ctx, true, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.CreateTopic(ctx, req)
		return err
	})
	return resp, err
}

// DeleteTopic asks the active controller to delete a topic.
func (c *Controllers) DeleteTopic(ctx context.Context, req *internalv1.DeleteTopicRequest) (resp *internalv1.DeleteTopicResponse, err error) {
	err = c.call(ctx, true, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.DeleteTopic(ctx, req)
		return err
	})
	return resp, err
}

// AddPartitions asks the active controller to give a topic more partitions.
func (c *Controllers) AddPartitions(
	ctx context.Context, req *internalv1.AddPartitionsRequest,
) (resp *internalv1.AddPartitionsResponse, err error) {
	err = c.call(ctx, true, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.AddPartitions(ctx, req)
		return err
	})
	return resp, err
}

// AlterTopicConfig asks the active controller to change settings of a topic. Repeating it is safe.
func (c *Controllers) AlterTopicConfig(
	ctx context.Context, req *internalv1.AlterTopicConfigRequest,
) (resp *internalv1.AlterTopicConfigResponse, err error) {
	err = c.call(ctx, false, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.AlterTopicConfig(ctx, req)
		return err
	})
	return resp, err
}

// DescribeQuorum asks the active controller for the state of the quorum.
func (c *Controllers) DescribeQuorum(ctx context.Context) (resp *internalv1.DescribeQuorumResponse, err error) {
	err = c.call(ctx, false, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.DescribeQuorum(ctx, &internalv1.DescribeQuorumRequest{})
		return err
	})
	return resp, err
}

// RegisterBroker registers an incarnation with the active controller. Repeating it is safe: the incarnation id names it.
func (c *Controllers) RegisterBroker(
	ctx context.Context, req *internalv1.RegisterBrokerRequest,
) (resp *internalv1.RegisterBrokerResponse, err error) {
	err = c.call(ctx, false, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.RegisterBroker(ctx, req)
		return err
	})
	return resp, err
}

// AlterPartition proposes in-sync sets; repeating it is safe because of the compare-and-set on the partition epoch.
func (c *Controllers) AlterPartition(
	ctx context.Context, req *internalv1.AlterPartitionRequest,
) (resp *internalv1.AlterPartitionResponse, err error) {
	err = c.call(ctx, false, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.AlterPartition(ctx, req)
		return err
	})
	return resp, err
}

// AllocateProducerIDs asks for a block of producer ids; a block that is lost on the way is never used.
func (c *Controllers) AllocateProducerIDs(
	ctx context.Context, req *internalv1.AllocateProducerIDsRequest,
) (resp *internalv1.AllocateProducerIDsResponse, err error) {
	err = c.call(ctx, false, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.AllocateProducerIDs(ctx, req)
		return err
	})
	return resp, err
}

// ReportDeleted tells the active controller which topics' data is gone; repeating it is safe.
func (c *Controllers) ReportDeleted(
	ctx context.Context, req *internalv1.ReportDeletedRequest,
) (resp *internalv1.ReportDeletedResponse, err error) {
	err = c.call(ctx, false, func(ctx context.Context, to internalv1.ControllerServiceClient) (err error) {
		resp, err = to.ReportDeleted(ctx, req)
		return err
	})
	return resp, err
}
