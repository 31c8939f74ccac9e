package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/controller"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/membership"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/peer"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/server"
	"github.com/penstock-io/penstock/internal/storage"
	"github.com/penstock-io/penstock/internal/telemetry"
)

// Node is one running node. It is made by [Start] and must be ended by [Node.Stop] or [Node.Kill].
type Node struct {
	cfg         *config.Config
	log         *slog.Logger
	level       *slog.LevelVar // of log; nil where it cannot be changed
	clock       lifecycle.Clock
	registry    *telemetry.Registry
	incarnation model.UUID

	root      *lifecycle.Group
	groups    groups
	listeners listeners
	dir       *storage.Dir
	start     startState

	conns       *peer.Conns
	nodes       *peer.Nodes
	controllers *peer.Controllers
	quorum      *controller.Controller // nil without the role of a controller
	replicas    *replication.Manager   // nil without the role of a broker
	cache       *server.Cache
	loader      *metadata.Loader
	session     *peer.Session  // nil without the role of a broker
	client      *server.Client // nil without the role of a broker
	metrics     *server.Metrics

	gossip      *membership.Gossip
	diskFailure chan error
	started     atomic.Bool // everything is built: all of the above may be looked at
	stopping    atomic.Bool
	ended       atomic.Bool
}

// groups are the parts of a node, in the order they start; they stop in the opposite order.
type groups struct {
	admin     *lifecycle.Group // HTTP
	transport *lifecycle.Group // peer listener
	quorum    *lifecycle.Group // controller
	storage   *lifecycle.Group // group commit
	peers     *lifecycle.Group // services for other nodes
	replicas  *lifecycle.Group // replication
	metadata  *lifecycle.Group // following the metadata log
	gossip    *lifecycle.Group
	session   *lifecycle.Group // registration and heartbeats
	clients   *lifecycle.Group // services for clients
}

func newGroups(root *lifecycle.Group) groups {
	var g groups
	for _, child := range []struct {
		name string
		at   **lifecycle.Group
	}{
		{"admin", &g.admin},
		{"transport", &g.transport},
		{"quorum", &g.quorum},
		{"storage", &g.storage},
		{"peers", &g.peers},
		{"replicas", &g.replicas},
		{"metadata", &g.metadata},
		{"gossip", &g.gossip},
		{"session", &g.session},
		{"clients", &g.clients},
	} {
		*child.at = root.Child(child.name)
	}
	return g
}

// Start brings a node up. It returns once everything is recovered, listening and under way; [Node.Ready] tells when the
// controller has let the broker in. Errors say what is in the way: an address or a data directory in use, a directory of
// another node. ctx bounds the start alone.
func Start(ctx context.Context, cfg *config.Config, logger *slog.Logger, options ...Option) (_ *Node, err error) {
	n := &Node{
		cfg: cfg, log: logger, clock: lifecycle.RealClock(), registry: telemetry.NewRegistry(), incarnation: model.NewUUID(),
		cache: server.NewCache(), diskFailure: make(chan error, 1),
	}
	for _, option := range options {
		option(n)
	}
	n.root = lifecycle.New(context.WithoutCancel(ctx), "node", logger)
	n.groups = newGroups(n.root)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Kill())
		}
	}()
	for _, warning := range cfg.Warnings() {
		logger.Warn(warning)
	}
	for _, step := range []func(context.Context) error{
		n.openDirectory, n.listen, n.serveAdmin, n.connect, n.startGossip, n.startQuorum, n.recoverReplicas, n.serve, n.join,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
		if err := n.root.Err(); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("the start was interrupted: %w", err)
		}
	}
	n.started.Store(true)
	logger.Info("started", "version", telemetry.Version(), "data", cfg.DataDir, "client", n.listeners.describe(), "peer", cfg.PeerListener.Advertised)
	return n, nil
}

// Ready is closed when the broker serves for the first time; at once on a node without that role.
func (n *Node) Ready() <-chan struct{} {
	if n.session == nil {
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	return n.session.Unfenced()
}

// Done is closed when the node begins to stop, be it by Stop or because a part of it failed.
func (n *Node) Done() <-chan struct{} { return n.root.Stopping() }

// Err is what failed, or nil.
func (n *Node) Err() error { return n.root.Err() }

// Image is the metadata in force on the node.
func (n *Node) Image() *metadata.Image { return n.cache.Image() }

// Replicas are the partitions of the node; nil without the role of a broker.
func (n *Node) Replicas() *replication.Manager { return n.replicas }

// ActiveController reports whether this node's controller decides at the moment.
func (n *Node) ActiveController() bool { return n.quorum != nil && n.quorum.Active() }

// bound gives a part of the shutdown its time.
func bound(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
