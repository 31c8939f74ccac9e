package server

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/wire"
)

// replicaService is penstock.internal.v1.ReplicaService.
type replicaService struct {
	internalv1.UnimplementedReplicaServiceServer
	replicas *replication.Manager
}

// Replicate serves one follower broker.
func (s *replicaService) Replicate(raw grpc.BidiStreamingServer[internalv1.ReplicateRequest, internalv1.ReplicateResponse]) error {
	if err := Authorize(raw.Context(), OperationInternal, cluster()); err != nil {
		return err
	}
	return s.replicas.ServeReplica(raw.Context(), wire.ReplicateServerStream{ServerStream: raw})
}

// snapshotPart is how much of a producer snapshot one response carries.
const snapshotPart = 256 << 10

// FetchProducerSnapshot sends the producer state of a partition to a follower that begins anew.
func (s *replicaService) FetchProducerSnapshot(
	req *internalv1.FetchProducerSnapshotRequest, stream grpc.ServerStreamingServer[internalv1.FetchProducerSnapshotResponse],
) error {
	if err := Authorize(stream.Context(), OperationInternal, cluster()); err != nil {
		return err
	}
	data, err := s.replicas.ProducerSnapshot(req)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(data, snapshotPart) {
		if err := stream.Send(&internalv1.FetchProducerSnapshotResponse{Data: part}); err != nil {
			return err
		}
	}
	return nil
}

// CheckRange looks at a range of a log that this broker leads.
func (s *replicaService) CheckRange(ctx context.Context, req *internalv1.CheckRangeRequest) (*internalv1.CheckRangeResponse, error) {
	if err := Authorize(ctx, OperationInternal, cluster()); err != nil {
		return nil, err
	}
	return s.replicas.CheckRange(ctx, req)
}

// Identity is what a node says of itself.
type Identity interface {
	// Probe describes the node.
	Probe() *internalv1.ProbeResponse
}

// nodeService is penstock.internal.v1.NodeService.
type nodeService struct {
	internalv1.UnimplementedNodeServiceServer
	identity Identity
	cache    *Cache
}

// Probe says who lives here.
func (s *nodeService) Probe(ctx context.Context, _ *internalv1.ProbeRequest) (*internalv1.ProbeResponse, error) {
	if err := Authorize(ctx, OperationInternal, cluster()); err != nil {
		return nil, err
	}
	return s.identity.Probe(), nil
}

// AwaitMetadata waits until the metadata in force here is as new as the offset.
func (s *nodeService) AwaitMetadata(
	ctx context.Context, req *internalv1.AwaitMetadataRequest,
) (*internalv1.AwaitMetadataResponse, error) {
	if err := Authorize(ctx, OperationInternal, cluster()); err != nil {
		return nil, err
	}
	if err := s.cache.Await(ctx, model.MetadataOffset(req.GetMetadataOffset())); err != nil {
		return nil, err
	}
	return &internalv1.AwaitMetadataResponse{MetadataOffset: uint64(s.cache.Image().Offset())}, nil
}
