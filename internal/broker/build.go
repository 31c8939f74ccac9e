package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/controller"
	controllercore "github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/membership"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/peer"
	"github.com/penstock-io/penstock/internal/replication"
	replicationcore "github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/server"
	"github.com/penstock-io/penstock/internal/storage"
	"github.com/penstock-io/penstock/internal/wire"
)

const (
	controllerDir = "controller" // below the data directory
	syncWorkers   = 4            // logs that are synced at a time
)

func (n *Node) wireLimits() wire.Limits {
	return wire.Limits{
		MaxMessageBytes:      n.cfg.Limits.MessageBytes,
		MaxHeaderListBytes:   uint32(n.cfg.Limits.HeaderListBytes),      //nolint:gosec // checked by the configuration
		MaxConcurrentStreams: uint32(n.cfg.Limits.StreamsPerConnection), //nolint:gosec // checked by the configuration
	}
}

// serveAdmin answers on the admin listener from the beginning, so that a long recovery can be watched.
func (n *Node) serveAdmin(context.Context) error {
	told := server.Admin{Metrics: n.registry.Handler(n.log), Unready: n.Unready, Profiles: n.cfg.PProf}
	if n.level != nil {
		told.LogLevel, told.SetLogLevel = n.logLevel, n.setLogLevel
	}
	admin := server.NewAdminServer(server.AdminHandler(told))
	n.groups.admin.Go("http", func(context.Context) error {
		if err := admin.Serve(n.listeners.admin); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("serve the admin listener: %w", err)
		}
		return nil
	})
	n.groups.admin.Go("http-stop", func(ctx context.Context) error {
		<-ctx.Done()
		return admin.Close()
	})
	return nil
}

// connect makes the ways to other nodes.
func (n *Node) connect(context.Context) error {
	var err error
	if n.metrics, err = server.NewMetrics(n.clock, n.registry.Registerer()); err != nil {
		return err
	}
	if err := storage.RegisterDir(n.registry.Registerer(), n.dir); err != nil {
		return err
	}
	n.conns = peer.NewConns(n.wireLimits())
	n.nodes = peer.NewNodes(n.cfg.Controllers)
	n.controllers = peer.NewControllers(n.conns, n.cfg.Controllers, n.clock)
	return nil
}

// startQuorum splits the peer listener and starts the controller, where the node has that role.
func (n *Node) startQuorum(context.Context) error {
	protocols := []wire.Protocol{wire.ProtocolHTTP2}
	if n.cfg.Roles.Controller {
		protocols = append(protocols, wire.ProtocolRaft)
	}
	mux := wire.NewMux(n.groups.transport, n.listeners.peer, n.log, protocols...)
	n.listeners.peer = mux.Listener(wire.ProtocolHTTP2)
	if !n.cfg.Roles.Controller {
		return nil
	}
	var voters []controller.Voter
	for _, v := range n.cfg.Controllers {
		voters = append(voters, controller.Voter{ID: v.ID, Address: v.Address})
	}
	var err error
	n.quorum, err = controller.Start(controller.Config{
		NodeID: n.cfg.NodeID, Voters: voters, Dir: filepath.Join(n.cfg.DataDir, controllerDir),
		Listener: mux.Listener(wire.ProtocolRaft), Dial: wire.DialRaft, Prober: peer.NewProber(n.wireLimits()),
		IncarnationID: n.incarnation, DirectoryID: n.dir.Meta().DirectoryID, Clock: n.clock, Logger: n.log,
		Metrics:          n.registry.Registerer(),
		Core:             controllercore.Config{SessionTimeout: n.cfg.SessionTimeout},
		HeartbeatTimeout: n.cfg.Raft.Heartbeat, ElectionTimeout: n.cfg.Raft.Election, LeaseTimeout: n.cfg.Raft.Lease,
	}, n.groups.quorum)
	return err
}

// recoverReplicas opens the logs. Other nodes already reach this one's controller meanwhile.
func (n *Node) recoverReplicas(ctx context.Context) error {
	publishers := []metadata.Publisher{n.nodes}
	if n.cfg.Roles.Broker {
		syncer, syncs, err := n.startSyncer()
		if err != nil {
			return err
		}
		n.replicas, err = replication.NewManager(replication.Options{
			NodeID: n.cfg.NodeID, Dir: n.dir, PageCacheLost: n.start.osLost, Syncer: syncer,
			Endpoint: peer.NewEndpoint(n.conns), Controller: n.controllers, Clock: n.clock, Logger: n.log, Metrics: n.registry.Registerer(),
			Stalled:       syncs.Longest,
			OnDiskFailure: func(err error) { n.diskFailure <- err },
			Core:          replicationcore.Config{LagTimeMax: n.cfg.ReplicaLagTime},

			RetentionInterval: n.cfg.Retention.CheckInterval, CleanerBytesPerSecond: n.cfg.Retention.CleanerBytesPerSecond,
			CleanerMapBytes: n.cfg.Retention.CleanerMapBytes,
			ClockGuard:      storage.ClockGuardOptions{Tolerance: n.cfg.Retention.ClockTolerance, Grace: n.cfg.Retention.ClockGrace},
		})
		if err != nil {
			return err
		}
		publishers = append(publishers, n.replicas)
	}
	n.loader = metadata.NewLoader(append(publishers, n.cache)...)
	n.servePeers()
	if n.replicas == nil {
		return nil
	}
	began := n.clock.Now()
	earlier, allLost, err := loadSeats(fsys.OS(), n.cfg.DataDir)
	if err != nil {
		return err
	}
	n.tellOfSeats(allLost)
	replicas, err := n.replicas.Recover(ctx)
	if err != nil {
		return fmt.Errorf("recover the logs in %s: %w", n.cfg.DataDir, err)
	}
	replicas = mergeSeats(replicas, earlier)
	if allLost == "" {
		if err := keepSeats(fsys.OS(), n.cfg.DataDir, replicas); err != nil {
			return err
		}
	}
	n.start.replicas, n.start.allLost = replicas, cmp.Or(n.start.allLost, allLost)
	seatsLost := 0
	for _, r := range replicas {
		if r.GetSeatLostReason() != "" {
			seatsLost++
		}
	}
	took := n.clock.Now().Sub(began)
	n.log.Info("recovered", "took", took.Round(time.Millisecond), "logs", len(replicas), "seats_lost", seatsLost)
	if err := n.recovered(took, len(replicas), seatsLost); err != nil {
		return err
	}
	n.replicas.Start(n.groups.replicas)
	if err := n.startScrub(); err != nil {
		return err
	}
	n.groups.replicas.Go("disk-failure", func(ctx context.Context) error {
		select {
		case err := <-n.diskFailure:
			return fmt.Errorf("the disk failed, and nobody knows what it holds: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	return nil
}

func (n *Node) startSyncer() (*storage.Syncer, *storage.SyncMetrics, error) {
	metrics, err := storage.NewSyncMetrics(n.clock, n.registry.Registerer())
	if err != nil {
		return nil, nil, err
	}
	return storage.StartMeasuredSyncer(n.groups.storage, syncWorkers, metrics, func(log *storage.Log, durableEnd int64, err error) {
		n.replicas.OnSynced(log, durableEnd, err)
	}), metrics, nil
}

// servePeers answers other nodes.
func (n *Node) servePeers() {
	peers := &server.Peer{
		Identity: n, Cache: n.cache, Controller: n.quorum, Replicas: n.replicas, Limits: n.wireLimits(), Logger: n.log, Metrics: n.metrics,
	}
	server.Serve(n.groups.peers, "grpc-peer", peers.NewServer(), n.metrics.Listener(server.PeerListener, n.listeners.peer))
}

// serve opens the services for clients; until the broker has caught up they tell little more than how the cluster is.
func (n *Node) serve(context.Context) error {
	if n.replicas == nil {
		return nil
	}
	n.client = &server.Client{
		Cache: n.cache, Quorum: n.controllers, Others: peer.NewOthers(n.conns), Replicas: n.replicas, Clock: n.clock, Logger: n.log,
		Metrics: n.metrics, Group: n.groups.clients,
		ProducerIDs: peer.NewProducerIDs(n.controllers, n.cfg.NodeID, func() model.BrokerEpoch { return n.session.Epoch() }),
		Limits: server.Limits{
			Wire: n.wireLimits(), InFlightBytes: n.cfg.Limits.InFlightBytes,
			FetchCreditBytes: n.cfg.Limits.FetchCreditBytes, Subscriptions: n.cfg.Limits.Subscriptions,
		},
	}
	n.client.Serving(false)
	return nil
}

// join follows the metadata, registers the broker, and lets clients in.
func (n *Node) join(context.Context) error {
	if n.quorum != nil {
		peer.FollowLocal(n.quorum, n.loader, n.controllers, n.groups.metadata)
	} else {
		peer.Follow(peer.FollowerConfig{
			NodeID: n.cfg.NodeID, ClusterID: n.dir.Meta().ClusterID, Voters: n.cfg.Controllers, Loader: n.loader,
			Controllers: n.controllers, Clock: n.clock, Logger: n.log,
		}, n.conns, n.groups.metadata)
	}
	n.groups.metadata.Go("cluster-id", func(ctx context.Context) error {
		if n.cache.Await(ctx, 1) != nil {
			return nil // the node stops before it knows its cluster
		}
		return n.takeCluster(n.cache.Image().ClusterID())
	})
	if n.replicas == nil {
		return n.registerMetrics()
	}
	n.session = peer.StartSession(peer.SessionConfig{
		NodeID: n.cfg.NodeID, Interval: n.cfg.HeartbeatInterval, Request: n.registration, Registered: n.registered,
		CaughtUp: n.client.Open, FencedChanged: func(fenced bool) { n.client.Serving(!fenced) },
		LogEnds: n.replicas.AwaitedEnds, Troubles: n.replicas.Troubles, Disk: n.replicas.Disk,
		Applied: func() model.MetadataOffset { return n.cache.Image().Offset() }, Await: n.cache.Await,
		Clock: n.clock, Logger: n.log,
	}, n.controllers, n.conns, n.groups.session)
	listening := n.groups.clients.Child("listeners")
	for _, l := range n.listeners.clients {
		server.Serve(listening, "grpc-"+l.name, n.client.NewServer(l.name), n.metrics.Listener(l.name, l.listener))
	}
	return n.registerMetrics()
}

// startGossip listens for gossip, which begins once the cluster is known, and takes its hints.
func (n *Node) startGossip(context.Context) (err error) {
	n.gossip, err = membership.Start(membership.Config{
		NodeID: n.cfg.NodeID, PeerAddress: n.cfg.PeerListener.Advertised,
		Bind: n.cfg.GossipListener.Bind, Advertised: n.cfg.GossipListener.Advertised, Seeds: otherSeeds(n.cfg),
		Key: n.cfg.GossipKey, Logger: n.log, Clock: n.clock, Metrics: n.registry.Registerer(),
	}, n.groups.gossip)
	if errors.Is(err, membership.ErrBind) {
		return fmt.Errorf("%w: %w", ErrAddressInUse, err)
	}
	if err != nil {
		return err
	}
	n.groups.gossip.Go("hints", func(ctx context.Context) error {
		for {
			select {
			case hint := <-n.gossip.Hints():
				n.log.Debug("gossip", "node_seen", hint.Member.ID, "what", hint.Kind.String())
				if hint.Kind != membership.HintLeft {
					n.nodes.Hint(hint.Member.ID, hint.Member.PeerAddress)
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	return nil
}

// otherSeeds are the configured seeds without the node itself.
func otherSeeds(cfg *config.Config) []string {
	var seeds []string
	for _, seed := range cfg.GossipSeeds {
		if seed != cfg.GossipListener.Advertised {
			seeds = append(seeds, seed)
		}
	}
	return seeds
}
