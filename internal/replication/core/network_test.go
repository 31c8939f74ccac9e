package core

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/internal/model"
)

// world is a small model of a partition on three brokers: cores over model logs, a controller that elects by the rules
// (KIP-966), a network that loses and delays, and disks that forget what was not synced.
type world struct {
	t     *rapid.T
	now   time.Duration
	nodes []*node

	images      []PartitionState // every state, oldest first
	elr         []model.NodeID
	brokerEpoch model.BrokerEpoch
	subID       uint64
	value       int
	committed   []modelRecord
}

type node struct {
	id       model.NodeID
	up       bool
	epoch    model.BrokerEpoch
	log      *modelLog
	replica  *Replica
	image    int // images[:image] were applied
	proposal *Proposal
	inbox    []func() // frames under way from the leader
	outbox   []func() // what it sent to the leader
}

const worldNodes = 3

func newWorld(t *rapid.T) *world {
	w := &world{t: t, brokerEpoch: 10}
	st := PartitionState{Leader: 1, MinISR: 2, LeaderEpoch: 0, PartitionEpoch: 0}
	for id := model.NodeID(1); id <= worldNodes; id++ {
		w.brokerEpoch++
		n := &node{id: id, up: true, epoch: w.brokerEpoch, log: new(modelLog)}
		n.replica = NewReplica(id, n.epoch, Config{}, n.log.state(), n.log)
		w.nodes = append(w.nodes, n)
		st.Replicas = append(st.Replicas, Member{ID: id, BrokerEpoch: n.epoch})
		st.ISR = append(st.ISR, id)
	}
	w.images = []PartitionState{st}
	return w
}

func (w *world) node(id model.NodeID) *node { return w.nodes[id-1] }

func (w *world) latest() PartitionState { return w.images[len(w.images)-1] }

// change appends a new state of the partition. The controller keeps ISR, ELR and leader in order.
func (w *world) change(edit func(st *PartitionState), newEpoch bool) {
	st := w.latest()
	st.Replicas = slices.Clone(st.Replicas)
	before := slices.Clone(st.ISR)
	st.ISR = slices.Clone(st.ISR)
	leader := st.Leader
	edit(&st)
	if len(st.ISR) >= st.MinISR {
		w.elr = nil
	} else {
		for _, id := range before {
			if !slices.Contains(st.ISR, id) && !slices.Contains(w.elr, id) {
				w.elr = append(w.elr, id)
			}
		}
	}
	w.elr = slices.DeleteFunc(w.elr, func(id model.NodeID) bool { return slices.Contains(st.ISR, id) })
	w.elect(&st)
	if st.Leader != leader || newEpoch {
		st.LeaderEpoch++
	}
	st.PartitionEpoch++
	w.images = append(w.images, st)
}

func (w *world) live(st *PartitionState, id model.NodeID) bool { return !st.Replicas[id-1].Fenced }

func (w *world) elect(st *PartitionState) {
	if st.Leader != model.NoNode && w.live(st, st.Leader) && slices.Contains(st.ISR, st.Leader) {
		return
	}
	st.Leader = model.NoNode
	for _, id := range st.ISR {
		if w.live(st, id) {
			st.Leader = id
			return
		}
	}
	for _, id := range w.elr {
		if w.live(st, id) {
			// The ISR's dead members keep their claim in the ELR.
			w.elr = append(w.elr, st.ISR...)
			w.elr = slices.DeleteFunc(w.elr, func(e model.NodeID) bool { return e == id })
			st.Leader, st.ISR = id, []model.NodeID{id}
			return
		}
	}
}

// fence takes a broker out.
func (w *world) fence(id model.NodeID) {
	w.change(func(st *PartitionState) {
		st.Replicas[id-1].Fenced = true
		if len(st.ISR) > 1 {
			st.ISR = slices.DeleteFunc(st.ISR, func(m model.NodeID) bool { return m == id })
		}
	}, false)
}

// crash kills a broker: what was not synced is gone.
func (w *world) crash(n *node) {
	n.up, n.inbox, n.outbox, n.proposal = false, nil, nil, nil
	n.log.crash()
	w.breakStreams(n.id)
}

// restart registers a new incarnation, fenced until it has caught up; what it led gets a new epoch.
func (w *world) restart(n *node) {
	w.brokerEpoch++
	n.up, n.epoch, n.image = true, w.brokerEpoch, 0
	n.log.saved = min(n.log.saved, n.log.end())
	n.replica = NewReplica(n.id, n.epoch, Config{}, n.log.state(), n.log)
	led := w.latest().Leader == n.id
	w.change(func(st *PartitionState) {
		st.Replicas[n.id-1] = Member{ID: n.id, BrokerEpoch: n.epoch, Fenced: true}
		if len(st.ISR) > 1 {
			st.ISR = slices.DeleteFunc(st.ISR, func(m model.NodeID) bool { return m == n.id })
		}
	}, led)
}

func (w *world) unfence(n *node) {
	if n.up && n.image == len(w.images) && w.latest().Replicas[n.id-1].Fenced {
		w.change(func(st *PartitionState) { st.Replicas[n.id-1].Fenced = false }, false)
	}
}

// breakStreams ends all streams of a broker.
func (w *world) breakStreams(id model.NodeID) {
	for _, n := range w.nodes {
		if n.id == id || n.replica.Leader() == id {
			n.inbox, n.outbox = nil, nil
			n.replica.StreamLost(n.replica.follow.subID, w.now)
		}
		n.replica.FollowerGone(id, w.node(id).replica.follow.subID)
	}
}

// do carries out an output.
func (w *world) do(n *node, out Output) {
	if out.AssignEpoch {
		n.log.assign(n.replica.LeaderEpoch())
	}
	if out.RoleChanged {
		n.inbox, n.outbox, n.proposal = nil, nil, nil
	}
	if out.Truncate {
		n.log.truncate(out.TruncateTo)
		n.replica.Truncated(n.log.state())
	}
	if out.Propose {
		if n.proposal != nil && n.proposal.PartitionEpoch >= out.Proposal.PartitionEpoch {
			w.t.Fatalf("broker %d has two proposals in flight", n.id)
		}
		n.proposal = &out.Proposal
	}
	if out.Stopped != nil {
		w.t.Fatalf("broker %d stopped: %v", n.id, out.Stopped)
	}
	if out.HighWatermarkMoved && n.replica.Role() == RoleLeader {
		w.commit(n, out.HighWatermark)
	}
}

// commit is the oracle: what a leader calls committed stays.
func (w *world) commit(n *node, hw int64) {
	for i := range hw {
		switch {
		case i >= n.log.end():
			w.t.Fatalf("high watermark %d of leader %d beyond its end %d", hw, n.id, n.log.end())
		case i < int64(len(w.committed)) && w.committed[i] != n.log.records[i]:
			w.t.Fatalf("offset %d was committed as %v, leader %d has %v", i, w.committed[i], n.id, n.log.records[i])
		case i == int64(len(w.committed)):
			w.committed = append(w.committed, n.log.records[i])
		}
	}
}

// check looks at what must hold at any time.
func (w *world) check() {
	st := w.latest()
	for _, n := range w.nodes {
		if !n.up {
			continue
		}
		at := n.replica.Log()
		if at.HighWatermark > at.End || at.Durable > at.End || at.End != n.log.end() {
			w.t.Fatalf("broker %d: %v, log end %d", n.id, n.replica, n.log.end())
		}
		for i := range at.HighWatermark {
			if w.committed[i] != n.log.records[i] {
				w.t.Fatalf("broker %d has %v at offset %d below its high watermark, committed was %v", n.id, n.log.records[i], i, w.committed[i])
			}
		}
	}
	if st.Leader == model.NoNode {
		return
	}
	// Whoever may lead has every committed record on its disk.
	log := w.node(st.Leader).log
	if log.durable < int64(len(w.committed)) || !slices.Equal(log.records[:len(w.committed)], w.committed) {
		w.t.Fatalf("leader %d of epoch %d lacks committed records: has %v (durable %d), committed %v",
			st.Leader, st.LeaderEpoch, log.records, log.durable, w.committed)
	}
}

func (w *world) applyImage(n *node) {
	if n.up && n.image < len(w.images) {
		n.image++
		w.do(n, n.replica.Apply(w.images[n.image-1], w.now))
	}
}

func (w *world) produce(n *node, acksAll bool) {
	if !n.up || n.replica.MayAppend(acksAll) != model.CodeNone {
		return
	}
	w.value++
	if !n.log.append(modelRecord{epoch: n.replica.LeaderEpoch(), value: w.value}) {
		w.t.Fatalf("leader %d cannot append in epoch %d", n.id, n.replica.LeaderEpoch())
	}
	w.do(n, n.replica.LocalAppend(n.log.end(), w.now))
}

func (w *world) sync(n *node) {
	if n.up {
		n.log.durable = n.log.end()
		w.do(n, n.replica.LocalDurable(n.log.end(), w.now))
	}
}

// talk lets a follower send what it has to say.
func (w *world) talk(n *node) {
	if !n.up || n.replica.Role() != RoleFollower {
		return
	}
	leader := w.node(n.replica.Leader())
	w.subID++
	if sub, ok := n.replica.NextSubscribe(w.subID, 3, w.now); ok {
		n.outbox = append(n.outbox, func() { w.subscribe(leader, n, sub) })
		return
	}
	if ack, ok := n.replica.NextAck(); ok {
		n.outbox = append(n.outbox, func() { w.do(leader, leader.replica.FollowerAcked(n.id, ack, w.now)) })
	}
}

func (w *world) subscribe(leader, n *node, sub Subscribe) {
	answer, out := leader.replica.FollowerSubscribed(sub, w.now)
	w.do(leader, out)
	if answer != (SubscribeAnswer{}) {
		n.inbox = append(n.inbox, func() {
			_, out := n.replica.FrameReceived(FrameIn{SubscriptionID: sub.SubscriptionID, LeaderEpoch: sub.LeaderEpoch, Answer: answer}, w.now)
			w.do(n, out)
		})
	}
}

// serve lets a leader send one frame to a follower.
func (w *world) serve(leader, n *node) {
	id := n.replica.follow.subID
	order, ok := leader.replica.NextFrame(n.id, id, 2)
	if !ok {
		return
	}
	in := FrameIn{
		SubscriptionID: order.SubscriptionID, LeaderEpoch: order.LeaderEpoch,
		HighWatermark: order.HighWatermark, LogStart: order.LogStart, BaseOffset: order.From,
	}
	var batch []modelRecord
	if order.Data {
		next := min(order.From+order.MaxBytes, order.UpTo)
		batch = slices.Clone(leader.log.records[order.From:next])
		in.Bytes = next - order.From
		leader.replica.Sent(n.id, id, next, in.Bytes)
	}
	n.inbox = append(n.inbox, func() {
		verdict, out := n.replica.FrameReceived(in, w.now)
		w.do(n, out)
		if verdict != FrameAppend {
			return
		}
		for _, r := range batch {
			if !n.log.append(r) {
				w.t.Fatalf("follower %d cannot append %v behind epoch %d", n.id, r, n.log.LatestEpoch())
			}
		}
		w.do(n, n.replica.Appended(n.log.end()))
	})
}

// deliver hands over the oldest message of a queue.
func deliver(queue *[]func()) {
	if len(*queue) > 0 {
		first := (*queue)[0]
		*queue = (*queue)[1:]
		first()
	}
}

// propose brings a proposal to the controller; lost answers leave its outcome open.
func (w *world) propose(n *node, lost bool) {
	if !n.up || n.proposal == nil {
		return
	}
	p := *n.proposal
	n.proposal = nil
	st := w.latest()
	outcome := ProposalAccepted
	stale := slices.ContainsFunc(p.ISR, func(m Member) bool {
		r := st.Replicas[m.ID-1]
		return r.Fenced || r.BrokerEpoch != m.BrokerEpoch
	})
	switch {
	case st.Leader != n.id || st.LeaderEpoch != p.LeaderEpoch:
		outcome = ProposalRefused
	case st.PartitionEpoch != p.PartitionEpoch:
		outcome = ProposalOvertaken
	case stale:
		outcome = ProposalRefused
	default:
		w.change(func(st *PartitionState) { st.ISR = isrOf(p) }, false)
	}
	if lost {
		outcome = ProposalUnknown
	}
	w.do(n, n.replica.ProposalDone(p.Seq, outcome, w.now))
}

// settle lets everything go well for long enough.
func (w *world) settle() {
	for range 400 {
		w.now += 100 * time.Millisecond
		for _, n := range w.nodes {
			if !n.up {
				w.restart(n)
			}
			for n.image < len(w.images) {
				w.applyImage(n)
			}
			w.unfence(n)
			w.sync(n)
			w.talk(n)
			deliver(&n.outbox)
			deliver(&n.inbox)
			w.propose(n, false)
			w.do(n, n.replica.Tick(w.now))
			for _, f := range w.nodes {
				if n.up && f.id != n.id {
					w.serve(n, f)
				}
			}
		}
		w.check()
	}
}

// done is what must hold once everything went well.
func (w *world) done() {
	st := w.latest()
	if len(st.ISR) != worldNodes {
		w.t.Fatalf("the ISR is %v in the end; %s", st.ISR, w)
	}
	for _, n := range w.nodes {
		if !slices.Equal(n.log.records, w.node(st.Leader).log.records) || n.replica.Log().HighWatermark != n.log.end() {
			w.t.Fatalf("broker %d differs in the end; %s", n.id, w)
		}
	}
}

func (w *world) String() string {
	s := fmt.Sprintf("image %+v, committed %v", w.latest(), w.committed)
	for _, n := range w.nodes {
		s += fmt.Sprintf("\nbroker %d (up %v): %v; %v", n.id, n.up, n.replica, n.log.records)
	}
	return s
}

// step does one thing by chance.
func (w *world) step(rng *rand.Rand) {
	n := w.nodes[rng.IntN(worldNodes)]
	switch k := rng.IntN(100); {
	case k < 12:
		w.produce(n, rng.IntN(4) > 0)
	case k < 22:
		w.sync(n)
	case k < 30:
		w.talk(n)
	case k < 60:
		w.flow(n)
	case k < 65:
		deliver(&n.outbox)
	case k < 70:
		deliver(&n.inbox)
	case k < 78:
		w.applyImage(n)
	case k < 84:
		w.propose(n, rng.IntN(4) == 0)
	case k < 88:
		w.pass(time.Duration(50+rng.IntN(1500)) * time.Millisecond)
	case k < 90:
		n.log.saved = n.replica.Log().HighWatermark
	case k < 94:
		w.unfence(n)
	case k < 95:
		w.breakStreams(n.id)
	case n.up && k < 96:
		w.crash(n)
	case !n.up && !w.latest().Replicas[n.id-1].Fenced:
		w.fence(n.id)
	case !n.up:
		w.restart(n)
	default:
		w.applyImage(n)
	}
	w.check()
}

// flow lets a broker talk to its leader, and serve its followers.
func (w *world) flow(n *node) {
	w.talk(n)
	deliver(&n.outbox)
	for _, f := range w.nodes {
		if n.up && f.id != n.id {
			w.serve(n, f)
			deliver(&f.inbox)
		}
	}
}

func (w *world) pass(d time.Duration) {
	w.now += d
	for _, n := range w.nodes {
		if n.up {
			w.do(n, n.replica.Tick(w.now))
		}
	}
}

// TestNoCommittedRecordIsEverLost runs random schedules of the model and then lets it settle. A failing seed replays exactly.
func TestNoCommittedRecordIsEverLost(t *testing.T) {
	committed, epochs := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		for run := range uint64(25) {
			rng := rand.New(rand.NewPCG(seed, run)) //nolint:gosec // a schedule, no secret
			w := newWorld(t)
			for range 600 {
				w.step(rng)
			}
			w.settle()
			w.done()
			committed += len(w.committed)
			epochs += int(w.latest().LeaderEpoch)
		}
	})
	if t.Failed() {
		return
	}
	if committed == 0 || epochs == 0 {
		t.Fatalf("nothing happened: %d records, %d epochs", committed, epochs)
	}
	t.Logf("%d records committed over %d leader epochs", committed, epochs)
}
