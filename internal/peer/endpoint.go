package peer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/wire"
)

// Endpoint reaches the brokers that lead partitions; it is replication.LeaderEndpoint.
type Endpoint struct{ conns *Conns }

var _ replication.LeaderEndpoint = Endpoint{}

// NewEndpoint returns an endpoint over the connections.
func NewEndpoint(conns *Conns) Endpoint { return Endpoint{conns} }

// OpenReplicaStream opens a replica stream to a broker and sends hello in its first request. Catch-up traffic has a connection
// of its own. The stream ends when ctx does.
func (e Endpoint) OpenReplicaStream(
	ctx context.Context, leader *metadata.Broker, hello *internalv1.ReplicaHello,
) (replication.ReplicaStream, error) {
	purpose := PurposeReplication
	if hello.GetCatchUp() {
		purpose = PurposeCatchUp
	}
	if leader.PeerAddress == "" {
		return nil, model.Errorf(model.CodeBrokerNotAvailable, "broker %d has no peer address", leader.ID)
	}
	conn, err := e.conns.Get(purpose, leader.PeerAddress)
	if err != nil {
		return nil, err
	}
	if err := awaitReady(ctx, conn, leader.PeerAddress); err != nil {
		return nil, err
	}
	raw, err := internalv1.NewReplicaServiceClient(conn).Replicate(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a replica stream to broker %d: %w", leader.ID, wire.FromStatus(err))
	}
	stream := replicaStream{wire.ReplicateClientStream{ClientStream: raw}}
	if err := stream.Send(&internalv1.ReplicateRequest{Hello: hello}); err != nil {
		return nil, fmt.Errorf("greet broker %d: %w", leader.ID, err)
	}
	return stream, nil
}

// FetchProducerSnapshot asks the leader of a partition for the state of its idempotent producers, over the connection of
// catch-up traffic. The caller owns the bytes.
func (e Endpoint) FetchProducerSnapshot(
	ctx context.Context, leader *metadata.Broker, req *internalv1.FetchProducerSnapshotRequest,
) ([]byte, error) {
	if leader.PeerAddress == "" {
		return nil, model.Errorf(model.CodeBrokerNotAvailable, "broker %d has no peer address", leader.ID)
	}
	conn, err := e.conns.Get(PurposeCatchUp, leader.PeerAddress)
	if err != nil {
		return nil, err
	}
	if err := awaitReady(ctx, conn, leader.PeerAddress); err != nil {
		return nil, err
	}
	stream, err := internalv1.NewReplicaServiceClient(conn).FetchProducerSnapshot(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask broker %d for a producer snapshot: %w", leader.ID, wire.FromStatus(err))
	}
	var data []byte
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, fmt.Errorf("receive a producer snapshot of broker %d: %w", leader.ID, wire.FromStatus(err))
		}
		if data = append(data, part.GetData()...); len(data) > maxSnapshotBytes {
			return nil, model.Errorf(model.CodeInvalidRequest, "the producer snapshot of broker %d is larger than %d bytes", leader.ID, maxSnapshotBytes)
		}
	}
}

// CheckRange asks the leader of a partition to look at a range of its log, over the connection of catch-up traffic.
func (e Endpoint) CheckRange(
	ctx context.Context, leader *metadata.Broker, req *internalv1.CheckRangeRequest,
) (*internalv1.CheckRangeResponse, error) {
	if leader.PeerAddress == "" {
		return nil, model.Errorf(model.CodeBrokerNotAvailable, "broker %d has no peer address", leader.ID)
	}
	conn, err := e.conns.Get(PurposeCatchUp, leader.PeerAddress)
	if err != nil {
		return nil, err
	}
	if err := awaitReady(ctx, conn, leader.PeerAddress); err != nil {
		return nil, err
	}
	resp, err := internalv1.NewReplicaServiceClient(conn).CheckRange(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask broker %d to check a range: %w", leader.ID, wire.FromStatus(err))
	}
	return resp, nil
}

// maxSnapshotBytes bounds what is held in memory of a producer snapshot: some 140,000 producers with full windows.
const maxSnapshotBytes = 256 << 20

// replicaStream translates what the leader ended the stream with.
type replicaStream struct{ wire.ReplicateClientStream }

// Recv receives the next frame; the caller owns its payload.
func (s replicaStream) Recv(m *wire.ReplicateResponse) error {
	return wire.FromStatus(s.ReplicateClientStream.Recv(m))
}
