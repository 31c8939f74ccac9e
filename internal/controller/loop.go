package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

const (
	maxBatchRecords = 20_000
	maxTick         = 100 * time.Millisecond
	barrierRetry    = 100 * time.Millisecond
)

// loop is the state of the event loop; only its goroutine touches it.
type loop struct {
	c     *Controller
	state *core.State

	leads      bool // Raft says so
	generation int  // grows with every gain or loss of leadership and every doubt; outcomes of older ones are ignored
	confirmed  bool // a barrier has passed in this generation
	birthBy    time.Time
	pending    []*request
	inflight   *proposal
	tick       lifecycle.Timer
	interval   time.Duration

	barriers chan barrierOutcome
	applied  chan applyOutcome
	probed   chan probeOutcome
}

// proposal is the entry in flight.
type proposal struct {
	generation int
	requests   []*request
	deadline   time.Time
	began      time.Time
	before     *metadata.Image // that it was decided on, unless it is stale
	entry      *internalv1.MetadataEntry
}

type barrierOutcome struct {
	generation int
	err        error
}

type applyOutcome struct {
	proposal *proposal
	err      error // of Raft
	result   error // of the state machine
}

type probeOutcome struct {
	target core.Target
	sent   time.Time
	dead   bool
}

// loop runs the event loop until the group stops.
func (c *Controller) loop(ctx context.Context) error {
	defer close(c.loopEnded)
	state := core.New(c.cfg.Core)
	interval := min(maxTick, state.Config().SessionTimeout/8)
	l := &loop{
		c: c, state: state, interval: interval, tick: c.cfg.Clock.NewTimer(interval),
		barriers: make(chan barrierOutcome), applied: make(chan applyOutcome), probed: make(chan probeOutcome),
	}
	defer l.tick.Stop()
	for l.step(ctx) {
		l.drain()
		l.decide()
		l.c.metrics.queued.Store(int64(len(l.pending)))
	}
	c.active.Store(false)
	l.answerAll(errStopping())
	if l.inflight != nil {
		answer(l.inflight.requests, unknownOutcome(errStopping()))
	}
	return nil
}

// step waits for something to happen and deals with it; false means the end.
func (l *loop) step(ctx context.Context) bool {
	var ticks <-chan time.Time
	if l.leads {
		ticks = l.tick.C()
	}
	select {
	case <-ctx.Done():
		return false
	case <-l.c.leading.signal:
		for _, leads := range l.c.leading.take() {
			l.leadership(leads)
		}
	case o := <-l.barriers:
		l.barrierPassed(o)
	case o := <-l.applied:
		l.applyEnded(o)
	case r := <-l.c.requests:
		l.arrive(r)
	case s := <-l.c.lost:
		l.connectionLost(s)
	case o := <-l.probed:
		l.state.ProbeEnded(o.target, o.sent, o.dead)
	case <-ticks:
		l.ticked()
	}
	return true
}

// drain takes in what has arrived, so that no session ends while its heartbeat waits.
func (l *loop) drain() {
	for {
		select {
		case r := <-l.c.requests:
			l.arrive(r)
		default:
			return
		}
	}
}

// arrive takes a request in.
func (l *loop) arrive(r *request) {
	if !l.state.Active() {
		r.answer <- l.c.notController()
		return
	}
	if r.touch != nil {
		if done, err := r.touch(l.state); done || err != nil {
			r.answer <- err
			return
		}
	}
	l.pending = append(l.pending, r)
}

// leadership follows a gain or loss of Raft's leadership.
func (l *loop) leadership(leads bool) {
	l.suspend()
	l.leads = leads
	if leads {
		l.c.metrics.leaderships.Inc()
		l.c.cfg.Logger.Info("leading the quorum; waiting for a barrier")
		l.tick.Reset(l.interval)
		l.birthBy = l.c.cfg.Clock.Now().Add(l.c.cfg.BirthTimeout)
		l.barrier(0)
		return
	}
	l.c.cfg.Logger.Info("not leading the quorum any more")
}

// suspend ends the time as active controller: nothing more is decided in this generation.
func (l *loop) suspend() {
	l.generation++
	l.confirmed = false
	l.c.active.Store(false)
	l.state.Deactivate()
	l.answerAll(l.c.notController())
}

// barrier waits, off the loop, until everything that Raft has accepted so far is applied.
func (l *loop) barrier(after time.Duration) {
	generation, r := l.generation, l.c.raft.Load()
	l.c.group.Go("barrier", func(ctx context.Context) error {
		if err := lifecycle.Sleep(ctx, l.c.cfg.Clock, after); err != nil {
			return err
		}
		err := r.Barrier(l.c.cfg.ApplyTimeout).Error()
		select {
		case l.barriers <- barrierOutcome{generation: generation, err: err}:
		case <-l.c.loopEnded:
		}
		return nil
	})
}

func (l *loop) barrierPassed(o barrierOutcome) {
	if o.generation != l.generation || !l.leads {
		return
	}
	if o.err != nil {
		if errors.Is(o.err, raft.ErrEnqueueTimeout) || l.c.raft.Load().State() == raft.Leader {
			l.barrier(barrierRetry)
		}
		return
	}
	l.confirmed = true
	l.begin()
}

// begin starts to decide, once the cluster has its name.
func (l *loop) begin() {
	now, image := l.c.cfg.Clock.Now(), l.c.hub.Image()
	if image.ClusterID().IsZero() {
		l.nameCluster(now, image)
		return
	}
	targets := l.state.Activate(now, image)
	l.state.Tick(now, now.Add(l.interval))
	l.c.active.Store(true)
	l.c.cfg.Logger.Info("this is the active controller", "metadata_offset", image.Offset())
	for _, t := range targets {
		l.probe(t, false)
	}
}

// nameCluster writes the first entry, once every voter has shown itself as a follower, or after a while without one.
func (l *loop) nameCluster(now time.Time, image *metadata.Image) {
	if l.inflight != nil || (!l.c.trans.heardOf(l.c.cfg.Voters, l.c.cfg.NodeID) && now.Before(l.birthBy)) {
		return // the next tick looks again
	}
	l.state.Applied(image)
	batch := l.state.Begin(now)
	if err := batch.CreateCluster(model.NewUUID()); err != nil {
		l.c.fail(err)
		return
	}
	l.propose(batch.Entry(), nil, now)
}

// ticked looks at what depends on time alone.
func (l *loop) ticked() {
	now := l.c.cfg.Clock.Now()
	l.tick.Reset(l.interval)
	if p := l.inflight; p != nil && now.After(p.deadline) {
		l.doubt(p, fmt.Errorf("no outcome within %s", l.c.cfg.ApplyTimeout))
	}
	if !l.confirmed {
		return
	}
	if !l.state.Active() {
		l.begin()
	}
}

// doubt gives up on a proposal whose outcome is unknown. Another barrier will tell what became of it.
func (l *loop) doubt(p *proposal, cause error) {
	l.c.cfg.Logger.Warn("the outcome of a metadata entry is unknown", "error", cause)
	if l.inflight == p {
		l.inflight = nil
	}
	if p.generation == l.generation {
		l.suspend()
		if l.leads {
			l.barrier(barrierRetry)
		}
	}
	answer(p.requests, unknownOutcome(cause))
}

func unknownOutcome(cause error) error {
	return model.Errorf(model.CodeUnknownOutcome, "the change may or may not take effect: %w", cause)
}

// decide makes the next entry of what is pending, if nothing is in flight. A stall of the loop is noticed first.
func (l *loop) decide() {
	if !l.state.Active() {
		return
	}
	now := l.c.cfg.Clock.Now()
	l.state.Tick(now, now.Add(l.interval))
	if l.inflight != nil {
		return
	}
	if len(l.pending) == 0 && !l.state.WantsFencing(now) {
		return
	}
	batch := l.state.Begin(now)
	decided := l.decidePending(batch)
	dead, err := batch.FenceDead()
	if err != nil {
		l.c.cfg.Logger.Error("brokers could not be fenced", "brokers", dead, "error", err)
	} else if len(dead) > 0 {
		l.c.cfg.Logger.Warn("fencing brokers that are gone", "brokers", dead)
	}
	entry := batch.Entry()
	if entry == nil {
		for _, r := range decided {
			r.answer <- r.err
		}
		return
	}
	l.propose(entry, decided, now)
}

// decidePending decides requests into the batch until it is full, and returns them. Those whose caller is gone are dropped.
func (l *loop) decidePending(batch *core.Batch) []*request {
	var decided []*request
	for len(l.pending) > 0 && batch.Len() < maxBatchRecords {
		r := l.pending[0]
		l.pending[0] = nil
		l.pending = l.pending[1:]
		if r.ctx.Err() != nil {
			r.answer <- timedOut(r.ctx)
			continue
		}
		r.err = r.decide(batch)
		decided = append(decided, r)
	}
	return decided
}

// propose hands an entry to Raft and waits for its outcome off the loop.
func (l *loop) propose(entry *internalv1.MetadataEntry, requests []*request, now time.Time) {
	data, err := proto.Marshal(entry)
	if err != nil {
		answer(requests, model.Errorf(model.CodeUnknownServerError, "encode the metadata entry: %w", err))
		return
	}
	p := &proposal{
		generation: l.generation, requests: requests, deadline: now.Add(l.c.cfg.ApplyTimeout),
		began: now, before: l.c.hub.Image(), entry: entry,
	}
	l.inflight = p
	r := l.c.raft.Load()
	started := l.c.group.Go("apply", func(context.Context) error {
		o := applyOutcome{proposal: p}
		future := r.Apply(data, l.c.cfg.ApplyTimeout)
		if o.err = future.Error(); o.err == nil {
			if a, ok := future.Response().(applied); ok {
				o.result = a.err
			}
		}
		select {
		case l.applied <- o:
		case <-l.c.loopEnded:
		}
		return nil
	})
	if !started {
		l.inflight = nil
		answer(requests, errStopping())
	}
}

// applyEnded deals with the outcome of a proposal.
func (l *loop) applyEnded(o applyOutcome) {
	p := o.proposal
	if o.err == nil && o.result == nil {
		l.c.metrics.committed(p.before, p.entry)
		l.c.metrics.batch.Observe(l.c.cfg.Clock.Now().Sub(p.began).Seconds())
	}
	if l.inflight != p {
		return // given up before
	}
	l.inflight = nil
	switch {
	case errors.Is(o.err, raft.ErrNotLeader), errors.Is(o.err, raft.ErrLeadershipTransferInProgress):
		answer(p.requests, l.c.notController()) // Raft never took it
	case o.err != nil:
		l.doubt(p, o.err)
		return
	case errors.Is(o.result, metadata.ErrStaleEntry):
		l.stale(p)
	case o.result != nil:
		l.c.cfg.Logger.Error("the state machine refused an entry", "error", o.result)
		answer(p.requests, model.Errorf(model.CodeUnknownServerError, "the metadata entry was refused: %w", o.result))
	default:
		for _, r := range p.requests {
			r.answer <- r.err
		}
	}
	l.state.Applied(l.c.hub.Image())
	if l.confirmed && !l.state.Active() {
		l.begin()
	}
}

// stale deals with an entry that another controller's got ahead of: nothing of it took effect, so its requests are decided
// anew, if this controller still decides.
func (l *loop) stale(p *proposal) {
	l.c.cfg.Logger.Warn("an entry was decided on an older image; deciding again")
	if p.generation == l.generation && l.state.Active() {
		l.pending = append(p.requests, l.pending...)
		return
	}
	answer(p.requests, l.c.notController())
}

func (l *loop) answerAll(err error) {
	answer(l.pending, err)
	l.pending = nil
	for {
		select {
		case r := <-l.c.requests:
			r.answer <- err
		default:
			return
		}
	}
}

func answer(requests []*request, err error) {
	for _, r := range requests {
		r.answer <- err
	}
}
