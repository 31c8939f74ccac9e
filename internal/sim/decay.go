package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	ccore "github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// decayed is a batch of a log, acknowledged and durable, of which a bit has flipped on the disk.
type decayed struct{ from, to int64 }

// decays lets bits flip, in storage mode. It draws from numbers of its own.
type decays struct {
	w   *world
	rng *rand.Rand
}

func newDecays(w *world, seed uint64) *decays {
	return &decays{w: w, rng: rand.New(rand.NewPCG(seed, 0x6465636179))}
}

func (d *decays) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.rng.Int64N(int64(most-least)))
}

// next flips a bit after a while, and so on until the faults end.
func (d *decays) next() {
	d.w.after(d.between(time.Second, 5*time.Second), func() {
		if !d.w.faults.ended {
			d.flip()
			d.next()
		}
	})
}

// open says whether a log of the cluster holds a flipped bit. While one does no disk is lost: the last whole copy may be on it.
func (d *decays) open() bool {
	return slices.ContainsFunc(d.w.brokers, func(n *node) bool {
		return slices.ContainsFunc(n.disk.logs, func(l *modelLog) bool { return l != nil && l.decay != nil })
	})
}

// flip flips a bit of one replica's log, where another one may be elected that holds the batch too.
func (d *decays) flip() {
	w := d.w
	n, p := w.brokers[d.rng.IntN(len(w.brokers))], w.parts[d.rng.IntN(len(w.parts))]
	l, pr := n.disk.log(p.index), w.oracle.parts[p.index]
	unsafe := slices.ContainsFunc(w.brokers, func(o *node) bool { return o.disk.failed || o.disk.failSyncs > 0 || o.replaced || !o.hostUp })
	if l == nil || l.unsure || p.osMode || pr.forgiving || w.oracle.outcomes || unsafe || d.open() || !n.hostUp {
		return
	}
	st, ok := w.raft.latest().Partition(p.tp)
	another := ok && slices.ContainsFunc(w.brokers, func(o *node) bool {
		return o != n && (st.InISR(o.id) || st.InELR(o.id)) && w.oracle.holds(pr, o)
	})
	batches := slices.Clone(l.batches)
	batches = slices.DeleteFunc(batches, func(b batch) bool { return b.end() > l.durable || b.end() > pr.end() })
	if !another || len(batches) == 0 || !pr.match(l) {
		return
	}
	b := batches[d.rng.IntN(len(batches))]
	if d.rng.IntN(3) == 0 { // what recovery looks at
		b = batches[len(batches)-1]
	}
	name, at, size, err := d.find(n, p, b)
	if err != nil {
		w.oracle.fail("%s on broker %d: %s is not on the disk: %v", p, n.id, b, err)
		return
	}
	// Base offset and leader epoch are left alone: what they should be is known from what lies around alone.
	offset := 16 + d.rng.Int64N(size-16)
	bit := uint(d.rng.IntN(8)) //nolint:gosec // small
	if err := n.disk.mem.Flip(name, at+offset, bit); err != nil {
		w.oracle.fail("flip: %v", err)
		return
	}
	l.decay, l.hadDecay = &decayed{from: b.base, to: b.end()}, true
	w.comment("%s on broker %d: bit %d of byte %d of %s at %d is flipped", p, n.id, bit, offset, b, b.base)
	x := w.faults.begin(faultDecay, n.index)
	w.faults.hold(x, time.Hour, func() {})
}

// find says where a batch lies on the disk.
func (d *decays) find(n *node, p *partition, b batch) (name string, at, size int64, err error) {
	dir := path.Join(dataDir, "topics", p.tp.TopicID.String(), fmt.Sprint(p.tp.Partition))
	infos, err := n.disk.mem.List(dir)
	if err != nil {
		return "", 0, 0, err
	}
	for _, info := range infos {
		if !strings.HasSuffix(info.Name, ".log") {
			continue
		}
		name = path.Join(dir, info.Name)
		content, err := readAll(n, name, info.Size)
		if err != nil {
			return "", 0, 0, err
		}
		for at = 0; at+record.HeaderSize <= int64(len(content)); {
			h, err := record.ParseHeader(content[at:])
			if err != nil {
				break
			}
			if h.BaseOffset == b.base && model.LeaderEpoch(h.LeaderEpoch) == b.epoch {
				return name, at, int64(h.Size()), nil
			}
			at += int64(h.Size())
		}
	}
	return "", 0, 0, errors.New("no such batch")
}

func readAll(n *node, name string, size int64) (content []byte, err error) {
	file, err := n.disk.mem.OpenRead(name)
	if err != nil {
		return nil, err
	}
	content = make([]byte, size)
	_, err = file.ReadAt(content, 0)
	return content, errors.Join(err, file.Close())
}

// scrub looks at the logs with a flipped bit, now and then.
func (b *broker) scrub() {
	for _, r := range b.replicas {
		if r == nil || r.log.decay == nil || b.w.decays.rng.IntN(3) > 0 {
			continue
		}
		for c := new(storage.ScrubCursor); ; {
			res, err := r.log.real.log.Scrub(c, 1<<20)
			if b.crashed(err) {
				return
			}
			if err != nil {
				b.w.oracle.fail("%s on broker %d: the scrub fails: %v", r.p, b.n.id, err)
				return
			}
			if res.Damage != nil {
				r.damaged(*res.Damage, "scrub")
			}
			if res.Done || !b.running() {
				break
			}
		}
	}
}

// corrupt says whether an error tells of bytes that are not what was written.
func corrupt(err error) bool {
	return errors.Is(err, storage.ErrCorruptLog) || errors.Is(err, record.ErrCorruptBatch)
}

// suspect looks at a place that could not be read.
func (r *replica) suspect(from int64, why error) {
	log := r.log.real.log
	var bad *storage.CorruptError
	if errors.As(why, &bad) {
		from = bad.Offset
	}
	from = max(0, from-1) // or it is the head of the batch before that is wrong
	res, err := log.CheckRange(from, log.LogEndOffset(), 1<<30, true)
	if r.b.crashed(err) {
		return
	}
	if err != nil || (res.Damage == nil && log.Damage() == nil) {
		r.b.w.oracle.fail("%s on broker %d: offset %d cannot be read (%v) and nothing is found there: %v", r.p, r.b.n.id, from, why, err)
		return
	}
	if res.Damage != nil {
		r.damaged(*res.Damage, "read")
	}
}

// damaged takes note of damage.
func (r *replica) damaged(d storage.Damage, by string) {
	w, n := r.b.w, r.b.n
	marked, err := r.log.real.log.MarkDamaged(d)
	if r.b.crashed(err) || !marked {
		return
	}
	if err != nil {
		w.oracle.fail("%s on broker %d: damage cannot be marked: %v", r.p, n.id, err)
		return
	}
	if r.log.decay == nil {
		w.oracle.fail("%s on broker %d: damage that nobody made: %+v", r.p, n.id, d)
		return
	}
	w.note("damaged", int64(n.id), int64(r.p.index), d.From, d.To)
	w.comment("%s on broker %d: found by %s", r.p, n.id, by)
	w.faults.bite(faultDecay, n.index)
	r.do(r.core.FoundDamage(r.log.real.log.Damage().From, n.mono()))
	r.pump()
}

// verify has the leader look at what is about to be discarded.
func (r *replica) verify(v core.Verify) {
	b, w := r.b, r.b.w
	leader := w.nodeOf(v.Leader)
	w.net.call(b.n, leader, 2*time.Second, func(answer func(any)) {
		lead := leader.broker.replica(r.p.index)
		if lead == nil || lead.core.Role() != core.RoleLeader || lead.core.LeaderEpoch() != v.LeaderEpoch {
			answer(core.VerifyUnknown)
			return
		}
		log := lead.log.real.log
		to := min(v.To, log.LogEndOffset())
		if v.From >= to {
			answer(core.VerifyWhole)
			return
		}
		res, err := log.CheckRange(v.From, to, 1<<30, true)
		switch {
		case lead.b.crashed(err):
		case err != nil:
			answer(core.VerifyUnknown)
		case res.Damage != nil:
			answer(core.VerifyLeaderDamaged)
			lead.damaged(*res.Damage, "comparison")
		default:
			answer(core.VerifyWhole)
		}
	}, func(v2 any, _ callStatus) {
		outcome, ok := v2.(core.VerifyOutcome)
		if !ok {
			outcome = core.VerifyUnknown
		}
		r.do(r.core.VerifyDone(v.Seq, outcome, b.n.mono()))
		r.pump()
	})
}

// giveUp asks the controller to take the seat.
func (r *replica) giveUp(g core.GiveUp) {
	b, w := r.b, r.b.w
	req := &internalv1.GiveUpSeatsRequest{BrokerId: int32(b.n.id), BrokerEpoch: int64(b.epoch), Seats: []*internalv1.GivenUpSeat{{
		TopicId: r.p.tp.TopicID.Bytes(), Partition: r.p.tp.Partition, LeaderEpoch: int32(g.LeaderEpoch), Reason: "decay",
	}}}
	to := w.guessController(b.controller)
	w.net.call(b.n, to, w.between(300*time.Millisecond, 2*time.Second), func(answer func(any)) {
		to.voter.ctl.ask(func(batch *ccore.Batch) (any, error) { return batch.GiveUpSeats(req) }, answer)
	}, func(v any, _ callStatus) {
		a, _ := v.(ctlAnswer)
		resp, ok := a.v.(*internalv1.GiveUpSeatsResponse)
		accepted := ok && a.code == model.CodeNone && resp.GetResults()[0].GetErrorCode() == int32(model.CodeNone)
		w.note("gave-up", int64(b.n.id), int64(r.p.index), int64(g.Seq), b2i(accepted))
		r.core.GiveUpDone(g.Seq, accepted, b.n.mono())
	})
}

// discard puts the damage aside after a while, where that is still wanted.
func (r *replica) discard(seq uint64) {
	b, l := r.b, r.log
	b.n.after(b.w.decays.between(time.Millisecond, 200*time.Millisecond), func() {
		if !r.core.Discarding(seq) {
			return
		}
		l.cutting = l.real.log.Damage().From
		end, err := l.real.log.DiscardDamage()
		if b.crashed(err) {
			return
		}
		if err != nil {
			b.w.oracle.fail("%s on broker %d: damage cannot be discarded: %v", r.p, b.n.id, err)
			return
		}
		l.cutting = -1
		b.w.note("discarded", int64(b.n.id), int64(r.p.index), l.end(), end)
		l.cutModel(end)
		l.uncut = min(l.uncut, l.end())
		if l.decay != nil {
			b.w.oracle.fail("%s on broker %d: the flipped batch at %d is kept, the log ends at %d", r.p, b.n.id, l.decay.from, end)
		}
		r.core.Truncated(core.LogState{Start: 0, End: l.end(), Durable: l.durable, HighWatermark: l.savedHW})
		b.w.oracle.truncated(r)
		r.pump()
	})
}

// adoptDecayed takes over what recovery found of a log with a flipped bit. The flipped batch was synced: where recovery cuts it off,
// the replica must say that it has lost records.
func (d *disk) adoptDecayed(l *modelLog, real *realLog, report storage.RecoveryReport) {
	log, o := real.log, d.n.w.oracle
	end := log.LogEndOffset()
	must := min(l.end(), l.decay.from)
	if l.unsure {
		must = min(must, l.durable)
	}
	if l.cutting >= 0 {
		must = min(must, l.cutting)
	}
	switch {
	case end < must:
		o.fail("%s on broker %d: recovery found the log up to %d, %d was safe and whole", l.part, d.n.id, end, must)
	case end <= l.decay.from && l.cutting < 0 && !report.LostData():
		o.fail("%s on broker %d: the flipped batch at %d was taken for a torn tail: %+v", l.part, d.n.id, l.decay.from, report)
	}
	l.cutting = -1
	if report.LostData() {
		d.n.w.faults.bite(faultDecay, d.n.index)
	}
	if end > l.end() { // an append that a crash has cut short
		if more, err := real.read(l.end(), end, 1<<30); err == nil {
			for _, b := range more {
				b.raw = nil
				l.note(b)
			}
		}
	}
	l.tried = nil
	if end < l.end() {
		d.n.w.faults.bite(faultPower, d.n.index)
	}
	l.cutModel(end)
}
