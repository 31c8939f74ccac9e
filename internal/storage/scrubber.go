package storage

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// ScrubOptions are the properties of a background scrub.
type ScrubOptions struct {
	// BytesPerSecond bounds how much is read and checked; 0 scrubs nothing.
	BytesPerSecond int64
	// Interval is the least time from the start of one round over all logs to the next; 0 is a day.
	Interval time.Duration
	// OnDamage is told of each damage found, on the scrub's goroutine. It may call MarkDamaged and DiscardDamage. Damage whose From is
	// its To is of bytes behind the last batch of a sealed segment: no record is missing.
	OnDamage func(l *Log, d Damage)
	// OnFailure is told that a log could not be read on, for another reason than damage, on the scrub's goroutine; nil is nobody.
	OnFailure func(l *Log, err error)
	// OnLog is told of each log that was seen to its end, on the scrub's goroutine; nil is nobody.
	OnLog func(l *Log)
	// OnRound is told when all logs were seen, with the bytes checked in the round; nil is nobody.
	OnRound func(checkedBytes int64)
	// Clock is where time comes from.
	Clock lifecycle.Clock
}

const (
	scrubStep     = 256 << 10
	scrubInterval = 24 * time.Hour
)

// StartScrubber starts the background scrub of a directory: one goroutine that checks the logs one after the other, a step at
// a time with the pauses that keep it to its rate. It is a shell: the simulator calls Log.Scrub itself.
func StartScrubber(group goroutines, d *Dir, o ScrubOptions) {
	if o.BytesPerSecond <= 0 {
		return
	}
	if o.Interval <= 0 {
		o.Interval = scrubInterval
	}
	group.Go("scrubber", func(ctx context.Context) error {
		for {
			began := o.Clock.Now()
			checked, err := scrubRound(ctx, d, o)
			if err != nil {
				return nil //nolint:nilerr // told to stop
			}
			if o.OnRound != nil {
				o.OnRound(checked)
			}
			if err := lifecycle.Sleep(ctx, o.Clock, max(o.Interval-o.Clock.Now().Sub(began), time.Second)); err != nil {
				return nil //nolint:nilerr // told to stop
			}
		}
	})
}

// scrubRound checks every log once. It fails only when ctx ends.
func scrubRound(ctx context.Context, d *Dir, o ScrubOptions) (checked int64, err error) {
	var c ScrubCursor
	for _, l := range d.openLogs() {
		c.restart(0, nil)
		for done := false; !done; {
			res, err := l.Scrub(&c, scrubStep)
			if res.Damage != nil {
				o.OnDamage(l, *res.Damage)
			}
			checked += res.Bytes
			done = res.Done || err != nil
			if err != nil && !errors.Is(err, ErrLogClosed) && o.OnFailure != nil {
				o.OnFailure(l, err)
			}
			pause := time.Duration(float64(max(res.Bytes, 1)) / float64(o.BytesPerSecond) * float64(time.Second))
			if err := lifecycle.Sleep(ctx, o.Clock, max(pause, time.Microsecond)); err != nil {
				return checked, err
			}
		}
		if o.OnLog != nil {
			o.OnLog(l)
		}
	}
	return checked, nil
}

// openLogs are the open logs, sorted.
func (d *Dir) openLogs() []*Log {
	d.mu.Lock()
	defer d.mu.Unlock()
	open := make([]*Log, 0, len(d.logs))
	for _, l := range d.logs {
		open = append(open, l)
	}
	slices.SortFunc(open, func(a, b *Log) int { return comparePartitions(a.tp, b.tp) })
	return open
}

// comparePartitions orders partitions by topic id, then by number.
func comparePartitions(a, b model.TopicPartition) int {
	if c := bytes.Compare(a.TopicID[:], b.TopicID[:]); c != 0 {
		return c
	}
	return int(a.Partition) - int(b.Partition)
}
