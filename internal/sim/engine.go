package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// engine is the queue of what will happen, ordered by time and then by when it was asked for.
type engine struct {
	now   time.Duration
	seq   uint64
	queue []scheduled
	rng   *rand.Rand
	sum   uint64 // hash of the trace
	steps int
	trace io.Writer // nil for none
}

type scheduled struct {
	at  time.Duration
	seq uint64
	fn  func()
}

func newEngine(seed uint64, trace io.Writer) *engine {
	return &engine{rng: rand.New(rand.NewPCG(seed, 0x73696d)), sum: 14695981039346656037, trace: trace}
}

func (s scheduled) before(o scheduled) bool { return s.at < o.at || (s.at == o.at && s.seq < o.seq) }

// after lets fn happen once d has passed.
func (e *engine) after(d time.Duration, fn func()) {
	e.seq++
	e.queue = append(e.queue, scheduled{at: e.now + max(d, 0), seq: e.seq, fn: fn})
	for i := len(e.queue) - 1; i > 0; {
		parent := (i - 1) / 2
		if !e.queue[i].before(e.queue[parent]) {
			break
		}
		e.queue[i], e.queue[parent] = e.queue[parent], e.queue[i]
		i = parent
	}
}

// step lets the next thing happen; false when there is none.
func (e *engine) step() bool {
	n := len(e.queue) - 1
	if n < 0 {
		return false
	}
	next := e.queue[0]
	e.queue[0] = e.queue[n]
	e.queue[n] = scheduled{}
	e.queue = e.queue[:n]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < n; child++ {
			if e.queue[child].before(e.queue[least]) {
				least = child
			}
		}
		if least == i {
			break
		}
		e.queue[i], e.queue[least] = e.queue[least], e.queue[i]
		i = least
	}
	e.now = next.at
	e.steps++
	next.fn()
	return true
}

// note puts a line into the trace: its hash always, its text where somebody reads it.
func (e *engine) note(what string, a, b, c, d int64) {
	h := e.sum
	for i := range len(what) {
		h = (h ^ uint64(what[i])) * 1099511628211
	}
	for _, v := range [...]int64{int64(e.now), a, b, c, d} {
		h = (h ^ uint64(v)) * 1099511628211
		h ^= h >> 29
	}
	e.sum = h
	if e.trace != nil {
		e.print(what, a, b, c, d)
	}
}

func (e *engine) print(what string, a, b, c, d int64) {
	_, _ = fmt.Fprintf(e.trace, "%12.6f %-28s %d %d %d %d\n", e.now.Seconds(), what, a, b, c, d) //nolint:errcheck // a trace for people
}

// comment puts words for people into the trace; they do not count for the hash.
func (e *engine) comment(format string, args ...any) {
	if e.trace != nil {
		_, _ = fmt.Fprintf(e.trace, "%12.6f   "+format+"\n", append([]any{e.now.Seconds()}, args...)...) //nolint:errcheck // as above
	}
}

// between draws a duration in [least, most).
func (e *engine) between(least, most time.Duration) time.Duration {
	if most <= least {
		return least
	}
	return least + time.Duration(e.rng.Int64N(int64(most-least)))
}

// chance is true in p of all cases.
func (e *engine) chance(p float64) bool { return e.rng.Float64() < p }

// intn draws a number in [0, n).
func (e *engine) intn(n int) int { return e.rng.IntN(n) }

// pick draws one of several.
func pick[T any](e *engine, of ...T) T { return of[e.intn(len(of))] }
