package wire

import (
	"bytes"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// poison is what a debug pool fills returned buffers with.
const poison = 0xdb

// tracker is the memory of a debug pool: which buffers are out, and where they were taken.
type tracker struct {
	mu  sync.Mutex
	out map[*byte][]uintptr
}

// NewDebugPool returns a pool for tests: it overwrites buffers that are returned, panics when a buffer is returned
// that is not out or was written to after its return, and remembers who took the buffers that are out.
func NewDebugPool() *Pool { return &Pool{debug: &tracker{out: make(map[*byte][]uintptr)}} }

func (t *tracker) get(b []byte, reused bool) {
	if reused && !isPoison(b) {
		panic(fmt.Sprintf("wire: a pooled buffer of %d bytes was written to after it had been freed", len(b)))
	}
	stack := make([]uintptr, 24)
	stack = stack[:runtime.Callers(3, stack)]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out[&b[0]] = stack
}

func (t *tracker) put(b []byte) {
	t.mu.Lock()
	_, known := t.out[&b[0]]
	delete(t.out, &b[0])
	t.mu.Unlock()
	if !known {
		panic(fmt.Sprintf("wire: a pooled buffer of %d bytes was freed that is not out: freed twice, or never of this pool", len(b)))
	}
	for i := range b {
		b[i] = poison
	}
}

func isPoison(b []byte) bool {
	return len(b) == 0 || b[0] == poison && bytes.Equal(b[1:], b[:len(b)-1])
}

// Leaks returns where the buffers were taken that are out now, one text a buffer; always nothing for a pool that
// NewPool made. gRPC returns buffers a little after a call has ended: ask until it is empty or patience ends.
func (p *Pool) Leaks() []string {
	if p.debug == nil {
		return nil
	}
	p.debug.mu.Lock()
	stacks := slices.Collect(maps.Values(p.debug.out))
	p.debug.mu.Unlock()
	var leaks []string
	for _, stack := range stacks {
		var text strings.Builder
		for frames, more := runtime.CallersFrames(stack), true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			fmt.Fprintf(&text, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
		}
		leaks = append(leaks, text.String())
	}
	slices.Sort(leaks)
	return leaks
}
