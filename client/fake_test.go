package client

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/testports"
	"github.com/penstock-io/penstock/internal/wire"
)

// faults are the chances, in thousandths, that something goes wrong at one batch.
type faults struct {
	dropAnswer   int // appended, never answered, and the stream is cut
	cutBefore    int // not appended, and the stream is cut
	refuse       int // NOT_ENOUGH_REPLICAS: definite, retryable
	unsure       int // appended, answered NOT_ENOUGH_REPLICAS_AFTER_APPEND
	answerTwice  int
	moveLeader   int
	cutFetch     int // a fetch stream is cut after a frame
	loseUnacked  int // a move of the leader cuts what was not acknowledged
	delayAnswers bool
}

// fakeCluster is some brokers in this process that share their logs: what replication would have done. One mutex guards
// all.
type fakeCluster struct {
	tb    testing.TB
	nodes []*fakeNode

	mu       sync.Mutex
	rng      *rand.Rand
	faults   faults
	topics   map[string]*fakeTopic
	offset   uint64
	changed  chan struct{}
	nextPID  int64
	counts   map[string]int
	noHints  bool
	refusing map[string]error // by topic: what every batch is answered
	discard  bool             // keep no bytes: for benchmarks
}

type fakeTopic struct {
	name       string
	id         model.UUID
	partitions []*fakePartition
}

type fakePartition struct {
	leader    int32
	epoch     int32
	batches   []fakeBatch
	end       int64
	committed int64
	producers map[int64]*fakeProducer
	hidden    bool // metadata goes on to show the first leader
	stalled   bool // batches are appended and never answered
}

type fakeBatch struct {
	header record.Header
	data   []byte
}

type fakeProducer struct {
	epoch  int16
	next   int32
	recent []record.Header
}

type fakeNode struct {
	penstockv1.UnimplementedProducerServiceServer
	penstockv1.UnimplementedConsumerServiceServer
	penstockv1.UnimplementedMetadataServiceServer
	penstockv1.UnimplementedAdminServiceServer
	cluster *fakeCluster
	id      int32
	addr    *net.TCPAddr
	server  *grpc.Server
	done    chan error
	up      bool
}

func newFakeCluster(tb testing.TB, nodes int, seed uint64) *fakeCluster {
	tb.Helper()
	c := &fakeCluster{
		tb: tb, rng: rand.New(rand.NewPCG(seed, 7)), topics: map[string]*fakeTopic{}, offset: 1,
		changed: make(chan struct{}), nextPID: 1000, counts: map[string]int{}, refusing: map[string]error{},
	}
	for i := range nodes {
		n := &fakeNode{cluster: c, id: int32(i + 1)}
		c.nodes = append(c.nodes, n)
		n.start(testports.Address(tb)) // a node that comes back finds its own
	}
	tb.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
		}
	})
	return c
}

func (n *fakeNode) start(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		n.cluster.tb.Fatal(err)
	}
	n.addr = listener.Addr().(*net.TCPAddr)
	n.server = grpc.NewServer(wire.ServerOptions(wire.Limits{})...)
	penstockv1.RegisterProducerServiceServer(n.server, n)
	penstockv1.RegisterConsumerServiceServer(n.server, n)
	penstockv1.RegisterMetadataServiceServer(n.server, n)
	penstockv1.RegisterAdminServiceServer(n.server, n)
	n.done = make(chan error, 1)
	n.up = true
	server, done := n.server, n.done
	go func() { done <- server.Serve(listener) }()
}

func (n *fakeNode) stop() {
	if !n.up {
		return
	}
	n.up = false
	n.server.Stop()
	// A node that is stopped before its goroutine ran has a server that was stopped before it served.
	if err := <-n.done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		n.cluster.tb.Error(err)
	}
}

func (c *fakeCluster) bootstrap() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.addr.String())
	}
	return out
}

// await polls until something is done.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		if err := lifecycle.Sleep(context.Background(), lifecycle.RealClock(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// dial returns a client that ends with the test.
func (c *fakeCluster) dial() *Client {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pool := wire.NewDebugPool()
	if c.discard {
		pool = wire.NewPool()
	}
	config := Config{Bootstrap: c.bootstrap(), ClientID: "test", Logger: slog.New(slog.DiscardHandler)}
	client, err := dial(ctx, config, pool)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() {
		if err := client.Close(); err != nil {
			c.tb.Error(err)
		}
		deadline := time.Now().Add(30 * time.Second)
		for len(pool.Leaks()) > 0 {
			if time.Now().After(deadline) {
				c.tb.Fatalf("%d buffers were never returned; one was taken at\n%s", len(pool.Leaks()), pool.Leaks()[0])
			}
			runtime.Gosched()
		}
	})
	return client
}

func (c *fakeCluster) addTopic(name string, partitions int) *fakeTopic {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &fakeTopic{name: name, id: model.NewUUID()}
	for i := range partitions {
		t.partitions = append(t.partitions, &fakePartition{
			leader: int32(i%len(c.nodes) + 1), epoch: 1, producers: map[int64]*fakeProducer{},
		})
	}
	c.topics[name] = t
	c.bump()
	return t
}

// bump tells watchers; it needs mu.
func (c *fakeCluster) bump() {
	c.offset++
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *fakeCluster) removeTopic(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.topics, name)
	c.bump()
}

func (c *fakeCluster) setFaults(f faults) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = f
}

func (c *fakeCluster) count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[name]
}

// hit rolls the dice for a fault; it needs mu.
func (c *fakeCluster) hit(name string, thousandths int) bool {
	if thousandths == 0 || c.rng.IntN(1000) >= thousandths {
		return false
	}
	c.counts[name]++
	return true
}

func (c *fakeCluster) moveLeader(t *fakeTopic, partition int, to int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.move(t.partitions[partition], to)
}

// move gives a partition another leader; it needs mu.
func (c *fakeCluster) move(p *fakePartition, to int32) {
	if c.hit("lost unacked", c.faults.loseUnacked) {
		p.truncate(p.committed)
	}
	p.committed = p.end
	p.leader = to
	p.epoch++
	c.bump()
}

// truncate cuts the log at offset and rebuilds what it says of producers.
func (p *fakePartition) truncate(offset int64) {
	for len(p.batches) > 0 && p.batches[len(p.batches)-1].header.NextOffset() > offset {
		p.batches = p.batches[:len(p.batches)-1]
	}
	p.end = 0
	p.producers = map[int64]*fakeProducer{}
	for _, b := range p.batches {
		p.end = b.header.NextOffset()
		p.noteProducer(b.header)
	}
}

func (p *fakePartition) noteProducer(h record.Header) {
	if !h.HasProducer() {
		return
	}
	s := p.producers[h.ProducerID]
	if s == nil || s.epoch != h.ProducerEpoch {
		s = &fakeProducer{epoch: h.ProducerEpoch}
		p.producers[h.ProducerID] = s
	}
	s.next = addSequence(h.BaseSequence, h.Count)
	s.recent = append(s.recent, h)
	if len(s.recent) > 64 {
		s.recent = s.recent[1:]
	}
}

// check applies rule R12; it returns the original of a duplicate.
func (p *fakePartition) check(h record.Header) (*record.Header, error) {
	if !h.HasProducer() {
		return nil, nil
	}
	s := p.producers[h.ProducerID]
	switch {
	case s == nil && h.BaseSequence != 0:
		return nil, model.Errorf(model.CodeUnknownProducerID, "producer %d is not known", h.ProducerID)
	case s == nil:
		return nil, nil
	case h.ProducerEpoch < s.epoch:
		return nil, model.Errorf(model.CodeInvalidProducerEpoch, "epoch %d is below %d", h.ProducerEpoch, s.epoch)
	case h.ProducerEpoch > s.epoch:
		if h.BaseSequence != 0 {
			return nil, model.Errorf(model.CodeOutOfOrderSequence, "a new epoch begins at %d", h.BaseSequence)
		}
		return nil, nil
	}
	for i := range s.recent {
		if s.recent[i].BaseSequence == h.BaseSequence && s.recent[i].Count == h.Count {
			return &s.recent[i], nil
		}
	}
	if h.BaseSequence != s.next {
		return nil, model.Errorf(model.CodeOutOfOrderSequence, "sequence %d, want %d", h.BaseSequence, s.next)
	}
	return nil, nil
}

// find returns the partition that a request is for, if node leads it; it needs mu.
func (n *fakeNode) find(name string, id []byte, partition int32) (*fakePartition, error) {
	c := n.cluster
	t := c.topics[name]
	if t == nil || partition < 0 || int(partition) >= len(t.partitions) {
		return nil, model.Errorf(model.CodeUnknownTopicOrPartition, "no %s/%d", name, partition)
	}
	if len(id) > 0 && string(id) != string(t.id[:]) {
		return nil, model.Errorf(model.CodeUnknownTopicID, "another %s", name)
	}
	p := t.partitions[partition]
	if p.leader != n.id {
		err := error(model.Errorf(model.CodeNotLeaderForPartition, "the leader is %d", p.leader))
		if p.leader > 0 && !c.noHints {
			addr := c.nodes[p.leader-1].addr
			err = wire.WithLeader(err, &penstockv1.LeaderHint{
				Topic: name, TopicId: t.id.Bytes(), Partition: partition, LeaderId: p.leader, LeaderEpoch: p.epoch,
				Host: addr.IP.String(), Port: int32(addr.Port),
			})
		}
		c.counts["not leader"]++
		return nil, err
	}
	return p, nil
}

func protoHint(topic string, id model.UUID, leader, epoch int32, port int) *penstockv1.LeaderHint {
	return &penstockv1.LeaderHint{
		Topic: topic, TopicId: id.Bytes(), LeaderId: leader, LeaderEpoch: epoch, Host: "127.0.0.1", Port: int32(port),
	}
}
