package lifecycle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
)

func TestRealClockFollowsTheBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := lifecycle.RealClock()
		began := clock.Now()
		timer := clock.NewTimer(time.Hour)
		if !timer.Reset(2 * time.Hour) {
			t.Fatal("the timer was not running")
		}
		if fired := <-timer.C(); fired.Sub(began) != 2*time.Hour || clock.Now().Sub(began) != 2*time.Hour {
			t.Fatalf("fired after %v", fired.Sub(began))
		}
		if timer.Stop() {
			t.Fatal("a fired timer was running")
		}
	})
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, began := lifecycle.RealClock(), time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := lifecycle.Sleep(ctx, clock, time.Second); err != nil || time.Since(began) != time.Second {
			t.Fatalf("Sleep = %v after %v", err, time.Since(began))
		}
		if err := lifecycle.Sleep(ctx, clock, -1); err != nil {
			t.Fatal(err)
		}
		if err := lifecycle.Sleep(ctx, clock, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Sleep = %v", err)
		}
		if err := lifecycle.Sleep(ctx, clock, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Sleep on a finished context = %v", err)
		}
	})
}
