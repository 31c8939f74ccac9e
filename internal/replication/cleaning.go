package replication

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

const (
	// cleanStepBytes is the work of one step of the cleaner, between two looks at its rate.
	cleanStepBytes = 1 << 20
	// cleanRetry is when a log is tried again whose cleaning has failed.
	cleanRetry = time.Hour
)

// cleaningJob is a log that wants to be compacted.
type cleaningJob struct {
	p     *partition
	ratio float64
	clock storage.ClockVerdict
}

// cleaningQueue hands the sweeper's findings to the cleaner.
type cleaningQueue struct {
	wake chan struct{} // one token
	mu   sync.Mutex
	due  []cleaningJob // the dirtiest first
}

// offer replaces what is due.
func (q *cleaningQueue) offer(due []cleaningJob) {
	slices.SortStableFunc(due, func(a, b cleaningJob) int { return cmp.Compare(b.ratio, a.ratio) })
	q.mu.Lock()
	q.due = due
	q.mu.Unlock()
	if len(due) > 0 {
		signal(q.wake)
	}
}

func (q *cleaningQueue) take() (cleaningJob, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.due) == 0 {
		return cleaningJob{}, false
	}
	job := q.due[0]
	q.due = q.due[1:]
	return job, true
}

// heldByAll is what a follower knows of the other replicas: at the last sweep all assigned ones were in sync, and so had
// everything below the HighWatermark.
type heldByAll struct {
	epoch         model.PartitionEpoch
	highWatermark int64
	known         bool
}

// cleaningDue says whether a log is to be compacted.
func (m *Manager) cleaningDue(p *partition, image *metadata.Image, now time.Time, clock storage.ClockVerdict) (cleaningJob, bool) {
	p.mu.Lock()
	p.noteHeldByAll(p.allInSync(image))
	wanted := !p.closed && p.stopped == nil && p.settings.CleanupPolicy.Compacts() && !now.Before(p.cleanAfter)
	policy, in := compactionPolicy(p.settings), m.cleaningInput(p, now, clock)
	p.mu.Unlock()
	if !wanted {
		return cleaningJob{}, false
	}
	state, err := p.log.CleaningState(policy, in)
	if err != nil {
		m.suspect(p, p.log.LogStartOffset(), err, FoundByMaintenance)
		m.opts.Logger.Warn("what there is to compact is not known", "partition", p.tp.String(), "error", err)
		return cleaningJob{}, false
	}
	return cleaningJob{p: p, ratio: state.DirtyRatio(), clock: clock}, state.Due
}

func compactionPolicy(s metadata.TopicSettings) storage.CompactionPolicy {
	return storage.CompactionPolicy{
		MinDirtyRatio: s.MinCleanableDirtyRatio, MinLagMs: s.MinCompactionLagMs, DeleteRetentionMs: s.DeleteRetentionMs,
	}
}

// cleaningInput is what a cleaning is decided on. The caller holds p.mu.
func (m *Manager) cleaningInput(p *partition, now time.Time, clock storage.ClockVerdict) storage.CleaningInput {
	lowest := p.replica.LowestPosition()
	if p.replica.Role() == core.RoleFollower && p.heldBefore.known && p.heldBefore.epoch == p.replica.PartitionEpoch() {
		lowest = p.heldBefore.highWatermark
	}
	return storage.CleaningInput{
		NowMs: now.UnixMilli(), HighWatermark: p.replica.Log().HighWatermark, LowestPosition: min(lowest, p.log.DurableEnd()), Clock: clock,
	}
}

// allInSync says whether by an image, no older than the replica's, all assigned replicas are in sync. The caller holds p.mu.
func (p *partition) allInSync(image *metadata.Image) bool {
	state, ok := image.Partition(p.tp)
	return ok && len(state.Replicas) > 0 && len(state.ISR) == len(state.Replicas) && state.PartitionEpoch == p.replica.PartitionEpoch()
}

// noteHeldByAll takes a follower's note of this sweep; the one of the sweep before is what counts, so that an image that lags a
// little behind the leader's cannot mislead. The caller holds p.mu.
func (p *partition) noteHeldByAll(allInSync bool) {
	p.heldBefore = p.heldNow
	p.heldNow = heldByAll{epoch: p.replica.PartitionEpoch(), highWatermark: p.replica.Log().HighWatermark, known: allInSync}
}

// cleanLoop compacts one log after the other, at most at the rate that is set. It sleeps while there is nothing to do.
func (m *Manager) cleanLoop(ctx context.Context) error {
	cleaner := storage.NewCleaner(storage.CleanerOptions{MapBytes: m.opts.CleanerMapBytes})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.cleaning.wake:
		}
		for job, ok := m.cleaning.take(); ok && ctx.Err() == nil; job, ok = m.cleaning.take() {
			for m.clean(ctx, cleaner, job) && ctx.Err() == nil { //nolint:revive // pass after pass, while the keys do not fit
			}
		}
	}
}

// clean compacts one log; more says that another pass is needed at once.
func (m *Manager) clean(ctx context.Context, cleaner *storage.Cleaner, job cleaningJob) (more bool) {
	p := job.p
	p.mu.Lock()
	policy, in := compactionPolicy(p.settings), m.cleaningInput(p, m.opts.Clock.Now(), job.clock)
	closed := p.closed
	p.mu.Unlock()
	if closed || m.failed.Load() != nil {
		return false
	}
	cl, err := cleaner.Begin(p.log, policy, in)
	if cl == nil {
		m.cleaned(p, storage.CleaningStats{}, err)
		return false
	}
	err = m.cleanSteps(ctx, cl)
	stopped := err != nil && cl.Stopped(err)
	stats := cl.Stats()
	if closeErr := cl.Close(); err == nil {
		err = closeErr
	}
	if stopped || ctx.Err() != nil {
		return false
	}
	m.cleaned(p, stats, err)
	return err == nil && stats.More && stats.CleanedTo > 0
}

// cleanSteps does the work and keeps its rate.
func (m *Manager) cleanSteps(ctx context.Context, cl *storage.Cleaning) error {
	began, work := m.now(), int64(0)
	for {
		bytes, done, err := cl.Step(cleanStepBytes)
		if err != nil || done {
			return err
		}
		work += bytes
		due := time.Duration(float64(work) / float64(m.opts.CleanerBytesPerSecond) * float64(time.Second))
		if err := lifecycle.Sleep(ctx, m.opts.Clock, due-(m.now()-began)); err != nil {
			return nil //nolint:nilerr // told to stop
		}
	}
}

// cleaned takes note of a cleaning that has ended.
func (m *Manager) cleaned(p *partition, stats storage.CleaningStats, err error) {
	m.metrics.cleanedBytes.Add(float64(stats.KeyBytesRead + stats.BytesRead))
	m.metrics.cleanedRecords.Add(float64(stats.RecordsDropped))
	if err == nil {
		if stats.BytesRead > 0 {
			m.metrics.cleanings.Inc()
			m.opts.Logger.Debug("log compacted", "partition", p.tp.String(), "to", stats.CleanedTo, "read", stats.BytesRead,
				"written", stats.BytesWritten, "records_dropped", stats.RecordsDropped, "tombstones_dropped", stats.TombstonesDropped,
				"unreadable_batches", stats.Unreadable)
		}
		return
	}
	m.run(p, func(fx *effects) core.Output {
		m.metrics.cleaningsFailed.Inc()
		if !errors.Is(err, fsys.ErrNoSpace) {
			p.cleanAfter = m.opts.Clock.Now().Add(cleanRetry)
		}
		m.logTrouble(p, "compact", err, fx)
		return core.Output{}
	})
}
