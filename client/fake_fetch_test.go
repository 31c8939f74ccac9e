package client

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/wire"
)

func (n *fakeNode) metadata(names []string) ([]*penstockv1.Broker, []*penstockv1.TopicMetadata) {
	c := n.cluster
	var brokers []*penstockv1.Broker
	for _, other := range c.nodes {
		brokers = append(brokers, &penstockv1.Broker{
			Id: other.id, Host: other.addr.IP.String(), Port: int32(other.addr.Port),
			State: penstockv1.BrokerState_BROKER_STATE_ONLINE,
		})
	}
	var topics []*penstockv1.TopicMetadata
	for _, name := range names {
		out := &penstockv1.TopicMetadata{Name: name}
		topics = append(topics, out)
		t := c.topics[name]
		if t == nil {
			out.Error = wire.ErrorProto(model.Errorf(model.CodeUnknownTopicOrPartition, "no %s", name))
			continue
		}
		out.TopicId = t.id.Bytes()
		for i, p := range t.partitions {
			if p.hidden {
				p = &fakePartition{leader: 1, epoch: 1}
			}
			out.Partitions = append(out.Partitions, &penstockv1.PartitionMetadata{
				Partition: int32(i), LeaderId: p.leader, LeaderEpoch: p.epoch, Replicas: []int32{1, 2, 3}, Isr: []int32{1, 2},
			})
		}
	}
	return brokers, topics
}

func (n *fakeNode) GetMetadata(_ context.Context, m *penstockv1.GetMetadataRequest) (*penstockv1.GetMetadataResponse, error) {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	brokers, topics := n.metadata(m.GetTopics())
	return &penstockv1.GetMetadataResponse{
		ClusterId: "fake", ControllerId: 1, MetadataOffset: c.offset, Brokers: brokers, Topics: topics,
	}, nil
}

func (n *fakeNode) WatchMetadata(
	m *penstockv1.WatchMetadataRequest, stream grpc.ServerStreamingServer[penstockv1.WatchMetadataResponse],
) error {
	c := n.cluster
	for {
		c.mu.Lock()
		brokers, topics := n.metadata(m.GetTopics())
		frame := &penstockv1.WatchMetadataResponse{MetadataOffset: c.offset, Brokers: brokers, Topics: topics}
		changed := c.changed
		c.mu.Unlock()
		if err := stream.Send(frame); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (n *fakeNode) ListOffsets(_ context.Context, m *penstockv1.ListOffsetsRequest) (*penstockv1.ListOffsetsResponse, error) {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &penstockv1.ListOffsetsResponse{}
	for _, q := range m.GetQueries() {
		r := &penstockv1.OffsetResult{Partition: q.GetPartition(), TimestampMs: -1}
		out.Results = append(out.Results, r)
		p, err := n.find(m.GetTopic(), m.GetTopicId(), q.GetPartition())
		if err != nil {
			r.Error = wire.ErrorProto(err)
			continue
		}
		r.LeaderEpoch = p.epoch
		switch target := q.GetTarget().(type) {
		case *penstockv1.OffsetQuery_Position:
			switch target.Position {
			case penstockv1.OffsetPosition_OFFSET_POSITION_START:
			case penstockv1.OffsetPosition_OFFSET_POSITION_END:
				r.Offset = p.committed
			default:
				r.Offset = p.end
			}
		case *penstockv1.OffsetQuery_TimestampMs:
			r.Offset = -1
			for _, b := range p.batches {
				if b.header.MaxTimestamp >= target.TimestampMs {
					r.Offset = b.header.BaseOffset
					break
				}
			}
		}
	}
	return out, nil
}

// fakeSub is a subscription of a fake fetch stream.
type fakeSub struct {
	m    *penstockv1.FetchSubscribe
	next int64
}

func (n *fakeNode) Fetch(raw grpc.BidiStreamingServer[penstockv1.FetchRequest, penstockv1.FetchResponse]) error {
	stream := wire.FetchServerStream{ServerStream: raw}
	commands := make(chan *penstockv1.FetchRequest)
	go func() {
		defer close(commands)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case commands <- m:
			case <-raw.Context().Done():
				return
			}
		}
	}()
	subs := map[uint64]*fakeSub{}
	credit := 0
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case m, ok := <-commands:
			if !ok {
				return nil
			}
			switch cmd := m.GetCommand().(type) {
			case *penstockv1.FetchRequest_Open:
				credit = int(cmd.Open.GetCreditBytes())
			case *penstockv1.FetchRequest_Credit:
				credit += int(cmd.Credit.GetBytes())
			case *penstockv1.FetchRequest_Subscribe:
				subs[cmd.Subscribe.GetSubscriptionId()] = &fakeSub{cmd.Subscribe, cmd.Subscribe.GetOffset()}
			case *penstockv1.FetchRequest_Unsubscribe:
				delete(subs, cmd.Unsubscribe.GetSubscriptionId())
			}
		case <-tick.C:
		case <-raw.Context().Done():
			return raw.Context().Err()
		}
		for id, sub := range subs {
			for credit > 0 {
				frame, over, cut := n.frame(sub)
				if frame == nil {
					break
				}
				credit -= frame.Payload.Len()
				if err := stream.Send(frame); err != nil {
					return err
				}
				if cut {
					return errCut
				}
				if over {
					delete(subs, id)
					break
				}
			}
		}
	}
}

// frame returns the next frame of a subscription; nil where there is nothing to send.
func (n *fakeNode) frame(sub *fakeSub) (m *wire.FetchResponse, over, cut bool) {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	m = &wire.FetchResponse{Head: penstockv1.FetchResponse{
		SubscriptionId: sub.m.GetSubscriptionId(), Partition: sub.m.GetPartition(), NextOffset: sub.next,
	}}
	p, err := n.find(sub.m.GetTopic(), sub.m.GetTopicId(), sub.m.GetPartition())
	if err == nil && sub.next > p.end {
		err = model.Errorf(model.CodeOffsetOutOfRange, "%d is above %d", sub.next, p.end)
	}
	if err != nil {
		m.Head.Error = wire.ErrorProto(err)
		return m, true, false
	}
	if t := c.topics[sub.m.GetTopic()]; c.hit("moved", c.faults.moveLeader) {
		c.move(t.partitions[c.rng.IntN(len(t.partitions))], int32(c.rng.IntN(len(c.nodes))+1))
	}
	m.Head.HighWatermark, m.Head.LeaderEpoch = p.committed, p.epoch
	var data [][]byte
	for _, b := range p.batches {
		if b.header.NextOffset() <= sub.next || b.header.NextOffset() > p.committed || len(data) >= 3 {
			continue
		}
		data = append(data, b.data)
		sub.next = b.header.NextOffset()
	}
	m.Payload = wire.NewPayload(data...)
	m.Head.NextOffset = sub.next
	if end := sub.m.EndOffset; end != nil && sub.next >= *end {
		m.Head.EndOfRange, over = true, true
	}
	if len(data) == 0 && !over {
		return nil, false, false
	}
	return m, over, c.hit("fetch cut", c.faults.cutFetch)
}

func (n *fakeNode) CreateTopic(_ context.Context, m *penstockv1.CreateTopicRequest) (*penstockv1.CreateTopicResponse, error) {
	c := n.cluster
	c.mu.Lock()
	exists := c.topics[m.GetName()] != nil
	c.mu.Unlock()
	if exists {
		return nil, model.Errorf(model.CodeTopicAlreadyExists, "topic %q exists", m.GetName())
	}
	t := c.addTopic(m.GetName(), int(m.GetPartitions()))
	out := &penstockv1.TopicMetadata{Name: t.name, TopicId: t.id.Bytes()}
	for i := range t.partitions {
		out.Partitions = append(out.Partitions, &penstockv1.PartitionMetadata{Partition: int32(i), LeaderId: 1})
	}
	return &penstockv1.CreateTopicResponse{Topic: out}, nil
}

func (n *fakeNode) DeleteTopic(_ context.Context, m *penstockv1.DeleteTopicRequest) (*penstockv1.DeleteTopicResponse, error) {
	c := n.cluster
	c.mu.Lock()
	t := c.topics[m.GetName()]
	c.mu.Unlock()
	if t == nil {
		return nil, model.Errorf(model.CodeUnknownTopicOrPartition, "no topic %q", m.GetName())
	}
	c.removeTopic(m.GetName())
	return &penstockv1.DeleteTopicResponse{TopicId: t.id.Bytes()}, nil
}
