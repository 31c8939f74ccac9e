package core

import (
	"cmp"
	"maps"
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// confession is what a broker told of its logs: when it registered, and with heartbeats since.
type confession struct {
	epoch   model.BrokerEpoch
	ends    map[model.TopicPartition]logEnd
	nothing bool // it has no logs but those
}

// seats decides on the image as the batch has it so far.
func (b *Batch) seats() seater {
	image := b.Image()
	return seater{image: image, full: b.state.full, ends: func(tp model.TopicPartition, id model.NodeID) (logEnd, bool) {
		broker, ok := image.Broker(id)
		told := b.state.told[id]
		if !ok || told.epoch != broker.Epoch {
			return logEnd{}, false
		}
		end, listed := told.ends[tp]
		if !listed {
			end = logEnd{epoch: model.NoLeaderEpoch}
		}
		return end, listed || told.nothing
	}}
}

// full says whether a broker told with its last heartbeat that its disk takes no appends.
func (s *State) full(id model.NodeID) bool {
	x := s.sessions[id]
	return x != nil && x.full
}

// tell takes in what a broker said of its logs; what the same registration said before stands where this is silent.
func (s *State) tell(id model.NodeID, news confession) {
	if old, ok := s.told[id]; ok && old.epoch == news.epoch {
		ends := maps.Clone(old.ends)
		maps.Copy(ends, news.ends)
		news.ends, news.nothing = ends, news.nothing || old.nothing
	}
	s.told[id] = news
}

// electTold gives leaders to those partitions without one that a broker has told of, where that was what they waited for.
func (b *Batch) electTold(cause string, id model.NodeID, ends map[model.TopicPartition]logEnd) error {
	s, image := b.seats(), b.Image()
	tps := slices.SortedFunc(maps.Keys(ends), func(x, y model.TopicPartition) int {
		return cmp.Or(slices.Compare(x.TopicID[:], y.TopicID[:]), cmp.Compare(x.Partition, y.Partition))
	})
	var records []*internalv1.MetadataRecord
	for _, tp := range tps {
		topic, known := image.TopicByID(tp.TopicID)
		p, there := image.Partition(tp)
		if !known || !there || p.Leader != model.NoNode || !p.HasReplica(id) {
			continue
		}
		next := *p
		s.elect(tp, &next, minISROf(topic, p))
		if r := change(tp, p, &next, false); r != nil {
			records = append(records, r)
		}
	}
	return b.attempt(func() error { return b.add(cause, brokerActor(id), records...) })
}
