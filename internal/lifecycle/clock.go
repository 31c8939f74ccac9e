package lifecycle

import (
	"context"
	"time"
)

// Clock is the wall clock as shells see it. Pure cores take the time as an argument instead.
type Clock interface {
	// Now is the current time, with its monotonic reading where there is one.
	Now() time.Time
	// NewTimer returns a timer that fires once, d from now; d <= 0 fires at once.
	NewTimer(d time.Duration) Timer
}

// Timer fires once. Neither Stop nor Reset leaves an old time behind in the channel.
type Timer interface {
	// C delivers the time at which the timer fired. It is never closed.
	C() <-chan time.Time
	// Stop keeps the timer from firing and reports whether it did so.
	Stop() bool
	// Reset lets the timer fire d from now and reports whether it was running.
	Reset(d time.Duration) bool
}

// RealClock returns the clock of the machine, or of the bubble when called inside testing/synctest.
func RealClock() Clock { return realClock{} }

// Sleep waits for d, or until ctx is done and then returns the error of ctx. A d <= 0 only looks at ctx.
func Sleep(ctx context.Context, clock Clock, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	timer := clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C():
		return nil
	}
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) NewTimer(d time.Duration) Timer { return realTimer{time.NewTimer(d)} }

type realTimer struct{ timer *time.Timer }

func (t realTimer) C() <-chan time.Time { return t.timer.C }

func (t realTimer) Stop() bool { return t.timer.Stop() }

func (t realTimer) Reset(d time.Duration) bool { return t.timer.Reset(d) }
