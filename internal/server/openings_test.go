package server

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
)

// queued waits until as many wait for their turn.
func queued(o *openings, n int) {
	for {
		o.mu.Lock()
		have := len(o.waiting)
		o.mu.Unlock()
		if have == n {
			return
		}
		runtime.Gosched()
	}
}

// Batches that are open at once stay within the bytes, in the order they came; who gives up is in nobody's way.
func TestOpenings(t *testing.T) {
	o := openings{size: 100}
	take := func(ctx context.Context, n int64) chan int64 {
		done := make(chan int64, 1)
		go func() {
			granted, err := o.reserve(ctx, n)
			if err != nil {
				granted = -1
			}
			done <- granted
		}()
		return done
	}
	first := <-take(t.Context(), 60)
	ctx, cancel := context.WithCancel(t.Context())
	large := take(ctx, 1000) // has all there is
	queued(&o, 1)
	small := take(t.Context(), 10) // would fit, but came later
	queued(&o, 2)
	cancel()
	if got := <-large; got != -1 {
		t.Errorf("who gave up has %d", got)
	}
	if got := <-small; got != 10 || first != 60 || o.used != 70 {
		t.Errorf("%d and %d are used: %d in all", first, got, o.used)
	}
	large = take(t.Context(), 1000)
	queued(&o, 1)
	o.release(60)
	o.release(10)
	if got := <-large; got != 100 {
		t.Errorf("the largest has %d", got)
	}
	o.release(100)
	if o.used != 0 || len(o.waiting) != 0 {
		t.Errorf("%d are used, %d wait", o.used, len(o.waiting))
	}
}

// However many ask and give up, no more is out than there is, and in the end it is all back.
func TestOpeningsOfMany(t *testing.T) {
	o := openings{size: 100}
	var open, most atomic.Int64
	done := make(chan struct{})
	const tasks = 50
	for range tasks {
		go func() {
			defer func() { done <- struct{}{} }()
			ctx, cancel := context.WithCancel(context.Background())
			for i := range int64(200) {
				if i%7 == 6 {
					cancel() // may still be granted, or not
				}
				granted, err := o.reserve(ctx, 10+i%30)
				if err != nil {
					ctx, cancel = context.WithCancel(context.Background())
					continue
				}
				now := open.Add(granted)
				for have := most.Load(); now > have && !most.CompareAndSwap(have, now); have = most.Load() {
				}
				runtime.Gosched()
				open.Add(-granted)
				o.release(granted)
			}
			cancel()
		}()
	}
	for range tasks {
		<-done
	}
	if most.Load() > o.size || o.used != 0 || len(o.waiting) != 0 {
		t.Errorf("%d at once, %d are used, %d wait", most.Load(), o.used, len(o.waiting))
	}
}
