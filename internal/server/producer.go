package server

import (
	"context"
	"errors"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/wire"
)

const (
	// maxInFlightBatches is how many batches a partition a producer may have in flight and still be deduplicated (R12).
	maxInFlightBatches = 64
	// defaultProduceTimeout is how long a batch waits for its acknowledgement where the client does not say.
	defaultProduceTimeout = 30 * time.Second
	// maxProduceTimeout bounds what a client may say.
	maxProduceTimeout = 10 * time.Minute
)

// producerService is penstock.v1.ProducerService.
type producerService struct {
	penstockv1.UnimplementedProducerServiceServer
	client *Client
}

// InitProducer hands out a producer id.
func (s *producerService) InitProducer(
	ctx context.Context, _ *penstockv1.InitProducerRequest,
) (*penstockv1.InitProducerResponse, error) {
	if err := Authorize(ctx, OperationWrite, cluster()); err != nil {
		return nil, err
	}
	id, err := s.client.ProducerIDs.Next(ctx)
	if err != nil {
		return nil, err
	}
	return &penstockv1.InitProducerResponse{ProducerId: int64(id), MaxInFlightBatches: maxInFlightBatches}, nil
}

// ProduceOnce appends one batch; errors come as the status of the call.
func (s *producerService) ProduceOnce(ctx context.Context, head *penstockv1.ProduceRequest) (*penstockv1.ProduceResponse, error) {
	payload := wire.NewPayload(head.GetBatch())
	head.Batch = nil
	type outcome struct {
		receipt *penstockv1.Receipt
		err     error
	}
	done := make(chan outcome, 1)
	s.produce(ctx, head, payload, func(receipt *penstockv1.Receipt, err error) { done <- outcome{receipt, err} })
	select {
	case o := <-done:
		if o.err != nil {
			return nil, o.err
		}
		return &penstockv1.ProduceResponse{CorrelationId: head.GetCorrelationId(), Receipt: o.receipt}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// produce checks a request, hands its batch to replication, and calls done once with the outcome, perhaps before it returns.
// It takes over the reference to payload.
func (s *producerService) produce(
	ctx context.Context, head *penstockv1.ProduceRequest, payload wire.Payload, done func(*penstockv1.Receipt, error),
) {
	a := appender{client: s.client, listener: RequestOf(ctx).Listener, done: done, began: s.client.Clock.Now()}
	if err := a.prepare(ctx, head, payload); err != nil {
		a.request.Release()
		a.finish(replication.Receipt{}, err)
		return
	}
	s.client.Replicas.Append(a.request)
}

// appender is one batch on its way down.
type appender struct {
	client   *Client
	listener string
	done     func(*penstockv1.Receipt, error)
	began    time.Time // when the batch had been received
	request  replication.AppendRequest
}

// prepare fills the request; its Release is set in any case.
func (a *appender) prepare(ctx context.Context, head *penstockv1.ProduceRequest, payload wire.Payload) error {
	a.request.Release = payload.Free
	image := a.client.Cache.Image()
	t, err := resolveTopic(image, head.GetTopic(), head.GetTopicId())
	if err != nil {
		return err
	}
	if err := Authorize(ctx, OperationWrite, topic(t.Name)); err != nil {
		return err
	}
	if model.IsInternalTopic(t.Name) {
		return model.Errorf(model.CodeInvalidTopic, "topic %q belongs to Penstock itself: clients do not write to it", t.Name)
	}
	if a.request.TP, err = resolvePartition(t, head.GetPartition()); err != nil {
		return err
	}
	if a.request.Acks, err = acksOf(head.GetAcks()); err != nil {
		return err
	}
	if err := a.leads(t); err != nil {
		return err
	}
	if err := a.batch(ctx, t, head, payload); err != nil {
		return err
	}
	a.request.LeaderEpoch = model.NoLeaderEpoch
	a.request.Deadline = a.began.Add(timeoutOf(head.GetTimeoutMs()))
	a.request.Done = a.finish
	return nil
}

// leads refuses early, with a hint, what another broker leads: the client shall not wait for a check of its bytes.
func (a *appender) leads(t *metadata.Topic) error {
	_, err := a.client.Replicas.ListOffset(a.request.TP, replication.OffsetStart, 0)
	if err != nil && model.IsCode(err, model.CodeNotLeaderForPartition) {
		if p, ok := t.Partition(a.request.TP.Partition); ok && p.Leader == model.NoNode {
			return model.Errorf(model.CodeLeaderNotAvailable, "partition %d of topic %q has no leader at the moment: %w",
				a.request.TP.Partition, t.Name, err)
		}
	}
	return err
}

func acksOf(acks penstockv1.Acks) (replication.Acks, error) {
	switch acks {
	case penstockv1.Acks_ACKS_UNSPECIFIED, penstockv1.Acks_ACKS_ALL:
		return replication.AcksAll, nil
	case penstockv1.Acks_ACKS_LEADER:
		return replication.AcksLeader, nil
	case penstockv1.Acks_ACKS_NONE:
		return replication.AcksNone, nil
	default:
		return 0, model.Errorf(model.CodeInvalidRequiredAcks, "acks is %d: use none, leader or all", int32(acks))
	}
}

func timeoutOf(ms uint32) time.Duration {
	if ms == 0 {
		return defaultProduceTimeout
	}
	return min(time.Duration(ms)*time.Millisecond, maxProduceTimeout)
}

// batch checks the batch, or makes one of plain records.
func (a *appender) batch(ctx context.Context, t *metadata.Topic, head *penstockv1.ProduceRequest, payload wire.Payload) (err error) {
	settings := t.Settings()
	limits := record.Limits{MaxBytes: settings.MaxMessageBytes}
	plain := len(head.GetRecords()) > 0
	switch {
	case plain && payload.Len() > 0:
		return model.Errorf(model.CodeInvalidRequest, "the request has plain records and a batch: send one of them")
	case plain:
		codec, err := codecOf(head.GetCompression())
		if err != nil {
			return err
		}
		if settings.CompressionType != metadata.CompressionProducer {
			codec = record.None // open compresses
		}
		encoded, err := encode(head.GetRecords(), codec, limits.MaxBytes, a.client.Clock.Now())
		if err != nil {
			return err
		}
		a.request.Batch = [][]byte{encoded}
	case payload.Len() == 0:
		return model.Errorf(model.CodeInvalidRequest, "the request has no records: set records, or batch")
	default:
		a.request.Batch = payload.Bytes()
	}
	if a.request.Header, err = record.Validate(a.request.Batch, limits); err != nil {
		return batchError(err)
	}
	return a.open(ctx, &settings, limits)
}

// batchError gives what is wrong with a batch its code.
func batchError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, record.ErrTooLarge):
		return model.Errorf(model.CodeBatchTooLarge, "%w", err)
	case errors.Is(err, record.ErrUnknownCodec):
		return model.Errorf(model.CodeUnsupportedCompression, "%w", err)
	case errors.Is(err, record.ErrInvalidRecord):
		return model.Errorf(model.CodeInvalidRecord, "%w", err)
	default:
		return model.Errorf(model.CodeCorruptBatch, "%w", err)
	}
}

// finish is called once with the outcome.
func (a *appender) finish(r replication.Receipt, err error) {
	a.client.Metrics.produced(a.request.Acks, a.began, err)
	if err != nil {
		a.done(nil, a.outcome(err))
		return
	}
	//nolint:gosec // counts of replicas
	a.done(&penstockv1.Receipt{
		Partition: r.Partition, BaseOffset: r.BaseOffset, Count: r.Count, LeaderEpoch: int32(r.LeaderEpoch),
		AppendTimeMs: r.AppendTimeMs, Isr: int32(r.ISR), Acked: int32(r.Acked), Fsynced: int32(r.FSynced),
		Duplicate: r.Duplicate,
	}, nil)
}

// outcome adds the leader hint, and says so where the batch may yet be committed.
func (a *appender) outcome(err error) error {
	hinted := withHint(a.client.Cache.Image(), a.listener, a.request.TP, err)
	var indefinite *replication.IndefiniteError
	if !errors.As(err, &indefinite) {
		return hinted
	}
	proto := wire.ErrorProto(hinted)
	proto.Definite = false
	return wire.FromProto(proto)
}
