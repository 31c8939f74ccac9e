package controller

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"

	"github.com/penstock-io/penstock/internal/lifecycle"
)

// logStore is what Raft keeps on disk.
type logStore interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// store is the Raft log on disk. It knows whether any metadata is in it and how long the write under way takes already.
type store struct {
	logStore
	clock lifecycle.Clock
	fail  func(error) // stops the node

	written prometheus.Observer // of writes; nil before the start has come so far

	hasMetadata atomic.Bool

	mu      sync.Mutex
	began   time.Time // of the write under way; zero where there is none
	slowest time.Duration
}

// openStore opens or makes raft.db. A file that another process holds is refused after a second.
func openStore(dir string, clock lifecycle.Clock, wrap func(logStore) logStore, fail func(error)) (*store, error) {
	path := filepath.Join(dir, "raft.db")
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path:        path,
		BoltOptions: &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType},
	})
	if err != nil {
		return nil, fmt.Errorf("controller: open %s (another process may use it): %w", path, err)
	}
	s := &store{logStore: bolt, clock: clock, fail: fail}
	if wrap != nil {
		s.logStore = wrap(bolt)
	}
	if err := s.lookForMetadata(); err != nil {
		return nil, errors.Join(err, bolt.Close())
	}
	return s, nil
}

// lookForMetadata finds out whether the log holds an entry of the metadata log, or has held one that is compacted by now.
func (s *store) lookForMetadata() error {
	first, err := s.FirstIndex()
	if err != nil {
		return fmt.Errorf("controller: read the raft log: %w", err)
	}
	last, err := s.LastIndex()
	if err != nil {
		return fmt.Errorf("controller: read the raft log: %w", err)
	}
	if first > 1 {
		s.hasMetadata.Store(true)
		return nil
	}
	for i := first; i <= last && i > 0; i++ {
		var entry raft.Log
		if err := s.GetLog(i, &entry); err != nil {
			return fmt.Errorf("controller: read entry %d of the raft log: %w", i, err)
		}
		if entry.Type == raft.LogCommand {
			s.hasMetadata.Store(true)
			return nil
		}
	}
	return nil
}

// IsMonotonic tells Raft that the log must not have gaps: after a snapshot was installed old entries go first.
func (s *store) IsMonotonic() bool { return true }

// StoreLog appends one entry.
func (s *store) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

// StoreLogs appends entries.
func (s *store) StoreLogs(entries []*raft.Log) error {
	for _, e := range entries {
		if e.Type == raft.LogCommand {
			s.hasMetadata.Store(true)
		}
	}
	return s.timed(func() error { return s.logStore.StoreLogs(entries) })
}

// DeleteRange deletes entries.
func (s *store) DeleteRange(low, high uint64) error {
	return s.timed(func() error { return s.logStore.DeleteRange(low, high) })
}

// Set writes a value.
func (s *store) Set(key, value []byte) error {
	return s.timed(func() error { return s.logStore.Set(key, value) })
}

// SetUint64 writes a number.
func (s *store) SetUint64(key []byte, value uint64) error {
	return s.timed(func() error { return s.logStore.SetUint64(key, value) })
}

func (s *store) timed(write func() error) error {
	s.mu.Lock()
	s.began = s.clock.Now()
	s.mu.Unlock()
	err := write()
	s.mu.Lock()
	took := s.clock.Now().Sub(s.began)
	s.slowest = max(s.slowest, took)
	s.began = time.Time{}
	s.mu.Unlock()
	if err != nil {
		s.fail(fmt.Errorf("%w: %w", ErrLogFailed, err))
	} else if s.written != nil {
		s.written.Observe(took.Seconds())
	}
	return err
}

// writing returns the longest that a write took since the last call, the one under way included, and how long the latter
// takes already.
func (s *store) writing() (slowest, underWay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began.IsZero() {
		underWay = s.clock.Now().Sub(s.began)
	}
	slowest = max(s.slowest, underWay)
	s.slowest = 0
	return slowest, underWay
}
