package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
)

// echoServer answers each request with the number of payload bytes, and each unary request with an error.
type echoServer struct {
	penstockv1.UnimplementedProducerServiceServer
}

func (echoServer) Produce(raw grpc.BidiStreamingServer[penstockv1.ProduceRequest, penstockv1.ProduceResponse]) error {
	stream := ProduceServerStream{ServerStream: raw}
	var m ProduceRequest
	for {
		if err := stream.Recv(&m); errors.Is(err, io.EOF) {
			return model.Errorf(model.CodeShuttingDown, "done")
		} else if err != nil {
			return err
		}
		size := 0
		for _, piece := range m.Payload.Bytes() {
			size += len(piece)
		}
		m.Free()
		out := &penstockv1.ProduceResponse{
			CorrelationId: m.Head.GetCorrelationId(), Receipt: &penstockv1.Receipt{BaseOffset: int64(size)},
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

func (echoServer) ProduceOnce(ctx context.Context, m *penstockv1.ProduceRequest) (*penstockv1.ProduceResponse, error) {
	return nil, model.Errorf(model.CodeBatchTooLarge, "%d bytes of %s", len(m.GetBatch()), ClientID(ctx))
}

// serveEcho returns a client of an echoServer over loopback TCP.
func serveEcho(tb testing.TB, server []grpc.ServerOption, client []grpc.DialOption) penstockv1.ProducerServiceClient {
	tb.Helper()
	return serveOn(tb, echoServer{}, server, client)
}

func serveOn(
	tb testing.TB, service penstockv1.ProducerServiceServer, server []grpc.ServerOption, client []grpc.DialOption,
) penstockv1.ProducerServiceClient {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := grpc.NewServer(server...)
	penstockv1.RegisterProducerServiceServer(s, service)
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), client...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
		s.Stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return penstockv1.NewProducerServiceClient(conn)
}

// TestPoolsAreInUse fails when gRPC stops taking its buffers from our pools, on either side, or loses some.
func TestPoolsAreInUse(t *testing.T) {
	serverPool, clientPool := NewDebugPool(), NewDebugPool()
	t.Run("traffic", func(t *testing.T) {
		client := serveEcho(t, ServerOptions(Limits{Pool: serverPool}), DialOptions(Limits{Pool: clientPool}))
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		raw, err := client.Produce(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stream := ProduceClientStream{ClientStream: raw}
		const size = 100_000
		for i := range uint64(20) {
			payload, data := clientPool.Alloc(size)
			data[0] = byte(i)
			m := ProduceRequest{Head: penstockv1.ProduceRequest{CorrelationId: i}, Payload: payload}
			if err := stream.Send(&m); err != nil {
				t.Fatal(err)
			}
			m.Free()
			got, err := stream.Recv()
			if err != nil || got.GetCorrelationId() != i || got.GetReceipt().GetBaseOffset() != size {
				t.Fatalf("%v, %v", got, err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !model.IsCode(FromStatus(err), model.CodeShuttingDown) {
			t.Errorf("the stream ended with %v", err)
		}
		// A plain proto message goes through the pools too, and the answer carries the code.
		_, err = client.ProduceOnce(WithClientID(ctx, "tester"), &penstockv1.ProduceRequest{Batch: make([]byte, size)})
		if !model.IsCode(FromStatus(err), model.CodeBatchTooLarge) {
			t.Errorf("the call ended with %v", err)
		}
		if !strings.Contains(err.Error(), "100000 bytes of tester") {
			t.Errorf("the server did not see the client id: %v", err)
		}
	})
	if got := serverPool.Stats().Gets; got < 20*100_000/16384 {
		t.Errorf("the server took %d buffers from its pool", got)
	}
	if got := clientPool.Stats().Gets; got < 21 {
		t.Errorf("the client took %d buffers from its pool", got)
	}
	for name, pool := range map[string]*Pool{"server": serverPool, "client": clientPool} {
		waitForNoLeaks(t, name, pool)
	}
}

func waitForNoLeaks(t *testing.T, name string, pool *Pool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		leaks := pool.Leaks()
		if len(leaks) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: %d buffers were never returned; one was taken at\n%s", name, len(leaks), leaks[0])
		}
	}
}

func TestSendKeepsNoReferenceForTheSender(t *testing.T) {
	pool := NewDebugPool()
	payload, _ := pool.Alloc(4096)
	m := &FetchResponse{Payload: payload}
	out, err := NewCodec(pool).Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	m.Free()
	if len(pool.Leaks()) != 1 {
		t.Error("gRPC's reference does not hold the bytes")
	}
	out.Free()
	if len(pool.Leaks()) != 0 {
		t.Error("leaked")
	}
}
