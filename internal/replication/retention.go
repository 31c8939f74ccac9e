package replication

import (
	"time"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// retention is the sweeper's part of retention and compaction; the sweeper's goroutine alone uses it.
type retention struct {
	last  time.Time
	guard *storage.ClockGuard
}

// beginRetention looks at the clock for the first time.
func (m *Manager) beginRetention() {
	now := m.opts.Clock.Now()
	m.retention.last, m.retention.guard = now, storage.NewClockGuard(m.opts.ClockGuard)
	seen, err := m.opts.Dir.SeenTime()
	if err != nil {
		m.opts.Logger.Warn("when the clock was looked at last is not known", "error", err)
	}
	m.retention.guard.Begin(seen, now.UnixMilli(), m.now())
}

// sweepRetention lets retention look at every partition, and finds the logs to be compacted, every RetentionInterval. A
// partition with nothing to do costs a few comparisons.
func (m *Manager) sweepRetention(now time.Time) {
	if now.Sub(m.retention.last) < m.opts.RetentionInterval {
		return
	}
	m.retention.last = now
	clock := m.lookAtClock(now)
	m.mu.RLock()
	image := m.image
	m.mu.RUnlock()
	var paused int
	var due []cleaningJob
	for _, p := range m.allPartitions() {
		if m.failed.Load() != nil {
			return
		}
		if m.retain(p, now, clock) {
			paused++
		}
		if job, ok := m.cleaningDue(p, image, now, clock); ok {
			due = append(due, job)
		}
	}
	m.metrics.retentionPaused.Set(float64(paused))
	m.cleaning.offer(due)
}

// lookAtClock says how far the clock can be believed, and raises the alarm where it cannot.
func (m *Manager) lookAtClock(now time.Time) storage.ClockVerdict {
	verdict, alarm, ahead := m.retention.guard.Observe(now.UnixMilli(), m.now())
	if alarm {
		m.metrics.clockJumps.Inc()
		m.opts.Logger.Error("the wall clock jumped ahead: nothing is deleted by age until it goes back, or has gone on steadily "+
			"for long enough; set the clock right if it is wrong", "ahead", (time.Duration(ahead) * time.Millisecond).String())
	}
	if was := storage.ClockVerdict(m.clock.Swap(uint32(verdict))); was != verdict { //nolint:gosec // a verdict
		m.opts.Logger.Warn("how far the wall clock is believed has changed", "from", was.String(), "to", verdict.String())
	}
	if verdict == storage.ClockTrusted {
		if err := m.opts.Dir.NoteSeenTime(now.UnixMilli()); err != nil {
			m.opts.Logger.Debug("the time was not noted", "error", err)
		}
	}
	return verdict
}

func retentionPolicy(s metadata.TopicSettings) storage.RetentionPolicy {
	return storage.RetentionPolicy{Delete: s.CleanupPolicy.Deletes(), Ms: s.RetentionMs, Bytes: s.RetentionBytes}
}

// retain deletes what is too old or too much where this broker leads, and frees what a follower has left behind. paused says
// that the clock keeps it from deleting.
func (m *Manager) retain(p *partition, now time.Time, clock storage.ClockVerdict) (paused bool) {
	var res storage.RetentionResult
	var before int64
	m.run(p, func(fx *effects) core.Output {
		var err error
		before = p.log.LogStartOffset()
		if p.replica.Role() != core.RoleLeader || p.stopped != nil || !p.replica.LookupReady() {
			_, err = p.log.ReleaseTrimmed()
		} else {
			res, err = p.log.RetentionStep(retentionPolicy(p.settings), m.retentionInput(p, now, clock))
		}
		if err != nil {
			m.logTrouble(p, "delete old records", err, fx)
			return core.Output{}
		}
		if res.Segments == 0 {
			return core.Output{}
		}
		return p.replica.LocalStart(res.Start)
	})
	if res.Segments > 0 {
		m.metrics.retentionSegments.Add(float64(res.Segments))
		m.metrics.retentionBytes.Add(float64(res.Bytes))
		m.opts.Logger.Info("old records deleted", "partition", p.tp.String(), "from", before, "to", res.Start,
			"segments", res.Segments, "bytes", res.Bytes)
	}
	return res.Paused
}

// retentionInput is what retention is decided on; never above what is on this disk. The caller holds p.mu.
func (m *Manager) retentionInput(p *partition, now time.Time, clock storage.ClockVerdict) storage.RetentionInput {
	return storage.RetentionInput{
		NowMs: now.UnixMilli(), HighWatermark: min(p.replica.Log().HighWatermark, p.log.DurableEnd()), Clock: clock,
	}
}

// logTrouble notes an error of a log's maintenance; one that has failed the log takes its partition out of service, and one that says
// that bytes are bad lets them be checked, as a read does. The caller holds p.mu.
func (m *Manager) logTrouble(p *partition, what string, err error, fx *effects) {
	if p.log.Failed() != nil {
		m.logFailed(p, what, err, fx)
		return
	}
	m.suspect(p, p.log.LogStartOffset(), err, FoundByMaintenance)
	m.opts.Logger.Warn("maintenance of a log failed, it is tried again", "partition", p.tp.String(), "doing", what, "error", err)
}

// Retention says what retention would do with a partition that this broker leads, by this broker's clock, and why the oldest
// records are kept. Nothing is changed. Errors are those of Trim.
func (m *Manager) Retention(tp model.TopicPartition) (storage.RetentionDecision, error) {
	p, err := m.lookup(tp)
	if err != nil {
		return storage.RetentionDecision{}, err
	}
	if _, err := m.trimmed(p, 0); err != nil {
		return storage.RetentionDecision{}, err
	}
	p.mu.Lock()
	policy, in := retentionPolicy(p.settings), m.retentionInput(p, m.opts.Clock.Now(), storage.ClockVerdict(m.clock.Load())) //nolint:gosec // a verdict
	p.mu.Unlock()
	d, err := p.log.ExplainRetention(policy, in)
	if err != nil {
		return storage.RetentionDecision{}, asModelError(err)
	}
	return d, nil
}
