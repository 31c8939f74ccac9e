package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	ccore "github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// broker is a broker's process.
type broker struct {
	n           *node
	w           *world
	incarnation model.UUID
	found       found
	epoch       model.BrokerEpoch
	image       *metadata.Image
	replicas    []*replica // by partition; nil where it holds none

	controller *node         // believed to be in charge; nil when unknown
	source     *node         // whom it has the metadata from
	heardAt    time.Duration // when the source was heard of last
	streams    []*conn       // to leaders, by node
	subs       uint64
	syncing    bool
	beating    bool // heartbeats are sent
	stopping   bool // it wants to stop
	finished   bool // and does so now
}

// boot starts a process on a node.
func (n *node) boot() {
	n.up, n.hostUp, n.frozen, n.late = true, true, false, nil
	n.inc++
	b := &broker{
		n: n, w: n.w, incarnation: n.w.uuid(), epoch: model.NoBrokerEpoch, image: metadata.Empty(),
		streams: make([]*conn, len(n.w.brokers)), heardAt: n.w.now,
	}
	n.broker = b
	n.w.note("boot", int64(n.id), int64(n.inc), 0, 0)
	if n.voter != nil {
		n.voter.ctl = newController(n)
		b.source = n
	} else {
		b.source = n.w.voters[n.w.intn(len(n.w.voters))]
	}
	f, err := n.disk.open()
	if b.crashed(err) {
		return
	}
	if err != nil {
		n.w.oracle.fail("broker %d cannot recover: %v", n.id, err)
		return
	}
	b.found = f
	n.w.oracle.recovered(n, f)
	for i, l := range n.disk.logs {
		if l != nil {
			b.adopt(n.w.parts[i], l)
		}
	}
	if n.voter != nil {
		b.publish(n.w.raft.images[n.voter.applied])
	}
	n.after(n.w.between(time.Millisecond, 20*time.Millisecond), b.register)
	if n.w.storage() {
		n.every(700*time.Millisecond, b.scrub)
	}
	n.every(400*time.Millisecond, b.follow)
	n.every(100*time.Millisecond, b.sweep)
	n.every(n.w.between(time.Second, 5*time.Second), b.checkpoint)
}

// die ends the process: by kill -9, or with the machine's power.
func (n *node) die(power bool) {
	if n.up {
		n.up, n.late, n.frozen = false, nil, false
		n.w.note("die", int64(n.id), int64(n.inc), b2i(power), 0)
		n.tellControllers(power)
		n.w.net.processDied(n, power)
		n.broker.replicas = nil
		if n.voter != nil {
			n.voter.forget()
		}
	} else if !power || !n.hostUp {
		return
	}
	if power {
		n.hostUp = false
	}
	n.w.oracle.died(n, power)
	n.disk.died(power)
}

// tellControllers lets the streams of heartbeats break.
func (n *node) tellControllers(power bool) {
	if power {
		return
	}
	epoch := n.broker.epoch
	for _, v := range n.w.voters {
		if v != n {
			n.w.net.datagram(n, v, func() { v.voter.ctl.lost(n.id, epoch) })
		}
	}
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// register asks the controller to take the process in, until it does.
func (b *broker) register() {
	if b.epoch != model.NoBrokerEpoch {
		return
	}
	again := func() {
		b.controller = nil
		b.n.after(b.w.between(20*time.Millisecond, 300*time.Millisecond), b.register)
	}
	req := b.registration()
	to := b.w.guessController(b.controller)
	b.w.net.call(b.n, to, time.Second, func(answer func(any)) {
		to.voter.ctl.ask(func(batch *ccore.Batch) (any, error) { return batch.RegisterBroker(req) }, answer)
	}, func(v any, status callStatus) {
		a, _ := v.(ctlAnswer)
		resp, ok := a.v.(*internalv1.RegisterBrokerResponse)
		if status != callAnswered || a.code != model.CodeNone || !ok {
			again()
			return
		}
		b.controller = to
		b.registered(model.BrokerEpoch(resp.GetBrokerEpoch()))
	})
}

func (b *broker) registration() *internalv1.RegisterBrokerRequest {
	req := &internalv1.RegisterBrokerRequest{
		Registration: &internalv1.BrokerRegistrationRecord{
			BrokerId: int32(b.n.id), IncarnationId: b.incarnation.Bytes(), DirectoryId: b.n.disk.dirID.Bytes(),
			PeerAddress: "peer:1", MinFeatureLevel: 1, MaxFeatureLevel: metadata.MaxFeatureLevel,
			Listeners: []*internalv1.Listener{{Name: "client", Host: "host", Port: 1, Security: "plaintext"}},
		},
		PreviousBrokerEpoch: int64(b.found.previous),
		AllSeatsLostReason:  b.found.allLost,
		OsModeSeatsLost:     b.found.osLost,
	}
	for i, l := range b.n.disk.logs {
		if l == nil {
			continue
		}
		end, tp := l.end(), b.w.parts[i].tp
		state := &internalv1.ReplicaState{
			TopicId: tp.TopicID.Bytes(), Partition: tp.Partition, LogEndOffset: &end, LastLeaderEpoch: int32(l.lastEpoch()),
		}
		if slices.Contains(b.found.lost, i) {
			state.SeatLostReason = "recovery"
		}
		req.LostSeats = append(req.LostSeats, state)
	}
	for _, i := range b.found.lost {
		if b.n.disk.log(i) == nil {
			tp := b.w.parts[i].tp
			req.LostSeats = append(req.LostSeats, &internalv1.ReplicaState{
				TopicId: tp.TopicID.Bytes(), Partition: tp.Partition, SeatLostReason: "missing", LastLeaderEpoch: -1,
			})
		}
	}
	return req
}

// registered takes the broker epoch into use, once it is written down.
func (b *broker) registered(epoch model.BrokerEpoch) {
	if b.epoch != model.NoBrokerEpoch {
		return
	}
	if err := b.n.disk.registered(epoch); err != nil {
		b.diskFailed(err)
		return
	}
	b.epoch = epoch
	b.w.note("registered", int64(b.n.id), int64(epoch), 0, 0)
	for _, r := range b.replicas {
		if r != nil {
			r.core.SetBrokerEpoch(epoch)
		}
	}
	b.publishAll()
	b.heartbeat()
	if !b.beating {
		b.beating = true
		b.n.every(400*time.Millisecond, b.heartbeat)
	}
}

// heartbeat keeps the session, and asks to be let in once the registration is in sight.
func (b *broker) heartbeat() {
	if b.epoch == model.NoBrokerEpoch {
		return
	}
	epoch := b.epoch
	req := &internalv1.HeartbeatRequest{
		BrokerId: int32(b.n.id), BrokerEpoch: int64(b.epoch), MetadataOffset: uint64(b.image.Offset()),
	}
	own, known := b.image.Broker(b.n.id)
	req.LogEnds = b.awaitedEnds()
	req.WantStop = b.stopping
	req.WantUnfence = !b.stopping && known && own.Epoch == b.epoch && own.Fenced
	to := b.w.guessController(b.controller)
	b.w.net.call(b.n, to, 800*time.Millisecond, func(answer func(any)) {
		to.voter.ctl.heartbeat(req, answer)
	}, func(v any, status callStatus) {
		if b.epoch != epoch {
			return
		}
		a, _ := v.(ctlAnswer)
		switch {
		case status != callAnswered || a.code == model.CodeNotController || a.code == model.CodeRequestTimedOut:
			b.controller = nil
		case a.code == model.CodeStaleBrokerEpoch:
			b.overtaken()
		default:
			b.controller = to
			if resp, ok := a.v.(*internalv1.HeartbeatResponse); ok && resp.GetMayStop() && b.stopping {
				b.finish()
			}
		}
	})
}

// awaitedEnds tells where logs end that an election waits for, as far as the image in force says so.
func (b *broker) awaitedEnds() []*internalv1.ReplicaState {
	var ends []*internalv1.ReplicaState
	for i, l := range b.n.disk.logs {
		if l == nil {
			continue
		}
		tp := b.w.parts[i].tp
		if st, ok := b.image.Partition(tp); ok && st.Leader == model.NoNode && len(st.ISR)+len(st.ELR) == 0 {
			end := l.end()
			ends = append(ends, &internalv1.ReplicaState{
				TopicId: tp.TopicID.Bytes(), Partition: tp.Partition, LogEndOffset: &end, LastLeaderEpoch: int32(l.lastEpoch()),
			})
		}
	}
	return ends
}

// overtaken is told that another registration came after this one: late, of an earlier process. It registers anew, or the
// operator starts it anew.
func (b *broker) overtaken() {
	if b.epoch == model.NoBrokerEpoch || b.stopping {
		return
	}
	b.w.note("overtaken", int64(b.n.id), int64(b.epoch), 0, 0)
	if b.w.chance(0.5) {
		b.n.die(false)
		b.w.faults.restartLater(b.n)
		return
	}
	b.found.previous, b.epoch = b.epoch, model.NoBrokerEpoch
	b.register()
}

// follow asks the source of the metadata how far it has come; one that is silent is left.
func (b *broker) follow() {
	if b.n.voter != nil {
		return
	}
	if b.w.now-b.heardAt > 2500*time.Millisecond {
		b.source, b.heardAt = b.w.voters[b.w.intn(len(b.w.voters))], b.w.now
	}
	source := b.source
	b.w.net.datagram(b.n, source, func() {
		at := source.voter.applied
		b.w.net.datagram(source, b.n, func() { b.n.broker.heard(source, at) })
	})
}

func (b *broker) heard(source *node, offset int) {
	if source == b.source {
		b.heardAt = b.w.now
		b.publish(b.w.raft.images[offset])
	}
}

// publish takes an image in.
func (b *broker) publish(image *metadata.Image) {
	if image.Offset() <= b.image.Offset() {
		return
	}
	b.image = image
	b.w.note("image", int64(b.n.id), int64(image.Offset()), 0, 0)
	b.publishAll()
}

func (b *broker) publishAll() {
	if b.finished {
		return
	}
	for _, p := range b.w.parts {
		st, ok := b.image.Partition(p.tp)
		if !ok || !st.HasReplica(b.n.id) {
			continue
		}
		r := b.replica(p.index)
		if r == nil {
			if b.epoch == model.NoBrokerEpoch || model.BrokerEpoch(b.image.Offset()) < b.epoch {
				continue
			}
			l, err := b.n.disk.create(p)
			if err != nil {
				b.diskFailed(err)
				return
			}
			r = b.adopt(p, l)
		}
		r.takeImage(b.image, st)
		if !b.running() {
			return
		}
	}
}

// running says whether the process still lives: a step may have ended it.
func (b *broker) running() bool { return b.n.up && b.n.broker == b }

func (b *broker) replica(i int) *replica {
	if i >= len(b.replicas) {
		return nil
	}
	return b.replicas[i]
}

// diskFailed ends the process: what is on the disk is unknown. The operator replaces the disk, or starts a process on it again;
// the real storage core remembers that a sync has failed.
func (b *broker) diskFailed(err error) {
	if b.crashed(err) {
		return
	}
	b.w.comment("broker %d exits: %v", b.n.id, err)
	d := b.n.disk
	d.failed = d.mem == nil || b.w.chance(0.4)
	b.n.lostCache, b.n.everLostCache = true, true // the pages that the sync has dropped
	for _, l := range d.logs {
		if l != nil {
			l.unsure = true
		}
	}
	b.n.die(false)
	b.w.faults.restartLater(b.n)
}

// crashed says whether an error is the end of the process, or of the machine, within an operation on its disk.
func (b *broker) crashed(err error) bool {
	if !errors.Is(err, fsys.ErrCrashed) {
		return false
	}
	if b.running() {
		b.w.faults.bite(faultCrash, b.n.index)
		b.n.die(b.n.disk.haltPower)
		b.w.faults.restartLater(b.n)
	}
	return true
}

// stop begins a clean stop: leaderships move away first, for a while.
func (b *broker) stop() {
	if b.stopping || b.epoch == model.NoBrokerEpoch {
		return
	}
	b.stopping = true
	b.n.after(b.w.between(500*time.Millisecond, 3*time.Second), b.finish)
	b.heartbeat()
}

// finish ends a clean stop: nothing is taken any more, everything is synced, and goodbye.
func (b *broker) finish() {
	if b.finished {
		return
	}
	b.finished = true
	for _, r := range b.replicas {
		if r != nil {
			r.do(r.core.Offline())
		}
	}
	if err := b.n.disk.close(b.replicas); err != nil {
		b.diskFailed(err)
		return
	}
	req := &internalv1.HeartbeatRequest{BrokerId: int32(b.n.id), BrokerEpoch: int64(b.epoch), Goodbye: true}
	to := b.w.guessController(b.controller)
	b.w.net.datagram(b.n, to, func() { to.voter.ctl.heartbeat(req, func(any) {}) })
	b.w.faults.bite(faultStop, b.n.index)
	b.n.die(false)
	b.w.faults.restartLater(b.n)
}

// sweep lets time pass for the cores.
func (b *broker) sweep() {
	for _, r := range b.replicas {
		if r != nil && r.core.NeedsTick() {
			r.do(r.core.Tick(b.n.mono()))
			r.pump()
		}
	}
}

func (b *broker) checkpoint() {
	if b.finished {
		return
	}
	if err := b.n.disk.checkpoint(b.replicas); err != nil {
		b.diskFailed(err)
		return
	}
	for _, r := range b.replicas {
		if r != nil && r.p.osMode && b.w.chance(0.3) {
			r.log.dirty = true
		}
	}
	b.wantSync()
}

// wantSync lets the group commit run soon, for all logs that wait for it.
func (b *broker) wantSync() {
	if b.syncing {
		return
	}
	b.syncing = true
	b.n.after(b.w.between(20*time.Microsecond, time.Millisecond), b.beginSync)
}

// beginSync notes what a sync covers; it takes a while.
func (b *broker) beginSync() {
	type covered struct {
		r   *replica
		end int64
	}
	var all []covered
	for _, r := range b.replicas {
		if r != nil && r.log.dirty {
			r.log.dirty, r.log.uncut = false, maxOffset
			all = append(all, covered{r, r.log.end()})
		}
	}
	if len(all) == 0 {
		b.syncing = false
		return
	}
	d := b.w.between(100*time.Microsecond, 3*time.Millisecond)
	if b.n.disk.slow {
		b.w.faults.bite(faultSlowDisk, b.n.index)
		d = b.w.between(50*time.Millisecond, 800*time.Millisecond)
	}
	b.n.after(d, func() {
		b.syncing = false
		for _, c := range all {
			// What was cut meanwhile was made durable by the cut; what came after it is not covered.
			if err := b.n.disk.sync(c.r.log, min(c.end, c.r.log.uncut)); err != nil {
				b.diskFailed(err)
				return
			}
			b.w.note("synced", int64(b.n.id), int64(c.r.p.index), c.r.log.durable, 0)
			c.r.do(c.r.core.LocalDurable(c.r.log.durable, b.n.mono()))
			c.r.pump()
		}
		b.wantSync()
	})
}
