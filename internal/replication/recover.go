package replication

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// recovered is a log that was found at start.
type recovered struct {
	log    *storage.Log
	report storage.RecoveryReport
}

// Recover opens all logs of the directory, before the broker registers. It tells where each replica's log ends, and for those
// that must give up their seats in ISR and ELR the reason, ordered by topic id and partition. It is called once, before Start.
func (m *Manager) Recover(ctx context.Context) (replicas []*internalv1.ReplicaState, err error) {
	tps, err := m.opts.Dir.Logs()
	if err != nil {
		return nil, fmt.Errorf("list the logs: %w", err)
	}
	for _, tp := range m.opts.Dir.Report().MissingLogs {
		const gone = "the log is gone"
		m.opts.Logger.Warn("the replica gives up its seat", "partition", tp.String(), "reason", gone)
		replicas = append(replicas, replicaState(tp, 0, model.NoLeaderEpoch, gone))
	}
	opened, err := m.openLogs(ctx, tps)
	if err != nil {
		return nil, err
	}
	replicas = append(replicas, opened...)
	slices.SortFunc(replicas, func(a, b *internalv1.ReplicaState) int {
		return cmp.Or(slices.Compare(a.GetTopicId(), b.GetTopicId()), cmp.Compare(a.GetPartition(), b.GetPartition()))
	})
	return replicas, nil
}

// AwaitedEnds tells where the logs end now of those replicas here whose partition waits for it: nobody leads it, and all who
// could have lost their seat. The active controller compares them, and knows nothing of what its predecessor was told.
func (m *Manager) AwaitedEnds() []*internalv1.ReplicaState {
	m.mu.RLock()
	image := m.image
	m.mu.RUnlock()
	var ends []*internalv1.ReplicaState
	for _, p := range m.allPartitions() {
		if view := p.seen.Load(); view != nil && view.leader != model.NoNode {
			continue
		}
		if st, ok := image.Partition(p.tp); !ok || st.Leader != model.NoNode || len(st.ISR)+len(st.ELR) > 0 {
			continue
		}
		p.mu.Lock()
		if !p.closed && p.log.Failed() == nil {
			end := p.log.LogEndOffset()
			ends = append(ends, replicaState(p.tp, end, core.LastBatchEpoch(p.log, p.log.LogStartOffset(), end), ""))
		}
		p.mu.Unlock()
	}
	return ends
}

// openLogs opens logs a few at a time.
func (m *Manager) openLogs(ctx context.Context, tps []model.TopicPartition) (states []*internalv1.ReplicaState, err error) {
	var mu sync.Mutex
	var next atomic.Int64
	group := lifecycle.New(ctx, "recovery", m.opts.Logger)
	for range min(len(tps), 2*runtime.GOMAXPROCS(0)) {
		group.Go("opener", func(ctx context.Context) error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(tps) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				log, report, err := m.opts.Dir.OpenLog(tps[i], storage.Config{})
				if lacksRoom(err) {
					state, err := m.noteClosed(tps[i], err)
					if err != nil {
						return fmt.Errorf("open log %s: %w", tps[i], err)
					}
					if state != nil {
						mu.Lock()
						states = append(states, state)
						mu.Unlock()
					}
					continue
				}
				if err != nil {
					return fmt.Errorf("open log %s: %w", tps[i], err)
				}
				reason, err := m.lostReason(log, report)
				if err != nil {
					return fmt.Errorf("open log %s: %w", tps[i], err)
				}
				if report.Damage != nil {
					m.metrics.damages.WithLabelValues(string(FoundByRecovery)).Inc()
				}
				if reason != "" {
					m.opts.Logger.Warn("the replica gives up its seat", "partition", tps[i].String(), "reason", reason)
				}
				state := replicaState(tps[i], log.LogEndOffset(), core.LastBatchEpoch(log, log.LogStartOffset(), log.LogEndOffset()), reason)
				mu.Lock()
				m.found[tps[i]] = recovered{log: log, report: report}
				states = append(states, state)
				done := len(m.found)
				mu.Unlock()
				if done%1000 == 0 {
					m.opts.Logger.Info("recovering logs", "done", done, "of", len(tps))
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return states, ctx.Err()
}

func replicaState(tp model.TopicPartition, end int64, epoch model.LeaderEpoch, reason string) *internalv1.ReplicaState {
	return &internalv1.ReplicaState{
		TopicId: tp.TopicID.Bytes(), Partition: tp.Partition, SeatLostReason: reason, LogEndOffset: &end, LastLeaderEpoch: int32(epoch),
	}
}

// lostReason says why the replica gives up its seats; empty where it does not.
func (m *Manager) lostReason(log *storage.Log, report storage.RecoveryReport) (string, error) {
	if report.LostData() {
		return dataLost(report), nil
	}
	if !m.opts.PageCacheLost {
		return "", nil
	}
	if marked, err := log.OSMode(); err != nil || !marked {
		return "", err
	}
	return osModeLost, nil
}

const osModeLost = "it was written in flush.mode=os, and the machine has restarted without a clean stop"

func dataLost(r storage.RecoveryReport) string {
	switch {
	case r.Damage != nil:
		return fmt.Sprintf("damaged from offset %d on, in %s at %d: %s", r.Damage.From, r.Damage.File, r.Damage.Position, r.Damage.Reason)
	case r.Cut == storage.CutMore:
		reason := r.CutReason
		if reason == "" {
			reason = "what follows does not continue it"
		}
		return fmt.Sprintf("%d bytes from offset %d on were cut, more than an unfinished batch, in %s at %d: %s",
			r.CutBytes, r.LogEndOffset, r.CutFile, r.CutPosition, reason)
	case r.SyncFailed:
		return fmt.Sprintf("a sync failed, and what lies above offset %d may not be what was written", r.RecoveryPoint)
	case r.LostBelowRecoveryPoint():
		return fmt.Sprintf("the log ends at %d, below its recovery point %d", r.LogEndOffset, r.RecoveryPoint)
	case r.LogEndOffset < r.HighWatermark:
		return fmt.Sprintf("the log ends at %d, below its high watermark %d", r.LogEndOffset, r.HighWatermark)
	default:
		return "an earlier start found that it had lost records, and died before that was on record"
	}
}
