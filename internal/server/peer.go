package server

import (
	"context"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/internalv1"
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

// Identity is what a node says of itself.
type Identity interface {
	// Probe describes the node.
	Probe() *internalv1.ProbeResponse
}

// nodeService is penstock.internal.v1.NodeService.
type nodeService struct {
	internalv1.UnimplementedNodeServiceServer
	identity Identity
}

// Probe says who lives here.
func (s *nodeService) Probe(ctx context.Context, _ *internalv1.ProbeRequest) (*internalv1.ProbeResponse, error) {
	if err := Authorize(ctx, OperationInternal, cluster()); err != nil {
		return nil, err
	}
	return s.identity.Probe(), nil
}
