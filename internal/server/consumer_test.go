package server_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
)

type fetchStream struct {
	*node
	stream penstockv1.ConsumerService_FetchClient
}

func (n *node) fetch(open *penstockv1.FetchOpen) *fetchStream {
	n.Helper()
	stream, err := n.consumer.Fetch(n.ctx)
	if err != nil {
		n.Fatal(err)
	}
	f := &fetchStream{n, stream}
	f.send(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Open{Open: open}})
	return f
}

func (f *fetchStream) send(req *penstockv1.FetchRequest) {
	f.Helper()
	if err := f.stream.Send(req); err != nil {
		f.Fatal(err)
	}
}

func (f *fetchStream) subscribe(sub *penstockv1.FetchSubscribe) {
	f.Helper()
	f.send(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Subscribe{Subscribe: sub}})
}

func (f *fetchStream) next() *penstockv1.FetchResponse {
	f.Helper()
	frame, err := f.stream.Recv()
	if err != nil {
		f.Fatal(err)
	}
	return frame
}

// data returns the next frame that carries something, the end of a range, or an error.
func (f *fetchStream) data() *penstockv1.FetchResponse {
	f.Helper()
	for {
		frame := f.next()
		if len(frame.GetBatches())+len(frame.GetRecords()) > 0 || frame.GetEndOfRange() || frame.GetError() != nil {
			return frame
		}
	}
}

func TestFetchStreamFollowsTheLog(t *testing.T) {
	n := start(t, nil)
	n.put("a", "b")
	f := n.fetch(&penstockv1.FetchOpen{Format: penstockv1.FetchFormat_FETCH_FORMAT_RECORDS})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 7, Topic: "t", Offset: 1})
	first := f.data()
	if first.GetSubscriptionId() != 7 || len(first.GetRecords()) != 1 || string(first.GetRecords()[0].GetValue()) != "b" ||
		first.GetNextOffset() != 2 || first.GetHighWatermark() != 2 {
		t.Errorf("first: %v", first)
	}
	n.put("c")
	if frame := f.data(); len(frame.GetRecords()) != 1 || frame.GetRecords()[0].GetOffset() != 2 {
		t.Errorf("after an append: %v", frame)
	}
}

func TestFetchStreamRangeEnds(t *testing.T) {
	n := start(t, nil)
	n.put("a", "b", "c")
	f := n.fetch(&penstockv1.FetchOpen{Format: penstockv1.FetchFormat_FETCH_FORMAT_RECORDS})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t", EndOffset: new(int64(2))})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 2, Topic: "t", Offset: 3, EndOffset: new(int64(3))})
	if err := f.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	values, ends := "", 0
	for {
		frame, err := f.stream.Recv()
		if errors.Is(err, io.EOF) {
			break // both ranges were served, and no more commands come
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range frame.GetRecords() {
			values += string(r.GetValue())
		}
		if frame.GetEndOfRange() {
			ends++
		}
	}
	if values != "ab" || ends != 2 {
		t.Errorf("values %q, %d ends", values, ends)
	}
}

func TestFetchStreamKeepsToItsCredit(t *testing.T) {
	n := start(t, nil)
	batch := batchOf(t, 1000)
	for range 20 {
		if _, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "t", Batch: batch}); err != nil {
			t.Fatal(err)
		}
	}
	f := n.fetch(&penstockv1.FetchOpen{CreditBytes: 3000, MaxFrameBytes: 1100, ProgressIntervalMs: 50})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t"})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 2, Topic: "t", Partition: 9})
	got, refused := 0, false
	for got < 3*len(batch) || !refused {
		frame := f.data()
		got += len(frame.GetBatches())
		refused = refused || frame.GetError() != nil
	}
	if got > 3*len(batch) {
		t.Errorf("%d bytes came for a credit of 3000", got)
	}
	f.send(&penstockv1.FetchRequest{Command: &penstockv1.FetchRequest_Credit{Credit: &penstockv1.FetchCredit{Bytes: 1 << 20}}})
	for got < 20*len(batch) {
		got += len(f.data().GetBatches())
	}
}

func TestFetchStreamTellsOfProgress(t *testing.T) {
	n := start(t, nil)
	n.put("a")
	f := n.fetch(&penstockv1.FetchOpen{ProgressIntervalMs: 50})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t", Offset: 1})
	for range 3 {
		if frame := f.next(); frame.GetHighWatermark() != 1 || frame.GetNextOffset() != 1 || len(frame.GetBatches()) > 0 {
			t.Errorf("%v", frame)
		}
	}
}

func TestFetchStreamWaitsForMinBytes(t *testing.T) {
	n := start(t, nil)
	f := n.fetch(&penstockv1.FetchOpen{MinBytes: 150, MaxWaitMs: 60_000, Format: penstockv1.FetchFormat_FETCH_FORMAT_RECORDS})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t"})
	n.put("a", "b", "c")
	if frame := f.data(); len(frame.GetRecords()) < 2 {
		t.Errorf("%v", frame)
	}
	short := n.fetch(&penstockv1.FetchOpen{MinBytes: 1 << 20, MaxWaitMs: 100})
	short.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t"})
	if frame := short.data(); frame.GetNextOffset() != 3 {
		t.Errorf("after the wait: %v", frame)
	}
}

func TestFetchStreamErrors(t *testing.T) {
	n := start(t, map[string]string{"limits.subscriptions": "2"})
	n.put("a")
	f := n.fetch(&penstockv1.FetchOpen{})
	cases := []struct {
		sub  *penstockv1.FetchSubscribe
		want model.ErrorCode
	}{
		{&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "nowhere"}, model.CodeUnknownTopicOrPartition},
		{&penstockv1.FetchSubscribe{SubscriptionId: 2, Topic: "t", Offset: 99}, model.CodeOffsetOutOfRange},
		{&penstockv1.FetchSubscribe{SubscriptionId: 3, Topic: "t", Offset: -1}, model.CodeOffsetOutOfRange},
		{&penstockv1.FetchSubscribe{SubscriptionId: 4, Topic: "t", CurrentLeaderEpoch: new(int32(5))}, model.CodeUnknownLeaderEpoch},
		{&penstockv1.FetchSubscribe{SubscriptionId: 0, Topic: "t"}, model.CodeInvalidRequest},
		{&penstockv1.FetchSubscribe{SubscriptionId: 5, Topic: "t", EndOffset: new(int64(-5))}, model.CodeInvalidRequest},
	}
	for _, tc := range cases {
		f.subscribe(tc.sub)
		if frame := f.data(); frame.GetSubscriptionId() != tc.sub.GetSubscriptionId() || model.ErrorCode(frame.GetError().GetCode()) != tc.want {
			t.Errorf("%v: %v, want %v", tc.sub, frame, tc.want)
		}
	}
	for id := range uint64(3) {
		f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 10 + id, Topic: "t", Offset: 1})
	}
	if frame := f.data(); frame.GetSubscriptionId() != 12 || model.ErrorCode(frame.GetError().GetCode()) != model.CodeTooManyRequests {
		t.Errorf("%v", frame)
	}
	f.send(&penstockv1.FetchRequest{})
	for {
		if _, err := f.stream.Recv(); err != nil {
			n.wantCode(err, model.CodeInvalidRequest)
			break
		}
	}
}

func TestFetchOnceWaits(t *testing.T) {
	n := start(t, nil)
	began := time.Now()
	req := &penstockv1.FetchOnceRequest{
		Partitions: []*penstockv1.FetchSubscribe{{Topic: "t"}, {Topic: "t", Partition: 3}}, MinBytes: 1, MaxWaitMs: 60_000,
	}
	resp, err := n.consumer.FetchOnce(n.ctx, req) // a partition that fails ends the waiting
	if err != nil || resp.GetPartitions()[1].GetError() == nil || time.Since(began) > 30*time.Second {
		t.Errorf("%v, %v after %v", resp, err, time.Since(began))
	}
	req.Partitions = req.Partitions[:1]
	answered := make(chan *penstockv1.FetchOnceResponse, 1)
	go func() {
		resp, err := n.consumer.FetchOnce(n.ctx, req)
		if err != nil {
			t.Error(err)
		}
		answered <- resp
	}()
	n.put("a")
	if resp := <-answered; resp.GetPartitions()[0].GetNextOffset() != 1 {
		t.Errorf("%v", resp)
	}
	req.Partitions[0].Offset, req.MaxWaitMs = 1, 50
	if resp, err := n.consumer.FetchOnce(n.ctx, req); err != nil || len(resp.GetPartitions()[0].GetBatches()) > 0 {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestFetchOnceEndsWithItsRanges(t *testing.T) {
	n := start(t, nil)
	n.put("a", "b")
	began := time.Now()
	resp, err := n.consumer.FetchOnce(n.ctx, &penstockv1.FetchOnceRequest{
		Partitions: []*penstockv1.FetchSubscribe{{Topic: "t", EndOffset: new(int64(1))}}, MinBytes: 1 << 20, MaxWaitMs: 50_000,
	})
	if err != nil || !resp.GetPartitions()[0].GetEndOfRange() || time.Since(began) > 30*time.Second {
		t.Errorf("%v, %v after %v", resp, err, time.Since(began))
	}
}

// TestFetchOnceKeepsToItsBytes asks for one partition many times over: the bytes are bounded for all of them together.
func TestFetchOnceKeepsToItsBytes(t *testing.T) {
	n := start(t, nil)
	batch := batchOf(t, 10_000)
	if _, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "t", Batch: batch}); err != nil {
		t.Fatal(err)
	}
	req := &penstockv1.FetchOnceRequest{MaxBytes: 50_000}
	for range 300 {
		req.Partitions = append(req.Partitions, &penstockv1.FetchSubscribe{Topic: "t"})
	}
	resp, err := n.consumer.FetchOnce(n.ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, p := range resp.GetPartitions() {
		got += len(p.GetBatches())
	}
	if got < len(batch) || got > 50_000+len(batch) {
		t.Errorf("%d bytes came where 50000 were asked for", got)
	}
}

// TestFetchStreamHoldsNoMoreThanItsCredit subscribes many times with a wait for more bytes than there are: what is held
// meanwhile needs credit too.
func TestFetchStreamHoldsNoMoreThanItsCredit(t *testing.T) {
	const credit, subscriptions = 50_000, 100
	n := start(t, nil)
	batch := batchOf(t, 10_000)
	for range 4 {
		if _, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "t", Batch: batch}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	n.ctx = ctx
	f := n.fetch(&penstockv1.FetchOpen{CreditBytes: credit, MinBytes: 1 << 20, MaxWaitMs: 200, ProgressIntervalMs: 50})
	for id := range subscriptions {
		f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: uint64(id) + 1, Topic: "t"})
	}
	got := 0
	var end *time.Timer
	for {
		frame, err := f.stream.Recv()
		if err != nil {
			break
		}
		if got += len(frame.GetBatches()); end == nil && got >= credit/2 {
			end = time.AfterFunc(time.Second, cancel) // all that may come is there; what came too much would come soon
		}
	}
	if got < credit/2 || got > credit+2*len(batch) {
		t.Errorf("%d bytes came for a credit of %d", got, credit)
	}
}

func TestListOffsets(t *testing.T) {
	n := start(t, nil)
	for _, at := range []int64{1000, 2000, 3000} {
		records := plain("x")
		records[0].TimestampMs = new(at)
		if _, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "t", Records: records}); err != nil {
			t.Fatal(err)
		}
	}
	position := func(p penstockv1.OffsetPosition) *penstockv1.OffsetQuery {
		return &penstockv1.OffsetQuery{Target: &penstockv1.OffsetQuery_Position{Position: p}}
	}
	at := func(ms int64) *penstockv1.OffsetQuery {
		return &penstockv1.OffsetQuery{Target: &penstockv1.OffsetQuery_TimestampMs{TimestampMs: ms}}
	}
	resp, err := n.consumer.ListOffsets(n.ctx, &penstockv1.ListOffsetsRequest{Topic: "t", Queries: []*penstockv1.OffsetQuery{
		position(penstockv1.OffsetPosition_OFFSET_POSITION_START), position(penstockv1.OffsetPosition_OFFSET_POSITION_END),
		position(penstockv1.OffsetPosition_OFFSET_POSITION_LOG_END), at(1500), at(9000), position(0),
		{Partition: 4},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ offset, time int64 }{{0, -1}, {3, -1}, {3, -1}, {1, 2000}, {-1, -1}, {-1, -1}, {-1, -1}}
	for i, r := range resp.GetResults() {
		if r.GetOffset() != want[i].offset || r.GetTimestampMs() != want[i].time || (r.GetError() != nil) != (i >= 5) {
			t.Errorf("look-up %d: %v, want %v", i, r, want[i])
		}
	}
}

func TestStoppingEndsStreams(t *testing.T) {
	n := start(t, nil)
	f := n.fetch(&penstockv1.FetchOpen{})
	f.subscribe(&penstockv1.FetchSubscribe{SubscriptionId: 1, Topic: "t"})
	watch, err := n.metadata.WatchMetadata(n.ctx, &penstockv1.WatchMetadataRequest{AllTopics: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	f.next()
	n.cluster.Stop(1)
	for err = nil; err == nil; {
		_, err = f.stream.Recv()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("the fetch stream hangs")
	}
	for err = nil; err == nil; {
		_, err = watch.Recv()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("the metadata stream hangs")
	}
}
