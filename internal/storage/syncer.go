package storage

import (
	"context"
	"fmt"
	"runtime"
	"sync"
)

// syncTogether is how many waiting logs make one sync of the whole file system cheaper than one of each file, in parallel:
// docs/adr/0002-syncs-of-many-partitions.md has the figures.
const syncTogether = 16

// syncsTogether says whether the system can sync a file system with one call.
const syncsTogether = runtime.GOOS == "linux"

// goroutines starts goroutines; *lifecycle.Group is one. Go says false when it has stopped and starts no more.
type goroutines interface {
	Go(name string, fn func(ctx context.Context) error) bool
}

// Syncer is the group commit of a data directory: appenders ask for a sync, and one sync covers all that asked for the
// same log before it began. A few logs are synced in parallel, many together: by the sync journal of the directory, or by one
// sync of the file system. It is a shell: the simulator calls Log.Sync and Dir.SyncJournaled itself.
type Syncer struct {
	onDurable func(l *Log, durableEnd int64, err error)
	wake      chan struct{} // one token a worker that may have something to do
	tend      chan *Dir     // whose sync journal has something to do in the background
	metrics   *SyncMetrics
	together  int // so many waiting logs are synced together; 0 never

	mu       sync.Mutex
	queue    []*Log
	batching bool // a sync of the file system is under way: the other workers wait
}

// States of Log.syncQueue.
const (
	syncIdle int32 = iota
	syncQueued
	syncRunning
	syncRunningAgain // asked for while running
)

// StartSyncer starts a syncer with that many workers (at least 1) in group. onDurable is called on a worker after each
// sync, one call at a time for one log, with the durable end, or with the error of a sync that failed for ever. It must
// not block for long. The workers end when the group stops; what is queued then is not synced.
func StartSyncer(group goroutines, workers int, onDurable func(l *Log, durableEnd int64, err error)) *Syncer {
	return StartMeasuredSyncer(group, workers, nil, onDurable)
}

// StartMeasuredSyncer is StartSyncer with metrics; nil counts nothing.
func StartMeasuredSyncer(
	group goroutines, workers int, metrics *SyncMetrics, onDurable func(l *Log, durableEnd int64, err error),
) *Syncer {
	s := newSyncer(workers, onDurable)
	s.metrics = metrics
	s.start(group)
	return s
}

func newSyncer(workers int, onDurable func(l *Log, durableEnd int64, err error)) *Syncer {
	s := &Syncer{onDurable: onDurable, wake: make(chan struct{}, max(workers, 1)), tend: make(chan *Dir, 1)}
	if syncsTogether {
		s.together = syncTogether
	}
	return s
}

func (s *Syncer) start(group goroutines) {
	for i := range cap(s.wake) {
		group.Go(fmt.Sprintf("syncer-%d", i), s.run)
	}
	group.Go("syncer-journal", s.work)
}

// Request asks for a sync of everything appended to l before the call. It never blocks; requests that wait already are
// one.
func (s *Syncer) Request(l *Log) {
	for {
		switch state := l.syncQueue.Load(); state {
		case syncIdle:
			if l.syncQueue.CompareAndSwap(syncIdle, syncQueued) {
				s.push(l)
				return
			}
		case syncRunning:
			if l.syncQueue.CompareAndSwap(syncRunning, syncRunningAgain) {
				return
			}
		default:
			return
		}
	}
}

func (s *Syncer) push(l *Log) {
	s.mu.Lock()
	s.queue = append(s.queue, l)
	s.mu.Unlock()
	s.signal()
}

func (s *Syncer) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // as many tokens as workers: all will look
	}
}

// take returns what the next sync is for: nothing, one log, or all that wait where they are many.
func (s *Syncer) take() []*Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 || s.batching {
		return nil
	}
	if s.together > 0 && len(s.queue) >= s.together {
		all := s.queue
		s.queue, s.batching = nil, true
		return all
	}
	one := []*Log{s.queue[0]}
	s.queue[0] = nil
	if s.queue = s.queue[1:]; len(s.queue) > 0 {
		s.signal()
	}
	return one
}

func (s *Syncer) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		for logs := s.take(); logs != nil && ctx.Err() == nil; logs = s.take() {
			if len(logs) == 1 {
				s.sync(logs[0])
			} else {
				s.syncAll(logs)
			}
		}
	}
}

// sync syncs one log. What is asked for from the moment it begins waits for the next one.
func (s *Syncer) sync(l *Log) {
	began(l)
	mark := s.metrics.begin()
	end, err := l.syncMore()
	s.metrics.end(mark, 1, err)
	s.finish(l, end, err)
}

// began notes that what is asked for from now on waits for the next sync.
func began(l *Log) { l.syncQueue.Store(syncRunning) }

// finish tells the result, and queues the log again where it was asked for meanwhile.
func (s *Syncer) finish(l *Log, end int64, err error) {
	s.onDurable(l, end, err)
	if !l.syncQueue.CompareAndSwap(syncRunning, syncIdle) {
		l.syncQueue.Store(syncQueued)
		s.push(l)
	}
}

// syncAll syncs many logs together.
func (s *Syncer) syncAll(logs []*Log) {
	j := jointSync{dir: logs[0].dir, together: s.together, metrics: s.metrics, began: began, finish: s.finish}
	j.hold(logs)
	j.run()
	s.mu.Lock()
	s.batching = false
	waiting := len(s.queue) > 0
	s.mu.Unlock()
	if waiting {
		s.signal()
	}
	j.end()
	for _, l := range j.alone {
		s.sync(l)
	}
	if j.dir.shared.wantsWork() {
		select {
		case s.tend <- j.dir:
		default: // it is at it
		}
	}
}

// work does what the sync journal wants done beside the syncs.
func (s *Syncer) work(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-s.tend:
			if err := d.shared.work(); err != nil {
				s.fail(d, err)
			}
		}
	}
}

// fail fails all logs of a directory after a sync in the background has failed, and lets each tell its waiters.
func (s *Syncer) fail(d *Dir, err error) {
	for _, l := range d.failLogs(err) {
		s.Request(l)
	}
}
