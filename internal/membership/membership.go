package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/telemetry"
)

// Times of the gossip.
const (
	rejoinInterval = 15 * time.Second // between two visits to the seeds; without them a long split never heals
	leaveTimeout   = 500 * time.Millisecond
	reclaimTime    = 5 * time.Second // after it the name of a dead node may come back with another address
	hintQueue      = 256
)

// ErrBind says that the gossip address cannot be listened on.
var ErrBind = errors.New("cannot listen on the gossip address")

// Config is what the gossip of one node needs.
type Config struct {
	NodeID      model.NodeID
	PeerAddress string   // host:port of the peer listener, told to the others
	Bind        string   // host:port, TCP and UDP
	Advertised  string   // host:port that others reach Bind at
	Seeds       []string // gossip addresses of some nodes, host:port
	Key         []byte   // 32 bytes; nil gossips in the clear
	Logger      *slog.Logger
	Clock       lifecycle.Clock
	Metrics     prometheus.Registerer // nil registers none
}

// HintKind says what seems to have happened.
type HintKind int

// The kinds of hints.
const (
	HintJoined  HintKind = iota + 1 // a node was heard of for the first time, or again
	HintLeft                        // a node left, or does not answer
	HintChanged                     // the peer address of a node changed
)

// String is joined, left or changed.
func (k HintKind) String() string {
	switch k {
	case HintJoined:
		return "joined"
	case HintLeft:
		return "left"
	case HintChanged:
		return "changed"
	default:
		return fmt.Sprintf("hint %d", int(k))
	}
}

// Member is a node as the gossip knows it.
type Member struct {
	ID          model.NodeID
	PeerAddress string
}

// Hint is news of one node.
type Hint struct {
	Kind   HintKind
	Member Member
}

// Gossip is the node's part in the gossip. It ends with the group given to Start.
type Gossip struct {
	cfg       Config
	settings  *memberlist.Config
	transport *memberlist.NetTransport
	metrics   *metrics
	trace     tracer
	joined    sync.Once
	cluster   chan model.UUID // gets the cluster once
	list      atomic.Pointer[memberlist.Memberlist]
	hints     chan Hint
}

// Start listens; it fails with ErrBind where the address is taken. The gossip begins once Join has told the cluster. The
// node leaves it, and every goroutine of it is awaited, when group stops.
func Start(cfg Config, group *lifecycle.Group) (*Gossip, error) {
	g := &Gossip{cfg: cfg, trace: newTracer(cfg.NodeID), cluster: make(chan model.UUID, 1), hints: make(chan Hint, hintQueue)}
	var err error
	if g.metrics, err = g.newMetrics(cfg.Metrics); err != nil {
		return nil, err
	}
	if g.settings, err = g.makeSettings(); err != nil {
		return nil, err
	}
	g.trace.do(func() {
		g.transport, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{g.settings.BindAddr}, BindPort: g.settings.BindPort, Logger: g.settings.Logger,
		})
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w %s: %w; stop what holds it, or set listen.gossip", ErrBind, cfg.Bind, err),
			g.trace.await(cfg.Clock))
	}
	if !group.Go("gossip", g.run) {
		return nil, errors.Join(errors.New("gossip: the node is stopping"), g.discard())
	}
	return g, nil
}

// Join tells which cluster the node belongs to: gossip of other clusters is not heard. Only the first call counts.
func (g *Gossip) Join(cluster model.UUID) { g.joined.Do(func() { g.cluster <- cluster }) }

// Hints delivers news; it is dropped while nobody reads. The channel is never closed.
func (g *Gossip) Hints() <-chan Hint { return g.hints }

// Members returns the nodes that seem alive, this one included, in no order; none before Join.
func (g *Gossip) Members() []Member {
	list := g.list.Load()
	if list == nil {
		return nil
	}
	nodes := list.Members()
	members := make([]Member, 0, len(nodes))
	for _, node := range nodes {
		if member, ok := decode(node); ok {
			members = append(members, member)
		}
	}
	return members
}

func (g *Gossip) makeSettings() (*memberlist.Config, error) {
	meta, err := encode(Member{ID: g.cfg.NodeID, PeerAddress: g.cfg.PeerAddress})
	if err != nil {
		return nil, err
	}
	settings := memberlist.DefaultLANConfig()
	settings.Name = strconv.Itoa(int(g.cfg.NodeID))
	settings.EnableCompression = false
	settings.SecretKey = g.cfg.Key
	settings.DeadNodeReclaimTime = reclaimTime
	settings.Logger = telemetry.StdLog(g.cfg.Logger.With("component", "gossip"))
	settings.Delegate = metadata(meta)
	settings.Events, settings.Ping = events{g}, pings{g.metrics}
	if settings.BindAddr, settings.BindPort, err = resolve(g.cfg.Bind); err != nil {
		return nil, err
	}
	settings.AdvertiseAddr, settings.AdvertisePort, err = resolve(g.cfg.Advertised)
	if ip := net.ParseIP(settings.AdvertiseAddr); ip != nil && ip.IsUnspecified() {
		settings.AdvertiseAddr = "" // memberlist then chooses an address of the machine
	}
	return settings, err
}

// run waits for the cluster, hearing nobody, and then gossips until ctx ends.
func (g *Gossip) run(ctx context.Context) error {
	for {
		select {
		case cluster := <-g.cluster:
			return g.gossip(ctx, cluster)
		case <-g.transport.PacketCh():
		case conn := <-g.transport.StreamCh():
			g.refuse(conn)
		case <-ctx.Done():
			return g.discard()
		}
	}
}

func (g *Gossip) refuse(conn net.Conn) {
	if err := conn.Close(); err != nil {
		g.cfg.Logger.Debug("closing a connection of the gossip failed", "error", err)
	}
}

func (g *Gossip) gossip(ctx context.Context, cluster model.UUID) error {
	var list *memberlist.Memberlist
	var err error
	g.settings.Label, g.settings.Transport = cluster.String(), countedTransport{g.transport, g.metrics}
	g.trace.do(func() { list, err = memberlist.Create(g.settings) })
	if err != nil {
		return errors.Join(fmt.Errorf("start the gossip: %w", err), g.discard())
	}
	g.list.Store(list)
	for {
		if len(g.cfg.Seeds) > 0 {
			g.trace.do(func() {
				if _, err := list.Join(g.cfg.Seeds); err == nil {
					g.metrics.joins.Inc()
				} else {
					g.metrics.joinsFailed.Inc()
					g.cfg.Logger.Debug("no gossip seed answers", "error", err)
				}
			})
		}
		if lifecycle.Sleep(ctx, g.cfg.Clock, rejoinInterval) != nil {
			break
		}
	}
	if err := list.Leave(leaveTimeout); err != nil {
		g.cfg.Logger.Debug("left the gossip without a goodbye", "error", err)
	}
	if err := list.Shutdown(); err != nil {
		return fmt.Errorf("stop the gossip: %w", err)
	}
	return g.trace.await(g.cfg.Clock)
}

// discard closes a transport that nobody reads from; meanwhile it reads, or its goroutines would not end.
func (g *Gossip) discard() error {
	reader := lifecycle.New(context.Background(), "gossip-discard", g.cfg.Logger)
	reader.Go("reader", func(ctx context.Context) error {
		for {
			select {
			case <-g.transport.PacketCh():
			case conn := <-g.transport.StreamCh():
				g.refuse(conn)
			case <-ctx.Done():
				return nil
			}
		}
	})
	err := g.transport.Shutdown()
	return errors.Join(err, reader.Stop(context.Background()), g.trace.await(g.cfg.Clock))
}

func resolve(address string) (string, int, error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return "", 0, fmt.Errorf("gossip address %q: %w", address, err)
	}
	if tcp.IP == nil {
		return "0.0.0.0", tcp.Port, nil
	}
	return tcp.IP.String(), tcp.Port, nil
}
