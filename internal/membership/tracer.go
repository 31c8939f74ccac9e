package membership

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// memberlist offers no way to wait for its goroutines. They inherit the profiler labels of the goroutine that starts
// them, so a tracer starts them under a label of its own and, at the end, waits until no goroutine carries it.
type tracer struct{ label string }

var tracers atomic.Uint64

const (
	labelKey     = "gossip"
	awaitTimeout = 5 * time.Second
	awaitPoll    = 10 * time.Millisecond
)

func newTracer(id model.NodeID) tracer {
	return tracer{fmt.Sprintf("node %d, gossip %d", id, tracers.Add(1))}
}

func (t tracer) do(fn func()) {
	pprof.Do(context.Background(), pprof.Labels(labelKey, t.label), func(context.Context) { fn() })
}

// await returns an error when goroutines are left after five seconds.
func (t tracer) await(clock lifecycle.Clock) error {
	needle := []byte(strconv.Quote(labelKey) + ":" + strconv.Quote(t.label))
	for deadline := clock.Now().Add(awaitTimeout); ; {
		var profile bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
			return fmt.Errorf("look for goroutines of the gossip: %w", err)
		}
		if !bytes.Contains(profile.Bytes(), needle) {
			return nil
		}
		if clock.Now().After(deadline) {
			return fmt.Errorf("goroutines of the gossip still run after %v", awaitTimeout)
		}
		if err := lifecycle.Sleep(context.Background(), clock, awaitPoll); err != nil {
			return err
		}
	}
}
