package wire

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
)

// inFlight is how many requests the benchmarks keep unanswered.
const inFlight = 32

// BenchmarkStream compares Penstock's way of using gRPC with gRPC as it comes: one stream over loopback, requests with a
// payload one way, small answers the other.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("penstock/%dKiB", size>>10), func(b *testing.B) {
			client := serveEcho(b, ServerOptions(Limits{}), DialOptions(Limits{}))
			raw, err := client.Produce(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			stream := ProduceClientStream{ClientStream: raw}
			payload, _ := DefaultPool().Alloc(size)
			m := &ProduceRequest{Payload: payload}
			m.Head.Topic = "topic"
			pump(b, size, func() error { return stream.Send(m) }, func() error { _, err := stream.Recv(); return err })
			m.Free()
		})
		b.Run(fmt.Sprintf("stock/%dKiB", size>>10), func(b *testing.B) {
			client := serveStock(b)
			stream, err := client.Produce(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			m := &penstockv1.ProduceRequest{Topic: "topic", Batch: make([]byte, size)}
			pump(b, size, func() error { return stream.Send(m) }, func() error { _, err := stream.Recv(); return err })
		})
	}
}

func pump(b *testing.B, size int, send, recv func() error) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	tokens := make(chan struct{}, inFlight)
	failed := make(chan error, 1)
	go func() {
		var err error
		for range b.N {
			if err = recv(); err != nil {
				break
			}
			<-tokens
		}
		failed <- err
	}()
	for range b.N {
		tokens <- struct{}{}
		if err := send(); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
}

// stockServer is echoServer without this package.
type stockServer struct {
	penstockv1.UnimplementedProducerServiceServer
}

func (stockServer) Produce(stream grpc.BidiStreamingServer[penstockv1.ProduceRequest, penstockv1.ProduceResponse]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		out := &penstockv1.ProduceResponse{
			CorrelationId: m.GetCorrelationId(), Receipt: &penstockv1.Receipt{BaseOffset: int64(len(m.GetBatch()))},
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

func serveStock(b *testing.B) penstockv1.ProducerServiceClient {
	b.Helper()
	return serveOn(b, stockServer{}, nil, []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())})
}
