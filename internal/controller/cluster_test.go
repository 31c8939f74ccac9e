package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/testports"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// node is one controller of a test cluster; it can be stopped and started again on the same directory.
type node struct {
	t       testing.TB
	cluster *cluster
	id      model.NodeID
	address string
	dir     string
	tune    func(*Config)
	logged  logBuffer

	incarnation model.UUID
	directory   model.UUID
	group       *lifecycle.Group
	ctl         *Controller
}

// cluster is a set of controllers on loopback sockets.
type cluster struct {
	t     testing.TB
	nodes []*node

	mu      sync.Mutex
	cut     map[string]bool                        // addresses that nobody reaches, and that reach nobody
	killed  map[string]bool                        // of the cut ones, those whose address refuses
	brokers map[string]func() (ProbeResult, error) // fake brokers, by peer address
}

func newCluster(t testing.TB, n int, tune func(*Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, cut: map[string]bool{}, killed: map[string]bool{}, brokers: map[string]func() (ProbeResult, error){}}
	for i := range n {
		c.nodes = append(c.nodes, &node{
			t: t, cluster: c, id: model.NodeID(i + 1), address: testports.Address(t), dir: t.TempDir(), tune: tune,
			directory: model.NewUUID(),
		})
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
		}
	})
	return c
}

func startCluster(t testing.TB, n int, tune func(*Config)) *cluster {
	t.Helper()
	c := newCluster(t, n, tune)
	for _, n := range c.nodes {
		n.start()
	}
	return c
}

func (c *cluster) voters() []Voter {
	var out []Voter
	for _, n := range c.nodes {
		out = append(out, Voter{ID: n.id, Address: n.address})
	}
	return out
}

func (c *cluster) isCut(addresses ...string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addresses {
		if c.cut[a] {
			return true
		}
	}
	return false
}

func (c *cluster) isKilled(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.killed[address]
}

// kill makes a node vanish as a killed process does: its connections end, its address refuses.
func (c *cluster) kill(n *node) {
	c.mu.Lock()
	c.killed[n.address], c.cut[n.address] = true, true
	c.mu.Unlock()
}

func (c *cluster) setCut(address string, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[address] = cut
}

// Probe answers for the controllers and the fake brokers of the cluster.
func (n *node) Probe(ctx context.Context, address string) (ProbeResult, error) {
	n.cluster.mu.Lock()
	broker := n.cluster.brokers[address]
	var peer *Controller
	var peerNode *node
	var incarnation model.UUID
	for _, other := range n.cluster.nodes {
		if other.address == address && other.ctl != nil {
			peer, peerNode, incarnation = other.ctl, other, other.incarnation
		}
	}
	n.cluster.mu.Unlock()
	switch {
	case n.cluster.isKilled(address):
		return ProbeResult{}, errors.New("connection refused")
	case n.cluster.isCut(n.address, address):
		<-ctx.Done()
		return ProbeResult{}, ctx.Err()
	case broker != nil:
		return broker()
	case peer != nil:
		return ProbeResult{
			NodeID: peerNode.id, IncarnationID: incarnation, ClusterID: peer.ClusterID(),
			QuorumState: peer.QuorumState(), DirectoryID: peerNode.directory,
		}, nil
	default:
		return ProbeResult{}, errors.New("connection refused")
	}
}

// cutConn fails once its sides are cut off from one another.
type cutConn struct {
	net.Conn
	cut func() bool
}

func (c cutConn) Write(b []byte) (int, error) {
	if c.cut() {
		return 0, errors.Join(errors.New("cut off"), c.Close())
	}
	return c.Conn.Write(b)
}

func (n *node) dial(ctx context.Context, address string) (net.Conn, error) {
	if n.cluster.isCut(n.address, address) {
		return nil, errors.New("cut off")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return cutConn{Conn: conn, cut: func() bool { return n.cluster.isCut(n.address, address) }}, nil
}

func (n *node) config() Config {
	cfg := Config{
		NodeID: n.id, Voters: n.cluster.voters(), Dir: filepath.Join(n.dir, "raft"), Dial: n.dial, Prober: n,
		IncarnationID: n.incarnation, DirectoryID: n.directory,
		Logger:            slog.New(slog.NewTextHandler(&n.logged, nil)).With("node", n.id),
		CommitInterval:    5 * time.Millisecond,
		ApplyTimeout:      2 * time.Second,
		ProbeTimeout:      200 * time.Millisecond,
		BootstrapInterval: 20 * time.Millisecond,
		ProgressInterval:  100 * time.Millisecond,
		Core:              core.Config{SessionTimeout: time.Hour}, // fake brokers beat once
	}
	// A voter alone has nobody to lose to; of several, one that gets no CPU for a while is not to lose its leadership by that.
	if hasty(&cfg); len(cfg.Voters) > 1 {
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 400*time.Millisecond
	}
	if n.tune != nil {
		n.tune(&cfg)
	}
	return cfg
}

// hasty lets elections come soon, and for little.
func hasty(cfg *Config) {
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaseTimeout = 150*time.Millisecond, 150*time.Millisecond, 100*time.Millisecond
}

// logBuffer keeps what a node logs, and shows it with -v.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if testing.Verbose() {
		fmt.Printf("%s", b)
	}
	return l.text.Write(b)
}

func (l *logBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

func (l *logBuffer) contains(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.text.Bytes(), []byte(text))
}

func (n *node) start() {
	n.t.Helper()
	if err := n.tryStart(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) tryStart() error {
	n.cluster.mu.Lock()
	n.incarnation = model.NewUUID() // probes of other nodes read it
	n.cluster.mu.Unlock()
	cfg := n.config()
	listener, err := net.Listen("tcp", n.address)
	if err != nil {
		return err
	}
	cfg.Listener = listener
	n.group = lifecycle.New(context.Background(), fmt.Sprintf("node-%d", n.id), cfg.Logger)
	ctl, err := Start(cfg, n.group)
	n.cluster.mu.Lock()
	n.ctl = ctl
	n.cluster.mu.Unlock()
	return err
}

func (n *node) stop() {
	n.t.Helper()
	if n.group == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := n.group.Stop(ctx); err != nil {
		n.t.Errorf("stopping node %d: %v", n.id, err)
	}
	n.cluster.mu.Lock()
	n.ctl = nil
	n.cluster.mu.Unlock()
	n.group = nil
}

// until polls a condition with a deadline.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

// active waits for the active controller among the nodes that run and are not cut off.
func (c *cluster) active() *node {
	c.t.Helper()
	var found *node
	until(c.t, "an active controller", func() bool {
		for _, n := range c.nodes {
			if n.ctl != nil && n.ctl.Active() && !c.isCut(n.address) {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// onActive asks the active controller until one answers, and knows what came of it.
func onActive[R any](c *cluster, ask func(ctl *Controller) (R, error)) R {
	c.t.Helper()
	ctx := testContext(c.t)
	for {
		resp, err := ask(c.active().ctl)
		if err == nil {
			return resp
		}
		if !model.IsCode(err, model.CodeNotController) && !model.IsCode(err, model.CodeUnknownOutcome) {
			c.t.Fatal(err)
		}
		// It stepped down between the two questions, or meanwhile, or has not noticed yet.
		if lifecycle.Sleep(ctx, lifecycle.RealClock(), 5*time.Millisecond) != nil {
			c.t.Fatalf("no controller would answer: %v", err)
		}
	}
}

// fakeBroker is a broker as the controller sees it.
type fakeBroker struct {
	id          model.NodeID
	incarnation model.UUID
	directory   model.UUID
	address     string
	epoch       int64
}

func newFakeBroker(id model.NodeID) *fakeBroker {
	return &fakeBroker{
		id: id, incarnation: model.NewUUID(), directory: model.NewUUID(), address: fmt.Sprintf("broker-%d:9093", id), epoch: -1,
	}
}

func (b *fakeBroker) request() *internalv1.RegisterBrokerRequest {
	return &internalv1.RegisterBrokerRequest{
		Registration: &internalv1.BrokerRegistrationRecord{
			BrokerId: int32(b.id), IncarnationId: b.incarnation.Bytes(), DirectoryId: b.directory.Bytes(),
			Listeners:   []*internalv1.Listener{{Name: "client", Host: "localhost", Port: 9092, Security: "plaintext"}},
			PeerAddress: b.address, MinFeatureLevel: 1, MaxFeatureLevel: 1,
		},
		PreviousBrokerEpoch: b.epoch,
	}
}

// join registers and unfences the broker.
func (b *fakeBroker) join(c *cluster) {
	c.t.Helper()
	ctx := testContext(c.t)
	c.mu.Lock()
	c.brokers[b.address] = func() (ProbeResult, error) { return ProbeResult{NodeID: b.id, IncarnationID: b.incarnation}, nil }
	c.mu.Unlock()
	resp := onActive(c, func(ctl *Controller) (*internalv1.RegisterBrokerResponse, error) {
		return ctl.RegisterBroker(ctx, b.request())
	})
	b.epoch = resp.GetBrokerEpoch()
	beat := onActive(c, func(ctl *Controller) (*internalv1.HeartbeatResponse, error) {
		return ctl.Heartbeat(ctx, b.beat())
	})
	if beat.GetFenced() {
		c.t.Fatalf("broker %d is still fenced", b.id)
	}
}

func (b *fakeBroker) beat() *internalv1.HeartbeatRequest {
	return &internalv1.HeartbeatRequest{
		BrokerId: int32(b.id), BrokerEpoch: b.epoch, MetadataOffset: uint64(b.epoch), WantUnfence: true,
	}
}

func createTopic(c *cluster, name string) {
	c.t.Helper()
	ctx, unclear := testContext(c.t), false
	onActive(c, func(ctl *Controller) (any, error) {
		_, err := ctl.CreateTopic(ctx, &internalv1.CreateTopicRequest{Name: name, Actor: "test"})
		if unclear && model.IsCode(err, model.CodeTopicAlreadyExists) {
			return nil, nil //nolint:nilnil // nobody looks
		}
		unclear = unclear || model.IsCode(err, model.CodeUnknownOutcome)
		return nil, err
	})
}
