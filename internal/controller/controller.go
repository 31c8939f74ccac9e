package controller

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/telemetry"
)

// Controller is one voter of the quorum. It is safe for concurrent use.
type Controller struct {
	cfg     Config
	group   *lifecycle.Group
	hub     *hub
	store   *store
	snaps   *raft.FileSnapshotStore
	fsm     *fsm
	trans   *transport
	metrics *metrics
	raft    atomic.Pointer[raft.Raft] // nil until the quorum may be started

	active    atomic.Bool // as the loop sees it
	troubles  troubles
	hasSnaps  bool
	fatal     chan error
	requests  chan *request
	lost      chan lostSession
	leading   *mailbox
	loopEnded chan struct{}
}

// Start opens the controller's log and starts it in a child of the group. It returns once the local state is read; that there
// is a quorum is seen by Active, ActiveController and Follow. A failure that the node must not survive stops the group. When
// Start fails, the listener is left to the caller.
func Start(cfg Config, group *lifecycle.Group) (*Controller, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.libraries, cfg.Logger = cfg.Logger, cfg.Logger.With("component", "controller")
	if err := makeDirs(cfg.Dir); err != nil {
		return nil, err
	}
	fatal := make(chan error, 1)
	s, err := openStore(cfg.Dir, cfg.Clock, cfg.wrapLog, func(err error) { offer(fatal, err) })
	if err != nil {
		return nil, err
	}
	if err := fsys.OS().SyncDir(cfg.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("controller: make raft.db durable: %w", err), s.Close())
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, 2, telemetry.HCLog(cfg.libraries).Named("raft-snapshots"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("controller: open the snapshots: %w", err), s.Close())
	}
	kept, err := snaps.List()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("controller: list the snapshots: %w", err), s.Close())
	}
	c := &Controller{
		cfg: cfg, hub: newHub(), store: s, snaps: snaps, hasSnaps: len(kept) > 0,
		fatal:    fatal,
		requests: make(chan *request, 1024), lost: make(chan lostSession, 64),
		leading: newMailbox(), loopEnded: make(chan struct{}),
	}
	if c.metrics, err = newMetrics(c); err != nil {
		return nil, errors.Join(fmt.Errorf("controller: %w", err), s.Close())
	}
	s.written = c.metrics.write
	c.fsm = &fsm{hub: c.hub, clock: cfg.Clock, fail: c.fail, metrics: c.metrics}
	c.group = group.Child("controller")
	if !c.group.Go("loop", c.loop) || !c.group.Go("disk-watch", c.watchDisk) || !c.group.Go("raft", c.run) {
		return nil, errors.Join(errStopping(), s.Close())
	}
	return c, nil
}

// makeDirs makes the controller's directory, durably: a log that is lost with its directory entry is a vote that is forgotten.
func makeDirs(dir string) error {
	disk := fsys.OS()
	if err := disk.MkdirAll(filepath.Join(dir, "snapshots")); err != nil {
		return fmt.Errorf("controller: make the directory: %w", err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := disk.SyncDir(d); err != nil {
			return fmt.Errorf("controller: make the directory durable: %w", err)
		}
	}
	return nil
}

// fail stops the controller, and with it the node, for the first error it is given.
func (c *Controller) fail(err error) { offer(c.fatal, err) }

func offer(to chan<- error, err error) {
	select {
	case to <- err:
	default:
	}
}

// run brings Raft up, waits for the end, and takes everything down again.
func (c *Controller) run(ctx context.Context) error {
	err := c.awaitQuorum(ctx)
	if err == nil {
		err = c.runRaft(ctx)
	} else {
		err = errors.Join(err, c.cfg.Listener.Close())
	}
	c.hub.stop()
	if errors.Is(err, ErrHungDisk) {
		return err // closing the log would hang as well
	}
	if closeErr := c.store.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("controller: close the raft log: %w", closeErr))
	}
	return err
}

func (c *Controller) runRaft(ctx context.Context) error {
	c.trans = newTransport(c.cfg)
	notify := make(chan bool)
	conf := c.raftConfig(notify)
	r, err := raft.NewRaft(conf, c.fsm, c.store, c.store, c.snaps, c.trans)
	if err != nil {
		return errors.Join(fmt.Errorf("controller: start raft: %w", err), c.trans.Close(), c.trans.streams.Close())
	}
	c.fsm.running.Store(true)
	observations := make(chan raft.Observation, 16)
	observer := raft.NewObserver(observations, false, func(o *raft.Observation) bool {
		c.metrics.observes(o)
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	r.RegisterObserver(observer)
	c.raft.Store(r)
	stopWatch := make(chan struct{})
	watched := make(chan struct{})
	started := c.group.Go("leadership", func(context.Context) error {
		defer close(watched)
		c.watchLeadership(r, notify, observations, stopWatch)
		return nil
	})
	if !started {
		close(watched)
	}
	c.group.Go("leader-watch", func(ctx context.Context) error { return c.watchLeader(ctx, r) })
	var fatal error
	select {
	case <-ctx.Done():
		<-c.loopEnded
		c.handOver(r)
	case fatal = <-c.fatal:
		c.cfg.Logger.Error("the controller must stop", "error", fatal)
	}
	err = errors.Join(fatal, c.shutdownRaft(r, fatal))
	close(stopWatch)
	<-watched
	return err
}

// shutdownRaft waits until Raft has ended, but not for a disk that hangs.
func (c *Controller) shutdownRaft(r *raft.Raft, fatal error) error {
	c.trans.absent.close()
	future := r.Shutdown()
	if errors.Is(fatal, ErrHungDisk) {
		return nil
	}
	err := future.Error()
	err = errors.Join(err, c.trans.Close(), ignoreClosed(c.trans.streams.Close()))
	if err != nil {
		return fmt.Errorf("controller: stop raft: %w", err)
	}
	return nil
}

func (c *Controller) raftConfig(notify chan<- bool) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = serverID(c.cfg.NodeID)
	conf.HeartbeatTimeout = c.cfg.HeartbeatTimeout
	conf.ElectionTimeout = c.cfg.ElectionTimeout
	conf.LeaderLeaseTimeout = c.cfg.LeaseTimeout
	conf.CommitTimeout = c.cfg.CommitInterval
	conf.SnapshotInterval = c.cfg.SnapshotInterval
	conf.SnapshotThreshold = c.cfg.SnapshotThreshold
	conf.TrailingLogs = c.cfg.TrailingLogs
	conf.NotifyCh = notify
	conf.Logger = telemetry.HCLog(c.cfg.libraries).Named("raft")
	conf.NoLegacyTelemetry = true
	return conf
}

// watchLeadership passes on what Raft says about leadership. Raft waits for its notifications to be taken, so nothing is done
// about them here.
func (c *Controller) watchLeadership(r *raft.Raft, notify <-chan bool, observed <-chan raft.Observation, stop <-chan struct{}) {
	for {
		select {
		case leads := <-notify:
			c.leading.put(leads)
			c.hub.setLeader(leaderOf(r))
		case <-observed:
			c.hub.setLeader(leaderOf(r))
		case <-stop:
			return
		}
	}
}

// handOver gives Raft's leadership to another voter, so that the quorum needs no timeout to notice the stop.
func (c *Controller) handOver(r *raft.Raft) {
	if r.State() != raft.Leader || len(c.cfg.Voters) < 2 {
		return
	}
	if err := r.LeadershipTransfer().Error(); err != nil {
		c.cfg.Logger.Info("leadership was not handed over", "error", err)
	}
}

// watchDisk gives the leadership up when a write to the log was slow, and stops the node when one hangs.
func (c *Controller) watchDisk(ctx context.Context) error {
	interval := min(250*time.Millisecond, c.cfg.SlowWrite/4)
	handedOver := false
	for {
		if err := lifecycle.Sleep(ctx, c.cfg.Clock, interval); err != nil {
			return nil //nolint:nilerr // the group stops
		}
		slowest, underWay := c.store.writing()
		if underWay >= c.cfg.HungWrite {
			c.fail(fmt.Errorf("%w: a write takes longer than %s", ErrHungDisk, c.cfg.HungWrite))
			return nil
		}
		if slowest < c.cfg.SlowWrite {
			handedOver = false
			continue
		}
		if r := c.raft.Load(); r != nil && !handedOver && r.State() == raft.Leader && len(c.cfg.Voters) > 1 {
			handedOver = true
			c.cfg.Logger.Warn("the disk of the controller's log is slow; handing leadership over", "write", slowest)
			c.group.Go("hand-over", func(context.Context) error {
				c.handOver(r)
				return nil
			})
		}
	}
}

// Active reports whether this controller decides at the moment.
func (c *Controller) Active() bool { return c.active.Load() }

// ActiveController names the node that leads the quorum as far as this one knows. It may be about to begin to decide.
func (c *Controller) ActiveController() (id model.NodeID, address string, known bool) {
	r := c.raft.Load()
	if r == nil {
		return model.NoNode, "", false
	}
	v, ok := c.cfg.voter(leaderOf(r))
	if !ok {
		return model.NoNode, "", false
	}
	return v.ID, v.Address, true
}

// QuorumState says whether this voter holds metadata. It is what a node answers to a probe.
func (c *Controller) QuorumState() QuorumState {
	if c.hasSnaps || c.store.hasMetadata.Load() || c.hub.Image().Offset() > 0 {
		return QuorumStateEstablished
	}
	return QuorumStateEmpty
}

// ClusterID is the id of the cluster; zero while this controller has not learned it.
func (c *Controller) ClusterID() model.UUID { return c.hub.Image().ClusterID() }

// Image is the image as this controller has applied it.
func (c *Controller) Image() *metadata.Image { return c.hub.Image() }

func leaderOf(r *raft.Raft) model.NodeID {
	_, id := r.LeaderWithID()
	n, err := strconv.ParseInt(string(id), 10, 32)
	if err != nil {
		return model.NoNode
	}
	return model.NodeID(n)
}

func serverID(id model.NodeID) raft.ServerID {
	return raft.ServerID(strconv.FormatInt(int64(id), 10))
}
