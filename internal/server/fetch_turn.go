package server

import (
	"context"
	"time"
)

// turn is one read of old records of a fetch stream that could not be done at once: a goroutine waits until it is the reader's
// turn and reads, while the stream goes on with its other subscriptions. The reader belongs to that goroutine meanwhile.
type turn struct {
	sub      *fetchSub
	reserved int // bytes of the credit
	read     freshRead
	took     time.Duration // of the read, without the wait
}

// takeTurn lets a subscription wait for its turn to read, after the turns under way where those use up the credit. It answers
// false when the node is stopping.
func (f *fetchStream) takeTurn(ctx context.Context, sub *fetchSub, room int) bool {
	if room <= 0 && f.reading > 0 {
		sub.cancel = func() {}
		f.parked = append(f.parked, sub)
		return true
	}
	t := &turn{sub: sub, reserved: sub.want(room)}
	ctx, cancel := context.WithCancel(ctx)
	started := f.service.client.Group.Go("fetch-turn", func(context.Context) error {
		defer cancel()
		t.run(ctx, f)
		return nil
	})
	if !started {
		cancel()
		return false
	}
	sub.turn, sub.cancel = t, cancel
	f.held += int64(t.reserved)
	f.reading++
	return true
}

// run waits, reads and hands the read over. It touches nothing of the subscription but its reader.
func (t *turn) run(ctx context.Context, f *fetchStream) {
	if t.read.err = t.sub.reader.Await(ctx); t.read.err == nil {
		clock := f.service.client.Clock
		began := clock.Now()
		t.read = readOnce(t.sub.reader, t.reserved)
		t.took = clock.Now().Sub(began)
	}
	f.mu.Lock()
	closed := f.closed
	if !closed {
		f.turns = append(f.turns, t)
	}
	f.mu.Unlock()
	if closed {
		t.read.payload.Free()
		return
	}
	token(f.wake)
}

// endTurn takes over what a turn has read; of a subscription that is gone it is dropped.
func (f *fetchStream) endTurn(t *turn, now time.Time) error {
	sub := t.sub
	f.held -= int64(t.reserved)
	f.reading--
	for _, parked := range f.parked {
		parked.cancel = nil
		f.enqueue(parked)
	}
	f.parked = nil
	if sub.gone {
		t.read.payload.Free()
		return nil
	}
	sub.turn, sub.cancel = nil, nil
	before := sub.heldBytes()
	if err := sub.keep(t.read); err != nil {
		sub.failed = f.hint(sub, err)
	} else if grown := sub.heldBytes() - before; grown > 0 {
		f.service.client.Metrics.fetchRead.Observe(t.took.Seconds())
		f.held += int64(grown)
		if before == 0 {
			sub.heldFrom = now
		}
	}
	return f.deliver(sub, now)
}

// closeTurns drops what turns have read that nobody takes over any more. Those that wait were cancelled with their subscriptions.
func (f *fetchStream) closeTurns() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, t := range f.turns {
		t.read.payload.Free()
	}
	f.turns = nil
}
