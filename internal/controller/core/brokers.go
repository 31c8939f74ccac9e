package core

import (
	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// RegisterBroker decides the registration of an incarnation (rule R6). One entry ends the incarnation before, takes the
// seats that were lost, and moves every partition that the broker led to a new leader epoch. A request that is repeated by the
// same incarnation gets the same answer and changes nothing, but that what it tells anew may let a leader be elected.
func (b *Batch) RegisterBroker(req *internalv1.RegisterBrokerRequest) (*internalv1.RegisterBrokerResponse, error) {
	reg := req.GetRegistration()
	if err := b.checkRegistration(req); err != nil {
		return nil, err
	}
	id := model.NodeID(reg.GetBrokerId())
	incarnation, err := model.UUIDFromBytes(reg.GetIncarnationId())
	if err != nil {
		return nil, model.Errorf(model.CodeInvalidRequest, "incarnation id: %w", err)
	}
	directory, err := model.UUIDFromBytes(reg.GetDirectoryId())
	if err != nil {
		return nil, model.Errorf(model.CodeInvalidRequest, "directory id: %w", err)
	}
	lostSeats, ends, err := seatsOf(req.GetLostSeats())
	if err != nil {
		return nil, err
	}
	old, known := b.Image().Broker(id)
	switch {
	case known && old.IncarnationID == incarnation && old.DirectoryID == directory:
		b.state.tell(id, confession{epoch: old.Epoch, ends: ends, nothing: req.GetAllSeatsLostReason() != ""})
		return b.registered(old.Epoch), b.electTold("broker-registered", id, ends)
	case known && old.DirectoryID != directory && !old.Fenced:
		return nil, model.Errorf(model.CodeDuplicateBroker,
			"a live broker %d is registered from another data directory (%s); stop it, or give this node another id", id, old.DirectoryID)
	case known && model.MetadataOffset(old.Epoch) == b.draft.NextOffset(): //nolint:gosec // epochs of brokers are offsets
		return nil, model.Errorf(model.CodeDuplicateBroker, "broker %d is being registered by another incarnation; try again", id)
	}
	restored := b.restoredDirectory(req, old, directory)
	if restored && known && !old.Fenced {
		// Either the late request of a process that is gone, which must not harm the one that took its place; or a restored disk,
		// whose predecessor is gone and will be fenced soon.
		return nil, model.Errorf(model.CodeDuplicateBroker,
			"broker %d is registered with epoch %d and live; the request is of epoch %d: it is late, or the disk was restored; try again",
			id, old.Epoch, req.GetPreviousBrokerEpoch())
	}
	allLost := req.GetAllSeatsLostReason() != "" || restored
	fateOf := func(t *metadata.Topic, tp model.TopicPartition, replica model.NodeID) fate {
		switch {
		case replica != id:
			return stays
		case allLost, lostSeats[tp], req.GetOsModeSeatsLost() && t.Settings().FlushMode == metadata.FlushOS:
			return lost
		default:
			return fenced
		}
	}
	err = b.attempt(func() error {
		record := &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_BrokerRegistration{BrokerRegistration: reg}}
		if err := b.add("broker-registered", brokerActor(id), record); err != nil {
			return err
		}
		return b.add("broker-registered", brokerActor(id), b.seats().reseatAll([]model.NodeID{id}, fateOf)...)
	})
	if err != nil {
		return nil, err
	}
	epoch := model.BrokerEpoch(b.draft.NextOffset()) //nolint:gosec // offsets stay far below 2^63
	b.state.tell(id, confession{epoch: epoch, ends: ends, nothing: req.GetAllSeatsLostReason() != ""})
	return b.registered(epoch), nil
}

func (b *Batch) registered(epoch model.BrokerEpoch) *internalv1.RegisterBrokerResponse {
	return &internalv1.RegisterBrokerResponse{
		BrokerEpoch:      int64(epoch),
		MetadataOffset:   uint64(epoch), //nolint:gosec // an epoch is the offset of its entry
		ClusterId:        b.Image().ClusterID().Bytes(),
		SessionTimeoutMs: int32(b.state.cfg.SessionTimeout.Milliseconds()), //nolint:gosec // seconds
	}
}

func (b *Batch) checkRegistration(req *internalv1.RegisterBrokerRequest) error {
	reg, image := req.GetRegistration(), b.Image()
	if own := image.ClusterID(); len(req.GetClusterId()) > 0 && string(req.GetClusterId()) != string(own.Bytes()) {
		return model.Errorf(model.CodeInconsistentClusterID,
			"the data directory of broker %d belongs to another cluster than %s", reg.GetBrokerId(), own)
	}
	switch {
	case reg == nil:
		return model.Errorf(model.CodeInvalidRequest, "the registration is missing")
	case reg.GetBrokerId() < 0:
		return model.Errorf(model.CodeInvalidRequest, "broker id %d is negative", reg.GetBrokerId())
	case len(reg.GetIncarnationId()) == 0 || len(reg.GetDirectoryId()) == 0:
		return model.Errorf(model.CodeInvalidRequest, "broker %d: incarnation id or directory id is missing", reg.GetBrokerId())
	case reg.GetPeerAddress() == "" || len(reg.GetListeners()) == 0:
		return model.Errorf(model.CodeInvalidRequest, "broker %d: peer address or listeners are missing", reg.GetBrokerId())
	case reg.GetRestored() != nil:
		return model.Errorf(model.CodeInvalidRequest, "broker %d: restored state belongs in snapshots", reg.GetBrokerId())
	}
	if level := image.FeatureLevel(); level < reg.GetMinFeatureLevel() || level > reg.GetMaxFeatureLevel() {
		return model.Errorf(model.CodeUnsupportedFeatureLevel, "the cluster has feature level %d, broker %d runs with %d to %d",
			level, reg.GetBrokerId(), reg.GetMinFeatureLevel(), reg.GetMaxFeatureLevel())
	}
	return nil
}

// restoredDirectory reports whether the directory cannot be the one that the broker served from last: it is another one, or
// the broker epoch on file is older than the last that was unfenced. An epoch in between is that of a broker that died
// after it registered and before it could write the epoch down or serve; nothing happened in its name.
func (b *Batch) restoredDirectory(req *internalv1.RegisterBrokerRequest, old *metadata.Broker, directory model.UUID) bool {
	if old == nil {
		return req.GetPreviousBrokerEpoch() != int64(model.NoBrokerEpoch)
	}
	if old.DirectoryID != directory {
		return true
	}
	oldest := old.Epoch
	if !old.WasUnfenced {
		oldest = old.PreviousEpoch
	}
	previous := model.BrokerEpoch(req.GetPreviousBrokerEpoch())
	return previous < oldest || previous > old.Epoch
}

// seatsOf reads which seats are lost, and where logs end.
func seatsOf(states []*internalv1.ReplicaState) (map[model.TopicPartition]bool, map[model.TopicPartition]logEnd, error) {
	seats, ends := map[model.TopicPartition]bool{}, map[model.TopicPartition]logEnd{}
	for _, s := range states {
		id, err := model.UUIDFromBytes(s.GetTopicId())
		if err != nil {
			return nil, nil, model.Errorf(model.CodeInvalidRequest, "topic id of a replica: %w", err)
		}
		tp := model.TopicPartition{TopicID: id, Partition: s.GetPartition()}
		if s.GetSeatLostReason() != "" {
			seats[tp] = true
		}
		if s.LogEndOffset != nil {
			ends[tp] = logEnd{epoch: model.LeaderEpoch(s.GetLastLeaderEpoch()), offset: s.GetLogEndOffset()}
		}
	}
	return seats, ends, nil
}

// Heartbeat decides what a heartbeat asks for: to be let in, to stop, to be gone; and takes in where logs end.
func (b *Batch) Heartbeat(req *internalv1.HeartbeatRequest) (*internalv1.HeartbeatResponse, error) {
	broker, err := checkBroker(b.Image(), req.GetBrokerId(), req.GetBrokerEpoch())
	if err != nil {
		return nil, err
	}
	_, ends, err := seatsOf(req.GetLogEnds())
	if err != nil {
		return nil, err
	}
	x := b.state.touch(broker, req, b.now)
	if len(ends) > 0 {
		b.state.tell(broker.ID, confession{epoch: broker.Epoch, ends: ends})
	}
	mayStop := false
	switch {
	case req.GetGoodbye():
		mayStop = true
		err = b.fence("broker-stopped", brokerActor(broker.ID), broker.ID)
	case req.GetWantStop():
		mayStop, err = b.stop(broker, x)
	case req.GetWantUnfence() && broker.Fenced && !broker.Stopping &&
		model.BrokerEpoch(req.GetMetadataOffset()) >= broker.Epoch: //nolint:gosec // an epoch is the offset of its entry
		err = b.unfence(broker)
	}
	if err == nil {
		err = b.electTold("log-ends-told", broker.ID, ends)
	}
	if err != nil {
		return nil, err
	}
	after, _ := b.Image().Broker(broker.ID)
	return &internalv1.HeartbeatResponse{
		Fenced: after.Fenced, MayStop: mayStop, MetadataOffset: uint64(b.state.image.Offset()),
	}, nil
}

// unfence lets a broker in and gives leaders to the partitions that waited for it.
func (b *Batch) unfence(broker *metadata.Broker) error {
	return b.attempt(func() error {
		err := b.add("broker-unfenced", brokerActor(broker.ID), &internalv1.MetadataRecord{
			Kind: &internalv1.MetadataRecord_BrokerUnfenced{
				BrokerUnfenced: &internalv1.BrokerUnfencedRecord{BrokerId: int32(broker.ID), BrokerEpoch: int64(broker.Epoch)},
			},
		})
		if err != nil {
			return err
		}
		allStay := func(*metadata.Topic, model.TopicPartition, model.NodeID) fate { return stays }
		return b.add("broker-unfenced", brokerActor(broker.ID), b.seats().reseatAll([]model.NodeID{broker.ID}, allStay)...)
	})
}

// FenceDead fences, in one entry, every broker whose session ended or whose probe was refused, and returns them. Brokers that
// are found dead together keep their seats together.
func (b *Batch) FenceDead() ([]model.NodeID, error) {
	ids := b.state.dead(b.now)
	ids = keep(ids, func(id model.NodeID) bool {
		broker, ok := b.Image().Broker(id)
		return ok && !broker.Fenced
	})
	return ids, b.fence("session-expired", controllerActor, ids...)
}

// fence takes brokers out and moves what they led.
func (b *Batch) fence(cause, actor string, ids ...model.NodeID) error {
	return b.attempt(func() error {
		gone := map[model.NodeID]bool{}
		for _, id := range ids {
			broker, ok := b.Image().Broker(id)
			if !ok || broker.Fenced {
				continue
			}
			gone[id] = true
			err := b.add(cause, actor, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_BrokerFenced{
				BrokerFenced: &internalv1.BrokerFencedRecord{BrokerId: int32(id), BrokerEpoch: int64(broker.Epoch)},
			}})
			if err != nil {
				return err
			}
		}
		if len(gone) == 0 {
			return nil
		}
		fateOf := func(_ *metadata.Topic, _ model.TopicPartition, id model.NodeID) fate {
			if gone[id] {
				return fenced
			}
			return stays
		}
		return b.add(cause, actor, b.seats().reseatAll(ids, fateOf)...)
	})
}

// stop moves the leaderships of a broker that wants to stop to other in-sync replicas. It may stop once none is left that
// could move and every broker that is up has heard of the moves.
func (b *Batch) stop(broker *metadata.Broker, x *session) (bool, error) {
	if broker.Fenced {
		return true, nil
	}
	err := b.attempt(func() error {
		if !broker.Stopping {
			err := b.add("broker-stopping", brokerActor(broker.ID), &internalv1.MetadataRecord{
				Kind: &internalv1.MetadataRecord_BrokerStopping{
					BrokerStopping: &internalv1.BrokerStoppingRecord{BrokerId: int32(broker.ID), BrokerEpoch: int64(broker.Epoch)},
				},
			})
			if err != nil {
				return err
			}
		}
		moves := b.seats().leadershipsAway(broker.ID)
		if err := b.add("broker-stopping", brokerActor(broker.ID), moves...); err != nil {
			return err
		}
		if len(moves) > 0 || x.moved == 0 {
			x.moved = b.draft.Offset()
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for id, other := range b.state.sessions {
		peer, ok := b.Image().Broker(id)
		if ok && peer.Live() && id != broker.ID && other.offset < x.moved {
			return false, nil
		}
	}
	return true, nil
}

// leadershipsAway returns the changes that move every leadership of a broker that another live ISR member can take.
func (s seater) leadershipsAway(id model.NodeID) []*internalv1.MetadataRecord {
	var records []*internalv1.MetadataRecord
	for t := range s.image.Topics() {
		for n, p := range t.AllPartitions() {
			if p.Leader != id {
				continue
			}
			tp, next := model.TopicPartition{TopicID: t.ID, Partition: n}, *p
			s.elect(tp, &next, minISROf(t, p))
			if next.Leader == model.NoNode || !p.InISR(next.Leader) {
				continue
			}
			if r := change(tp, p, &next, false); r != nil {
				records = append(records, r)
			}
		}
	}
	return records
}
