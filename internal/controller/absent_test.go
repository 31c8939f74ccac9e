package controller

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAbsentVoterIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAbsences()
		begin := time.Now()
		took := func(f func()) time.Duration {
			t.Helper()
			began := time.Now()
			f()
			return time.Since(began)
		}
		for i := range quickFailures {
			if d := took(func() { a.failed("2") }); d != 0 {
				t.Fatalf("failure %d took %v", i+1, d)
			}
		}
		go func() {
			time.Sleep(20 * time.Second)
			a.reached("3") // another one
			time.Sleep(10 * time.Second)
			a.reached("2")
		}()
		if d := took(func() { a.failed("2") }); d != 30*time.Second {
			t.Fatalf("waited %v for a voter that was away for 30s", d)
		}
		// It is back: the next failures are quick again.
		if d := took(func() { a.failed("2") }); d != 0 {
			t.Fatalf("the first failure after the return took %v", d)
		}
		for range quickFailures - 1 {
			a.failed("2")
		}
		if d := took(func() { a.failed("2") }); d != longestWait {
			t.Fatalf("waited %v, at most %v are due", d, longestWait)
		}
		go func() {
			time.Sleep(time.Second)
			a.close()
		}()
		if d := took(func() { a.failed("2") }); d != time.Second {
			t.Fatalf("a close let it wait for %v", d)
		}
		if d := took(func() { a.failed("2") }); d != 0 {
			t.Fatalf("waited %v after the close", d)
		}
		t.Logf("%v of virtual time", time.Since(begin))
	})
}
