package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	ccore "github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
)

const maxOffset = math.MaxInt64

// partition is what everybody knows of a partition.
type partition struct {
	index  int
	tp     model.TopicPartition
	rf     int
	minISR int
	osMode bool
}

func (p *partition) String() string {
	mode := "fsync"
	if p.osMode {
		mode = "os"
	}
	return fmt.Sprintf("partition %d (rf %d, min.isr %d, %s)", p.index, p.rf, p.minISR, mode)
}

// replica is the shell around replication's core: one partition on one broker.
type replica struct {
	b       *broker
	p       *partition
	log     *modelLog
	core    *core.Replica
	waiting [2][]waiter // acks=leader, acks=all
	subs    []*subscription

	latestSub uint64 // id of the latest subscription as follower
	pumping   bool
	retry     bool // a timer for the next subscription runs
}

// ackKind says when an append is acknowledged.
type ackKind uint8

const (
	acksLeader ackKind = iota
	acksAll
)

// waiter is an append that waits for its acknowledgement.
type waiter struct {
	batch  batch
	answer func(receipt)
}

// receipt is what a producer gets back.
type receipt struct {
	code  model.ErrorCode
	batch batch // as it stands in the log
}

// adopt makes a replica over a log.
func (b *broker) adopt(p *partition, l *modelLog) *replica {
	for len(b.replicas) <= p.index {
		b.replicas = append(b.replicas, nil)
	}
	l.dirty, l.uncut = false, maxOffset
	state := core.LogState{Start: 0, End: l.end(), Durable: l.durable, HighWatermark: l.savedHW}
	if l.real != nil {
		if d := l.real.log.Damage(); d != nil {
			state.Damaged, state.DamagedFrom = true, d.From
		}
	}
	r := &replica{b: b, p: p, log: l, core: core.NewReplica(b.n.id, b.epoch, b.w.cfg.core, state, l)}
	b.replicas[p.index] = r
	return r
}

// takeImage tells the core what the image says.
func (r *replica) takeImage(image *metadata.Image, p *metadata.Partition) {
	st := core.PartitionState{
		Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: p.ISR, ELR: p.ELR,
		MinISR: r.p.minISR,
	}
	if r.p.osMode {
		st.FlushMode = core.FlushOS
	}
	for _, id := range p.Replicas {
		m := core.Member{ID: id, BrokerEpoch: model.NoBrokerEpoch, Fenced: true}
		if broker, ok := image.Broker(id); ok {
			m.BrokerEpoch, m.Fenced = broker.Epoch, !broker.Live()
		}
		st.Replicas = append(st.Replicas, m)
	}
	r.do(r.core.Apply(st, r.b.n.mono()))
	r.pump()
}

// do does what an Output asks for, in its order.
func (r *replica) do(out core.Output) {
	w, n := r.b.w, r.b.n
	if !r.b.running() {
		return
	}
	if out.AssignEpoch {
		if err := r.log.assignEpoch(r.core.LeaderEpoch(), out.EpochStart); err != nil {
			w.oracle.fail("%s on broker %d: the start of epoch %d cannot be noted: %v", r.p, n.id, r.core.LeaderEpoch(), err)
		}
	}
	if out.RoleChanged {
		r.roleChanged()
	}
	if out.Truncate || out.Restart {
		r.cut(out)
	}
	if out.PositionMoved {
		r.complete(acksLeader, out.Position)
	}
	if out.HighWatermarkMoved {
		w.note("high-watermark", int64(n.id), int64(r.p.index), out.HighWatermark, int64(r.core.LeaderEpoch()))
		w.oracle.highWatermark(r, out.HighWatermark)
		r.complete(acksAll, out.HighWatermark)
	}
	if out.LogStartMoved {
		w.oracle.fail("%s on broker %d: the log start moved to %d and nobody trims", r.p, n.id, out.LogStart)
	}
	if out.Propose {
		r.propose(out.Proposal)
	}
	if out.Verify != nil {
		r.verify(*out.Verify)
	}
	if out.GiveUp != nil {
		r.giveUp(*out.GiveUp)
	}
	if out.Discard {
		r.discard(out.DiscardSeq)
	}
	if out.Stopped != nil {
		w.oracle.stopped(r, out.Stopped)
	}
}

func (r *replica) roleChanged() {
	w, n := r.b.w, r.b.n
	w.note("role", int64(n.id), int64(r.p.index), int64(r.core.Role()), int64(r.core.LeaderEpoch()))
	w.comment("%s on broker %d: %s", r.p, n.id, r.core)
	r.subs = nil
	if r.core.Role() == core.RoleLeader {
		w.oracle.leads(r)
		return
	}
	for kind := range r.waiting {
		waiting := r.waiting[kind]
		r.waiting[kind] = nil
		for _, x := range waiting {
			x.answer(receipt{code: model.CodeNotLeaderForPartition})
		}
	}
}

// cut truncates the log.
func (r *replica) cut(out core.Output) {
	w, n := r.b.w, r.b.n
	before := r.log.end()
	if out.Restart {
		w.oracle.fail("%s on broker %d: the log shall begin anew at %d and nobody trims", r.p, n.id, out.RestartAt)
		return
	}
	if err := r.log.truncate(out.TruncateTo); r.b.crashed(err) {
		return
	} else if corrupt(err) {
		r.suspect(out.TruncateTo, err)
		return
	} else if err != nil {
		w.oracle.fail("%s on broker %d: the log cannot be cut to %d: %v", r.p, n.id, out.TruncateTo, err)
		return
	}
	r.log.uncut = min(r.log.uncut, r.log.end())
	w.note("truncate", int64(n.id), int64(r.p.index), before, r.log.end())
	r.core.Truncated(core.LogState{Start: 0, End: r.log.end(), Durable: r.log.durable, HighWatermark: r.log.savedHW})
	w.oracle.truncated(r)
}

// complete answers the appends of a kind that lie below upTo.
func (r *replica) complete(kind ackKind, upTo int64) {
	for len(r.waiting[kind]) > 0 && r.waiting[kind][0].batch.end() <= upTo {
		x := r.waiting[kind][0]
		r.waiting[kind] = r.waiting[kind][1:]
		r.b.w.oracle.acknowledged(r, kind, x.batch, r.core.Facts(x.batch.end()))
		x.answer(receipt{batch: x.batch})
	}
}

// propose asks the controller for another in-sync set.
func (r *replica) propose(proposal core.Proposal) {
	b, w := r.b, r.b.w
	req := &internalv1.AlterPartitionRequest{BrokerId: int32(b.n.id), BrokerEpoch: int64(b.epoch)}
	isr := &internalv1.PartitionIsr{
		TopicId: r.p.tp.TopicID.Bytes(), Partition: r.p.tp.Partition, LeaderEpoch: int32(proposal.LeaderEpoch),
		PartitionEpoch: int32(proposal.PartitionEpoch),
	}
	for _, m := range proposal.ISR {
		isr.Isr = append(isr.Isr, &internalv1.IsrMember{BrokerId: int32(m.ID), BrokerEpoch: int64(m.BrokerEpoch)})
	}
	req.Partitions = append(req.Partitions, isr)
	w.note("propose", int64(b.n.id), int64(r.p.index), int64(proposal.Seq), int64(len(proposal.ISR)))
	to := w.guessController(b.controller)
	w.net.call(b.n, to, w.between(300*time.Millisecond, 2*time.Second), func(answer func(any)) {
		to.voter.ctl.ask(func(batch *ccore.Batch) (any, error) { return batch.AlterPartition(req) }, answer)
	}, func(v any, status callStatus) {
		outcome := core.ProposalUnknown
		if a, ok := v.(ctlAnswer); ok && status == callAnswered {
			outcome = core.OutcomeOf(a.code)
			if resp, ok := a.v.(*internalv1.AlterPartitionResponse); ok && a.code == model.CodeNone {
				outcome = core.OutcomeOf(model.ErrorCode(resp.GetResults()[0].GetErrorCode()))
			}
			if a.code == model.CodeNotController {
				b.controller = nil
			}
		} else {
			b.controller = nil
		}
		w.note("proposal-done", int64(b.n.id), int64(r.p.index), int64(proposal.Seq), int64(outcome))
		r.do(r.core.ProposalDone(proposal.Seq, outcome, b.n.mono()))
		r.pump()
	})
}

// produce takes a batch from a producer. epoch is the newest leader epoch that the producer has heard of: a leader that was
// overtaken knows less of it than it should, and must not judge its sequences.
func (r *replica) produce(x batch, acks ackKind, epoch model.LeaderEpoch, answer func(receipt)) {
	w, n := r.b.w, r.b.n
	if epoch > r.core.LeaderEpoch() {
		answer(receipt{code: model.CodeUnknownLeaderEpoch})
		return
	}
	if code := r.core.MayAppend(acks == acksAll); code != model.CodeNone {
		answer(receipt{code: code})
		return
	}
	if r.core.HandingOver() {
		answer(receipt{code: model.CodeNotLeaderForPartition})
		return
	}
	at, duplicate, err := r.log.appendLeader(x, r.core.LeaderEpoch(), n.wall().UnixMilli())
	if r.b.crashed(err) {
		return
	}
	if err != nil {
		code := model.CodeOf(err)
		if code == model.CodeUnknownServerError {
			w.oracle.fail("%s on broker %d: an append failed: %v", r.p, n.id, err)
		}
		answer(receipt{code: code})
		return
	}
	w.note("append", int64(n.id), int64(r.p.index), at.base, int64(at.epoch))
	r.waiting[acks] = append(r.waiting[acks], waiter{batch: at, answer: answer})
	if !duplicate {
		w.produced += int64(at.count)
		r.do(r.core.LocalAppend(r.log.end(), n.mono()))
		r.appendedDirty()
	}
	log := r.core.Log()
	position := log.Durable
	if r.p.osMode {
		position = log.End
	}
	r.complete(acksLeader, position)
	r.complete(acksAll, log.HighWatermark)
	r.pump()
}

// appendedDirty asks for a sync where the topic wants one.
func (r *replica) appendedDirty() {
	if !r.p.osMode {
		r.log.dirty = true
		r.b.wantSync()
	}
}

// fetched is what a consumer gets.
type fetched struct {
	code    model.ErrorCode
	batches []batch
	hw      int64
	ready   bool
	epoch   model.LeaderEpoch
}

// fetch reads below the HighWatermark. epoch is the newest leader epoch that the consumer has heard of.
func (r *replica) fetch(offset int64, epoch model.LeaderEpoch) fetched {
	f := fetched{
		code: r.core.CheckFetch(offset), hw: r.core.Log().HighWatermark, ready: r.core.LookupReady(), epoch: r.core.LeaderEpoch(),
	}
	if f.code == model.CodeOffsetOutOfRange && epoch > f.epoch {
		f.code = model.CodeUnknownLeaderEpoch
	}
	if f.code != model.CodeNone {
		return f
	}
	r.b.w.oracle.lookedUp(r, f.hw, f.ready)
	if offset < f.hw {
		var err error
		if f.batches, err = r.log.read(offset, f.hw, 2000); corrupt(err) {
			f.code = model.CodeCorruptRecord
			r.suspect(offset, err)
		} else if err != nil && !r.b.crashed(err) {
			r.b.w.oracle.fail("%s on broker %d: reading at %d failed: %v", r.p, r.b.n.id, offset, err)
		}
	}
	return f
}
