package sim

import (
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// controller is the shell around the controller's core on one voter.
type controller struct {
	n      *node
	state  *core.State
	active bool
	term   int
	queue  []ctlRequest
	busy   bool // an entry is under way
	round  int  // number of the entry under way
}

// ctlRequest is decided in a batch, and answered once the batch is committed.
type ctlRequest struct {
	decide func(b *core.Batch) (any, error)
	answer func(any)
}

// ctlAnswer is what a request gets back.
type ctlAnswer struct {
	v    any
	code model.ErrorCode
}

func newController(n *node) *controller {
	c := &controller{n: n, state: core.New(n.w.cfg.controller)}
	n.every(100*time.Millisecond, c.tick)
	return c
}

func (c *controller) activate(term int, image *metadata.Image) {
	c.active, c.term, c.queue, c.busy = true, term, nil, false
	c.round++
	c.n.w.note("controller-active", int64(c.n.id), int64(term), int64(image.Offset()), 0)
	for _, t := range c.state.Activate(c.n.wall(), image) {
		c.probe(t, false)
	}
	if image.ClusterID().IsZero() {
		id := c.n.w.uuid()
		c.ask(func(b *core.Batch) (any, error) { return nil, b.CreateCluster(id) }, func(any) {})
	}
}

func (c *controller) deactivate() {
	c.n.w.note("controller-inactive", int64(c.n.id), int64(c.term), 0, 0)
	c.active, c.busy = false, false
	c.round++
	c.state.Deactivate()
	for _, r := range c.queue {
		r.answer(ctlAnswer{code: model.CodeNotController})
	}
	c.queue = nil
}

// ask takes a request.
func (c *controller) ask(decide func(*core.Batch) (any, error), answer func(any)) {
	if !c.active {
		answer(ctlAnswer{code: model.CodeNotController})
		return
	}
	c.queue = append(c.queue, ctlRequest{decide: decide, answer: answer})
	c.flush()
}

// heartbeat is asked apart: most are answered at once.
func (c *controller) heartbeat(req *internalv1.HeartbeatRequest, answer func(any)) {
	if !c.active {
		answer(ctlAnswer{code: model.CodeNotController})
		return
	}
	resp, err := c.state.Touch(req, c.n.wall())
	if err != nil || resp != nil {
		answer(ctlAnswer{v: resp, code: model.CodeOf(err)})
		return
	}
	c.ask(func(b *core.Batch) (any, error) { return b.Heartbeat(req) }, answer)
}

func (c *controller) tick() {
	now := c.n.wall()
	c.state.Tick(now, now.Add(100*time.Millisecond))
	if c.active && (c.state.WantsFencing(now) || len(c.queue) > 0) {
		c.flush()
	}
}

// flush decides all that waits into one entry.
func (c *controller) flush() {
	if !c.active || c.busy {
		return
	}
	batch := c.state.Begin(c.n.wall())
	queue := c.queue
	c.queue = nil
	answers := make([]ctlAnswer, len(queue))
	for i, r := range queue {
		v, err := r.decide(batch)
		answers[i] = ctlAnswer{v: v, code: model.CodeOf(err)}
		if err != nil {
			c.n.w.comment("controller %d refuses: %v", c.n.id, err)
		}
	}
	if c.state.WantsFencing(c.n.wall()) {
		if _, err := batch.FenceDead(); err != nil {
			c.n.w.oracle.fail("the controller cannot fence: %v", err)
		}
	}
	entry := batch.Entry()
	if entry == nil {
		for i, r := range queue {
			r.answer(answers[i])
		}
		return
	}
	c.busy = true
	c.round++
	round := c.round
	c.n.w.raft.propose(c.n, entry, func(outcome raftOutcome) { c.ended(round, outcome, queue, answers) })
}

// ended answers the requests of a batch.
func (c *controller) ended(round int, outcome raftOutcome, queue []ctlRequest, answers []ctlAnswer) {
	for i, r := range queue {
		switch outcome {
		case raftCommitted:
			r.answer(answers[i])
		case raftDropped:
			r.answer(ctlAnswer{code: model.CodeNotController})
		case raftUnknown:
			r.answer(ctlAnswer{code: model.CodeRequestTimedOut})
		}
	}
	if !c.active || c.round != round {
		return
	}
	c.busy = false
	if outcome != raftCommitted {
		c.deactivate() // perhaps another one decides; a barrier tells
		c.n.w.raft.barrier(c.n)
		return
	}
	c.flush()
}

// lost is told that the stream of a broker's heartbeats broke.
func (c *controller) lost(id model.NodeID, epoch model.BrokerEpoch) {
	if !c.active {
		return
	}
	if t, ok := c.state.Lost(id, epoch); ok {
		c.probe(t, true)
	}
}

// probe asks a broker's address who lives there. Silence counts as death only where the broker's stream has ended.
func (c *controller) probe(t core.Target, streamEnded bool) {
	sent, to, w := c.n.wall(), c.n.w.nodeOf(t.ID), c.n.w
	c.state.ProbeStarted(t)
	w.net.call(c.n, to, 500*time.Millisecond, func(answer func(any)) {
		answer(to.broker.incarnation)
	}, func(v any, status callStatus) {
		incarnation, answered := v.(model.UUID)
		alive := answered && incarnation == t.IncarnationID
		c.state.ProbeEnded(t, sent, !alive && (streamEnded || status != callTimedOut))
		if c.active && c.state.WantsFencing(c.n.wall()) {
			c.flush()
		}
	})
}

// guessController finds a voter to ask: the one known last, or any.
func (w *world) guessController(last *node) *node {
	if last != nil {
		return last
	}
	return w.voters[w.intn(len(w.voters))]
}
