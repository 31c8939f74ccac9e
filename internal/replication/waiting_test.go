package replication

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestWaitQueueKeepsTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q fifo
		var want []int64
		next := int64(0)
		for range rapid.IntRange(1, 30).Draw(t, "rounds") {
			for range rapid.IntRange(0, 700).Draw(t, "push") {
				next++
				q.push(waiter{end: next})
				want = append(want, next)
			}
			for range min(rapid.IntRange(0, 900).Draw(t, "pop"), len(want)) {
				if got := q.pop().end; got != want[0] {
					t.Fatalf("popped %d, want %d", got, want[0])
				}
				want = want[1:]
			}
			if q.len() != len(want) {
				t.Fatalf("length %d, want %d", q.len(), len(want))
			}
		}
		var rest []int64
		for q.len() > 0 {
			rest = append(rest, q.pop().end)
		}
		if !slices.Equal(rest, want) {
			t.Fatalf("rest %v, want %v", rest, want)
		}
	})
}
