package storage

import (
	"context"
	"fmt"
	"sync"
)

// goroutines starts goroutines; *lifecycle.Group is one. Go says false when it has stopped and starts no more.
type goroutines interface {
	Go(name string, fn func(ctx context.Context) error) bool
}

// Syncer is the group commit of a data directory: appenders ask for a sync, and one sync covers all that asked for the
// same log before it began. A few logs are synced in parallel. It is a shell: the simulator calls Log.Sync itself.
type Syncer struct {
	onDurable func(l *Log, durableEnd int64, err error)
	wake      chan struct{} // one token a worker that may have something to do

	mu    sync.Mutex
	queue []*Log
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
	workers = max(workers, 1)
	s := &Syncer{onDurable: onDurable, wake: make(chan struct{}, workers)}
	for i := range workers {
		group.Go(fmt.Sprintf("syncer-%d", i), s.run)
	}
	return s
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

func (s *Syncer) pop() *Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue = nil
		return nil
	}
	l := s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	if len(s.queue) > 0 {
		s.signal()
	}
	return l
}

func (s *Syncer) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		for l := s.pop(); l != nil && ctx.Err() == nil; l = s.pop() {
			s.sync(l)
		}
	}
}

// sync syncs one log. What is asked for from the moment it begins waits for the next one.
func (s *Syncer) sync(l *Log) {
	l.syncQueue.Store(syncRunning)
	end, err := l.Sync()
	s.onDurable(l, end, err)
	if !l.syncQueue.CompareAndSwap(syncRunning, syncIdle) {
		l.syncQueue.Store(syncQueued)
		s.push(l)
	}
}
