package wire

import (
	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/api/gen/penstockv1"
)

// The views below give the generated streams the types of this package. A handler writes
//
//	func (s *producerServer) Produce(raw grpc.BidiStreamingServer[penstockv1.ProduceRequest, penstockv1.ProduceResponse]) error {
//		stream := wire.ProduceServerStream{ServerStream: raw}
//
// and a client
//
//	raw, err := penstockv1.NewProducerServiceClient(conn).Produce(ctx)
//	stream := wire.ProduceClientStream{ClientStream: raw}
//
// As with every gRPC stream one goroutine may send while another receives, and no more. Receiving overwrites the message
// whole; free its payload before. On an error there is nothing to free.

// ProduceServerStream is the broker's side of ProducerService.Produce.
type ProduceServerStream struct{ grpc.ServerStream }

// Recv receives the next request into m; io.EOF after the client's last. The caller owns m.Payload.
func (s ProduceServerStream) Recv(m *ProduceRequest) error { return s.RecvMsg(m) }

// Send sends one status.
func (s ProduceServerStream) Send(m *penstockv1.ProduceResponse) error { return s.SendMsg(m) }

// ProduceClientStream is the client's side of ProducerService.Produce.
type ProduceClientStream struct{ grpc.ClientStream }

// Send sends m and keeps its own reference to m.Payload only while it needs it. io.EOF says that the stream has ended:
// Recv has the reason.
func (s ProduceClientStream) Send(m *ProduceRequest) error { return s.SendMsg(m) }

// Recv receives the next status.
func (s ProduceClientStream) Recv() (*penstockv1.ProduceResponse, error) {
	m := new(penstockv1.ProduceResponse)
	if err := s.RecvMsg(m); err != nil {
		return nil, err
	}
	return m, nil
}

// FetchServerStream is the broker's side of ConsumerService.Fetch.
type FetchServerStream struct{ grpc.ServerStream }

// Recv receives the next command; io.EOF after the client's last.
func (s FetchServerStream) Recv() (*penstockv1.FetchRequest, error) {
	m := new(penstockv1.FetchRequest)
	if err := s.RecvMsg(m); err != nil {
		return nil, err
	}
	return m, nil
}

// Send sends one frame and keeps its own reference to m.Payload only while it needs it.
func (s FetchServerStream) Send(m *FetchResponse) error { return s.SendMsg(m) }

// FetchClientStream is the client's side of ConsumerService.Fetch.
type FetchClientStream struct{ grpc.ClientStream }

// Send sends one command; io.EOF says that the stream has ended: Recv has the reason.
func (s FetchClientStream) Send(m *penstockv1.FetchRequest) error { return s.SendMsg(m) }

// Recv receives the next frame into m. The caller owns m.Payload.
func (s FetchClientStream) Recv(m *FetchResponse) error { return s.RecvMsg(m) }

// ReplicateServerStream is the leader's side of ReplicaService.Replicate.
type ReplicateServerStream struct{ grpc.ServerStream }

// Recv receives what the follower says next; io.EOF after its last.
func (s ReplicateServerStream) Recv() (*internalv1.ReplicateRequest, error) {
	m := new(internalv1.ReplicateRequest)
	if err := s.RecvMsg(m); err != nil {
		return nil, err
	}
	return m, nil
}

// Send sends one frame and keeps its own reference to m.Payload only while it needs it.
func (s ReplicateServerStream) Send(m *ReplicateResponse) error { return s.SendMsg(m) }

// ReplicateClientStream is the follower's side of ReplicaService.Replicate.
type ReplicateClientStream struct{ grpc.ClientStream }

// Send sends to the leader; io.EOF says that the stream has ended: Recv has the reason.
func (s ReplicateClientStream) Send(m *internalv1.ReplicateRequest) error { return s.SendMsg(m) }

// Recv receives the next frame into m. The caller owns m.Payload.
func (s ReplicateClientStream) Recv(m *ReplicateResponse) error { return s.RecvMsg(m) }
