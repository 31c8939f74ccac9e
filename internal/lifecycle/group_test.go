package lifecycle_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-io/penstock/internal/lifecycle"
)

const crashVariable = "PENSTOCK_TEST_LIFECYCLE_CRASH"

func TestMain(m *testing.M) {
	if os.Getenv(crashVariable) != "" {
		crashOnPurpose()
		return
	}
	goleak.VerifyTestMain(m)
}

func crashOnPurpose() {
	g := lifecycle.New(context.Background(), "broker", quiet())
	g.Child("storage").Go("syncer", func(context.Context) error { panic("the tap is broken") })
	if err := g.Wait(); err != nil {
		os.Exit(0)
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func untilStopped(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// notes keeps the order in which goroutines ended.
type notes struct {
	mu    sync.Mutex
	names []string
}

func (n *notes) untilStopped(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		n.mu.Lock()
		defer n.mu.Unlock()
		n.names = append(n.names, name)
		return nil
	}
}

func TestStopAwaitsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := lifecycle.New(t.Context(), "broker", quiet())
		ended := false
		if !g.Go("slow", func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(3 * time.Second)
			ended = true
			return ctx.Err()
		}) {
			t.Fatal("a fresh group refused a goroutine")
		}
		synctest.Wait()
		if err := g.Stop(context.Background()); err != nil {
			t.Fatalf("Stop: %v", err)
		}
		if !ended {
			t.Fatal("Stop came back before the goroutine had ended")
		}
		select {
		case <-g.Done():
		default:
			t.Fatal("Done is open after Stop")
		}
		if g.Go("late", untilStopped) {
			t.Fatal("a stopped group took a goroutine")
		}
	})
}

func TestChildrenStopFirstYoungestFirst(t *testing.T) {
	stops := map[string]func(cancel func(), g *lifecycle.Group) error{
		"by Stop":               func(_ func(), g *lifecycle.Group) error { return g.Stop(context.Background()) },
		"by the parent context": func(cancel func(), g *lifecycle.Group) error { cancel(); return g.Wait() },
	}
	for name, stop := range stops {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				var order notes
				g := lifecycle.New(ctx, "broker", quiet())
				g.Go("root", order.untilStopped("root"))
				storage := g.Child("storage")
				storage.Go("syncer", order.untilStopped("storage"))
				storage.Child("log").Go("writer", order.untilStopped("log"))
				g.Child("server").Go("accept", order.untilStopped("server"))
				synctest.Wait()
				if err := stop(cancel, g); err != nil {
					t.Fatal(err)
				}
				if want := []string{"server", "log", "storage", "root"}; !slices.Equal(order.names, want) {
					t.Fatalf("stopped in order %v, want %v", order.names, want)
				}
			})
		})
	}
}

func TestFirstFailureStopsTheTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := errors.New("disk is gone")
		g := lifecycle.New(t.Context(), "broker", quiet())
		g.Go("idle", untilStopped)
		storage := g.Child("storage")
		storage.Go("late", func(ctx context.Context) error {
			<-ctx.Done()
			return errors.New("came second")
		})
		storage.Go("syncer", func(context.Context) error {
			time.Sleep(time.Second)
			return first
		})
		<-g.Stopping()
		err := g.Wait()
		if !errors.Is(err, first) || !strings.Contains(err.Error(), "broker/storage/syncer") {
			t.Fatalf("Wait = %v, want the syncer's failure", err)
		}
		if !errors.Is(storage.Err(), first) || !errors.Is(g.Stop(t.Context()), first) {
			t.Fatal("Err and Stop do not tell of the failure")
		}
	})
}

func TestCancellationIsNoFailure(t *testing.T) {
	g := lifecycle.New(t.Context(), "broker", quiet())
	g.Go("canceled", func(context.Context) error { return context.Canceled })
	g.Go("done", func(context.Context) error { return nil })
	if err := g.Wait(); err != nil {
		t.Fatalf("Wait = %v", err)
	}
}

func TestWaitEndsAGroupThatRanOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := lifecycle.New(t.Context(), "batch", quiet())
		for range 10 {
			g.Go("part", func(ctx context.Context) error {
				return lifecycle.Sleep(ctx, lifecycle.RealClock(), time.Minute)
			})
		}
		began := time.Now()
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Fatalf("took %v of the bubble's time", took)
		}
	})
}

func TestStopNamesWhatStillRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		g := lifecycle.New(t.Context(), "broker", quiet())
		g.Go("well-behaved", untilStopped)
		for range 2 {
			g.Child("storage").Go("stuck", func(context.Context) error { <-release; return nil })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := g.Stop(ctx)
		var late *lifecycle.StillRunningError
		if !errors.As(err, &late) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Stop = %v, want a StillRunningError", err)
		}
		synctest.Wait()
		for _, want := range []string{"broker/storage/stuck", "not stopped in time"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		if g.Context().Err() == nil {
			t.Error("the root's context is not cancelled after the time was up")
		}
		close(release)
		if err := g.Stop(context.Background()); err != nil {
			t.Fatalf("second Stop: %v", err)
		}
	})
}

func TestStoppingGroupServesItsChildren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := lifecycle.New(t.Context(), "broker", quiet())
		helped := false
		g.Child("server").Go("drain", func(ctx context.Context) error {
			<-ctx.Done()
			if g.Context().Err() != nil {
				return errors.New("the parent was stopped first")
			}
			done := make(chan struct{})
			if !g.Go("help", func(context.Context) error { helped = true; close(done); return nil }) {
				return errors.New("the parent refused to help")
			}
			<-done
			return nil
		})
		if err := g.Stop(t.Context()); err != nil || !helped {
			t.Fatalf("Stop = %v, helped %v", err, helped)
		}
		if born := g.Child("late"); born.Go("x", untilStopped) || born.Context().Err() == nil {
			t.Fatal("a child of a stopped group lives")
		}
	})
}

func TestContextKeepsValues(t *testing.T) {
	type key struct{}
	g := lifecycle.New(context.WithValue(t.Context(), key{}, "kept"), "broker", nil)
	child := g.Child("storage")
	got := make(chan any, 1)
	child.Go("reader", func(ctx context.Context) error { got <- ctx.Value(key{}); return nil })
	if v := <-got; v != "kept" {
		t.Fatalf("value = %v", v)
	}
	if child.Name() != "broker/storage" {
		t.Fatalf("name = %q", child.Name())
	}
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestGoexitIsAFailure(t *testing.T) {
	g := lifecycle.New(t.Context(), "broker", quiet())
	g.Go("quitter", func(context.Context) error { runtime.Goexit(); return nil })
	if err := g.Wait(); err == nil || !strings.Contains(err.Error(), "broker/quitter") {
		t.Fatalf("Wait = %v", err)
	}
}

func TestPanicCrashesTheProcessWithItsName(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), crashVariable+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the process went on after a panic (%v): %s", err, out)
	}
	for _, want := range []string{"the tap is broken", `goroutine "syncer" of group "broker/storage"`, "crashOnPurpose"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the crash does not say %q:\n%s", want, out)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	for range 50 {
		g := lifecycle.New(t.Context(), "broker", quiet())
		starters := lifecycle.New(t.Context(), "starters", quiet())
		for range 4 {
			starters.Go("start", func(context.Context) error {
				for range 20 {
					g.Go("a", untilStopped)
					child := g.Child("c")
					child.Go("b", untilStopped)
				}
				return nil
			})
		}
		starters.Go("stop", func(ctx context.Context) error { return g.Stop(ctx) })
		if err := starters.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}
