package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// ticking are the partitions that the passing of time may change; an idle one in order is not among them.
type ticking struct {
	wake chan struct{} // one token: the set is not empty any more
	mu   sync.Mutex
	set  map[*partition]struct{}
}

// put enters a partition or takes it out. The caller may hold its mu.
func (t *ticking) put(p *partition, in bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !in {
		delete(t.set, p)
		return
	}
	t.set[p] = struct{}{}
	signal(t.wake)
}

func (t *ticking) list(into []*partition) []*partition {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range t.set {
		into = append(into, p)
	}
	return into
}

// sweepLoop is the only timer of all partitions: lag, timeouts and retries often, but only while a partition needs it;
// checkpoints seldom.
func (m *Manager) sweepLoop(ctx context.Context) error {
	timer := m.opts.Clock.NewTimer(m.opts.CheckpointInterval)
	defer timer.Stop()
	last := m.opts.Clock.Now()
	var due []*partition
	for {
		wake := m.ticking.wake
		if len(due) > 0 {
			wake = nil // swept a moment ago
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C():
		case <-wake:
			if err := lifecycle.Sleep(ctx, m.opts.Clock, m.opts.SweepInterval); err != nil {
				return nil //nolint:nilerr // told to stop
			}
		}
		now := m.opts.Clock.Now()
		due = m.ticking.list(due[:0])
		for _, p := range due {
			m.sweep(p, now)
		}
		if now.Sub(last) >= m.opts.CheckpointInterval {
			last = now
			m.sweepRetention(now)
			if err := m.opts.Dir.Settle(); err != nil {
				m.diskFailed(err)
			}
			m.retryClosed()
			if err := m.checkpoint(m.allPartitions()); err != nil {
				m.diskFailed(err)
			}
		}
		next := m.opts.CheckpointInterval - now.Sub(last)
		if len(due) > 0 {
			next = min(next, m.opts.SweepInterval)
		}
		timer.Reset(next)
	}
}

// roomInterval is how often a full disk is looked at.
const roomInterval = 250 * time.Millisecond

// room is when the sweeper looked last at a disk that was full, and what it saw. It belongs to the sweeper.
type room struct {
	looked time.Time
	was    bool
}

func (r *room) full(dir *storage.Dir, now time.Time) bool {
	if now.Sub(r.looked) >= roomInterval {
		r.looked, r.was = now, dir.Full()
	}
	return r.was
}

// sweep lets time pass for one partition.
func (m *Manager) sweep(p *partition, now time.Time) {
	m.run(p, func(fx *effects) core.Output {
		p.waiting.expire(p, now, fx)
		if p.replica.Full() && !m.room.full(m.opts.Dir, now) {
			p.replica.RoomAgain(m.now())
		}
		if at, wanted := p.replica.SubscribeDue(); wanted && m.now() >= at {
			fx.fetch = p.fetcher
		}
		return p.replica.Tick(m.now())
	})
}

// checkpointed is what was noted of a partition last.
type checkpointed struct {
	log         core.LogState
	filed       int64 // the recovery point
	leaderEpoch model.LeaderEpoch
	segments    int
}

// wantsFlush says whether a log of flush.mode=os is to be synced though nobody waits for it, so that recovery stays
// short: after a roll, and once it is quiet.
func (c checkpointed) wantsFlush(before checkpointed) bool {
	return c.log.Durable < c.log.End && (c.segments != before.segments || c.log.End == before.log.End)
}

// rollAged begins a new segment where the active one is older than segment.ms. The caller holds p.mu.
func (m *Manager) rollAged(p *partition, nowMs int64) {
	if p.closed || m.failed.Load() != nil {
		return
	}
	if _, err := p.log.RollAged(nowMs, p.settings.SegmentMs); err != nil && p.log.Failed() == nil {
		m.opts.Logger.Warn("closing an old segment failed, it is tried again", "partition", p.tp.String(), "error", err)
	}
}

// checkpoint notes the HighWatermarks that have moved, with one sync for all. An error means that the directory has failed.
func (m *Manager) checkpoint(all []*partition) error {
	var items []storage.LogCheckpoint
	now := m.opts.Clock.Now().UnixMilli()
	behind := lags{}
	for _, p := range all {
		p.mu.Lock()
		m.rollAged(p, now)
		behind.note(p, m.now())
		at := p.replica.Log()
		noted := checkpointed{at, p.log.FiledEnd(), p.replica.LeaderEpoch(), p.log.SegmentCount()}
		flush := !p.closed && noted.wantsFlush(p.checkpointed)
		if !p.closed && noted != p.checkpointed {
			p.checkpointed = noted
			items = append(items, storage.LogCheckpoint{Log: p.log, HighWatermark: at.HighWatermark})
		}
		p.mu.Unlock()
		if flush {
			m.requestSync(p.log)
		}
	}
	m.lags.Store(&behind)
	if len(items) == 0 {
		return nil
	}
	err := m.opts.Dir.Checkpoint(items...)
	if err == nil || (errors.Is(err, storage.ErrJournalFailed) && !errors.Is(err, fsys.ErrNoSpace)) {
		return err
	}
	// Without a checkpoint recovery takes longer, and that is all.
	m.opts.Logger.Warn("checkpoint not complete", "error", fmt.Sprint(err))
	return nil
}
