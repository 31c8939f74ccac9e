package server

import (
	"context"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// Quorum is the way to the active controller, which may be this node or another one.
type Quorum interface {
	// Active is the active controller and its peer address as far as this node knows; NoNode where it does not.
	Active() (model.NodeID, string)
	// CreateTopic makes a topic.
	CreateTopic(ctx context.Context, req *internalv1.CreateTopicRequest) (*internalv1.CreateTopicResponse, error)
	// DeleteTopic deletes a topic.
	DeleteTopic(ctx context.Context, req *internalv1.DeleteTopicRequest) (*internalv1.DeleteTopicResponse, error)
	// AddPartitions gives a topic more partitions.
	AddPartitions(ctx context.Context, req *internalv1.AddPartitionsRequest) (*internalv1.AddPartitionsResponse, error)
	// AlterTopicConfig changes settings of a topic.
	AlterTopicConfig(ctx context.Context, req *internalv1.AlterTopicConfigRequest) (*internalv1.AlterTopicConfigResponse, error)
	// DescribeQuorum shows the quorum as its leader sees it.
	DescribeQuorum(ctx context.Context) (*internalv1.DescribeQuorumResponse, error)
}
