package core

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

func brokerActor(id model.NodeID) string { return fmt.Sprintf("broker %d", id) }

// fate is what becomes of a replica's seat in a partition.
type fate uint8

const (
	stays  fate = iota // in sync as before
	fenced             // gone for now: leaves the ISR, keeps what it knows
	lost               // its log can no longer vouch for what was acknowledged
)

// logEnd is where a replica's log ended when its broker registered.
type logEnd struct {
	epoch  model.LeaderEpoch // of the last batch
	offset int64
}

// seater decides about seats and leaders on an image.
type seater struct {
	image *metadata.Image
	// ends says where a replica's log ends; false where its present incarnation has not told.
	ends func(tp model.TopicPartition, id model.NodeID) (logEnd, bool)
	// full says whose disk takes no appends: such a one is elected where none of its kind has room.
	full func(model.NodeID) bool
}

// reseat returns the partition after its replicas met their fates, with a leader where one can be had (rule R11): members that
// leave an ISR that stays at or above minISR leave for good and empty the ELR; members that leave it below go to the ELR
// together; those that lost their seat are remembered while the ISR is below.
func (s seater) reseat(tp model.TopicPartition, p *metadata.Partition, minISR int, fateOf func(model.NodeID) fate) metadata.Partition {
	next := *p
	next.ISR = keep(p.ISR, func(id model.NodeID) bool { return fateOf(id) == stays })
	next.ELR = keep(p.ELR, func(id model.NodeID) bool { return fateOf(id) != lost })
	for _, id := range p.ISR {
		if fateOf(id) == fenced {
			next.ELR = with(next.ELR, id)
		}
	}
	for _, id := range p.Replicas {
		if fateOf(id) == lost && (p.InISR(id) || p.InELR(id)) {
			next.LastKnown = with(next.LastKnown, id)
		}
	}
	settle(&next, minISR)
	if next.Leader == model.NoNode || !next.InISR(next.Leader) {
		s.elect(tp, &next, minISR)
	}
	return next
}

// settle empties what an ISR of at least minISR makes meaningless, and keeps ELR and ISR apart.
func settle(p *metadata.Partition, minISR int) {
	if len(p.ISR) >= minISR && len(p.ISR) > 0 {
		p.ELR, p.LastKnown = nil, nil
		return
	}
	p.ELR = keep(p.ELR, func(id model.NodeID) bool { return !p.InISR(id) })
}

// elect gives the partition a leader: the first live ISR member in the order of the replicas, else the first live ELR member, of
// each kind one with room on its disk before the others; else, where all that could know have lost their seat, the one of them
// that knows most (rule R10), else nobody.
func (s seater) elect(tp model.TopicPartition, p *metadata.Partition, minISR int) {
	p.Leader = model.NoNode
	if id, ok := s.first(p.Replicas, p.InISR); ok {
		p.Leader, p.PossiblyLossy = id, false
		return
	}
	if id, ok := s.first(p.Replicas, p.InELR); ok {
		p.Leader, p.PossiblyLossy = id, false
		p.ISR = with(p.ISR, id)
		settle(p, minISR)
		return
	}
	if len(p.ISR) > 0 || len(p.ELR) > 0 {
		return
	}
	if id, ok := s.bestOfLost(tp, p); ok {
		p.Leader, p.PossiblyLossy = id, true
		p.ISR, p.LastKnown = with(nil, id), nil
	}
}

// first is the first live replica that fulfils ok and whose disk has room, else the first live one that fulfils it.
func (s seater) first(replicas []model.NodeID, ok func(model.NodeID) bool) (model.NodeID, bool) {
	crowded := model.NoNode
	for _, id := range replicas {
		switch {
		case !ok(id) || !s.live(id):
		case !s.full(id):
			return id, true
		case crowded == model.NoNode:
			crowded = id
		}
	}
	return crowded, crowded != model.NoNode
}

func (s seater) live(id model.NodeID) bool {
	b, ok := s.image.Broker(id)
	return ok && b.Live()
}

// bestOfLost compares logs where nobody is left that surely has everything, once all last known members are live and have
// told where their logs end. The highest (leader epoch, end offset) wins, the first in the order of the replicas among equals;
// other live replicas that have told take part, since the members may have lost more than those ever missed. An empty log is
// elected only after every replica has told: one that is away may hold all there is.
func (s seater) bestOfLost(tp model.TopicPartition, p *metadata.Partition) (model.NodeID, bool) {
	if len(p.Replicas) == 1 && len(p.LastKnown) == 1 {
		return p.Replicas[0], s.live(p.Replicas[0])
	}
	best, bestEnd, all := model.NoNode, logEnd{}, true
	for _, id := range p.Replicas {
		end, told := s.ends(tp, id)
		if !told || !s.live(id) {
			if slices.Contains(p.LastKnown, id) {
				return model.NoNode, false
			}
			all = false
			continue
		}
		if best == model.NoNode || cmp.Or(cmp.Compare(end.epoch, bestEnd.epoch), cmp.Compare(end.offset, bestEnd.offset)) > 0 {
			best, bestEnd = id, end
		}
	}
	if len(p.LastKnown) == 0 || best == model.NoNode || (bestEnd.epoch == model.NoLeaderEpoch && !all) {
		return model.NoNode, false
	}
	return best, true
}

// change returns the record that turns old into next, or nil where they are equal. newEpoch asks for a new leader epoch even
// where the leader stays.
func change(tp model.TopicPartition, old, next *metadata.Partition, newEpoch bool) *internalv1.MetadataRecord {
	r := &internalv1.PartitionChangeRecord{TopicId: tp.TopicID.Bytes(), Partition: tp.Partition}
	changed := newEpoch
	r.NewLeaderEpoch = newEpoch
	if next.Leader != old.Leader {
		r.Leader, r.NewLeaderEpoch, changed = proto.Int32(int32(next.Leader)), true, true
	}
	set := func(from, to []model.NodeID) *internalv1.NodeIDs {
		if slices.Equal(from, to) {
			return nil
		}
		changed = true
		return &internalv1.NodeIDs{Ids: metadata.IDs(to)}
	}
	r.Isr = set(old.ISR, next.ISR)
	r.Elr = set(old.ELR, next.ELR)
	r.LastKnown = set(old.LastKnown, next.LastKnown)
	if next.PossiblyLossy != old.PossiblyLossy {
		r.PossiblyLossy, changed = proto.Bool(next.PossiblyLossy), true
	}
	if !changed {
		return nil
	}
	return &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_PartitionChange{PartitionChange: r}}
}

// reseatAll returns the changes of all partitions that a fate befalls, topics by name. Partitions without a replica in
// concerned are left alone.
func (s seater) reseatAll(concerned []model.NodeID,
	fateOf func(t *metadata.Topic, tp model.TopicPartition, id model.NodeID) fate,
) []*internalv1.MetadataRecord {
	var records []*internalv1.MetadataRecord
	for t := range s.image.Topics() {
		for n, p := range t.AllPartitions() {
			if !slices.ContainsFunc(concerned, p.HasReplica) {
				continue
			}
			tp := model.TopicPartition{TopicID: t.ID, Partition: n}
			next := s.reseat(tp, p, minISROf(t, p), func(id model.NodeID) fate { return fateOf(t, tp, id) })
			if r := change(tp, p, &next, false); r != nil {
				records = append(records, r)
			}
		}
	}
	return records
}

func minISROf(t *metadata.Topic, p *metadata.Partition) int {
	return t.Settings().EffectiveMinISR(len(p.Replicas))
}

// keep returns the ids that fulfil ok, in order, as a new slice; nil for none.
func keep(ids []model.NodeID, ok func(model.NodeID) bool) []model.NodeID {
	var out []model.NodeID
	for _, id := range ids {
		if ok(id) {
			out = append(out, id)
		}
	}
	return out
}

// with returns the ids with one more, as a new slice; the same ids where it is among them.
func with(ids []model.NodeID, id model.NodeID) []model.NodeID {
	if slices.Contains(ids, id) {
		return ids
	}
	return append(slices.Clone(ids), id)
}
