package replication

import (
	"context"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
)

// snapshotTimeout bounds the transfer of one producer snapshot.
const snapshotTimeout = 30 * time.Second

// ProducerSnapshot returns the state of a partition's idempotent producers at an offset, for a follower that begins there.
// It is called by the service on the peer listener. Errors are *model.Error: those of a replica stream's hello and of a
// subscription, OFFSET_OUT_OF_RANGE where the log start has moved on.
func (m *Manager) ProducerSnapshot(req *internalv1.FetchProducerSnapshotRequest) ([]byte, error) {
	if _, err := m.greet(nil, req.GetHello()); err != nil {
		return nil, err
	}
	topicID, err := model.UUIDFromBytes(req.GetTopicId())
	if err != nil {
		return nil, model.Errorf(model.CodeInvalidRequest, "topic id: %w", err)
	}
	p, err := m.lookup(model.TopicPartition{TopicID: topicID, Partition: req.GetPartition()})
	if err != nil {
		return nil, err
	}
	view, err := m.leaderView(p)
	if err != nil {
		return nil, err
	}
	if err := checkLeaderEpoch(p.name, model.LeaderEpoch(req.GetLeaderEpoch()), view.leaderEpoch); err != nil {
		return nil, err
	}
	data, err := p.log.ProducerSnapshot(req.GetOffset())
	if err != nil {
		return nil, asModelError(err)
	}
	return data, nil
}

// restart is a log that is to begin anew.
type restart struct {
	p      *partition
	leader model.NodeID
	epoch  model.LeaderEpoch
	at     int64
}

// beginRestart fetches the leader's producer state in the background and begins the log anew with it.
func (m *Manager) beginRestart(r restart) {
	started := m.group != nil && m.group.Go("producer-snapshot", func(ctx context.Context) error {
		data, err := m.fetchSnapshot(ctx, r)
		m.endRestart(r, data, err)
		return nil
	})
	if !started {
		m.endRestart(r, nil, model.Errorf(model.CodeShuttingDown, "broker %d is stopping", m.opts.NodeID))
	}
}

func (m *Manager) fetchSnapshot(ctx context.Context, r restart) ([]byte, error) {
	m.mu.RLock()
	image, epoch := m.image, m.brokerEpoch
	m.mu.RUnlock()
	leader, ok := image.Broker(r.leader)
	if !ok {
		return nil, model.Errorf(model.CodeBrokerIDNotRegistered, "no broker %d is registered", r.leader)
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	return m.opts.Endpoint.FetchProducerSnapshot(ctx, leader, &internalv1.FetchProducerSnapshotRequest{
		Hello: &internalv1.ReplicaHello{
			ClusterId: image.ClusterID().Bytes(), BrokerId: int32(m.opts.NodeID), BrokerEpoch: int64(epoch), LeaderId: int32(r.leader),
		},
		TopicId: r.p.tp.TopicID.Bytes(), Partition: r.p.tp.Partition, LeaderEpoch: int32(r.epoch), Offset: r.at,
	})
}

// endRestart begins the log anew where that is still wanted, or lets the follower ask again.
func (m *Manager) endRestart(r restart, snapshot []byte, err error) {
	p := r.p
	m.run(p, func(fx *effects) core.Output {
		at, wanted := p.replica.Restarting()
		if !wanted || at != r.at || p.replica.LeaderEpoch() != r.epoch {
			return core.Output{}
		}
		fx.fetch = p.fetcher
		before := p.log.LogEndOffset()
		if err == nil {
			err = p.log.Reset(r.at, snapshot)
		}
		if err == nil {
			p.replica.Truncated(p.logState())
			p.hw.Store(p.replica.Log().HighWatermark)
			m.metrics.truncations.Inc()
			m.opts.Logger.Info("log begins anew where its leader's begins", "partition", p.tp.String(), "leader", r.leader,
				"leader_epoch", r.epoch, "from", before, "to", r.at)
			return core.Output{}
		}
		if p.log.Failed() != nil {
			m.logFailed(p, "begin anew", err, fx)
			return core.Output{}
		}
		m.opts.Logger.Warn("the leader's producer state could not be had, it is asked for again", "partition", p.tp.String(),
			"leader", r.leader, "offset", r.at, "error", err)
		p.replica.RestartFailed(m.now())
		return core.Output{}
	})
}
