package peer

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/controller"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// Prober asks nodes who they are; it is controller.Prober. Each probe has a connection of its own, so that a refusal shows at
// once.
type Prober struct{ limits wire.Limits }

var _ controller.Prober = Prober{}

// NewProber returns a prober with the limits.
func NewProber(limits wire.Limits) Prober { return Prober{limits} }

// Probe asks the node at the peer address. A refused or broken connection is an error at once, silence one when ctx ends.
func (p Prober) Probe(ctx context.Context, address string) (result controller.ProbeResult, err error) {
	conn, err := grpc.NewClient("passthrough:///"+address, wire.DialOptions(p.limits)...)
	if err != nil {
		return result, fmt.Errorf("probe %s: %w", address, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	resp, err := internalv1.NewNodeServiceClient(conn).Probe(ctx, &internalv1.ProbeRequest{})
	if err != nil {
		return result, fmt.Errorf("probe %s: %w", address, wire.FromStatus(err))
	}
	result.NodeID = model.NodeID(resp.GetNodeId())
	result.QuorumState = controller.QuorumState(resp.GetQuorumState())
	for _, id := range []struct {
		to   *model.UUID
		from []byte
	}{
		{&result.IncarnationID, resp.GetIncarnationId()},
		{&result.ClusterID, resp.GetClusterId()},
		{&result.DirectoryID, resp.GetDirectoryId()},
	} {
		if *id.to, err = model.UUIDFromBytes(id.from); err != nil {
			return result, fmt.Errorf("probe %s: %w", address, err)
		}
	}
	return result, nil
}
