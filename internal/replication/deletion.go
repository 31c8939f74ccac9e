package replication

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
)

const (
	reportTimeout = 5 * time.Second
	deleteRetry   = time.Second
)

// dropUnknown takes partitions of topics that are gone out of service. Their data stays until the deleter has looked at
// the image: it goes only on a deletion's record. The caller holds publishMu.
func (m *Manager) dropUnknown(image *metadata.Image, delta *metadata.Delta, first bool) {
	if !first && !delta.All && len(delta.DeletedTopics) == 0 {
		return
	}
	m.dropClosed(image)
	for _, p := range m.allPartitions() {
		if _, ok := image.TopicByID(p.tp.TopicID); ok {
			continue
		}
		m.mu.Lock()
		delete(m.partitions, p.tp)
		m.mu.Unlock()
		m.run(p, func(fx *effects) core.Output {
			p.waiting.failAll(fx, model.Errorf(model.CodeUnknownTopicID, "the topic of %s was deleted", p.name))
			m.apply(p, p.replica.Offline(), fx)
			m.assign(p, false, fx)
			return core.Output{}
		})
		m.retire(p)
		m.topics.leave(p.traffic)
	}
}

// deleteLoop deletes data of deleted topics, sets data of unknown topics aside, and reports.
func (m *Manager) deleteLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.deletions:
		}
		for {
			err := m.deleteOnce(ctx)
			if err == nil || ctx.Err() != nil {
				break
			}
			m.opts.Logger.Warn("deleting data of deleted topics failed, it is tried again", "error", err)
			if err := lifecycle.Sleep(ctx, m.opts.Clock, deleteRetry); err != nil {
				return nil //nolint:nilerr // told to stop
			}
		}
	}
}

// deleteOnce does what the present image asks for.
func (m *Manager) deleteOnce(ctx context.Context) error {
	// The logs are listed before the image is taken: a log that is made meanwhile belongs to a topic of a newer image, and is
	// not to be taken for one of an unknown topic.
	tps, err := m.opts.Dir.Logs()
	if err != nil {
		return err
	}
	m.mu.RLock()
	image, epoch := m.image, m.brokerEpoch
	ready := m.caughtUp && !m.closing
	m.mu.RUnlock()
	if !ready {
		return nil
	}
	if err := m.clearLogs(image, tps); err != nil {
		return err
	}
	req := &internalv1.ReportDeletedRequest{BrokerId: int32(m.opts.NodeID), BrokerEpoch: int64(epoch)}
	for _, topic := range image.DeletedTopics() {
		if slices.Contains(topic.Holders, m.opts.NodeID) {
			req.TopicIds = append(req.TopicIds, topic.ID.Bytes())
		}
	}
	if len(req.TopicIds) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	_, err = m.opts.Controller.ReportDeleted(ctx, req)
	return err
}

// clearLogs deletes those logs that are of deleted topics and sets aside those of topics that the image does not know at all.
func (m *Manager) clearLogs(image *metadata.Image, tps []model.TopicPartition) error {
	var errs []error
	for _, tp := range tps {
		if _, ok := image.TopicByID(tp.TopicID); ok {
			continue
		}
		m.mu.Lock()
		delete(m.found, tp)
		m.mu.Unlock()
		if _, deleted := image.DeletedTopic(tp.TopicID); deleted {
			m.opts.Logger.Info("deleting the data of a deleted topic", "partition", tp.String())
			errs = append(errs, m.opts.Dir.DeleteLog(tp))
			continue
		}
		aside, err := m.opts.Dir.StrayLog(tp)
		if lacksRoom(err) { // once it can be opened, the next image has it set aside, or the next start
			continue
		}
		m.opts.Logger.Warn("data of an unknown topic set aside", "partition", tp.String(), "path", aside)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
