package server

import (
	"context"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/wire"
)

// Bounds of fetching.
const (
	defaultFrameBytes = 1 << 20
	maxFrameBytes     = 16 << 20
	maxFetchWait      = time.Minute
	maxQueries        = 10_000 // partitions of one FetchOnce, look-ups of one ListOffsets
)

// consumerService is penstock.v1.ConsumerService.
type consumerService struct {
	penstockv1.UnimplementedConsumerServiceServer
	client *Client
}

// ListOffsets looks up offsets of partitions that this broker leads.
func (s *consumerService) ListOffsets(
	ctx context.Context, req *penstockv1.ListOffsetsRequest,
) (*penstockv1.ListOffsetsResponse, error) {
	image := s.client.Cache.Image()
	t, err := resolveTopic(image, req.GetTopic(), req.GetTopicId())
	if err != nil {
		return nil, err
	}
	if err := Authorize(ctx, OperationDescribe, topic(t.Name)); err != nil {
		return nil, err
	}
	if len(req.GetQueries()) > maxQueries {
		return nil, model.Errorf(model.CodeInvalidRequest, "%d look-ups in one request: use at most %d", len(req.GetQueries()), maxQueries)
	}
	resp := &penstockv1.ListOffsetsResponse{}
	for _, query := range req.GetQueries() {
		result := &penstockv1.OffsetResult{Partition: query.GetPartition(), Offset: -1, TimestampMs: -1, LeaderEpoch: int32(model.NoLeaderEpoch)}
		tp, err := resolvePartition(t, query.GetPartition())
		if err == nil {
			err = s.lookUp(tp, query, result)
		}
		result.Error = wire.ErrorProto(withHint(image, RequestOf(ctx).Listener, tp, err))
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

func (s *consumerService) lookUp(tp model.TopicPartition, query *penstockv1.OffsetQuery, result *penstockv1.OffsetResult) error {
	spec, err := specOf(query)
	if err != nil {
		return err
	}
	found, err := s.client.Replicas.ListOffset(tp, spec, query.GetTimestampMs())
	if err != nil {
		return err
	}
	result.Offset, result.TimestampMs, result.LeaderEpoch = found.Offset, found.TimestampMs, int32(found.LeaderEpoch)
	if spec == replication.OffsetForTime && found.TimestampMs < 0 {
		result.Offset = -1
	}
	return nil
}

func specOf(query *penstockv1.OffsetQuery) (replication.OffsetSpec, error) {
	if _, ok := query.GetTarget().(*penstockv1.OffsetQuery_TimestampMs); ok {
		return replication.OffsetForTime, nil
	}
	switch query.GetPosition() {
	case penstockv1.OffsetPosition_OFFSET_POSITION_START:
		return replication.OffsetStart, nil
	case penstockv1.OffsetPosition_OFFSET_POSITION_END:
		return replication.OffsetEnd, nil
	case penstockv1.OffsetPosition_OFFSET_POSITION_LOG_END:
		return replication.OffsetLogEnd, nil
	case penstockv1.OffsetPosition_OFFSET_POSITION_UNSPECIFIED:
		return 0, model.Errorf(model.CodeInvalidRequest, "a look-up names neither position nor time")
	default:
		return 0, model.Errorf(model.CodeInvalidRequest, "position %d is not known", int32(query.GetPosition()))
	}
}

// FetchOnce reads several partitions once.
func (s *consumerService) FetchOnce(
	ctx context.Context, req *penstockv1.FetchOnceRequest,
) (*penstockv1.FetchOnceResponse, error) {
	if len(req.GetPartitions()) > maxQueries {
		return nil, model.Errorf(model.CodeInvalidRequest, "%d partitions in one request: use at most %d", len(req.GetPartitions()), maxQueries)
	}
	o := &onceFetch{service: s, plain: req.GetFormat() == penstockv1.FetchFormat_FETCH_FORMAT_RECORDS, wake: make(chan struct{}, 1)}
	o.budget = frameBytes(req.GetMaxBytes())
	defer o.close()
	defer o.drop()
	for i, asked := range req.GetPartitions() {
		sub, err := s.subscribe(ctx, asked)
		if err != nil {
			sub = &subscription{partition: asked.GetPartition(), offset: asked.GetOffset(), failed: err}
		}
		sub.id = uint64(i) + 1 //nolint:gosec // an index
		o.subs = append(o.subs, sub)
	}
	wait := min(time.Duration(req.GetMaxWaitMs())*time.Millisecond, maxFetchWait)
	if err := o.collect(ctx, int(req.GetMinBytes()), wait); err != nil {
		return nil, err
	}
	return o.response(), nil
}

// onceFetch is one FetchOnce.
type onceFetch struct {
	service *consumerService
	plain   bool
	budget  int // bytes that may still be read
	total   int
	subs    []*subscription
	wake    chan struct{}
	cancels []func()
}

// collect reads until there are minBytes, all ranges were read, a partition failed, nothing more fits, or the wait is over.
func (o *onceFetch) collect(ctx context.Context, minBytes int, wait time.Duration) error {
	timer := o.service.client.Clock.NewTimer(wait)
	defer timer.Stop()
	for {
		failed, open := false, false
		for _, sub := range o.subs {
			if sub.failed == nil && o.budget > 0 && !sub.over() {
				before := sub.heldBytes()
				if sub.failed = sub.readInTurn(ctx, o.budget); ctx.Err() != nil {
					return ctx.Err()
				}
				o.count(sub.heldBytes() - before)
			}
			failed, open = failed || sub.failed != nil, open || !sub.over()
		}
		if failed || !open || o.total >= minBytes || o.budget <= 0 || wait <= 0 {
			return nil
		}
		for _, sub := range o.subs {
			if !sub.over() { // a range that was read whole waits for nothing
				o.cancels = append(o.cancels, sub.reader.Notify(func() { token(o.wake) }))
			}
		}
		select {
		case <-o.wake:
			o.close()
		case <-timer.C():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-o.service.client.Group.Stopping():
			return stopping()
		}
	}
}

// count notes what was read: the budget is of all partitions together, and only the last one read may exceed it, by one batch.
func (o *onceFetch) count(bytes int) {
	o.budget -= bytes
	o.total += bytes
}

// drop frees what was read and not sent.
func (o *onceFetch) drop() {
	for _, sub := range o.subs {
		sub.drop()
	}
}

// close takes back the wake-ups.
func (o *onceFetch) close() {
	for _, cancel := range o.cancels {
		cancel()
	}
	o.cancels = o.cancels[:0]
}

func (o *onceFetch) response() *penstockv1.FetchOnceResponse {
	resp := &penstockv1.FetchOnceResponse{}
	for _, sub := range o.subs {
		frame := sub.frame(o.plain)
		frame.Head.Batches = frame.Payload.Materialize()
		frame.Free()
		resp.Partitions = append(resp.Partitions, &frame.Head)
	}
	return resp
}

func frameBytes(asked uint32) int {
	if asked == 0 {
		return defaultFrameBytes
	}
	return int(min(asked, maxFrameBytes))
}
