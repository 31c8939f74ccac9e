package replication

import (
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// waiter is an append that waits for its acknowledgement.
type waiter struct {
	end      int64 // exclusive end of the batch
	size     int64
	deadline time.Time
	receipt  Receipt
	done     func(Receipt, error)
}

// ackKind selects one of the two queues of a partition.
type ackKind uint8

const (
	acksLeader ackKind = iota
	acksAll
	ackKinds
)

// waitQueue holds the appends of one partition that wait, in the order they came. Their ends rise, but for duplicates, which
// wait behind what came before them.
type waitQueue struct {
	m      *Manager
	queues [ackKinds]fifo
}

// fifo is a queue that keeps its space.
type fifo struct {
	items []waiter
	head  int
}

func (q *fifo) push(w waiter) { q.items = append(q.items, w) }

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) pop() waiter {
	w := q.items[q.head]
	q.items[q.head] = waiter{}
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > 1024 {
			q.items = nil
		}
	} else if q.head >= 512 && 2*q.head >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return w
}

func (q *waitQueue) len() int { return q.queues[acksLeader].len() + q.queues[acksAll].len() }

func (q *waitQueue) add(acks Acks, w waiter) {
	kind := acksAll
	if acks == AcksLeader {
		kind = acksLeader
	}
	q.queues[kind].push(w)
	q.m.waitingAppends.Add(1)
}

// complete ends the appends of a kind that lie wholly below upTo. The caller holds p.mu.
func (q *waitQueue) complete(p *partition, kind ackKind, upTo int64, fx *effects) {
	f := &q.queues[kind]
	for f.len() > 0 && f.items[f.head].end <= upTo {
		w := f.pop()
		w.receipt.setFacts(p.replica.Facts(w.end))
		q.finish(w, nil, fx)
	}
}

// failAll ends all appends with an error that leaves their outcome open.
func (q *waitQueue) failAll(fx *effects, err *model.Error) {
	for kind := range q.queues {
		for f := &q.queues[kind]; f.len() > 0; {
			q.finish(f.pop(), &IndefiniteError{Err: err}, fx)
		}
	}
}

// expire ends the appends whose deadline has passed.
func (q *waitQueue) expire(p *partition, now time.Time, fx *effects) {
	for kind := range q.queues {
		f := &q.queues[kind]
		// Deadlines need not rise: all are looked at, and those that stay keep their order.
		for range f.len() {
			w := f.pop()
			if now.Before(w.deadline) {
				f.push(w)
				continue
			}
			q.m.metrics.expired.Inc()
			q.finish(w, &IndefiniteError{Err: q.timedOut(p, ackKind(kind))}, fx) //nolint:gosec // 0 or 1
		}
	}
}

func (q *waitQueue) timedOut(p *partition, kind ackKind) *model.Error {
	if kind == acksAll && p.replica.MayAppend(true) == model.CodeNotEnoughReplicas {
		return model.Errorf(model.CodeNotEnoughReplicasAfterAppend,
			"%s has %d in-sync replicas, fewer than min.insync.replicas, since the batch was appended", p.tp, p.replica.ISRSize())
	}
	return model.Errorf(model.CodeRequestTimedOut,
		"the batch was appended to %s and not acknowledged in time; retry with the same producer id and sequence", p.tp)
}

func (q *waitQueue) finish(w waiter, err error, fx *effects) {
	q.m.pending.Add(-w.size)
	q.m.waitingAppends.Add(-1)
	receipt := w.receipt
	if err != nil {
		receipt = Receipt{}
	}
	fx.done = append(fx.done, completion{done: w.done, receipt: receipt, err: err})
}
