package server

import (
	"context"
	"runtime"
	"slices"
	"sync"
)

// openingPerProcessor is how many bytes, for each processor, batches may take that are open at once: that of one batch of the
// default max.message.bytes, inflated and compressed anew. More at once than there are processors would only take memory.
const openingPerProcessor = 2 * inflation << 20

// openings bounds the memory of all batches that are open at once. It gives in the order in which it was asked. The zero
// value is ready.
type openings struct {
	mu      sync.Mutex
	size    int64 // 0: by the number of processors
	used    int64
	waiting []*opening
}

// opening is one that waits for n bytes.
type opening struct {
	n     int64
	given chan struct{}
}

// reserve waits until n bytes may be used, or ctx ends; release gives back what reserve has granted. A batch that needs more
// than there is has it all. Who holds some must wait for nothing else.
func (o *openings) reserve(ctx context.Context, n int64) (granted int64, err error) {
	o.mu.Lock()
	if o.size == 0 {
		o.size = int64(runtime.GOMAXPROCS(0)) * openingPerProcessor
	}
	n = min(n, o.size)
	if len(o.waiting) == 0 && o.used+n <= o.size {
		o.used += n
		o.mu.Unlock()
		return n, nil
	}
	w := &opening{n: n, given: make(chan struct{})}
	o.waiting = append(o.waiting, w)
	o.mu.Unlock()
	select {
	case <-w.given:
		return w.n, nil
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := slices.Index(o.waiting, w); i >= 0 {
		o.waiting = slices.Delete(o.waiting, i, i+1)
	} else {
		o.used -= w.n
	}
	o.give()
	return 0, ctx.Err()
}

func (o *openings) release(granted int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.used -= granted
	o.give()
}

// give lets go on whom there is room for. The caller holds mu.
func (o *openings) give() {
	for len(o.waiting) > 0 && o.used+o.waiting[0].n <= o.size {
		o.used += o.waiting[0].n
		close(o.waiting[0].given)
		o.waiting = slices.Delete(o.waiting, 0, 1)
	}
}
