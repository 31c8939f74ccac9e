package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"

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
	ClusterID   model.UUID // the label: gossip of other clusters is not heard
	PeerAddress string     // host:port of the peer listener, told to the others
	Bind        string     // host:port, TCP and UDP
	Advertised  string     // host:port that others reach Bind at
	Seeds       []string   // gossip addresses of some nodes, host:port
	Key         []byte     // 32 bytes; nil gossips in the clear
	Logger      *slog.Logger
	Clock       lifecycle.Clock
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
	list  *memberlist.Memberlist
	hints chan Hint
	log   *slog.Logger
}

// Start listens, joins the seeds in the background and goes on doing so. It fails with ErrBind where the address is
// taken. The node leaves the gossip, and every goroutine of it is awaited, when group stops.
func Start(cfg Config, group *lifecycle.Group) (*Gossip, error) {
	g := &Gossip{hints: make(chan Hint, hintQueue), log: cfg.Logger}
	settings, err := g.settings(cfg)
	if err != nil {
		return nil, err
	}
	trace := newTracer(cfg.NodeID)
	trace.do(func() { g.list, err = memberlist.Create(settings) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w %s: %w; stop what holds it, or set listen.gossip", ErrBind, cfg.Bind, err),
			trace.await(cfg.Clock))
	}
	if !group.Go("gossip", func(ctx context.Context) error { return g.run(ctx, cfg, trace) }) {
		return nil, errors.Join(errors.New("gossip: the node is stopping"), g.shutdown(trace, cfg.Clock))
	}
	return g, nil
}

// Hints delivers news; it is dropped while nobody reads. The channel is never closed.
func (g *Gossip) Hints() <-chan Hint { return g.hints }

// Members returns the nodes that seem alive, this one included, in no order.
func (g *Gossip) Members() []Member {
	nodes := g.list.Members()
	members := make([]Member, 0, len(nodes))
	for _, node := range nodes {
		if member, ok := decode(node); ok {
			members = append(members, member)
		}
	}
	return members
}

func (g *Gossip) settings(cfg Config) (*memberlist.Config, error) {
	meta, err := encode(Member{ID: cfg.NodeID, PeerAddress: cfg.PeerAddress})
	if err != nil {
		return nil, err
	}
	settings := memberlist.DefaultLANConfig()
	settings.Name = strconv.Itoa(int(cfg.NodeID))
	settings.Label = cfg.ClusterID.String()
	settings.EnableCompression = false
	settings.SecretKey = cfg.Key
	settings.DeadNodeReclaimTime = reclaimTime
	settings.Logger = telemetry.StdLog(cfg.Logger.With("component", "gossip"))
	settings.Delegate = metadata(meta)
	settings.Events = events{g}
	if settings.BindAddr, settings.BindPort, err = resolve(cfg.Bind); err != nil {
		return nil, err
	}
	settings.AdvertiseAddr, settings.AdvertisePort, err = resolve(cfg.Advertised)
	if ip := net.ParseIP(settings.AdvertiseAddr); ip != nil && ip.IsUnspecified() {
		settings.AdvertiseAddr = "" // memberlist then chooses an address of the machine
	}
	return settings, err
}

func (g *Gossip) run(ctx context.Context, cfg Config, trace tracer) error {
	for {
		if len(cfg.Seeds) > 0 {
			trace.do(func() {
				if _, err := g.list.Join(cfg.Seeds); err != nil {
					g.log.Debug("no gossip seed answers", "error", err)
				}
			})
		}
		if lifecycle.Sleep(ctx, cfg.Clock, rejoinInterval) != nil {
			break
		}
	}
	return g.shutdown(trace, cfg.Clock)
}

func (g *Gossip) shutdown(trace tracer, clock lifecycle.Clock) error {
	if err := g.list.Leave(leaveTimeout); err != nil {
		g.log.Debug("left the gossip without a goodbye", "error", err)
	}
	if err := g.list.Shutdown(); err != nil {
		return fmt.Errorf("stop the gossip: %w", err)
	}
	return trace.await(clock)
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
