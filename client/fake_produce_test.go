package client

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/wire"
)

func (n *fakeNode) InitProducer(context.Context, *penstockv1.InitProducerRequest) (*penstockv1.InitProducerResponse, error) {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextPID++
	return &penstockv1.InitProducerResponse{ProducerId: c.nextPID, MaxInFlightBatches: 64}, nil
}

var errCut = errors.New("the fake cuts the stream")

// fakeAnswers sends what was decided, perhaps late and out of order.
type fakeAnswers struct {
	mu     sync.Mutex
	list   []func() *penstockv1.ProduceResponse
	wake   chan struct{}
	closed bool
}

func (a *fakeAnswers) add(f func() *penstockv1.ProduceResponse) {
	a.mu.Lock()
	a.list = append(a.list, f)
	a.mu.Unlock()
	signal(a.wake)
}

func (n *fakeNode) Produce(raw grpc.BidiStreamingServer[penstockv1.ProduceRequest, penstockv1.ProduceResponse]) error {
	stream := wire.ProduceServerStream{ServerStream: raw}
	answers := &fakeAnswers{wake: make(chan struct{}, 1)}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		n.answer(stream, answers)
	}()
	err := n.take(stream, answers)
	answers.mu.Lock()
	answers.closed = true
	answers.mu.Unlock()
	signal(answers.wake)
	if errors.Is(err, errCut) {
		return err
	}
	<-sent
	return err
}

func (n *fakeNode) take(stream wire.ProduceServerStream, answers *fakeAnswers) error {
	for {
		var m wire.ProduceRequest
		if err := stream.Recv(&m); err != nil {
			return err
		}
		respond, err := n.produce(&m)
		m.Free()
		if respond != nil {
			answers.add(respond)
		}
		if err != nil {
			return err
		}
	}
}

// answer sends answers until the stream has ended.
func (n *fakeNode) answer(stream wire.ProduceServerStream, answers *fakeAnswers) {
	c := n.cluster
	for {
		answers.mu.Lock()
		list, closed := answers.list, answers.closed
		answers.list = nil
		answers.mu.Unlock()
		if len(list) == 0 {
			if closed {
				return
			}
			<-answers.wake
			continue
		}
		c.mu.Lock()
		if c.faults.delayAnswers {
			c.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		}
		twice := c.hit("answered twice", c.faults.answerTwice)
		c.mu.Unlock()
		for _, f := range list {
			m := f()
			if m == nil {
				continue
			}
			if stream.Send(m) != nil || twice && stream.Send(m) != nil {
				return
			}
		}
	}
}

func failed(id uint64, err error) func() *penstockv1.ProduceResponse {
	m := &penstockv1.ProduceResponse{CorrelationId: id, Error: wire.ErrorProto(err)}
	return func() *penstockv1.ProduceResponse { return m }
}

// produce takes one batch; the error cuts the stream.
func (n *fakeNode) produce(m *wire.ProduceRequest) (func() *penstockv1.ProduceResponse, error) {
	c := n.cluster
	id := m.Head.GetCorrelationId()
	pieces := m.Payload.Bytes()
	header, err := record.Validate(pieces, record.Limits{})
	if err != nil {
		return failed(id, model.Errorf(model.CodeCorruptBatch, "%w", err)), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts["batches"]++
	if err := c.refusing[m.Head.GetTopic()]; err != nil {
		return failed(id, err), nil
	}
	if t := c.topics[m.Head.GetTopic()]; t != nil && c.hit("moved", c.faults.moveLeader) {
		c.move(t.partitions[c.rng.IntN(len(t.partitions))], int32(c.rng.IntN(len(c.nodes))+1))
	}
	p, err := n.find(m.Head.GetTopic(), m.Head.GetTopicId(), m.Head.GetPartition())
	if err != nil {
		return failed(id, err), nil
	}
	if c.hit("cut before", c.faults.cutBefore) {
		return nil, errCut
	}
	if c.hit("refused", c.faults.refuse) {
		return failed(id, model.Errorf(model.CodeNotEnoughReplicas, "too few")), nil
	}
	original, err := p.check(header)
	if err != nil {
		c.counts[model.CodeOf(err).String()]++
		return failed(id, err), nil
	}
	if original != nil {
		c.counts["duplicates"]++
		return p.receipt(c, id, *original, true), nil
	}
	header = p.append(c, header, &m.Payload)
	switch {
	case p.stalled:
		return nil, nil
	case c.hit("answer dropped", c.faults.dropAnswer):
		return nil, errCut
	case c.hit("unsure", c.faults.unsure):
		return failed(id, model.Errorf(model.CodeNotEnoughReplicasAfterAppend, "perhaps")), nil
	case m.Head.GetAcks() == penstockv1.Acks_ACKS_NONE:
		return nil, nil
	}
	return p.receipt(c, id, header, false), nil
}

func (p *fakePartition) append(c *fakeCluster, h record.Header, payload *wire.Payload) record.Header {
	h.BaseOffset, h.LeaderEpoch = p.end, p.epoch
	b := fakeBatch{header: h}
	if !c.discard {
		b.data = payload.Materialize()
		record.PutHead(b.data, h.BaseOffset, h.Length, h.LeaderEpoch)
		p.batches = append(p.batches, b)
	}
	p.end = h.NextOffset()
	p.noteProducer(h)
	return h
}

// receipt commits and acknowledges a batch at the time it is sent, unless it is gone by then.
func (p *fakePartition) receipt(c *fakeCluster, id uint64, h record.Header, duplicate bool) func() *penstockv1.ProduceResponse {
	epoch := p.epoch
	return func() *penstockv1.ProduceResponse {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p.epoch != epoch && p.committed < h.NextOffset() || p.end < h.NextOffset() {
			return nil // the next leader may not have it: nobody answers
		}
		if p.epoch != epoch {
			return &penstockv1.ProduceResponse{
				CorrelationId: id, Error: wire.ErrorProto(model.Errorf(model.CodeNotLeaderForPartition, "no longer")),
			}
		}
		p.committed = max(p.committed, h.NextOffset())
		return &penstockv1.ProduceResponse{CorrelationId: id, Receipt: &penstockv1.Receipt{
			BaseOffset: h.BaseOffset, Count: h.Count, LeaderEpoch: h.LeaderEpoch, AppendTimeMs: h.MaxTimestamp,
			Isr: 3, Acked: 2, Fsynced: 2, Duplicate: duplicate,
		}}
	}
}
