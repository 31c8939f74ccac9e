package replication

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/wire"
)

// serverStream is the leader's side of one replica stream: one goroutine receives, the caller of ServeReplica sends.
type serverStream struct {
	m        *Manager
	stream   ReplicaServerStream
	follower model.NodeID
	epoch    model.BrokerEpoch
	credit   int64
	wake     chan struct{} // one token

	mu       sync.Mutex
	subs     map[uint64]*serverSub
	answers  []*wire.ReplicateResponse // refusals, sent first
	ready    []*serverSub
	blocked  []*serverSub // wait for credit of the stream
	underWay int64
}

// serverSub is one subscription. All but the constants is guarded by its stream's mu.
type serverSub struct {
	stream      *serverStream
	p           *partition
	id          uint64
	leaderEpoch model.LeaderEpoch
	queued      bool
	dropped     bool
	underWay    int64
}

// olderThan says whether a subscription of that id on stream s takes this one's place: both are of one follower, and this one
// is of an earlier incarnation or id. One that was overtaken on its way, on another stream, takes nobody's.
func (sub *serverSub) olderThan(s *serverStream, id uint64) bool {
	have := sub.stream
	return have.follower == s.follower && (have.epoch < s.epoch || (have.epoch == s.epoch && sub.id <= id))
}

// current says whether the subscription is still the follower's: another incarnation may have chosen the same id. The
// caller holds the partition's mu.
func (sub *serverSub) current() bool { return slices.Contains(sub.p.subs, sub) }

// ServeReplica serves a follower's stream until it ends, ctx is done or the manager stops. The first request must carry
// hello. It is called by the service on the peer listener, which has checked that the caller belongs to the cluster.
func (m *Manager) ServeReplica(ctx context.Context, stream ReplicaServerStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s, err := m.greet(stream, first.GetHello())
	if err != nil {
		return err
	}
	m.mu.RLock()
	group := m.group
	m.mu.RUnlock()
	if group == nil {
		return model.Errorf(model.CodeBrokerNotAvailable, "broker %d is starting; retry", m.opts.NodeID)
	}
	ended := make(chan error, 1)
	started := group.Go("replica-receiver", func(context.Context) error {
		ended <- s.receive(first)
		return nil
	})
	if !started {
		return model.Errorf(model.CodeShuttingDown, "broker %d is stopping", m.opts.NodeID)
	}
	defer s.close()
	return s.send(ctx, group.Context(), ended)
}

// greet checks who is speaking.
func (m *Manager) greet(stream ReplicaServerStream, hello *internalv1.ReplicaHello) (*serverStream, error) {
	m.mu.RLock()
	image := m.image
	m.mu.RUnlock()
	follower := model.NodeID(hello.GetBrokerId())
	clusterID, err := model.UUIDFromBytes(hello.GetClusterId())
	switch {
	case hello == nil || err != nil:
		return nil, model.Errorf(model.CodeInvalidRequest, "the first request of a replica stream must carry a hello with a cluster id")
	case !image.ClusterID().IsZero() && clusterID != image.ClusterID():
		return nil, model.Errorf(model.CodeInconsistentClusterID, "broker %d belongs to cluster %s, the follower to %s",
			m.opts.NodeID, image.ClusterID(), clusterID)
	case model.NodeID(hello.GetLeaderId()) != m.opts.NodeID:
		return nil, model.Errorf(model.CodeInvalidRequest, "the follower wants broker %d, this is %d", hello.GetLeaderId(), m.opts.NodeID)
	}
	if b, ok := image.Broker(follower); ok && model.BrokerEpoch(hello.GetBrokerEpoch()) < b.Epoch {
		return nil, model.Errorf(model.CodeStaleBrokerEpoch, "broker %d has registered anew in epoch %d, the stream is of epoch %d",
			follower, b.Epoch, hello.GetBrokerEpoch())
	}
	credit := int64(min(hello.GetCreditBytes(), 1<<40)) //nolint:gosec // bounded
	return &serverStream{
		m: m, stream: stream, follower: follower, epoch: model.BrokerEpoch(hello.GetBrokerEpoch()), credit: max(credit, 1),
		wake: make(chan struct{}, 1), subs: map[uint64]*serverSub{},
	}, nil
}

// receive takes requests until the stream ends. It runs beside send.
func (s *serverStream) receive(req *internalv1.ReplicateRequest) error {
	for {
		for _, id := range req.GetUnsubscribe() {
			s.unsubscribe(id)
		}
		for _, bad := range req.GetBadFrames() {
			s.badFrame(bad)
		}
		for _, sub := range req.GetSubscribe() {
			s.subscribe(sub)
		}
		for _, ack := range req.GetAcks() {
			s.ack(ack)
		}
		var err error
		if req, err = s.stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func (s *serverStream) find(id uint64) *serverSub {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.subs[id]
}

func (s *serverStream) unsubscribe(id uint64) {
	sub := s.find(id)
	if sub == nil {
		return
	}
	sub.p.mu.Lock()
	defer sub.p.mu.Unlock()
	s.forget(sub)
}

// badFrame ends a subscription whose follower was sent bad batches, and has the log looked at there.
func (s *serverStream) badFrame(bad *internalv1.BadFrame) {
	sub := s.find(bad.GetSubscriptionId())
	if sub == nil || sub.leaderEpoch != model.LeaderEpoch(bad.GetLeaderEpoch()) {
		return
	}
	s.m.opts.Logger.Warn("a follower was sent bad batches", "partition", sub.p.tp.String(), "follower", s.follower, "offset", bad.GetOffset())
	s.unsubscribe(bad.GetSubscriptionId())
	s.m.suspicions.add(suspicion{p: sub.p, offset: bad.GetOffset(), by: FoundByFollower})
}

// forget ends a subscription. The caller holds the partition's mu.
func (s *serverStream) forget(sub *serverSub) {
	if sub.current() {
		sub.p.replica.FollowerGone(s.follower, sub.id)
	}
	sub.p.subs = slices.DeleteFunc(sub.p.subs, func(have *serverSub) bool { return have == sub })
	s.drop(sub)
}

// drop takes a subscription off the stream; its bytes under way count no more.
func (s *serverStream) drop(sub *serverSub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.dropped {
		return
	}
	sub.dropped = true
	delete(s.subs, sub.id)
	s.returnCredit(sub.underWay)
	sub.underWay = 0
}

// returnCredit gives bytes back and lets those that waited for them go on. The caller holds s.mu.
func (s *serverStream) returnCredit(bytes int64) {
	s.underWay -= bytes
	if s.underWay >= s.credit || len(s.blocked) == 0 {
		return
	}
	for i, sub := range s.blocked {
		s.enqueue(sub)
		s.blocked[i] = nil
	}
	s.blocked = s.blocked[:0]
}

// enqueue puts a subscription into the sender's queue. The caller holds s.mu.
func (s *serverStream) enqueue(sub *serverSub) {
	if sub.queued || sub.dropped {
		return
	}
	sub.queued = true
	s.ready = append(s.ready, sub)
	signal(s.wake)
}

// markReady lets the sender look at a subscription. The caller may hold the partition's mu.
func (s *serverStream) markReady(sub *serverSub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enqueue(sub)
}

// signal puts the token into a wake channel unless it is there.
func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

func (s *serverStream) subscribe(req *internalv1.ReplicaSubscribe) {
	topicID, err := model.UUIDFromBytes(req.GetTopicId())
	tp := model.TopicPartition{TopicID: topicID, Partition: req.GetPartition()}
	var p *partition
	if err == nil {
		p, err = s.m.lookup(tp)
	}
	if err != nil {
		typed := asModelError(err)
		s.answer(req.GetSubscriptionId(), model.LeaderEpoch(req.GetLeaderEpoch()), core.SubscribeAnswer{Code: typed.Code, Detail: typed.Detail})
		return
	}
	sub := core.Subscribe{
		SubscriptionID: req.GetSubscriptionId(), Follower: s.follower, FollowerEpoch: s.epoch,
		LeaderEpoch: model.LeaderEpoch(req.GetLeaderEpoch()), FetchOffset: req.GetFetchOffset(),
		LastFetchedEpoch: model.LeaderEpoch(req.GetLastFetchedEpoch()), DurableEnd: req.GetDurableEnd(),
		Credit: max(1, int64(min(req.GetCreditBytes(), 1<<40))), //nolint:gosec // bounded
	}
	answered := false
	s.m.run(p, func(*effects) core.Output {
		answered = true
		answer, out := p.replica.FollowerSubscribed(sub, s.m.now())
		for _, old := range slices.Clone(p.subs) {
			if old.olderThan(s, sub.SubscriptionID) {
				p.subs = slices.DeleteFunc(p.subs, func(have *serverSub) bool { return have == old })
				old.stream.drop(old)
			}
		}
		if answer.Code != model.CodeNone || answer.Diverging {
			s.answer(sub.SubscriptionID, sub.LeaderEpoch, answer)
			return out
		}
		s.open(&serverSub{stream: s, p: p, id: sub.SubscriptionID, leaderEpoch: sub.LeaderEpoch})
		return out
	})
	if !answered {
		s.answer(sub.SubscriptionID, sub.LeaderEpoch, core.SubscribeAnswer{Code: model.CodeUnknownTopicID, Detail: "the topic was deleted"})
	}
}

// open notes a subscription that was admitted. The caller holds the partition's mu.
func (s *serverStream) open(sub *serverSub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs == nil { // the stream was closed meanwhile
		sub.dropped = true
		sub.p.replica.FollowerGone(s.follower, sub.id)
		return
	}
	s.subs[sub.id] = sub
	sub.p.subs = append(sub.p.subs, sub)
}

// answer queues a refusal. The caller may hold the partition's mu.
func (s *serverStream) answer(id uint64, epoch model.LeaderEpoch, answer core.SubscribeAnswer) {
	frame := &wire.ReplicateResponse{}
	frame.Head.SubscriptionId, frame.Head.LeaderEpoch = id, int32(epoch)
	frame.Head.LogStartOffset = answer.LogStart
	frame.Head.ErrorCode, frame.Head.Message = int32(answer.Code), answer.Detail
	if answer.Diverging {
		frame.Head.Diverging = &internalv1.DivergingEpoch{Epoch: int32(answer.DivergingEpoch), EndOffset: answer.DivergingEnd}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, frame)
	signal(s.wake)
}

func (s *serverStream) ack(ack *internalv1.ReplicaAck) {
	sub := s.find(ack.GetSubscriptionId())
	if sub == nil {
		return
	}
	consumed := int64(min(ack.GetConsumedBytes(), 1<<40)) //nolint:gosec // bounded
	s.mu.Lock()
	consumed = min(consumed, sub.underWay)
	sub.underWay -= consumed
	s.returnCredit(consumed)
	s.mu.Unlock()
	in := core.Ack{
		SubscriptionID: sub.id, LeaderEpoch: model.LeaderEpoch(ack.GetLeaderEpoch()), LogEnd: ack.GetLogEndOffset(),
		DurableEnd: ack.GetDurableEnd(), Consumed: consumed,
	}
	s.m.run(sub.p, func(*effects) core.Output {
		if !sub.current() {
			return core.Output{}
		}
		return sub.p.replica.FollowerAcked(s.follower, in, s.m.now())
	})
}

// send sends until the stream ends.
func (s *serverStream) send(ctx, stop context.Context, ended <-chan error) error {
	for {
		for {
			answers, sub := s.next()
			for _, frame := range answers {
				if err := s.stream.Send(frame); err != nil {
					return err
				}
			}
			if sub == nil {
				break
			}
			if err := s.sendFrame(sub); err != nil {
				return err
			}
		}
		select {
		case <-s.wake:
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-stop.Done():
			return model.Errorf(model.CodeShuttingDown, "broker %d is stopping", s.m.opts.NodeID)
		}
	}
}

// next takes what is to be sent: all refusals, and one subscription.
func (s *serverStream) next() (answers []*wire.ReplicateResponse, sub *serverSub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answers, s.answers = s.answers, nil
	for len(s.ready) > 0 && sub == nil {
		sub = s.ready[0]
		s.ready[0] = nil
		s.ready = s.ready[1:]
		sub.queued = false
		if sub.dropped {
			sub = nil
		}
	}
	return answers, sub
}

// sendFrame sends the next frame of a subscription, if it has any, and queues it again when there may be more.
func (s *serverStream) sendFrame(sub *serverSub) error {
	s.mu.Lock()
	budget := min(s.m.opts.FrameBytes, s.credit-s.underWay)
	if budget <= 0 {
		s.blocked = append(s.blocked, sub)
	}
	s.mu.Unlock()
	p := sub.p
	p.mu.Lock()
	var order core.FrameOrder
	ok := sub.current()
	if ok {
		order, ok = p.replica.NextFrame(s.follower, sub.id, budget)
	}
	p.mu.Unlock()
	if !ok {
		return nil
	}
	frame := &wire.ReplicateResponse{}
	frame.Head.SubscriptionId, frame.Head.LeaderEpoch = order.SubscriptionID, int32(order.LeaderEpoch)
	frame.Head.HighWatermark, frame.Head.LogStartOffset = order.HighWatermark, order.LogStart
	frame.Head.BaseOffset = order.From
	if order.Data {
		if !s.fill(sub, order, frame) {
			return nil
		}
		s.markReady(sub)
	}
	err := s.stream.Send(frame)
	frame.Free()
	return err
}

// fill reads the batches of a frame and notes them as under way before they are sent: the acknowledgement may come
// sooner than Send returns. It answers false when there is nothing to send.
func (s *serverStream) fill(sub *serverSub, order core.FrameOrder, frame *wire.ReplicateResponse) bool {
	p := sub.p
	payload, buf := s.m.opts.Pool.Alloc(int(order.MaxBytes))
	read, err := p.log.Read(order.From, len(buf), order.UpTo, buf)
	if err != nil || len(read.Data) == 0 {
		payload.Free()
		if err != nil {
			s.m.opts.Logger.Warn("reading for a follower failed", "partition", p.tp.String(), "follower", s.follower, "error", err)
			s.m.suspect(p, order.From, err, FoundByFollower)
			s.refuse(sub, order, asModelError(err))
		}
		return false
	}
	frame.Payload = payload.Part(read.Data)
	// A compacted log has gaps: what the follower checks is that nothing was lost on the way.
	frame.Head.BaseOffset = min(order.From, read.FirstOffset)
	bytes := int64(len(read.Data))
	p.mu.Lock()
	current := sub.current()
	if current {
		p.replica.Sent(s.follower, sub.id, read.NextOffset, bytes)
	}
	p.mu.Unlock()
	if !current {
		// The leadership may be over, and the log cut and written by the next leader: under the old epoch's name a follower
		// that has not heard of it would take in records beside its own of that epoch, and never find out.
		frame.Free()
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m.metrics.sentBytes.Add(float64(bytes))
	if !sub.dropped {
		sub.underWay += bytes
		s.underWay += bytes
	}
	return true
}

// refuse ends a subscription with an error.
func (s *serverStream) refuse(sub *serverSub, order core.FrameOrder, err *model.Error) {
	sub.p.mu.Lock()
	s.forget(sub)
	sub.p.mu.Unlock()
	s.answer(sub.id, order.LeaderEpoch, core.SubscribeAnswer{Code: err.Code, Detail: err.Detail, LogStart: order.LogStart})
}

// close ends all subscriptions of the stream.
func (s *serverStream) close() {
	s.mu.Lock()
	subs := s.subs
	s.subs = nil
	s.mu.Unlock()
	for _, sub := range subs {
		sub.p.mu.Lock()
		s.forget(sub)
		sub.p.mu.Unlock()
	}
}
