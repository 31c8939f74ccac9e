package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/controller"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/wire"
)

// Peer is the services of the peer listener.
type Peer struct {
	Identity   Identity
	Cache      *Cache
	Controller *controller.Controller // nil where the node has not that role
	Replicas   *replication.Manager   // nil where the node has not the role of a broker
	Limits     wire.Limits
	Logger     *slog.Logger
	Metrics    *Metrics // required
}

// NewServer returns a gRPC server with the services of the peer listener.
func (p *Peer) NewServer() *grpc.Server {
	server := newServer(p.Limits, PeerListener, p.Logger, p.Metrics)
	internalv1.RegisterNodeServiceServer(server, &nodeService{identity: p.Identity, cache: p.Cache})
	if p.Controller != nil {
		internalv1.RegisterControllerServiceServer(server, &controllerService{controller: p.Controller})
	}
	if p.Replicas != nil {
		internalv1.RegisterReplicaServiceServer(server, &replicaService{replicas: p.Replicas})
	}
	return server
}

// controllerService is penstock.internal.v1.ControllerService.
type controllerService struct {
	internalv1.UnimplementedControllerServiceServer
	controller *controller.Controller
}

// authorized runs a request of another node, and adds a hint at the active controller where this one is not it.
func authorized[Q, R any](ctx context.Context, req Q, fn func(context.Context, Q) (R, error)) (R, error) {
	if err := Authorize(ctx, OperationInternal, cluster()); err != nil {
		var none R
		return none, err
	}
	resp, err := fn(ctx, req)
	return resp, withController(err)
}

// withController adds the active controller to NOT_CONTROLLER.
func withController(err error) error {
	var other *controller.NotControllerError
	if !errors.As(err, &other) || other.ID == model.NoNode {
		return err
	}
	host, portText, splitErr := net.SplitHostPort(other.Address)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	if splitErr != nil || portErr != nil {
		return err
	}
	return wire.WithLeader(err, &penstockv1.LeaderHint{LeaderId: int32(other.ID), Host: host, Port: int32(port)}) //nolint:gosec // 16 bits
}

// RegisterBroker registers an incarnation of a broker.
func (s *controllerService) RegisterBroker(
	ctx context.Context, req *internalv1.RegisterBrokerRequest,
) (*internalv1.RegisterBrokerResponse, error) {
	return authorized(ctx, req, s.controller.RegisterBroker)
}

// AlterPartition changes in-sync sets.
func (s *controllerService) AlterPartition(
	ctx context.Context, req *internalv1.AlterPartitionRequest,
) (*internalv1.AlterPartitionResponse, error) {
	return authorized(ctx, req, s.controller.AlterPartition)
}

// GiveUpSeats takes replicas out of ISR and ELR that cannot go on.
func (s *controllerService) GiveUpSeats(
	ctx context.Context, req *internalv1.GiveUpSeatsRequest,
) (*internalv1.GiveUpSeatsResponse, error) {
	return authorized(ctx, req, s.controller.GiveUpSeats)
}

// CreateTopic makes a topic.
func (s *controllerService) CreateTopic(
	ctx context.Context, req *internalv1.CreateTopicRequest,
) (*internalv1.CreateTopicResponse, error) {
	return authorized(ctx, req, s.controller.CreateTopic)
}

// DeleteTopic deletes a topic.
func (s *controllerService) DeleteTopic(
	ctx context.Context, req *internalv1.DeleteTopicRequest,
) (*internalv1.DeleteTopicResponse, error) {
	return authorized(ctx, req, s.controller.DeleteTopic)
}

// AddPartitions gives a topic more partitions.
func (s *controllerService) AddPartitions(
	ctx context.Context, req *internalv1.AddPartitionsRequest,
) (*internalv1.AddPartitionsResponse, error) {
	return authorized(ctx, req, s.controller.AddPartitions)
}

// AlterTopicConfig changes settings of a topic.
func (s *controllerService) AlterTopicConfig(
	ctx context.Context, req *internalv1.AlterTopicConfigRequest,
) (*internalv1.AlterTopicConfigResponse, error) {
	return authorized(ctx, req, s.controller.AlterTopicConfig)
}

// AllocateProducerIDs hands out a block of producer ids.
func (s *controllerService) AllocateProducerIDs(
	ctx context.Context, req *internalv1.AllocateProducerIDsRequest,
) (*internalv1.AllocateProducerIDsResponse, error) {
	return authorized(ctx, req, s.controller.AllocateProducerIDs)
}

// ReportDeleted notes that data of deleted topics is gone.
func (s *controllerService) ReportDeleted(
	ctx context.Context, req *internalv1.ReportDeletedRequest,
) (*internalv1.ReportDeletedResponse, error) {
	return authorized(ctx, req, s.controller.ReportDeleted)
}

// DescribeQuorum shows the quorum as its leader sees it.
func (s *controllerService) DescribeQuorum(
	ctx context.Context, req *internalv1.DescribeQuorumRequest,
) (*internalv1.DescribeQuorumResponse, error) {
	return authorized(ctx, req, s.controller.DescribeQuorum)
}

// Heartbeat keeps a broker's session for as long as the stream.
func (s *controllerService) Heartbeat(stream grpc.BidiStreamingServer[internalv1.HeartbeatRequest, internalv1.HeartbeatResponse]) error {
	ctx := stream.Context()
	if err := Authorize(ctx, OperationInternal, cluster()); err != nil {
		return err
	}
	session := s.controller.OpenSession()
	defer session.End()
	for {
		beat, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		answer, err := session.Beat(ctx, beat)
		if err != nil {
			return withController(err)
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// FollowMetadata sends the metadata log from where the follower stands.
func (s *controllerService) FollowMetadata(
	req *internalv1.FollowMetadataRequest, stream grpc.ServerStreamingServer[internalv1.FollowMetadataResponse],
) error {
	ctx := stream.Context()
	if err := Authorize(ctx, OperationInternal, cluster()); err != nil {
		return err
	}
	asked, err := model.UUIDFromBytes(req.GetClusterId())
	if err != nil {
		return model.Errorf(model.CodeInvalidRequest, "cluster id: %w", err)
	}
	if own := s.controller.ClusterID(); !asked.IsZero() && !own.IsZero() && asked != own {
		return model.Errorf(model.CodeInconsistentClusterID, "node %d belongs to cluster %s, this controller to %s", req.GetNodeId(), asked, own)
	}
	feed := s.controller.Follow(model.MetadataOffset(req.GetMetadataOffset()))
	for {
		frame, err := feed.Next(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&internalv1.FollowMetadataResponse{
			Snapshot: frame.Snapshot, Entries: frame.Entries, CommittedOffset: uint64(frame.CommittedOffset),
			ControllerId: int32(frame.ControllerID), ControllerAddress: frame.ControllerAddress,
		}); err != nil {
			return err
		}
	}
}
