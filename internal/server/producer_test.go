package server_test

import (
	"errors"
	"io"
	"testing"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
)

func TestProduceStreamAnswersInOrderOfCompletion(t *testing.T) {
	n := start(t, nil)
	stream, err := n.producer.Produce(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	const batches = 200
	for i := range uint64(batches) {
		req := &penstockv1.ProduceRequest{CorrelationId: i, Topic: "t", Records: plain("a", "b")}
		if i%10 == 5 {
			req.Partition = 99
		}
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	next, failures := int64(0), 0
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetError() != nil {
			failures++
			if resp.GetCorrelationId()%10 != 5 || model.ErrorCode(resp.GetError().GetCode()) != model.CodeUnknownTopicOrPartition {
				t.Errorf("batch %d: %v", resp.GetCorrelationId(), resp.GetError())
			}
			continue
		}
		if got := resp.GetReceipt(); got.GetBaseOffset() != next || got.GetCount() != 2 || got.GetIsr() != 1 || got.GetFsynced() != 1 {
			t.Errorf("batch %d: %v, want offset %d", resp.GetCorrelationId(), got, next)
		}
		next += 2
	}
	if failures != batches/10 || next != 2*(batches-batches/10) {
		t.Errorf("%d failures, log end %d", failures, next)
	}
}

func TestProduceStreamWithoutAcksAnswersFailuresAlone(t *testing.T) {
	n := start(t, nil)
	stream, err := n.producer.Produce(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"t", "nowhere", "t"} {
		if err := stream.Send(&penstockv1.ProduceRequest{
			CorrelationId: uint64(i), Topic: name, Records: plain("x"), Acks: penstockv1.Acks_ACKS_NONE, //nolint:gosec // an index
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || resp.GetCorrelationId() != 1 || resp.GetError() == nil {
		t.Errorf("%v, %v", resp, err)
	}
	if resp, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("another answer: %v, %v", resp, err)
	}
}

// The limit holds the reader back, and lets a request pass that is larger than the limit itself.
func TestProduceStreamWithinItsLimitOfBytesInFlight(t *testing.T) {
	n := start(t, map[string]string{"limits.inflight.bytes": "2KiB"})
	stream, err := n.producer.Produce(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	const batches = 50
	batch := batchOf(t, 4000)
	sent := make(chan error, 1)
	go func() {
		for range batches {
			if err := stream.Send(&penstockv1.ProduceRequest{Topic: "t", Batch: batch}); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for i := range int64(batches) {
		resp, err := stream.Recv()
		if err != nil || resp.GetReceipt().GetBaseOffset() != i {
			t.Fatalf("batch %d: %v, %v", i, resp, err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestInitProducerNeverRepeats(t *testing.T) {
	n := start(t, nil)
	seen := map[int64]bool{}
	for range 20 {
		resp, err := n.producer.InitProducer(n.ctx, &penstockv1.InitProducerRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if seen[resp.GetProducerId()] || resp.GetProducerId() < 0 || resp.GetMaxInFlightBatches() == 0 {
			t.Errorf("%v", resp)
		}
		seen[resp.GetProducerId()] = true
	}
}

func TestCompressedPlainRecords(t *testing.T) {
	n := start(t, nil)
	for c := range penstockv1.Compression_name {
		req := &penstockv1.ProduceRequest{Topic: "t", Records: plain("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), Compression: penstockv1.Compression(c)}
		if _, err := n.producer.ProduceOnce(n.ctx, req); err != nil {
			t.Errorf("%v: %v", penstockv1.Compression(c), err)
		}
	}
	resp, err := n.consumer.FetchOnce(n.ctx, &penstockv1.FetchOnceRequest{
		Partitions: []*penstockv1.FetchSubscribe{{Topic: "t"}}, Format: penstockv1.FetchFormat_FETCH_FORMAT_RECORDS,
	})
	if err != nil || len(resp.GetPartitions()[0].GetRecords()) != len(penstockv1.Compression_name) {
		t.Errorf("%v, %v", resp, err)
	}
	_, err = n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "t", Records: plain("x"), Compression: 77})
	n.wantCode(err, model.CodeUnsupportedCompression)
}

// A client that reads no answers is read no further than the limit allows.
func TestProduceStreamOfAClientThatReadsNothing(t *testing.T) {
	n := start(t, map[string]string{"limits.inflight.bytes": "64KiB"})
	stream, err := n.producer.Produce(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	const batches = 100_000
	sent := make(chan error, 1)
	go func() {
		for range batches {
			if err := stream.Send(&penstockv1.ProduceRequest{Topic: "nowhere", Records: plain("x")}); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for i := range batches { // slower than the answers come, at first
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
