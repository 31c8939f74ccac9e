package peer

import (
	"context"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

// Others asks other nodes how far they are with the metadata. It is safe for concurrent use.
type Others struct{ conns *Conns }

// NewOthers returns the way to other nodes over the connections.
func NewOthers(conns *Conns) Others { return Others{conns} }

// AwaitMetadata returns when the node at the peer address (host:port) has taken the metadata into use up to the offset. It waits
// for a node that cannot be reached, until ctx ends; a node of a version that does not know the question is an error at once.
func (o Others) AwaitMetadata(ctx context.Context, address string, offset model.MetadataOffset) error {
	conn, err := o.conns.Get(PurposeControl, address)
	if err != nil {
		return err
	}
	_, err = internalv1.NewNodeServiceClient(conn).AwaitMetadata(ctx,
		&internalv1.AwaitMetadataRequest{MetadataOffset: uint64(offset)}, grpc.WaitForReady(true))
	return wire.FromStatus(err)
}
