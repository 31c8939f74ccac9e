package replication

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// partition is one replica of this broker.
type partition struct {
	tp   model.TopicPartition
	name string // the topic's name and the number: clients do not know the id
	log  *storage.Log

	// What readers see without the lock.
	seen atomic.Pointer[roleView]
	hw   atomic.Int64
	// Where the log is known to differ from the leader's, each sound by itself.
	differs atomic.Pointer[offsets]

	traffic *traffic // of its topic

	watch watchers

	mu           sync.Mutex
	replica      *core.Replica
	settings     metadata.TopicSettings
	osMode       bool  // the log carries the mark of flush.mode=os
	osEnd        int64 // where it ended when the topic left that mode: flushed up to here, the mark goes
	waiting      waitQueue
	subs         []*serverSub // subscriptions that this leader serves
	fetcher      *fetcher     // whom this follower fetches from
	closed       bool
	stopped      *model.Error // why the replica stopped for good
	needsTick    bool         // it is in Manager.ticking
	checkpointed checkpointed
	cleanAfter   time.Time // a cleaning has failed: not before

	heldBefore, heldNow heldByAll
}

// roleView is a role as readers see it. It is never changed.
type roleView struct {
	role        core.Role
	leader      model.NodeID
	leaderEpoch model.LeaderEpoch
	ready       bool // offset look-ups may be answered (R4)
}

// effects is what a step asks for once the partition's lock is released.
type effects struct {
	done     []completion
	wake     bool // readers look again
	proposal *core.Proposal
	fetch    *fetcher // whose sender looks at the partition
	sync     bool     // the log wants a sync
	restart  *restart // the log is to begin anew
	verify   *core.Verify
	giveUp   *core.GiveUp
	handOver *core.GiveUp
	discard  uint64 // the damage is to be discarded; 0 for not
	failed   error  // the disk failed
}

// completion is the end of one append.
type completion struct {
	done    func(Receipt, error)
	receipt Receipt
	err     error
}

// run lets step change the partition under its lock, does what the core asks for, and then, without the lock, tells
// those who wait.
func (m *Manager) run(p *partition, step func(fx *effects) core.Output) {
	var fx effects
	p.mu.Lock()
	if !p.closed {
		m.apply(p, step(&fx), &fx)
	}
	p.mu.Unlock()
	m.settle(p, &fx)
}

// apply does what an Output asks for, in its order. The caller holds p.mu.
func (m *Manager) apply(p *partition, out core.Output, fx *effects) {
	if out.AssignEpoch {
		if err := p.log.AssignEpochStart(p.replica.LeaderEpoch(), out.EpochStart); err != nil {
			m.logFailed(p, "assign the start of leader epoch", err, fx)
			return
		}
	}
	if out.RoleChanged {
		m.roleChanged(p, fx)
	}
	if out.Truncate {
		m.cut(p, out, fx)
	}
	if out.Restart {
		fx.restart = &restart{p: p, leader: p.replica.Leader(), epoch: p.replica.LeaderEpoch(), at: out.RestartAt}
	}
	if out.Verify != nil {
		fx.verify = out.Verify
	}
	if out.GiveUp != nil {
		fx.giveUp = out.GiveUp
	}
	if out.HandOver != nil {
		fx.handOver = out.HandOver
	}
	if out.Discard {
		fx.discard = out.DiscardSeq
	}
	if out.PositionMoved {
		p.waiting.complete(p, acksLeader, out.Position, fx)
	}
	if out.HighWatermarkMoved {
		p.hw.Store(out.HighWatermark)
		p.waiting.complete(p, acksAll, out.HighWatermark, fx)
		fx.wake = true
	}
	if out.LogStartMoved {
		if err := p.log.Trim(out.LogStart); err != nil {
			m.opts.Logger.Warn("following the leader's log start failed, it is tried again", "partition", p.tp.String(), "error", err)
		}
	}
	if out.Propose {
		proposal := out.Proposal
		fx.proposal = &proposal
	}
	if out.FollowersReady {
		for _, s := range p.subs {
			s.stream.markReady(s)
		}
	}
	if out.Stopped != nil {
		p.stopped = out.Stopped
		m.metrics.diverged.Inc()
		m.opts.Logger.Error("the partition stops: committed records differ from the leader's",
			"partition", p.tp.String(), "error", out.Stopped)
	}
	m.refresh(p, fx)
}

// refresh updates what is seen without the lock.
func (m *Manager) refresh(p *partition, fx *effects) {
	view := roleView{
		role: p.replica.Role(), leader: p.replica.Leader(), leaderEpoch: p.replica.LeaderEpoch(), ready: p.replica.LookupReady(),
	}
	if old := p.seen.Load(); old == nil || *old != view {
		p.seen.Store(&view)
		fx.wake = true
	}
	if needsTick := !p.closed && (p.replica.NeedsTick() || p.waiting.len() > 0); needsTick != p.needsTick {
		p.needsTick = needsTick
		m.ticking.put(p, needsTick)
	}
}

// roleChanged drops what belonged to the old role. The caller holds p.mu.
func (m *Manager) roleChanged(p *partition, fx *effects) {
	m.opts.Logger.Debug("role changed", "partition", p.tp.String(), "replica", p.replica.String())
	for _, s := range p.subs {
		s.stream.drop(s)
		s.stream.answer(s.id, s.leaderEpoch, core.SubscribeAnswer{
			Code: model.CodeNotLeaderForPartition, Detail: "the leadership that was subscribed to is over",
		})
	}
	p.subs = nil
	if p.replica.Role() != core.RoleLeader {
		p.waiting.failAll(fx, model.Errorf(model.CodeNotLeaderForPartition,
			"broker %d lost the leadership of %s before the batch was acknowledged; retry with the same producer id and sequence at the new leader",
			m.opts.NodeID, p.tp))
	}
}

// cut truncates the log. The caller holds p.mu.
func (m *Manager) cut(p *partition, out core.Output, fx *effects) {
	before := p.log.LogEndOffset()
	_, err := p.log.TruncateTo(out.TruncateTo)
	if errors.Is(err, storage.ErrCorruptLog) && p.log.Failed() == nil {
		m.opts.Logger.Error("a log cannot be cut, it is damaged there", "partition", p.tp.String(), "error", err)
		m.suspect(p, out.TruncateTo, err, FoundByRecovery)
		return
	}
	if err != nil {
		m.logFailed(p, "truncate", err, fx)
		return
	}
	p.replica.Truncated(p.logState())
	if after := p.log.LogEndOffset(); after < before {
		m.metrics.truncations.Inc()
		m.opts.Logger.Info("log cut to agree with its leader", "partition", p.tp.String(), "leader", p.replica.Leader(),
			"leader_epoch", p.replica.LeaderEpoch(), "from", before, "to", after)
	}
	p.hw.Store(p.replica.Log().HighWatermark)
}

// logState reads where the log stands. The caller holds p.mu.
func (p *partition) logState() core.LogState {
	state := core.LogState{
		Start: p.log.LogStartOffset(), End: p.log.LogEndOffset(), Durable: p.log.DurableEnd(),
		HighWatermark: p.log.CheckpointedHighWatermark(),
	}
	if d := p.log.Damage(); d != nil {
		state.Damaged, state.DamagedFrom = true, d.From
	}
	return state
}

// logFailed takes a partition out of service whose log refuses to go on. The caller holds p.mu.
func (m *Manager) logFailed(p *partition, what string, err error, fx *effects) {
	m.opts.Logger.Error("the log failed, its partition goes offline", "partition", p.tp.String(), "doing", what, "error", err)
	broken := errors.Is(err, storage.ErrSyncFailed) || errors.Is(err, storage.ErrJournalFailed) || errors.Is(err, storage.ErrLogFailed)
	if broken && !errors.Is(err, fsys.ErrNoSpace) {
		fx.failed = err // the broker ends
		m.apply(p, p.replica.Offline(), fx)
		return
	}
	m.apply(p, p.replica.LogFailed(p.log.Failed() != nil, m.now()), fx)
}

// settle does what a step left to be done without the lock.
func (m *Manager) settle(p *partition, fx *effects) {
	if fx.sync {
		m.requestSync(p.log)
	}
	if fx.fetch != nil {
		fx.fetch.markReady(p)
	}
	if fx.restart != nil {
		m.beginRestart(*fx.restart)
	}
	if fx.verify != nil {
		m.beginVerify(p, *fx.verify)
	}
	if fx.discard != 0 {
		m.beginDiscard(p, fx.discard)
	}
	if fx.giveUp != nil {
		reason := "bytes of its log are not what was written"
		if err := p.log.Failed(); err != nil {
			reason = err.Error()
		}
		m.giveUps.add(giveUp{p: p, tp: p.tp, GiveUp: *fx.giveUp, reason: reason})
	}
	if fx.handOver != nil {
		m.giveUps.add(giveUp{p: p, tp: p.tp, GiveUp: *fx.handOver, reason: "its disk is full", logWhole: true})
	}
	if fx.proposal != nil {
		m.proposals.add(p, *fx.proposal)
	}
	for i := range fx.done {
		fx.done[i].done(fx.done[i].receipt, fx.done[i].err)
	}
	if fx.wake {
		p.watch.wake(p.hw.Load())
	}
	if fx.failed != nil {
		m.diskFailed(fx.failed)
	}
}

func (m *Manager) requestSync(log *storage.Log) {
	m.mu.RLock()
	syncer := m.syncer
	m.mu.RUnlock()
	if syncer != nil {
		syncer.Request(log)
	}
}
