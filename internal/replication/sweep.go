package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// sweepLoop is the only timer of all partitions: lag, timeouts and retries often, checkpoints seldom.
func (m *Manager) sweepLoop(ctx context.Context) error {
	checkpointed := m.opts.Clock.Now()
	for {
		if err := lifecycle.Sleep(ctx, m.opts.Clock, m.opts.SweepInterval); err != nil {
			return nil //nolint:nilerr // told to stop
		}
		now := m.opts.Clock.Now()
		all := m.allPartitions()
		for _, p := range all {
			if p.needsTick.Load() {
				m.sweep(p, now)
			}
		}
		if now.Sub(checkpointed) < m.opts.CheckpointInterval {
			continue
		}
		checkpointed = now
		if err := m.checkpoint(all); err != nil {
			m.diskFailed(err)
		}
	}
}

// sweep lets time pass for one partition.
func (m *Manager) sweep(p *partition, now time.Time) {
	m.run(p, func(fx *effects) core.Output {
		p.waiting.expire(p, now, fx)
		if at, wanted := p.replica.SubscribeDue(); wanted && m.now() >= at {
			fx.fetch = p.fetcher
		}
		return p.replica.Tick(m.now())
	})
}

// checkpoint notes the HighWatermarks that have moved, with one sync for all. An error means that the directory has failed.
func (m *Manager) checkpoint(all []*partition) error {
	var items []storage.LogCheckpoint
	for _, p := range all {
		p.mu.Lock()
		at := p.replica.Log()
		if key := at.HighWatermark + at.Durable + at.Start + int64(p.replica.LeaderEpoch()); !p.closed && key != p.checkpointed {
			p.checkpointed = key
			items = append(items, storage.LogCheckpoint{Log: p.log, HighWatermark: at.HighWatermark})
		}
		p.mu.Unlock()
	}
	if len(items) == 0 {
		return nil
	}
	err := m.opts.Dir.Checkpoint(items...)
	if err == nil || errors.Is(err, storage.ErrJournalFailed) {
		return err
	}
	m.opts.Logger.Warn("checkpoint not complete", "error", fmt.Sprint(err))
	return nil
}
