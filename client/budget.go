package client

import (
	"context"
	"sync"
	"sync/atomic"
)

// budget is a bounded amount of bytes that is taken and given back; who does not get any waits in line.
type budget struct {
	mu      sync.Mutex
	free    int
	waiters []*budgetWaiter
	waiting atomic.Int32
}

type budgetWaiter struct {
	need    int
	granted chan struct{}
}

func newBudget(bytes int) *budget { return &budget{free: bytes} }

// try takes n bytes if they are there and nobody waits for them.
func (b *budget) try(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 || b.free < n {
		return false
	}
	b.free -= n
	return true
}

// take waits for n bytes, in line, until ctx or closed end.
func (b *budget) take(ctx context.Context, n int, closed <-chan struct{}) error {
	b.mu.Lock()
	if len(b.waiters) == 0 && b.free >= n {
		b.free -= n
		b.mu.Unlock()
		return nil
	}
	w := &budgetWaiter{need: n, granted: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.waiting.Store(int32(len(b.waiters))) //nolint:gosec // a number of goroutines
	b.mu.Unlock()
	var err error
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-closed:
		err = ErrClosed
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, other := range b.waiters {
		if other == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.grant()
			return err
		}
	}
	b.free += n // granted in the meantime
	b.grant()
	return err
}

// give returns n bytes.
func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.grant()
}

// grant serves the line; it needs mu.
func (b *budget) grant() {
	for len(b.waiters) > 0 && b.free >= b.waiters[0].need {
		b.free -= b.waiters[0].need
		close(b.waiters[0].granted)
		b.waiters = b.waiters[1:]
	}
	b.waiting.Store(int32(len(b.waiters))) //nolint:gosec // a number of goroutines
}

// pressed reports whether somebody waits.
func (b *budget) pressed() bool { return b.waiting.Load() > 0 }
