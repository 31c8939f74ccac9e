package client

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// metadataCache is what the client knows of brokers and leaders. It is filled by a watch of the topics in use, by requests
// where something is missing, and by leader hints; older leader epochs never replace newer ones.
type metadataCache struct {
	client *Client
	kick   chan struct{} // the set of topics grew
	ask    chan struct{} // something is missing

	mu        sync.RWMutex
	offset    uint64 // metadata offset of the newest answer
	brokers   map[int32]string
	topics    map[string]*topicInfo
	wanted    map[string]bool
	listeners map[int]func()
	nextID    int
	missing   map[string]bool
}

// unknownTopicWait is how long a topic that a broker does not know may take to appear: it may have been created just now.
const unknownTopicWait = 1500 * time.Millisecond

// topicInfo is one topic. It is replaced, never changed.
type topicInfo struct {
	name       string
	id         model.UUID
	offset     uint64 // metadata offset it was learned at
	partitions []leaderInfo
}

// leaderInfo is who leads a partition.
type leaderInfo struct {
	epoch   int32
	leader  int32
	address string // where a hint said so; otherwise the broker's
}

func newMetadataCache(c *Client) *metadataCache {
	return &metadataCache{
		client: c, kick: make(chan struct{}, 1), ask: make(chan struct{}, 1), missing: make(map[string]bool), brokers: make(map[int32]string), topics: make(map[string]*topicInfo),
		wanted: make(map[string]bool), listeners: make(map[int]func()),
	}
}

// listen calls f, which must not block, after each change, until the returned function is called.
func (m *metadataCache) listen(f func()) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.nextID
	m.nextID++
	m.listeners[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.listeners, id)
	}
}

func (m *metadataCache) notify() {
	m.mu.RLock()
	list := make([]func(), 0, len(m.listeners))
	for _, f := range m.listeners {
		list = append(list, f)
	}
	m.mu.RUnlock()
	for _, f := range list {
		f()
	}
}

func (m *metadataCache) addresses() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	ids := make([]int32, 0, len(m.brokers))
	for id := range m.brokers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, m.brokers[id])
	}
	return out
}

// cached returns what is known of a topic; nil where nothing is.
func (m *metadataCache) cached(name string) *topicInfo {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.topics[name]
}

// leader returns the address and epoch of a partition's leader; false where none is known or the topic has another id now.
func (m *metadataCache) leader(name string, id model.UUID, partition int32) (address string, epoch int32, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t := m.topics[name]
	if t == nil || t.id != id || partition < 0 || int(partition) >= len(t.partitions) {
		return "", -1, false
	}
	l := t.partitions[partition]
	address = l.address
	if address == "" {
		address = m.brokers[l.leader]
	}
	return address, l.epoch, l.leader >= 0 && address != ""
}

// topic returns a topic, asking the brokers where it is not known, and watches it from here on.
func (m *metadataCache) topic(ctx context.Context, name string) (*topicInfo, error) {
	if t := m.cached(name); t != nil {
		return t, nil
	}
	if err := model.ValidateTopicName(name); err != nil {
		return nil, newError(model.CodeInvalidTopic, true, "%w", err)
	}
	deadline := m.client.clock.Now().Add(unknownTopicWait)
	var t *topicInfo
	for failures := 1; ; failures++ {
		if err := m.refresh(ctx, []string{name}); err != nil {
			return nil, err
		}
		if t = m.cached(name); t != nil {
			break
		}
		if m.client.clock.Now().After(deadline) {
			return nil, newError(model.CodeUnknownTopicOrPartition, true, "there is no topic %q: create it first", name)
		}
		if err := lifecycle.Sleep(ctx, m.client.clock, backoff(failures)); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	grown := !m.wanted[name]
	m.wanted[name] = true
	m.mu.Unlock()
	if grown {
		m.wake()
	}
	return t, nil
}

func (m *metadataCache) wake() { signal(m.kick) }

// signal wakes who waits for ch, which has room for one.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// request asks for a topic in the background: what is known of it did not serve.
func (m *metadataCache) request(name string) {
	m.mu.Lock()
	m.missing[name] = true
	m.mu.Unlock()
	signal(m.ask)
}

// refreshLoop serves request, each topic at most once in backoffMax/4, until ctx is done.
func (m *metadataCache) refreshLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.ask:
		}
		m.mu.Lock()
		names := slices.Sorted(maps.Keys(m.missing))
		clear(m.missing)
		m.mu.Unlock()
		if err := m.refresh(ctx, names); err != nil {
			m.client.logger.Debug("asking for metadata failed", "topics", names, "error", err)
		}
		if err := lifecycle.Sleep(ctx, m.client.clock, backoffMax/4); err != nil {
			return err
		}
	}
}

// refresh asks a broker for the topics named.
func (m *metadataCache) refresh(ctx context.Context, names []string) error {
	return m.client.call(ctx, true, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, 2*silence) // another broker may know it sooner
		defer cancel()
		out, err := penstockv1.NewMetadataServiceClient(conn).GetMetadata(ctx, &penstockv1.GetMetadataRequest{Topics: names})
		if err != nil {
			return err
		}
		m.apply(out.GetMetadataOffset(), out.GetBrokers(), out.GetTopics())
		return nil
	})
}

// apply takes over an answer or a frame.
func (m *metadataCache) apply(offset uint64, brokers []*penstockv1.Broker, topics []*penstockv1.TopicMetadata) {
	m.mu.Lock()
	if len(brokers) > 0 && offset >= m.offset {
		m.offset = offset
		m.brokers = make(map[int32]string, len(brokers))
		for _, b := range brokers {
			m.brokers[b.GetId()] = addressOf(b.GetHost(), b.GetPort())
		}
	}
	for _, t := range topics {
		m.applyTopic(offset, t)
	}
	keep := m.inUse()
	m.mu.Unlock()
	m.client.prune(func(address string) bool { return keep[address] })
	m.notify()
}

// inUse returns every address that is still good for something. It needs mu.
func (m *metadataCache) inUse() map[string]bool {
	keep := make(map[string]bool)
	for _, a := range m.client.config.Bootstrap {
		keep[a] = true
	}
	for _, a := range m.brokers {
		keep[a] = true
	}
	for _, t := range m.topics {
		for _, l := range t.partitions {
			if l.address != "" {
				keep[l.address] = true
			}
		}
	}
	return keep
}

func (m *metadataCache) applyTopic(offset uint64, t *penstockv1.TopicMetadata) {
	old := m.topics[t.GetName()]
	if old != nil && offset < old.offset {
		return
	}
	id, err := model.UUIDFromBytes(t.GetTopicId())
	if t.GetError() != nil || err != nil {
		if old != nil { // it was deleted; a broker that has not heard of it yet says nothing about its end
			delete(m.topics, t.GetName())
			delete(m.wanted, t.GetName())
		}
		return
	}
	fresh := &topicInfo{name: t.GetName(), id: id, offset: offset, partitions: make([]leaderInfo, len(t.GetPartitions()))}
	for i := range fresh.partitions {
		fresh.partitions[i] = leaderInfo{epoch: -1, leader: -1}
	}
	for _, p := range t.GetPartitions() {
		n := int(p.GetPartition())
		if n < 0 || n >= len(fresh.partitions) {
			continue
		}
		fresh.partitions[n] = leaderInfo{epoch: p.GetLeaderEpoch(), leader: p.GetLeaderId()}
		if old != nil && old.id == id && n < len(old.partitions) && old.partitions[n].epoch > p.GetLeaderEpoch() {
			fresh.partitions[n] = old.partitions[n]
		}
	}
	m.topics[t.GetName()] = fresh
}

// hint takes over a leader hint and reports whether it told something new.
func (m *metadataCache) hint(name string, id model.UUID, h *penstockv1.LeaderHint) bool {
	address := addressOf(h.GetHost(), h.GetPort())
	if h == nil || h.GetLeaderId() < 0 || address == "" {
		return false
	}
	n := int(h.GetPartition())
	m.mu.Lock()
	t := m.topics[name]
	if t == nil || t.id != id || n < 0 || n >= len(t.partitions) || h.GetLeaderEpoch() <= t.partitions[n].epoch {
		m.mu.Unlock()
		return false
	}
	fresh := *t
	fresh.partitions = slices.Clone(t.partitions)
	fresh.partitions[n] = leaderInfo{epoch: h.GetLeaderEpoch(), leader: h.GetLeaderId(), address: address}
	m.topics[name] = &fresh
	m.mu.Unlock()
	m.notify()
	return true
}

// watch follows the metadata until ctx is done.
func (m *metadataCache) watch(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		m.mu.RLock()
		names := make([]string, 0, len(m.wanted))
		for name := range m.wanted {
			names = append(names, name)
		}
		m.mu.RUnlock()
		slices.Sort(names)
		restart := false
		for _, address := range m.client.candidates() {
			var fed bool
			fed, restart = m.follow(ctx, address, names)
			if fed {
				failures = 0
			}
			if restart || ctx.Err() != nil {
				break
			}
		}
		if restart {
			continue
		}
		failures++
		if err := lifecycle.Sleep(ctx, m.client.clock, backoff(failures)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// follow watches through one broker until it fails or the set of topics grows (restart). It says whether a frame came.
func (m *metadataCache) follow(ctx context.Context, address string, names []string) (fed, restart bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := m.client.connected(ctx, address)
	if err != nil {
		return false, false
	}
	stream, err := penstockv1.NewMetadataServiceClient(conn).WatchMetadata(ctx, &penstockv1.WatchMetadataRequest{Topics: names})
	if err != nil {
		return false, false
	}
	frames := make(chan *penstockv1.WatchMetadataResponse)
	started := m.client.group.Go("metadata-watch", func(context.Context) error {
		defer close(frames)
		for {
			frame, err := stream.Recv()
			if err != nil {
				m.client.logger.Debug("watching metadata ended", "broker", address, "error", err)
				return nil
			}
			select {
			case frames <- frame:
			case <-ctx.Done():
				return nil
			}
		}
	})
	if !started {
		return false, true
	}
	first := m.client.clock.NewTimer(m.client.config.DialTimeout)
	defer first.Stop()
	for {
		select {
		case frame, ok := <-frames:
			if !ok {
				return fed, false
			}
			fed = true
			first.Stop()
			m.apply(frame.GetMetadataOffset(), frame.GetBrokers(), frame.GetTopics())
		case <-first.C():
			return fed, false
		case <-m.kick:
			return true, true
		case <-ctx.Done():
			return fed, true
		}
	}
}
