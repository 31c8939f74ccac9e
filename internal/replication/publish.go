package replication

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// SetBrokerEpoch tells the incarnation that the controller has registered. Until an image shows it no partition takes a role.
func (m *Manager) SetBrokerEpoch(epoch model.BrokerEpoch) {
	m.publishMu.Lock()
	defer m.publishMu.Unlock()
	m.mu.Lock()
	m.brokerEpoch = epoch
	m.mu.Unlock()
	for _, p := range m.allPartitions() {
		p.mu.Lock()
		p.replica.SetBrokerEpoch(epoch)
		p.mu.Unlock()
	}
	m.mu.RLock()
	image := m.image
	m.mu.RUnlock()
	m.publish(image, &metadata.Delta{All: true})
}

// Publish takes an image: partitions get their roles, logs are created, and data of deleted topics is deleted later. It is a
// metadata.Publisher.
func (m *Manager) Publish(image *metadata.Image, delta *metadata.Delta) {
	m.publishMu.Lock()
	defer m.publishMu.Unlock()
	m.publish(image, delta)
}

// publish does the work of Publish. The caller holds publishMu.
func (m *Manager) publish(image *metadata.Image, delta *metadata.Delta) {
	m.mu.Lock()
	before := m.image
	m.image = image
	self, ok := image.Broker(m.opts.NodeID)
	first := !m.caughtUp && ok && m.brokerEpoch != model.NoBrokerEpoch && self.Epoch == m.brokerEpoch
	m.caughtUp = m.caughtUp || first
	goesOn := m.caughtUp && !m.closing && m.failed.Load() == nil // a failed disk takes no role again
	m.mu.Unlock()
	if !goesOn {
		return
	}
	m.countISR(before, image, delta.Partitions)
	m.dropUnknown(image, delta, first)
	if first || delta.All || len(delta.Brokers) > 0 {
		for topic := range image.Topics() {
			m.publishTopic(image, topic)
		}
	} else {
		for _, id := range delta.ConfigTopics {
			if topic, ok := image.TopicByID(id); ok {
				m.publishTopic(image, topic)
			}
		}
		for _, tp := range delta.Partitions {
			if topic, ok := image.TopicByID(tp.TopicID); ok {
				m.publishPartition(image, topic, tp)
			}
		}
	}
	if first || delta.All || delta.Deletions || len(delta.DeletedTopics) > 0 {
		signal(m.deletions)
	}
}

func (m *Manager) publishTopic(image *metadata.Image, topic *metadata.Topic) {
	for i := range topic.AllPartitions() {
		m.publishPartition(image, topic, model.TopicPartition{TopicID: topic.ID, Partition: i})
	}
}

// publishPartition brings one partition to what the image says.
func (m *Manager) publishPartition(image *metadata.Image, topic *metadata.Topic, tp model.TopicPartition) {
	state, ok := topic.Partition(tp.Partition)
	if !ok {
		return
	}
	m.mu.RLock()
	p := m.partitions[tp]
	m.mu.RUnlock()
	settings := topic.Settings()
	if p == nil {
		if !state.HasReplica(m.opts.NodeID) {
			return
		}
		var err error
		p, err = m.addPartition(tp, topic.Name, settings)
		if lacksRoom(err) {
			m.setClosed(tp, err)
		}
		if m.staysClosed(tp, err) {
			m.passOn(tp, partitionState(image, state, settings))
			return
		}
		if err != nil {
			m.opts.Logger.Error("the log of a new replica cannot be made", "partition", tp.String(), "error", err)
			return
		}
	}
	m.run(p, func(fx *effects) core.Output {
		if p.settings != settings {
			p.settings = settings
			p.log.Reconfigure(logConfig(settings))
			p.osEnd = p.log.LogEndOffset()
			// What was appended in os mode counts once it is on the disk.
			fx.sync = settings.FlushMode == metadata.FlushFsync
		}
		if err := m.markMode(p); err != nil {
			m.logFailed(p, "note the flush mode", err, fx)
			return core.Output{}
		}
		m.apply(p, p.replica.Apply(partitionState(image, state, settings), m.now()), fx)
		m.assign(p, state.InISR(m.opts.NodeID), fx)
		return core.Output{}
	})
}

// addPartition opens the log of a replica, or makes it.
func (m *Manager) addPartition(tp model.TopicPartition, topic string, settings metadata.TopicSettings) (*partition, error) {
	m.mu.Lock()
	have, found := m.found[tp]
	delete(m.found, tp)
	epoch := m.brokerEpoch
	m.mu.Unlock()
	log, highWatermark := have.log, have.report.HighWatermark
	var err error
	if found {
		log.Reconfigure(logConfig(settings))
	} else {
		if log, err = m.opts.Dir.CreateLog(tp, logConfig(settings)); errors.Is(err, storage.ErrLogExists) {
			have, err = m.openClosed(tp, settings)
			log, highWatermark = have.log, have.report.HighWatermark
		}
		if err != nil {
			return nil, err
		}
	}
	p := &partition{tp: tp, name: fmt.Sprintf("%s/%d", topic, tp.Partition), log: log, settings: settings, osEnd: log.LogEndOffset()}
	if p.osMode, err = log.OSMode(); err != nil {
		return nil, err
	}
	state := p.logState()
	state.HighWatermark = max(state.HighWatermark, highWatermark)
	p.replica = core.NewReplica(m.opts.NodeID, epoch, m.opts.Core, state, log)
	p.traffic = m.topics.join(topic)
	p.waiting.m = m
	p.watch.p = p
	p.hw.Store(p.replica.Log().HighWatermark)
	p.seen.Store(&roleView{leader: model.NoNode, leaderEpoch: model.NoLeaderEpoch})
	m.mu.Lock()
	m.partitions[tp] = p
	delete(m.closed, tp)
	m.mu.Unlock()
	return p, nil
}

// markMode keeps the mark of flush.mode=os: it stands before the first record counts that is not on the disk, and until all of
// them are. The caller holds p.mu.
func (m *Manager) markMode(p *partition) error {
	switch {
	case p.settings.FlushMode == metadata.FlushOS && !p.osMode:
		if err := p.log.MarkOSMode(); err != nil {
			return err
		}
		p.osMode = true
	case p.settings.FlushMode == metadata.FlushFsync && p.osMode && p.log.DurableEnd() >= p.osEnd:
		if err := p.log.ClearOSMode(); err != nil {
			return err
		}
		p.osMode = false
	}
	return nil
}

func logConfig(s metadata.TopicSettings) storage.Config {
	return storage.Config{SegmentBytes: s.SegmentBytes, IndexIntervalBytes: s.IndexIntervalBytes, MaxBatchBytes: s.MaxMessageBytes}
}

// partitionState is what the core needs to know of an image.
func partitionState(image *metadata.Image, state *metadata.Partition, settings metadata.TopicSettings) core.PartitionState {
	st := core.PartitionState{
		Leader: state.Leader, LeaderEpoch: state.LeaderEpoch, PartitionEpoch: state.PartitionEpoch, ISR: state.ISR, ELR: state.ELR,
		MinISR:   settings.EffectiveMinISR(len(state.Replicas)),
		Replicas: make([]core.Member, 0, len(state.Replicas)),
	}
	if settings.FlushMode == metadata.FlushOS {
		st.FlushMode = core.FlushOS
	}
	for _, id := range state.Replicas {
		member := core.Member{ID: id, BrokerEpoch: model.NoBrokerEpoch, Fenced: true}
		if b, ok := image.Broker(id); ok {
			member.BrokerEpoch, member.Fenced, member.Stopping = b.Epoch, b.Fenced, b.Stopping
		}
		st.Replicas = append(st.Replicas, member)
	}
	return st
}

// PartitionState is what the broker knows of a replica, for descriptions.
type PartitionState struct {
	// Role is "leader", "follower", "offline" or "stopped".
	Role string
	// Leader, LeaderEpoch and PartitionEpoch are those of the newest image taken.
	Leader         model.NodeID
	LeaderEpoch    model.LeaderEpoch
	PartitionEpoch model.PartitionEpoch
	// LogStartOffset, HighWatermark, LogEndOffset and DurableEnd are the replica's own.
	LogStartOffset, HighWatermark, LogEndOffset, DurableEnd int64
	// SizeBytes is the size of its segments.
	SizeBytes int64
	// ISR is the in-sync set in force; nil unless this broker leads.
	ISR []model.NodeID
	// Stopped says why the replica stopped for good; empty otherwise.
	Stopped string
}

// PartitionState describes a replica of this broker. The error is lookup's: UNKNOWN_TOPIC_ID, UNKNOWN_TOPIC_OR_PARTITION,
// or NOT_LEADER_FOR_PARTITION where this broker holds no replica.
func (m *Manager) PartitionState(tp model.TopicPartition) (PartitionState, error) {
	p, err := m.lookup(tp)
	if err != nil {
		return PartitionState{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.replica.Log()
	state := PartitionState{
		Role: p.replica.Role().String(), Leader: p.replica.Leader(), LeaderEpoch: p.replica.LeaderEpoch(),
		PartitionEpoch: p.replica.PartitionEpoch(), LogStartOffset: at.Start, HighWatermark: at.HighWatermark,
		LogEndOffset: at.End, DurableEnd: at.Durable, SizeBytes: p.log.SizeBytes(), ISR: p.replica.ISR(),
	}
	if p.stopped != nil {
		state.Stopped = p.stopped.Error()
	}
	return state, nil
}

// LeaderOf returns the leader of a partition by the newest image, for hints to clients: NoNode where there is none. ok is
// false where the partition is not known.
func (m *Manager) LeaderOf(tp model.TopicPartition) (leader model.NodeID, epoch model.LeaderEpoch, ok bool) {
	m.mu.RLock()
	image := m.image
	m.mu.RUnlock()
	state, ok := image.Partition(tp)
	if !ok {
		return model.NoNode, model.NoLeaderEpoch, false
	}
	return state.Leader, state.LeaderEpoch, true
}

// Partitions lists the replicas of this broker, ordered by topic id and partition.
func (m *Manager) Partitions() []model.TopicPartition {
	m.mu.RLock()
	defer m.mu.RUnlock()
	tps := make([]model.TopicPartition, 0, len(m.partitions))
	for tp := range m.partitions {
		tps = append(tps, tp)
	}
	slices.SortFunc(tps, metadata.CompareTopicPartitions)
	return tps
}
