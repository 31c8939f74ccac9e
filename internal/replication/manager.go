package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
	"github.com/penstock-io/penstock/internal/wire"
)

// Syncer makes logs durable in groups. storage.Syncer is one; what it has synced it reports to Manager.OnSynced.
type Syncer interface {
	// Request asks for a sync of everything that the log holds now. It does not wait.
	Request(log *storage.Log)
}

// ReplicaStream is the follower's side of one replica stream. One goroutine may send while another receives.
// wire.ReplicateClientStream is one.
type ReplicaStream interface {
	// Send sends to the leader; io.EOF says that the stream has ended.
	Send(*internalv1.ReplicateRequest) error
	// Recv receives the next frame; the caller owns its payload.
	Recv(*wire.ReplicateResponse) error
}

// LeaderEndpoint reaches the brokers that lead.
type LeaderEndpoint interface {
	// OpenReplicaStream opens a replica stream to a broker and sends hello in its first request. The stream ends when ctx
	// does.
	OpenReplicaStream(ctx context.Context, leader *metadata.Broker, hello *internalv1.ReplicaHello) (ReplicaStream, error)
	// FetchProducerSnapshot asks the leader of a partition for the state of its idempotent producers at an offset. The
	// caller owns the bytes.
	FetchProducerSnapshot(ctx context.Context, leader *metadata.Broker, req *internalv1.FetchProducerSnapshotRequest) ([]byte, error)
	// CheckRange asks the leader of a partition to look at a range of its log.
	CheckRange(ctx context.Context, leader *metadata.Broker, req *internalv1.CheckRangeRequest) (*internalv1.CheckRangeResponse, error)
}

// ReplicaServerStream is the leader's side of one replica stream. wire.ReplicateServerStream is one.
type ReplicaServerStream interface {
	// Send sends one frame and keeps its own reference to the payload while it needs it.
	Send(*wire.ReplicateResponse) error
	// Recv receives what the follower says next; io.EOF after its last.
	Recv() (*internalv1.ReplicateRequest, error)
}

// Controller is what the manager asks of the active controller.
type Controller interface {
	// AlterPartition proposes in-sync sets.
	AlterPartition(ctx context.Context, req *internalv1.AlterPartitionRequest) (*internalv1.AlterPartitionResponse, error)
	// GiveUpSeats takes replicas out of ISR and ELR that cannot go on.
	GiveUpSeats(ctx context.Context, req *internalv1.GiveUpSeatsRequest) (*internalv1.GiveUpSeatsResponse, error)
	// ReportDeleted says that data of deleted topics is gone.
	ReportDeleted(ctx context.Context, req *internalv1.ReportDeletedRequest) (*internalv1.ReportDeletedResponse, error)
}

// Options is what a Manager is made of. NodeID, Dir, Endpoint and Controller are required.
type Options struct {
	// NodeID is this broker.
	NodeID model.NodeID
	// Dir holds the logs. The manager neither opens nor closes it.
	Dir *storage.Dir
	// Syncer makes appends durable; nil lets Start start a storage.Syncer with SyncWorkers goroutines.
	Syncer Syncer
	// SyncWorkers is how many logs are synced at a time; default 4.
	SyncWorkers int
	// PageCacheLost says that the machine has restarted since the directory was used, without a clean shutdown: logs that were
	// written in flush.mode=os may lack records that they vouched for, and give up their seats.
	PageCacheLost bool
	// Endpoint reaches leaders.
	Endpoint LeaderEndpoint
	// Controller takes proposals and reports.
	Controller Controller
	// Clock is the wall clock; nil means the machine's.
	Clock lifecycle.Clock
	// Logger takes log lines; nil means slog.Default.
	Logger *slog.Logger
	// Metrics registers the manager's metrics; nil registers none.
	Metrics prometheus.Registerer
	// Pool gives the buffers that followers are sent; nil means wire.DefaultPool.
	Pool *wire.Pool
	// Stalled says for how long the disk has not answered a sync; nil is never. It must not wait for the disk.
	Stalled func() time.Duration
	// OnDiskFailure is called once when a sync failed: the state of the disk is unknown, the broker must exit. It must not
	// block. Nil only logs.
	OnDiskFailure func(error)
	// Core holds the times of the rules.
	Core core.Config
	// MaxPendingBytes bounds the bytes appended and not yet acknowledged, over all partitions; default 256 MiB.
	MaxPendingBytes int64
	// StreamCreditBytes and PartitionCreditBytes bound the bytes under way on a follower's stream, and of one partition in
	// it; defaults 16 MiB and 4 MiB.
	StreamCreditBytes, PartitionCreditBytes int64
	// FrameBytes bounds the batches of one frame, unless one batch is larger; default 256 KiB.
	FrameBytes int64
	// SweepInterval is how often lag, timeouts and retries are looked at while there are any; default 25 ms.
	SweepInterval time.Duration
	// CheckpointInterval is how often HighWatermarks are checkpointed; default 5 s.
	CheckpointInterval time.Duration
	// RetentionInterval is how often retention and compaction look at every partition; default 5 minutes. It is looked at
	// with the checkpoints.
	RetentionInterval time.Duration
	// ClockGuard bounds how far the wall clock is believed when records are deleted by age.
	ClockGuard storage.ClockGuardOptions
	// CleanerBytesPerSecond bounds what compaction reads and writes; default 64 MiB a second.
	CleanerBytesPerSecond int64
	// CleanerMapBytes bounds the memory for the keys of one compaction; default 16 MiB. It is used only while one runs.
	CleanerMapBytes int64
	// CheckBytesPerSecond bounds what is read to compare logs with those of other replicas; default 64 MiB a second.
	CheckBytesPerSecond int64
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = lifecycle.RealClock()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Pool == nil {
		o.Pool = wire.DefaultPool()
	}
	bytes := func(v *int64, def int64) {
		if *v <= 0 {
			*v = def
		}
	}
	bytes(&o.MaxPendingBytes, 256<<20)
	bytes(&o.StreamCreditBytes, 16<<20)
	bytes(&o.PartitionCreditBytes, 4<<20)
	bytes(&o.FrameBytes, 256<<10)
	bytes(&o.CleanerBytesPerSecond, 64<<20)
	bytes(&o.CleanerMapBytes, 16<<20)
	bytes(&o.CheckBytesPerSecond, 64<<20)
	if o.SyncWorkers <= 0 {
		o.SyncWorkers = 4
	}
	if o.SweepInterval <= 0 {
		o.SweepInterval = 25 * time.Millisecond
	}
	if o.CheckpointInterval <= 0 {
		o.CheckpointInterval = 5 * time.Second
	}
	if o.RetentionInterval <= 0 {
		o.RetentionInterval = 5 * time.Minute
	}
	return o
}

// Manager holds the partitions of one broker. It is safe for concurrent use. The order of calls at start is NewManager,
// Recover, Start, SetBrokerEpoch, and then Publish for every image; Close ends it.
type Manager struct {
	opts    Options
	started time.Time
	group   *lifecycle.Group
	metrics *metrics

	pending atomic.Int64 // bytes appended and not yet acknowledged
	// What metrics show beside metrics.
	waitingAppends atomic.Int64
	topics         topicTraffic
	lags           atomic.Pointer[lags]
	failed         atomic.Pointer[error]
	stalled        atomic.Bool   // the disk did not answer when it was looked at last
	subID          atomic.Uint64 // ids of subscriptions

	publishMu sync.Mutex // one image at a time; taken before mu

	mu          sync.RWMutex
	syncer      Syncer
	image       *metadata.Image
	brokerEpoch model.BrokerEpoch
	caughtUp    bool // an image with the own registration was seen
	closing     bool
	partitions  map[model.TopicPartition]*partition
	found       map[model.TopicPartition]recovered  // logs of Recover that no image has named yet
	closed      map[model.TopicPartition]*closedLog // logs that cannot be opened for lack of room

	fetchMu  sync.Mutex // taken before a fetcher's mu
	fetchers map[fetcherKey]*fetcher

	ticking     ticking
	room        room
	suspicions  suspicions
	comparisons comparisons
	retention   retention
	clock       atomic.Uint32 // the storage.ClockVerdict of the last sweep
	cleaning    cleaningQueue
	proposals   proposalQueue
	giveUps     giveUps
	checks      chan struct{} // a token a CheckRange that is served
	deletions   chan struct{} // one token: look at the image for deletions
}

// NewManager returns a manager without partitions.
func NewManager(opts Options) (*Manager, error) {
	if opts.Dir == nil || opts.Endpoint == nil || opts.Controller == nil {
		return nil, errors.New("replication manager: Dir, Endpoint and Controller are required")
	}
	opts = opts.withDefaults()
	m := &Manager{
		opts: opts, started: opts.Clock.Now(), image: metadata.Empty(), brokerEpoch: model.NoBrokerEpoch,
		partitions: map[model.TopicPartition]*partition{}, found: map[model.TopicPartition]recovered{},
		closed:    map[model.TopicPartition]*closedLog{},
		fetchers:  map[fetcherKey]*fetcher{},
		deletions: make(chan struct{}, 1),
	}
	m.proposals.wake = make(chan struct{}, 1)
	m.cleaning.wake = make(chan struct{}, 1)
	m.giveUps.wake, m.suspicions.wake, m.comparisons.wake = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	m.checks = make(chan struct{}, checksAtOnce)
	m.ticking.wake, m.ticking.set = make(chan struct{}, 1), map[*partition]struct{}{}
	var err error
	if m.metrics, err = newMetrics(m, opts.Metrics); err != nil {
		return nil, fmt.Errorf("replication manager: %w", err)
	}
	return m, nil
}

// Start starts the manager's goroutines in group. It is called once, before the first Publish.
func (m *Manager) Start(group *lifecycle.Group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.group = group
	if m.syncer = m.opts.Syncer; m.syncer == nil {
		m.syncer = storage.StartSyncer(group, m.opts.SyncWorkers, m.OnSynced)
	}
	m.beginRetention()
	group.Go("sweeper", m.sweepLoop)
	group.Go("cleaner", m.cleanLoop)
	group.Go("isr-proposer", m.proposeLoop)
	group.Go("deleter", m.deleteLoop)
	group.Go("seat-giver", m.giveUpLoop)
	group.Go("checker", m.checkLoop)
	group.Go("comparer", m.compareLoop)
}

// now is the time for the cores.
func (m *Manager) now() time.Duration { return m.opts.Clock.Now().Sub(m.started) }

// lookup finds a partition that this broker holds.
func (m *Manager) lookup(tp model.TopicPartition) (*partition, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	p := m.partitions[tp]
	switch {
	case p != nil:
		return p, nil
	case m.closing:
		return nil, model.Errorf(model.CodeShuttingDown, "broker %d is stopping", m.opts.NodeID)
	}
	topic, ok := m.image.TopicByID(tp.TopicID)
	if !ok {
		return nil, model.Errorf(model.CodeUnknownTopicID, "broker %d knows no topic with id %s; fetch the metadata", m.opts.NodeID, tp.TopicID)
	}
	if _, ok := m.image.Partition(tp); !ok {
		return nil, model.Errorf(model.CodeUnknownTopicOrPartition, "topic %s has no partition %d", topic.Name, tp.Partition)
	}
	if err := m.closedError(tp); err != nil {
		return nil, err
	}
	return nil, model.Errorf(model.CodeNotLeaderForPartition, "broker %d holds no replica of %s/%d; ask its leader", m.opts.NodeID, topic.Name, tp.Partition)
}

// diskFailed stops everything that could acknowledge: what is on the disk is not known any more.
func (m *Manager) diskFailed(err error) {
	if !m.failed.CompareAndSwap(nil, &err) {
		return
	}
	m.opts.Logger.Error("a sync failed, nothing is acknowledged any more and the broker must exit", "error", err)
	for _, p := range m.allPartitions() {
		m.run(p, func(*effects) core.Output { return p.replica.Offline() })
	}
	if m.opts.OnDiskFailure != nil {
		m.opts.OnDiskFailure(err)
	}
}

// allPartitions returns the partitions in no order.
func (m *Manager) allPartitions() []*partition {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := make([]*partition, 0, len(m.partitions))
	for _, p := range m.partitions {
		all = append(all, p)
	}
	return all
}

// OnSynced takes what the syncer did: the durable end of a log, or why its sync failed. It is the Syncer's callback.
func (m *Manager) OnSynced(log *storage.Log, durableEnd int64, err error) {
	m.mu.RLock()
	p := m.partitions[log.TopicPartition()]
	m.mu.RUnlock()
	switch {
	case errors.Is(err, storage.ErrLogClosed):
	case err != nil:
		m.diskFailed(err)
	case p != nil && p.log == log:
		m.run(p, func(fx *effects) core.Output {
			fx.fetch = p.fetcher // a follower acknowledges
			if err := m.markMode(p); err != nil {
				m.opts.Logger.Warn("the mark of flush.mode=os stays", "partition", p.tp.String(), "error", err)
			}
			// The log may have been cut, and written anew, since the sync: only the log itself knows what that left durable.
			return p.replica.LocalDurable(min(durableEnd, p.log.DurableEnd()), m.now())
		})
	}
}

// retire closes a partition for every further step.
func (m *Manager) retire(p *partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.needsTick = true, false
	m.ticking.put(p, false)
}

// Close ends the manager cleanly: waiting appends fail, HighWatermarks are checkpointed, logs are synced and closed, and the
// directory is marked clean unless anything of that failed. The goroutines of Start's group must have ended, or end soon.
func (m *Manager) Close(ctx context.Context) error {
	m.publishMu.Lock()
	defer m.publishMu.Unlock()
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	all := m.allPartitions()
	for _, p := range all {
		m.run(p, func(fx *effects) core.Output {
			p.waiting.failAll(fx, model.Errorf(model.CodeShuttingDown, "the broker stopped before the batch was acknowledged"))
			return p.replica.Offline()
		})
	}
	m.mu.Lock()
	m.partitions = map[model.TopicPartition]*partition{}
	found := m.found
	m.found = map[model.TopicPartition]recovered{}
	m.mu.Unlock()
	errs := []error{m.checkpoint(all)}
	for _, p := range all {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("close logs: %w", err))...)
		}
		m.retire(p)
		errs = append(errs, p.log.Close(true))
	}
	for _, r := range found {
		errs = append(errs, r.log.Close(true))
	}
	if failed := m.failed.Load(); failed != nil {
		errs = append(errs, *failed)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close replicas: %w", err)
	}
	return m.opts.Dir.MarkClean()
}
