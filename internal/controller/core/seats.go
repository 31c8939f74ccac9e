package core

import (
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

// reseat returns the partition after its replicas met their fates, with a leader where one can be had (rule R11): members that
// leave an ISR that stays at or above minISR leave for good and empty the ELR; members that leave it below go to the ELR
// together; those that lost their seat are remembered while the ISR is below.
func reseat(image *metadata.Image, p *metadata.Partition, minISR int, fateOf func(model.NodeID) fate) metadata.Partition {
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
		elect(image, &next, minISR)
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

// elect gives the partition a leader: the first live ISR member in the order of the replicas, else the first live ELR member,
// else nobody. A sole survivor that lost its seat is elected as possibly lossy (rule R10): nobody knows more.
func elect(image *metadata.Image, p *metadata.Partition, minISR int) {
	p.Leader = model.NoNode
	live := func(id model.NodeID) bool {
		b, ok := image.Broker(id)
		return ok && b.Live()
	}
	for _, id := range p.Replicas {
		if p.InISR(id) && live(id) {
			p.Leader, p.PossiblyLossy = id, false
			return
		}
	}
	for _, id := range p.Replicas {
		if p.InELR(id) && live(id) {
			p.Leader, p.PossiblyLossy = id, false
			p.ISR = with(p.ISR, id)
			settle(p, minISR)
			return
		}
	}
	if len(p.ISR) == 0 && len(p.ELR) == 0 && len(p.LastKnown) == 1 && live(p.LastKnown[0]) {
		p.Leader, p.PossiblyLossy = p.LastKnown[0], true
		p.ISR = with(nil, p.Leader)
		p.LastKnown = nil
	}
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
func reseatAll(image *metadata.Image, concerned []model.NodeID,
	fateOf func(t *metadata.Topic, tp model.TopicPartition, id model.NodeID) fate,
) []*internalv1.MetadataRecord {
	var records []*internalv1.MetadataRecord
	for t := range image.Topics() {
		for n, p := range t.AllPartitions() {
			if !slices.ContainsFunc(concerned, p.HasReplica) {
				continue
			}
			tp := model.TopicPartition{TopicID: t.ID, Partition: n}
			next := reseat(image, p, minISROf(t, p), func(id model.NodeID) fate { return fateOf(t, tp, id) })
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
