package metadata

import (
	"iter"
	"maps"
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// chunkSize is how many partitions are copied together when one of them changes.
const chunkSize = 256

// Topic is one incarnation of a topic. It is immutable.
type Topic struct {
	Name string
	ID   model.UUID

	configs    map[string]string // set explicitly
	settings   TopicSettings     // configs over the defaults
	partitions int
	chunks     [][]*Partition // all full but the last
}

// Partitions is the number of partitions.
func (t *Topic) Partitions() int { return t.partitions }

// Partition returns partition i; false where the topic has no such partition.
func (t *Topic) Partition(i int32) (*Partition, bool) {
	if i < 0 || int(i) >= t.partitions {
		return nil, false
	}
	return t.chunks[i/chunkSize][i%chunkSize], true
}

// AllPartitions iterates over the partitions in order.
func (t *Topic) AllPartitions() iter.Seq2[int32, *Partition] {
	return func(yield func(int32, *Partition) bool) {
		for i := range int32(t.partitions) { //nolint:gosec // bounded by MaxPartitionsPerTopic
			if !yield(i, t.chunks[i/chunkSize][i%chunkSize]) {
				return
			}
		}
	}
}

// Settings are the topic's settings: what was set, over the defaults.
func (t *Topic) Settings() TopicSettings { return t.settings }

// Configs are the settings that were set explicitly, by key; the caller owns the map.
func (t *Topic) Configs() map[string]string { return maps.Clone(t.configs) }

// Partition is the state of one partition. It is immutable; its slices must not be changed. Empty sets are nil.
type Partition struct {
	Replicas       []model.NodeID // assigned, preferred leader first
	ISR            []model.NodeID // in sync
	ELR            []model.NodeID // eligible though not in sync (KIP-966)
	LastKnown      []model.NodeID // members last known when ISR and ELR ran empty
	Leader         model.NodeID   // NoNode where there is none
	LeaderEpoch    model.LeaderEpoch
	PartitionEpoch model.PartitionEpoch
	PossiblyLossy  bool // the last election may have lost acknowledged records
}

// HasReplica reports whether the broker is an assigned replica.
func (p *Partition) HasReplica(id model.NodeID) bool { return slices.Contains(p.Replicas, id) }

// InISR reports whether the broker is in sync.
func (p *Partition) InISR(id model.NodeID) bool { return slices.Contains(p.ISR, id) }

// InELR reports whether the broker is an eligible leader replica.
func (p *Partition) InELR(id model.NodeID) bool { return slices.Contains(p.ELR, id) }

// Record returns the record that makes the partition as it is. The caller owns it.
func (p *Partition) Record(tp model.TopicPartition) *internalv1.PartitionRecord {
	return &internalv1.PartitionRecord{
		TopicId:        tp.TopicID.Bytes(),
		Partition:      tp.Partition,
		Replicas:       IDs(p.Replicas),
		Isr:            IDs(p.ISR),
		Elr:            IDs(p.ELR),
		LastKnown:      IDs(p.LastKnown),
		Leader:         int32(p.Leader),
		LeaderEpoch:    int32(p.LeaderEpoch),
		PartitionEpoch: int32(p.PartitionEpoch),
		PossiblyLossy:  p.PossiblyLossy,
	}
}

// IDs converts node ids to their form in protos; an empty list gives nil.
func IDs(ids []model.NodeID) []int32 {
	if len(ids) == 0 {
		return nil
	}
	out := make([]int32, len(ids))
	for i, id := range ids {
		out[i] = int32(id)
	}
	return out
}

// NodeIDs converts node ids from their form in protos; an empty list gives nil.
func NodeIDs(ids []int32) []model.NodeID {
	if len(ids) == 0 {
		return nil
	}
	out := make([]model.NodeID, len(ids))
	for i, id := range ids {
		out[i] = model.NodeID(id)
	}
	return out
}

func partitionFromRecord(r *internalv1.PartitionRecord) *Partition {
	return &Partition{
		Replicas:       NodeIDs(r.GetReplicas()),
		ISR:            NodeIDs(r.GetIsr()),
		ELR:            NodeIDs(r.GetElr()),
		LastKnown:      NodeIDs(r.GetLastKnown()),
		Leader:         model.NodeID(r.GetLeader()),
		LeaderEpoch:    model.LeaderEpoch(r.GetLeaderEpoch()),
		PartitionEpoch: model.PartitionEpoch(r.GetPartitionEpoch()),
		PossiblyLossy:  r.GetPossiblyLossy(),
	}
}

// check finds contradictions inside the state of a partition.
func (p *Partition) check() error {
	if len(p.Replicas) == 0 {
		return invalid("no replicas")
	}
	for i, id := range p.Replicas {
		if id < 0 {
			return invalid("replica %d is negative", id)
		}
		if slices.Contains(p.Replicas[:i], id) {
			return invalid("replica %d is named twice", id)
		}
	}
	if err := p.checkSet("isr", p.ISR); err != nil {
		return err
	}
	if err := p.checkSet("elr", p.ELR); err != nil {
		return err
	}
	if err := p.checkSet("last_known", p.LastKnown); err != nil {
		return err
	}
	for _, id := range p.ELR {
		if p.InISR(id) {
			return invalid("replica %d is in isr and in elr", id)
		}
	}
	if p.Leader != model.NoNode && !p.InISR(p.Leader) {
		return invalid("leader %d is not in isr %v", p.Leader, p.ISR)
	}
	if p.LeaderEpoch < 0 || p.PartitionEpoch < 0 {
		return invalid("negative epoch: leader epoch %d, partition epoch %d", p.LeaderEpoch, p.PartitionEpoch)
	}
	return nil
}

func (p *Partition) checkSet(name string, set []model.NodeID) error {
	for i, id := range set {
		if !p.HasReplica(id) {
			return invalid("%s member %d is not among the replicas %v", name, id, p.Replicas)
		}
		if slices.Contains(set[:i], id) {
			return invalid("%s member %d is named twice", name, id)
		}
	}
	return nil
}
