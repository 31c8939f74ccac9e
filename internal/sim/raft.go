package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// raft stands in Raft's place: one ordered log of metadata entries, and a leader among the voters. What it keeps of Raft are
// the outcomes: an entry proposed by a leader that is being replaced is committed, lost, or committed much later, and the
// proposer hears nothing.
type raft struct {
	w       *world
	images  []*metadata.Image // by metadata offset
	leader  *node             // nil while there is none
	inc     int               // the leader's process
	term    int
	pending []*raftProposal
	ill     time.Duration // since when the leader has been out of order; -1 while it is not
	patient time.Duration // how long that is put up with
}

// raftProposal is an entry on its way into the log.
type raftProposal struct {
	by      *node
	inc     int
	entry   *internalv1.MetadataEntry
	done    func(raftOutcome)
	settled bool
}

// raftOutcome is what the proposer learns.
type raftOutcome uint8

const (
	raftCommitted raftOutcome = iota
	raftDropped               // the state machine dropped it: it was decided on another image
	raftUnknown               // no answer came
)

// voter is a node's share in Raft.
type voter struct {
	n       *node
	applied int // the image it has come to; survives the process but for the last few
	ctl     *controller
}

func newRaft(w *world) *raft {
	r := &raft{w: w, images: []*metadata.Image{metadata.Empty()}, ill: -1}
	w.after(10*time.Millisecond, r.check)
	return r
}

func (r *raft) latest() *metadata.Image { return r.images[len(r.images)-1] }

// healthy says whether a voter runs and reaches a majority both ways.
func (r *raft) healthy(n *node) bool {
	if !n.up || n.frozen {
		return false
	}
	reached := 0
	for _, v := range r.w.voters {
		if v == n || (v.up && !v.frozen && r.w.net.linked(v, n)) {
			reached++
		}
	}
	return 2*reached > len(r.w.voters)
}

// check is Raft's election clock.
func (r *raft) check() {
	r.w.after(50*time.Millisecond, r.check)
	if r.leader != nil && r.leader.inc != r.inc {
		r.leader = nil
	}
	if r.leader != nil && r.healthy(r.leader) {
		r.ill = -1
		r.spread()
		return
	}
	if r.ill < 0 {
		r.ill, r.patient = r.w.now, r.w.between(200*time.Millisecond, 900*time.Millisecond)
		if old := r.leader; old != nil && old.up {
			term := r.term
			old.after(r.w.between(100*time.Millisecond, 800*time.Millisecond), func() { old.voter.stepDown(term) })
		}
		return
	}
	if r.w.now-r.ill < r.patient {
		return
	}
	if candidates := r.candidates(); len(candidates) > 0 {
		r.elect(candidates[r.w.intn(len(candidates))])
	}
}

func (r *raft) candidates() []*node {
	var out []*node
	for _, v := range r.w.voters {
		if v != r.leader && r.healthy(v) {
			out = append(out, v)
		}
	}
	if len(out) == 0 && r.leader != nil && r.healthy(r.leader) {
		out = append(out, r.leader)
	}
	return out
}

// elect makes a voter the leader of a new term. What the last one had under way is committed before, lost, or left to come.
func (r *raft) elect(n *node) {
	old, oldTerm := r.leader, r.term
	r.w.note("raft-elect", int64(n.id), int64(r.term+1), 0, 0)
	for _, p := range slices.Clone(r.pending) {
		switch fate := r.w.intn(10); {
		case p.by == n:
		case fate < 4:
			r.commit(p)
		case fate < 8:
			r.settle(p, raftUnknown)
		}
	}
	if old != nil {
		r.w.faults.bite(faultController, old.index)
		if old.up {
			old.after(r.w.between(0, 400*time.Millisecond), func() { old.voter.stepDown(oldTerm) })
		}
	}
	r.leader, r.inc, r.ill = n, n.inc, -1
	r.term++
	r.barrier(n)
}

// barrier lets the leader decide once its state machine has come to the end of the log.
func (r *raft) barrier(n *node) {
	term := r.term
	n.after(r.w.between(time.Millisecond, 30*time.Millisecond), func() {
		if ctl := n.voter.ctl; r.leader == n && r.term == term && (!ctl.active || ctl.term < term) {
			if ctl.active {
				ctl.deactivate() // of a term whose end it has not noticed
			}
			n.voter.apply(len(r.images) - 1)
			n.voter.ctl.activate(term, r.latest())
		}
	})
}

// propose puts an entry on its way. done is called at most once, in the process that proposed.
func (r *raft) propose(n *node, entry *internalv1.MetadataEntry, done func(raftOutcome)) {
	p := &raftProposal{by: n, inc: n.inc, entry: entry, done: done}
	r.pending = append(r.pending, p)
	d := r.w.between(300*time.Microsecond, 4*time.Millisecond)
	if r.w.chance(0.05) {
		d += r.w.between(0, 200*time.Millisecond)
	}
	r.w.after(d, func() { r.try(p) })
	n.after(r.w.between(time.Second, 3*time.Second), func() {
		if !p.settled {
			p.settled = true // what becomes of it nobody is told
			done(raftUnknown)
		}
	})
}

// try commits a proposal if its node leads: in whatever term, for Raft does not ask.
func (r *raft) try(p *raftProposal) {
	if !slices.Contains(r.pending, p) {
		return
	}
	if r.leader == p.by && r.healthy(p.by) && p.by.inc == p.inc {
		r.commit(p)
		return
	}
	if p.by.inc != p.inc {
		r.settle(p, raftUnknown) // it died with its process
		return
	}
	r.w.after(r.w.between(20*time.Millisecond, 300*time.Millisecond), func() { r.try(p) })
}

// commit appends an entry to the log and folds it into the image.
func (r *raft) commit(p *raftProposal) {
	before := r.latest()
	img, delta, err := before.Apply(p.entry)
	if errors.Is(err, metadata.ErrStaleEntry) {
		r.w.note("raft-drop", int64(p.by.id), int64(p.entry.GetDecidedOn()), int64(before.Offset()), 0)
		r.settle(p, raftDropped)
		return
	}
	if err != nil {
		r.w.oracle.fail("the controller %d decided on an entry that no image takes: %v", p.by.id, err)
		return
	}
	r.images = append(r.images, img)
	r.w.note("commit", int64(p.by.id), int64(img.Offset()), int64(len(p.entry.GetRecords())), 0)
	r.w.comment("entry %d: %s by %s", img.Offset(), p.entry.GetCause(), p.entry.GetActor())
	r.w.oracle.imageChanged(before, img, delta, p.entry)
	r.settle(p, raftCommitted)
	r.spread()
}

func (r *raft) settle(p *raftProposal, outcome raftOutcome) {
	r.pending = slices.DeleteFunc(r.pending, func(o *raftProposal) bool { return o == p })
	if p.settled || outcome == raftUnknown {
		return // the proposer's own timer tells it
	}
	p.settled = true
	if outcome == raftCommitted {
		p.by.run(p.inc, func() { p.by.voter.apply(int(p.entry.GetDecidedOn()) + 1) })
	}
	p.by.run(p.inc, func() { p.done(outcome) })
}

// spread tells the voters how far the log has come, again and again while one is behind.
func (r *raft) spread() {
	if r.leader == nil {
		return
	}
	for _, n := range r.w.voters {
		if to := len(r.images) - 1; n != r.leader && n.up && n.voter.applied < to {
			r.w.net.datagram(r.leader, n, func() { n.voter.apply(to) })
		}
	}
}

// apply moves a voter's state machine on and tells the brokers that follow it.
func (v *voter) apply(offset int) {
	if offset <= v.applied {
		return
	}
	w := v.n.w
	v.applied = offset
	v.n.broker.publish(w.raft.images[offset])
	if v.ctl != nil && v.ctl.active { // a crash within the publication has ended it
		v.ctl.state.Applied(w.raft.images[offset])
	}
	for _, n := range w.brokers {
		if n.up && n.voter == nil && n.broker.source == v.n {
			w.net.datagram(v.n, n, func() { n.broker.heard(v.n, offset) })
		}
	}
}

// stepDown ends a leadership on the node that had it.
func (v *voter) stepDown(term int) {
	if r := v.n.w.raft; r.leader == v.n && r.term == term {
		r.leader = nil
	}
	if v.ctl != nil && v.ctl.active && v.ctl.term <= term {
		v.ctl.deactivate()
	}
}

// forget is what a crash does to a voter: the log is safe, how far it was committed is to be learned again.
func (v *voter) forget() {
	v.ctl = nil
	v.applied = max(0, v.applied-v.n.w.intn(4))
}

// nodeOf finds a broker's node.
func (w *world) nodeOf(id model.NodeID) *node {
	if id < 0 || int(id) >= len(w.brokers) {
		return nil
	}
	return w.brokers[id]
}
