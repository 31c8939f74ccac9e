package sim

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
)

// oracle knows what was promised, and looks after every step that could break it.
type oracle struct {
	w        *world
	outcomes bool        // judge by what clients have seen alone
	parts    []*promised // by partition
	failures []string
	acked    int // records acknowledged with acks=all
	lossy    int // elections that were recorded as possibly lossy
	forgiven int // committed records that such an election lost
}

// promised is what may never change about a partition.
type promised struct {
	p         *partition
	committed []batch          // below the highest HighWatermark that any leader had
	names     map[nameOf]batch // (leader epoch, offset) names one batch for ever
	leaders   map[model.LeaderEpoch]leaderOf
	newest    model.LeaderEpoch // the newest epoch in which somebody has led
	next      map[int64]sequence
	seen      []batch // what clients have been told or have read, in outcome mode
	forgiving bool    // an election was recorded as possibly lossy
	dirty     bool    // members are to be looked at after this step
}

type nameOf struct {
	epoch  model.LeaderEpoch
	offset int64
}

type leaderOf struct {
	node *node
	inc  int
	hw   int64
}

// sequence is what a producer's next committed batch begins with.
type sequence struct {
	pepoch int16
	seq    int32
}

func (o *oracle) add(p *partition) {
	o.parts = append(o.parts, &promised{
		p: p, names: map[nameOf]batch{}, leaders: map[model.LeaderEpoch]leaderOf{}, newest: model.NoLeaderEpoch,
		next: map[int64]sequence{},
	})
}

// fail notes a broken promise. The schedule ends with the step.
func (o *oracle) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	o.w.note("FAILURE", int64(len(o.failures)), 0, 0, 0)
	o.w.comment("FAILURE: %s", text)
	if len(o.failures) < 8 {
		o.failures = append(o.failures, fmt.Sprintf("at %.6fs: %s", o.w.now.Seconds(), text))
	}
}

func (pr *promised) end() int64 {
	if n := len(pr.committed); n > 0 {
		return pr.committed[n-1].end()
	}
	return 0
}

// appended checks R9: (leader epoch, offset) names one batch for ever.
func (o *oracle) appended(l *modelLog, b batch) {
	if o.outcomes {
		return
	}
	pr := o.parts[l.part.index]
	key := nameOf{b.epoch, b.base}
	if old, known := pr.names[key]; !known {
		b.raw = nil
		pr.names[key] = b
	} else if !old.sameContent(b) {
		o.fail("%s: epoch %d offset %d named the batch %s and names %s on broker %d", l.part, b.epoch, b.base, old, b, l.node.id)
	}
}

func (b batch) String() string {
	return fmt.Sprintf("(producer %d.%d, %d+%d)", b.pid, b.pepoch, b.seq, b.count)
}

// match moves on how far a log agrees with what was committed, and says whether it does.
func (pr *promised) match(l *modelLog) bool {
	for l.matched < len(l.batches) && l.matched < len(pr.committed) {
		if !l.batches[l.matched].same(pr.committed[l.matched]) {
			return false
		}
		l.matched++
	}
	return true
}

// holds says whether a node still has everything that was committed, as safe as the topic promises.
func (o *oracle) holds(pr *promised, n *node) bool {
	l := n.disk.log(pr.p.index)
	if l == nil {
		return len(pr.committed) == 0
	}
	pr.match(l)
	return l.matched == len(pr.committed) && (pr.p.osMode || l.durable >= pr.end())
}

// excused says whether a node has lost data and not yet been able to say so.
func (o *oracle) excused(pr *promised, n *node) bool {
	return n.replaced || (pr.p.osMode && n.lostCache) || slices.Contains(n.disk.unconfessed, pr.p.index)
}

// members checks that whoever may be elected holds what was committed.
func (o *oracle) members(pr *promised) {
	if o.outcomes {
		return
	}
	st, ok := o.w.raft.latest().Partition(pr.p.tp)
	if !ok {
		return
	}
	for _, set := range [2][]model.NodeID{st.ISR, st.ELR} {
		for _, id := range set {
			n := o.w.nodeOf(id)
			if o.excused(pr, n) || o.holds(pr, n) {
				continue
			}
			durable, end, matched := int64(-1), int64(-1), 0
			if l := n.disk.log(pr.p.index); l != nil {
				durable, end, matched = l.durable, l.end(), l.matched
			}
			o.fail("%s: broker %d may be elected (isr %v, elr %v, epoch %d) and lacks what was committed: it holds %d of %d batches, ends "+
				"at %d, durable to %d; %d records are committed", pr.p, id, st.ISR, st.ELR, st.LeaderEpoch, matched,
				len(pr.committed), end, durable, pr.end())
		}
	}
}

// after is called after every step.
func (o *oracle) after() {
	for _, pr := range o.parts {
		if pr.dirty {
			pr.dirty = false
			o.members(pr)
		}
	}
}

func (o *oracle) touch(i int) { o.parts[i].dirty = true }

func (o *oracle) touchAll() {
	for _, pr := range o.parts {
		pr.dirty = true
	}
}

// leads checks who takes the lead: one a leader epoch, and one that has all that was committed.
func (o *oracle) leads(r *replica) {
	if o.outcomes {
		return
	}
	pr, epoch, n := o.parts[r.p.index], r.core.LeaderEpoch(), r.b.n
	if old, known := pr.leaders[epoch]; known && (old.node != n || old.inc != n.inc) {
		o.fail("%s: epoch %d was led by broker %d (process %d) and is led by broker %d (process %d)",
			r.p, epoch, old.node.id, old.inc, n.id, n.inc)
	}
	pr.leaders[epoch] = leaderOf{node: n, inc: n.inc, hw: r.core.Log().HighWatermark}
	pr.newest = max(pr.newest, epoch)
	if hw := r.core.Log().HighWatermark; pr.forgiving && hw > pr.end() && pr.match(r.log) {
		for _, b := range r.log.batches[len(pr.committed):] { // an older history, all that is left
			if b.end() <= hw && (pr.p.osMode || b.end() <= r.log.durable) {
				o.commit(pr, b)
			}
		}
	}
	if st, ok := o.w.raft.latest().Partition(r.p.tp); ok && st.LeaderEpoch == epoch && !o.holds(pr, n) {
		o.fail("%s: broker %d leads in epoch %d and lacks what was committed (%d records): %s", r.p, n.id, epoch, pr.end(), r.core)
	}
}

// highWatermark checks a HighWatermark that moved; a leader's makes records committed.
func (o *oracle) highWatermark(r *replica, hw int64) {
	if o.outcomes {
		return
	}
	pr, l := o.parts[r.p.index], r.log
	leads := r.core.Role() == core.RoleLeader
	if leads {
		epoch := r.core.LeaderEpoch()
		lead := pr.leaders[epoch]
		if hw < lead.hw {
			o.fail("%s: the HighWatermark fell from %d to %d within epoch %d", r.p, lead.hw, hw, epoch)
		}
		lead.hw = hw
		pr.leaders[epoch] = lead
	}
	if !pr.match(l) && pr.committed[l.matched].base < hw {
		o.fail("%s on broker %d: below the HighWatermark %d it has %s at %d where %s was committed", r.p, r.b.n.id, hw,
			l.batches[l.matched], l.batches[l.matched].base, pr.committed[l.matched])
		return
	}
	if hw > l.end() {
		o.fail("%s on broker %d: HighWatermark %d above the log's end %d", r.p, r.b.n.id, hw, l.end())
	}
	if hw <= pr.end() {
		return
	}
	if !leads {
		if pr.forgiving { // the lossy leader's own, which it had not made durable
			return
		}
		o.fail("%s on broker %d: a follower knows HighWatermark %d, no leader has had more than %d", r.p, r.b.n.id, hw, pr.end())
		return
	}
	for _, b := range l.batches[len(pr.committed):] {
		if b.end() > hw {
			break
		}
		o.commit(pr, b)
	}
	if pr.end() != hw {
		o.fail("%s on broker %d: HighWatermark %d lies within a batch", r.p, r.b.n.id, hw)
	}
	if have := o.copies(pr, pr.end()); have < pr.p.minISR {
		o.fail("%s: %d records are committed on %d replicas, min.insync.replicas is %d", r.p, hw, have, pr.p.minISR)
	}
	pr.dirty = true
}

// commit takes a batch among the committed ones: each of a producer once and in order.
func (o *oracle) commit(pr *promised, b batch) {
	want, known := pr.next[b.pid]
	if known && b.pepoch == want.pepoch && b.seq != want.seq || (!known || b.pepoch > want.pepoch) && b.seq != 0 ||
		known && b.pepoch < want.pepoch {
		o.fail("%s: batch %s was committed at %d where its producer's next is %d.%d", pr.p, b, b.base, want.pepoch, want.seq)
	}
	pr.next[b.pid] = sequence{b.pepoch, b.seq + b.count}
	b.raw = nil
	pr.committed = append(pr.committed, b)
}

// copies counts the assigned replicas that have everything up to end, as safe as the topic promises. One that lost it with
// its disk counts: it had it.
func (o *oracle) copies(pr *promised, end int64) int {
	st, ok := o.w.raft.latest().Partition(pr.p.tp)
	if !ok {
		return 0
	}
	n := 0
	for _, id := range st.Replicas {
		node := o.w.nodeOf(id)
		l := node.disk.log(pr.p.index)
		switch {
		case o.excused(pr, node) || node.everReplaced || (pr.p.osMode && node.everLostCache):
			n++
		case l == nil:
		case l.hadDecay && max(l.durable, l.wasDurable) >= end: // it had it
			n++
		case pr.p.osMode && l.end() >= end, !pr.p.osMode && l.durable >= end:
			n++
		}
	}
	return n
}

// durableCopies counts the replicas that have, or had until a newer leader said otherwise, everything up to end on their disks.
func (o *oracle) durableCopies(pr *promised, end int64) int {
	n := 0
	for _, node := range o.w.brokers {
		if l := node.disk.log(pr.p.index); node.everReplaced || (l != nil && max(l.durable, l.wasDurable) >= end) {
			n++
		}
	}
	return n
}

// acknowledged checks a receipt as it is given.
func (o *oracle) acknowledged(r *replica, kind ackKind, b batch, facts core.Facts) {
	if o.outcomes {
		return
	}
	pr := o.parts[r.p.index]
	o.w.note("ack", int64(r.b.n.id), int64(r.p.index), b.base, int64(kind))
	if have := o.durableCopies(pr, b.end()); facts.FSynced > have {
		o.fail("%s: a receipt of offset %d says that %d replicas have it on disk, %d have", r.p, b.base, facts.FSynced, have)
	}
	if kind == acksLeader {
		if !r.p.osMode && r.log.durable < b.end() {
			o.fail("%s on broker %d: acknowledged offset %d, durable is %d", r.p, r.b.n.id, b.base, r.log.durable)
		}
		return
	}
	o.acked += int(b.count)
	if c, ok := pr.at(b.base); !ok || !c.same(b) {
		o.fail("%s on broker %d: acknowledged %s at offset %d, which is not committed there", r.p, r.b.n.id, b, b.base)
	}
}

// at finds the committed batch that begins at an offset.
func (pr *promised) at(base int64) (batch, bool) {
	i, found := slices.BinarySearchFunc(pr.committed, base, func(b batch, base int64) int { return cmp.Compare(b.base, base) })
	if !found {
		return batch{}, false
	}
	return pr.committed[i], true
}

// received checks a receipt as the producer has it.
func (o *oracle) received(p *partition, b batch) {
	pr := o.parts[p.index]
	if o.outcomes {
		o.see(pr, b)
		return
	}
	if c, ok := pr.at(b.base); (!ok || !c.same(b)) && !pr.forgiving {
		o.fail("%s: a receipt names offset %d for %s, committed is %s (%t)", p, b.base, b, c, ok)
	}
}

// consumed checks what a consumer has read.
func (o *oracle) consumed(p *partition, offset int64, batches []batch) (next int64) {
	pr := o.parts[p.index]
	for _, b := range batches {
		if o.outcomes {
			o.see(pr, b)
		} else if c, ok := pr.at(b.base); !ok || !c.same(b) {
			o.fail("%s: a consumer at %d read %s at %d, committed is %s (%t)", p, offset, b, b.base, c, ok)
			return offset
		}
		if b.base > offset {
			o.fail("%s: a consumer at %d got the batch at %d", p, offset, b.base)
		}
		offset = b.end()
	}
	return offset
}

// lookedUp checks R4: what the newest leader says of offsets knows all that was ever visible.
func (o *oracle) lookedUp(r *replica, hw int64, ready bool) {
	if o.outcomes {
		return
	}
	pr := o.parts[r.p.index]
	if ready && r.core.LeaderEpoch() == pr.newest && hw < pr.end() {
		o.fail("%s: the newest leader %d answers look-ups with HighWatermark %d, %d was visible before", r.p, r.b.n.id, hw, pr.end())
	}
}

// truncated looks at a replica that was cut.
func (o *oracle) truncated(r *replica) { o.touch(r.p.index) }

// stopped judges a replica that refuses to go on.
func (o *oracle) stopped(r *replica, err *model.Error) {
	if !o.parts[r.p.index].forgiving && !o.outcomes {
		o.fail("%s on broker %d stopped: %v", r.p, r.b.n.id, err)
	}
}

// died notes what a crash may have taken.
func (o *oracle) died(n *node, power bool) {
	if power {
		n.lostCache, n.everLostCache = true, true
	}
	o.touchAll()
}

// recovered looks at what a new process has found.
func (o *oracle) recovered(*node, found) { o.touchAll() }

// imageChanged checks an entry that was committed.
func (o *oracle) imageChanged(before, after *metadata.Image, delta *metadata.Delta, entry *internalv1.MetadataEntry) {
	for _, id := range delta.Brokers {
		b, ok := after.Broker(id)
		if n := o.w.nodeOf(id); ok && n.broker != nil && n.up && b.IncarnationID == n.broker.incarnation {
			n.replaced, n.lostCache = false, false // whatever was lost has been said
		}
	}
	for _, pr := range o.parts {
		old, had := before.Partition(pr.p.tp)
		st, ok := after.Partition(pr.p.tp)
		if !ok || (had && old == st) {
			continue
		}
		pr.dirty = true
		o.w.comment("%s: leader %d epoch %d isr %v elr %v last known %v lossy %t", pr.p, st.Leader, st.LeaderEpoch, st.ISR, st.ELR,
			st.LastKnown, st.PossiblyLossy)
		if !had {
			continue
		}
		o.elected(pr, old, st, entry)
	}
}

// elected checks a change of a partition against what was before.
func (o *oracle) elected(pr *promised, old, st *metadata.Partition, entry *internalv1.MetadataEntry) {
	switch {
	case st.PartitionEpoch <= old.PartitionEpoch || st.LeaderEpoch < old.LeaderEpoch:
		o.fail("%s: epochs (%d, %d) after (%d, %d)", pr.p, st.LeaderEpoch, st.PartitionEpoch, old.LeaderEpoch, old.PartitionEpoch)
	case st.Leader != old.Leader && st.LeaderEpoch == old.LeaderEpoch:
		o.fail("%s: leader %d after %d in the same epoch %d", pr.p, st.Leader, old.Leader, st.LeaderEpoch)
	}
	if st.Leader == model.NoNode || st.LeaderEpoch == old.LeaderEpoch {
		return
	}
	if st.PossiblyLossy {
		o.lossy++
		o.forgive(pr, o.w.nodeOf(st.Leader))
		return
	}
	if o.outcomes {
		return
	}
	// Several requests are decided into one entry: a member may have joined by an earlier record of it.
	eligible := slices.Concat(old.ISR, old.ELR)
	for _, r := range entry.GetRecords() {
		c := r.GetPartitionChange()
		if c == nil || c.GetPartition() != pr.p.tp.Partition || !slices.Equal(c.GetTopicId(), pr.p.tp.TopicID[:]) {
			continue
		}
		if leader := model.NodeID(c.GetLeader()); c.Leader != nil && leader != model.NoNode && !slices.Contains(eligible, leader) {
			o.fail("%s: leader %d was elected from outside isr and elr %v", pr.p, leader, eligible)
		}
		eligible = slices.Concat(eligible, metadata.NodeIDs(c.GetIsr().GetIds()), metadata.NodeIDs(c.GetElr().GetIds()))
	}
}

// forgive takes back promises that nobody could keep: every replica that held them has lost its disk.
func (o *oracle) forgive(pr *promised, leader *node) {
	pr.forgiving = true
	n := 0
	if l := leader.disk.log(pr.p.index); l != nil {
		for n < len(pr.committed) && n < len(l.batches) && l.batches[n].same(pr.committed[n]) &&
			(pr.p.osMode || l.batches[n].end() <= l.durable) {
			n++
		}
	}
	if n == len(pr.committed) {
		return
	}
	for _, b := range pr.committed[n:] {
		o.forgiven += int(b.count)
	}
	kept := pr.committed[:n]
	pr.committed = nil
	pr.next = map[int64]sequence{}
	for _, b := range kept {
		o.commit(pr, b)
	}
	for _, node := range o.w.brokers {
		if l := node.disk.log(pr.p.index); l != nil {
			l.matched = min(l.matched, n)
		}
	}
}

// stuck says whether a partition waits for an operator: nobody who could lead has kept a seat.
func (o *oracle) stuck(p *partition) bool {
	st, ok := o.w.raft.latest().Partition(p.tp)
	return ok && st.Leader == model.NoNode && len(st.ISR) == 0 && len(st.ELR) == 0 && len(st.LastKnown) > 0
}
