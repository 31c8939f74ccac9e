package replication

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
	"github.com/penstock-io/penstock/internal/wire"
)

// fetcherKey names a replica stream: in-sync traffic and catch-up go apart.
type fetcherKey struct {
	leader  model.NodeID
	catchUp bool
}

// fetcher keeps one replica stream to a leader broker as long as any partition follows it.
type fetcher struct {
	m    *Manager
	key  fetcherKey
	wake chan struct{} // one token

	mu     sync.Mutex
	parts  map[*partition]*fetchState
	subs   map[uint64]*partition // of the present stream
	ready  []*partition
	unsubs []uint64
	bad    []*internalv1.BadFrame // to be told to the leader
}

// fetchState is what a fetcher knows of a partition.
type fetchState struct {
	queued bool
	subID  uint64 // the last one sent; 0 for none
}

const (
	fetchBackoffMin = 50 * time.Millisecond
	fetchBackoffMax = time.Second
)

// assign gives a partition to the fetcher of its leader, or to none. The caller holds p.mu.
func (m *Manager) assign(p *partition, inSync bool, fx *effects) {
	var key fetcherKey
	if p.replica.Role() == core.RoleFollower {
		key = fetcherKey{leader: p.replica.Leader(), catchUp: !inSync}
		if p.fetcher != nil && p.fetcher.key == key {
			fx.fetch = p.fetcher
			return
		}
	}
	if p.fetcher != nil {
		if id := p.fetcher.remove(p); id != 0 {
			p.replica.StreamLost(id, m.now())
		}
		p.fetcher = nil
	}
	if p.replica.Role() == core.RoleFollower {
		p.fetcher = m.fetcherFor(key, p)
		fx.fetch = p.fetcher
	}
}

// fetcherFor adds p to the fetcher of key, which is started where there is none.
func (m *Manager) fetcherFor(key fetcherKey, p *partition) *fetcher {
	m.fetchMu.Lock()
	defer m.fetchMu.Unlock()
	f := m.fetchers[key]
	if f == nil {
		f = &fetcher{
			m: m, key: key, wake: make(chan struct{}, 1), parts: map[*partition]*fetchState{}, subs: map[uint64]*partition{},
		}
		m.fetchers[key] = f
		if m.group != nil {
			m.group.Go("fetcher", f.run)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parts[p] = &fetchState{}
	signal(f.wake)
	return f
}

// remove takes a partition off and returns the id of its last subscription.
func (f *fetcher) remove(p *partition) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.parts[p]
	if state == nil {
		return 0
	}
	delete(f.parts, p)
	if f.subs[state.subID] == p {
		delete(f.subs, state.subID)
		f.unsubs = append(f.unsubs, state.subID)
	}
	signal(f.wake)
	return state.subID
}

// unsubscribe drops the subscription of a partition that stays with the fetcher. The caller may hold p.mu.
func (f *fetcher) unsubscribe(p *partition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.parts[p]
	if state == nil || f.subs[state.subID] != p {
		return
	}
	delete(f.subs, state.subID)
	f.unsubs = append(f.unsubs, state.subID)
	signal(f.wake)
}

// markReady lets the sender look at a partition. The caller may hold p.mu.
func (f *fetcher) markReady(p *partition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state := f.parts[p]; state != nil && !state.queued {
		state.queued = true
		f.ready = append(f.ready, p)
		signal(f.wake)
	}
}

// retire ends a fetcher that has no partitions left.
func (f *fetcher) retire() bool {
	f.m.fetchMu.Lock()
	defer f.m.fetchMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.parts) > 0 {
		return false
	}
	delete(f.m.fetchers, f.key)
	return true
}

// run keeps the stream up.
func (f *fetcher) run(ctx context.Context) error {
	backoff := fetchBackoffMin
	for ctx.Err() == nil && !f.retire() {
		began := f.m.now()
		err := f.session(ctx)
		f.lost()
		if err == nil || ctx.Err() != nil {
			backoff = fetchBackoffMin
			continue
		}
		if f.m.now()-began > fetchBackoffMax {
			backoff = fetchBackoffMin
		}
		f.m.opts.Logger.Debug("replica stream ended", "leader", f.key.leader, "catch_up", f.key.catchUp, "error", err, "retry_in", backoff)
		if err := lifecycle.Sleep(ctx, f.m.opts.Clock, backoff); err != nil {
			return nil //nolint:nilerr // told to stop
		}
		backoff = min(2*backoff, fetchBackoffMax)
	}
	return nil
}

// session opens a stream and serves it until it ends, or nil when no partition is left.
func (f *fetcher) session(ctx context.Context) error {
	f.m.mu.RLock()
	image, epoch := f.m.image, f.m.brokerEpoch
	f.m.mu.RUnlock()
	leader, ok := image.Broker(f.key.leader)
	if !ok {
		return model.Errorf(model.CodeBrokerIDNotRegistered, "no broker %d is registered", f.key.leader)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := f.m.opts.Endpoint.OpenReplicaStream(ctx, leader, &internalv1.ReplicaHello{
		ClusterId: image.ClusterID().Bytes(), BrokerId: int32(f.m.opts.NodeID), BrokerEpoch: int64(epoch),
		LeaderId: int32(f.key.leader), CreditBytes: uint64(f.m.opts.StreamCreditBytes), CatchUp: f.key.catchUp, //nolint:gosec // positive
	})
	if err != nil {
		cancel()
		return err
	}
	ended := make(chan error, 1)
	if !f.m.group.Go("fetch-receiver", func(context.Context) error {
		ended <- f.receive(stream)
		cancel()
		return nil
	}) {
		cancel()
		return context.Canceled
	}
	idle, err := f.send(ctx, stream)
	cancel()
	if received := <-ended; !idle {
		err = errors.Join(err, received)
	}
	return err
}

// send sends subscriptions and acknowledgements until the stream ends, or, then idle is true, no partition is left.
func (f *fetcher) send(ctx context.Context, stream ReplicaStream) (idle bool, err error) {
	f.mu.Lock()
	f.ready = f.ready[:0]
	for p, state := range f.parts {
		state.queued = true
		f.ready = append(f.ready, p)
	}
	f.unsubs, f.bad = nil, nil
	f.mu.Unlock()
	var spare []*partition
	for {
		f.mu.Lock()
		ready := f.ready
		f.ready = spare[:0]
		for _, p := range ready {
			if state := f.parts[p]; state != nil {
				state.queued = false
			}
		}
		req := &internalv1.ReplicateRequest{Unsubscribe: f.unsubs, BadFrames: f.bad}
		f.unsubs, f.bad = nil, nil
		empty := len(f.parts) == 0
		f.mu.Unlock()
		for i, p := range ready {
			f.collect(p, req)
			ready[i] = nil
		}
		spare = ready
		if len(req.Subscribe)+len(req.Acks)+len(req.Unsubscribe)+len(req.BadFrames) > 0 {
			if err := stream.Send(req); err != nil {
				return false, err
			}
			continue
		}
		if empty {
			return true, nil
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return false, nil
		}
	}
}

// collect adds what a partition has to say.
func (f *fetcher) collect(p *partition, req *internalv1.ReplicateRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fetcher != f || p.closed {
		return
	}
	at, wanted := p.replica.SubscribeDue()
	if now := f.m.now(); wanted && now >= at {
		id := f.m.subID.Add(1)
		sub, ok := p.replica.NextSubscribe(id, f.m.opts.PartitionCreditBytes, now)
		if ok && f.register(p, id) {
			req.Subscribe = append(req.Subscribe, p.subscribeRequest(sub))
		}
		return
	}
	ack, ok := p.replica.NextAck()
	if !ok {
		return
	}
	position := ack.DurableEnd
	if p.replica.FlushMode() == core.FlushOS {
		position = ack.LogEnd
	}
	req.Acks = append(req.Acks, &internalv1.ReplicaAck{
		SubscriptionId: ack.SubscriptionID, LeaderEpoch: int32(ack.LeaderEpoch), Position: position,
		DurableEnd: ack.DurableEnd, LogEndOffset: ack.LogEnd, ConsumedBytes: uint64(ack.Consumed), //nolint:gosec // not negative
	})
}

func (p *partition) subscribeRequest(sub core.Subscribe) *internalv1.ReplicaSubscribe {
	position := sub.DurableEnd
	if p.replica.FlushMode() == core.FlushOS {
		position = sub.FetchOffset
	}
	return &internalv1.ReplicaSubscribe{
		SubscriptionId: sub.SubscriptionID, TopicId: p.tp.TopicID.Bytes(), Partition: p.tp.Partition,
		LeaderEpoch: int32(sub.LeaderEpoch), FetchOffset: sub.FetchOffset, LastFetchedEpoch: int32(sub.LastFetchedEpoch),
		CreditBytes: uint64(sub.Credit), Position: position, DurableEnd: sub.DurableEnd, //nolint:gosec // not negative
	}
}

// register notes a subscription; the partition's older one ends with it.
func (f *fetcher) register(p *partition, id uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.parts[p]
	if state == nil {
		return false
	}
	if f.subs[state.subID] == p {
		delete(f.subs, state.subID)
	}
	state.subID = id
	f.subs[id] = p
	return true
}

// lost tells the partitions that the stream is gone.
func (f *fetcher) lost() {
	f.mu.Lock()
	subs := f.subs
	f.subs = map[uint64]*partition{}
	f.mu.Unlock()
	for id, p := range subs {
		f.m.run(p, func(*effects) core.Output {
			p.replica.StreamLost(id, f.m.now())
			return core.Output{}
		})
	}
}

// receive takes frames until the stream ends.
func (f *fetcher) receive(stream ReplicaStream) error {
	var frame wire.ReplicateResponse
	for {
		if err := stream.Recv(&frame); err != nil {
			return err
		}
		f.mu.Lock()
		p := f.subs[frame.Head.GetSubscriptionId()]
		f.mu.Unlock()
		if p != nil {
			f.take(p, &frame)
		}
		frame.Free()
	}
}

// take handles one frame.
func (f *fetcher) take(p *partition, frame *wire.ReplicateResponse) {
	in := frameIn(frame)
	var fx effects
	p.mu.Lock()
	if !p.closed && p.fetcher == f {
		verdict, out := p.replica.FrameReceived(in, f.m.now())
		f.m.apply(p, out, &fx)
		if verdict == core.FrameAppend {
			f.append(p, in.SubscriptionID, frame, &fx)
		}
		fx.fetch = f
	}
	p.mu.Unlock()
	f.m.settle(p, &fx)
}

// append appends the batches of a frame. The caller holds p.mu.
func (f *fetcher) append(p *partition, subID uint64, frame *wire.ReplicateResponse, fx *effects) {
	before := p.log.LogEndOffset()
	data, free := f.m.contiguous(frame.Payload)
	// Offsets that the leader's compacted log lacks are missing within; between frames the core checks that none is lost.
	_, err := p.log.AppendFollower(data, true)
	free()
	if end := p.log.LogEndOffset(); end > before {
		f.m.apply(p, p.replica.Appended(end), fx)
		fx.sync = fx.sync || p.replica.FlushMode() == core.FlushFsync
		f.m.metrics.fetchedBytes.Add(float64(frame.Payload.Len()))
	}
	if err == nil {
		return
	}
	if errors.Is(err, storage.ErrLogFailed) || errors.Is(err, storage.ErrSyncFailed) {
		f.m.logFailed(p, "append what the leader sent", err, fx)
		return
	}
	if errors.Is(err, fsys.ErrNoSpace) {
		f.m.opts.Logger.Warn("the disk is full: a replica fetches no more until there is room", "partition", p.tp.String(), "error", err)
		f.unsubscribe(p)
		f.m.apply(p, p.replica.NoRoom(f.m.now()), fx)
		return
	}
	f.m.opts.Logger.Warn("a frame of the leader could not be appended, the partition subscribes anew",
		"partition", p.tp.String(), "leader", f.key.leader, "error", err)
	if errors.Is(err, record.ErrCorruptBatch) {
		f.complain(p, subID)
	}
	p.replica.StreamLost(subID, f.m.now())
	f.m.refresh(p, fx)
}

// complain tells the leader that a frame of it held bad batches. The caller holds p.mu.
func (f *fetcher) complain(p *partition, subID uint64) {
	f.m.metrics.badFrames.Inc()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subs[subID] == p {
		delete(f.subs, subID)
	}
	f.bad = append(f.bad, &internalv1.BadFrame{
		SubscriptionId: subID, LeaderEpoch: int32(p.replica.LeaderEpoch()), Offset: p.log.LogEndOffset(),
	})
	signal(f.wake)
}

// contiguous returns the bytes of a payload in one piece, in a buffer of the pool where they must be copied together.
func (m *Manager) contiguous(payload wire.Payload) (data []byte, free func()) {
	pieces := payload.Bytes()
	if len(pieces) == 1 {
		return pieces[0], func() {}
	}
	together, data := m.opts.Pool.Alloc(payload.Len())
	n := 0
	for _, piece := range pieces {
		n += copy(data[n:], piece)
	}
	return data, together.Free
}

func frameIn(frame *wire.ReplicateResponse) core.FrameIn {
	head := &frame.Head
	in := core.FrameIn{
		SubscriptionID: head.GetSubscriptionId(), LeaderEpoch: model.LeaderEpoch(head.GetLeaderEpoch()),
		HighWatermark: head.GetHighWatermark(), LogStart: head.GetLogStartOffset(),
		Bytes: int64(frame.Payload.Len()), BaseOffset: head.GetBaseOffset(),
		Answer: core.SubscribeAnswer{
			Code: model.ErrorCode(head.GetErrorCode()), Detail: head.GetMessage(), LogStart: head.GetLogStartOffset(),
		},
	}
	if d := head.GetDiverging(); d != nil {
		in.Answer.Diverging = true
		in.Answer.DivergingEpoch, in.Answer.DivergingEnd = model.LeaderEpoch(d.GetEpoch()), d.GetEndOffset()
	}
	return in
}
