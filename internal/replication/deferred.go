package replication

import (
	"errors"
	"slices"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// closedLog is a log of this broker that cannot be opened for now: its disk has no room for what the sync journal holds of it, or for its
// recovery. Nothing of it is lost, so the replica keeps its seats, and answers nothing. Where it leads, another one is asked for. It is
// tried again at every checkpoint.
type closedLog struct {
	why   error
	final bool // it was opened, and has lost something: the next start tells the controller
}

// lacksRoom says of an error of opening a log that it is no fault of the log or the disk, and passes once there is room.
func lacksRoom(err error) bool {
	return errors.Is(err, fsys.ErrNoSpace) && !errors.Is(err, storage.ErrSyncFailed) && !errors.Is(err, storage.ErrJournalFailed)
}

// setClosed notes that a log cannot be opened. It is told once.
func (m *Manager) setClosed(tp model.TopicPartition, why error) {
	m.mu.Lock()
	c := m.closed[tp]
	if c == nil {
		c = &closedLog{}
		m.closed[tp] = c
		m.opts.Logger.Error("a log cannot be opened for lack of room, its partition stays offline here; nothing is lost",
			"partition", tp.String(), "error", why)
	}
	c.why = why
	m.mu.Unlock()
}

// closedError is what is answered for a log that cannot be opened. The caller holds mu.
func (m *Manager) closedError(tp model.TopicPartition) error {
	if c := m.closed[tp]; c != nil {
		return model.Errorf(model.CodeNoSpace, "broker %d cannot open its replica: %w", m.opts.NodeID, c.why)
	}
	return nil
}

// hasClosed says whether any log cannot be opened.
func (m *Manager) hasClosed() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.closed) > 0
}

// staysClosed says whether an error of opening a log leaves one closed that is known to be.
func (m *Manager) staysClosed(tp model.TopicPartition, err error) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return err != nil && m.closed[tp] != nil
}

// retryClosed tries to open what could not be, and asks for other leaders.
func (m *Manager) retryClosed() {
	if !m.hasClosed() {
		return
	}
	m.publishMu.Lock()
	defer m.publishMu.Unlock()
	m.mu.RLock()
	image, ready := m.image, m.caughtUp && !m.closing && m.failed.Load() == nil
	var tps []model.TopicPartition
	for tp := range m.closed {
		tps = append(tps, tp)
	}
	m.mu.RUnlock()
	if !ready {
		return
	}
	slices.SortFunc(tps, metadata.CompareTopicPartitions)
	for _, tp := range tps {
		if topic, ok := image.TopicByID(tp.TopicID); ok {
			m.publishPartition(image, topic, tp)
		}
	}
}

// dropClosed forgets logs of topics that are gone: their data is deleted as any.
func (m *Manager) dropClosed(image *metadata.Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for tp := range m.closed {
		if _, ok := image.TopicByID(tp.TopicID); !ok {
			delete(m.closed, tp)
		}
	}
}

// openClosed opens a log that could not be opened at the start. One that has lost something stays closed: only a start can tell the
// controller, which takes its seats.
func (m *Manager) openClosed(tp model.TopicPartition, settings metadata.TopicSettings) (have recovered, err error) {
	m.mu.RLock()
	c := m.closed[tp]
	m.mu.RUnlock()
	if c != nil && c.final {
		return have, c.why
	}
	have.log, have.report, err = m.opts.Dir.OpenLog(tp, logConfig(settings))
	if err != nil || c == nil || !have.report.LostData() {
		return have, err
	}
	err = model.Errorf(model.CodeStorageError, "the replica is to give up its seat (%s): start the broker again", dataLost(have.report))
	m.opts.Logger.Error("a log that could be opened at last has lost records", "partition", tp.String(), "error", err)
	m.mu.Lock()
	c.final, c.why = true, err
	m.mu.Unlock()
	return recovered{}, errors.Join(err, have.log.Close(false))
}

// closedReason says why the replica gives up its seats though its log cannot be opened; empty where it does not.
func (m *Manager) closedReason(tp model.TopicPartition) (string, error) {
	if damage := m.opts.Dir.Report().Replay.Damage; len(damage) > 0 {
		return damage[0].Error(), nil
	}
	if !m.opts.PageCacheLost {
		return "", nil
	}
	marked, err := m.opts.Dir.OSMode(tp)
	if err != nil || !marked {
		return "", err
	}
	return osModeLost, nil
}

// noteClosed notes at the start that a log cannot be opened, and returns what the registration says of it: nothing where the replica
// keeps its seats. Where the log ends is not said.
func (m *Manager) noteClosed(tp model.TopicPartition, why error) (*internalv1.ReplicaState, error) {
	m.setClosed(tp, why)
	reason, err := m.closedReason(tp)
	if err != nil || reason == "" {
		return nil, err
	}
	m.opts.Logger.Warn("the replica gives up its seat", "partition", tp.String(), "reason", reason)
	return &internalv1.ReplicaState{TopicId: tp.TopicID.Bytes(), Partition: tp.Partition, SeatLostReason: reason}, nil
}

// passOn asks for another leader where this broker leads with a log that it cannot open, and another replica in sync could.
func (m *Manager) passOn(tp model.TopicPartition, st core.PartitionState) {
	if st.Leader != m.opts.NodeID || len(st.ISR) <= st.MinISR || !slices.ContainsFunc(st.Replicas, func(r core.Member) bool {
		return r.ID != m.opts.NodeID && !r.Fenced && !r.Stopping && slices.Contains(st.ISR, r.ID)
	}) {
		return
	}
	m.giveUps.add(giveUp{tp: tp, GiveUp: core.GiveUp{LeaderEpoch: st.LeaderEpoch}, reason: "its log cannot be opened for lack of room", logWhole: true})
}
