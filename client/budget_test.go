package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestBudgetIsKept takes and gives back from many goroutines, some of which give up: never is more out than there is, and
// in the end all is back.
func TestBudgetIsKept(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const size = 1000
	b := newBudget(size)
	var out atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		rng := rand.New(rand.NewPCG(seed, uint64(g)))
		wg.Go(func() {
			for range 500 {
				n := 1 + rng.IntN(size/2)
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(4) == 0 {
					time.AfterFunc(time.Duration(rng.IntN(100))*time.Microsecond, cancel)
				}
				if err := b.take(ctx, n, nil); err == nil {
					if out.Add(int64(n)) > size {
						t.Error("more is out than there is")
					}
					out.Add(int64(-n))
					b.give(n)
				} else if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if b.free != size || b.pressed() {
		t.Errorf("%d of %d are free", b.free, size)
	}
}

func TestBudgetServesInLine(t *testing.T) {
	b := newBudget(10)
	if !b.try(8) || b.try(3) {
		t.Fatal("try does not count")
	}
	granted := make(chan struct{})
	go func() {
		defer close(granted)
		if err := b.take(context.Background(), 9, nil); err != nil {
			t.Error(err)
		}
	}()
	await(t, "somebody waits", b.pressed)
	if b.try(1) {
		t.Error("somebody went past the line")
	}
	closed := make(chan struct{})
	close(closed)
	if err := b.take(context.Background(), 9, closed); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	b.give(8)
	<-granted
}
