package storage

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// TailBytes is how far from the end of its log a reader still counts as one that follows it: more than replication has under way,
// and what the page cache holds for certain, because it was appended last.
const TailBytes = 8 << 20

// BacklogGate bounds how many reads of old records run at a time, of all logs of a directory together. Readers without a pause
// would otherwise keep every processor busy, with the copies as much as with the disk, and an append that comes back from its
// write would stand in line behind all of them. It lets in who came first; whoever reads the tail of a log, or reads for
// replication, does not ask it. Its methods are safe for concurrent use.
type BacklogGate struct {
	reads, bytes atomic.Int64
	waiting      atomic.Int64 // length of the queue, for those that do not wait for mu

	mu    sync.Mutex
	free  int
	queue []chan struct{} // who waits, first come first; closed when let in
}

// newBacklogGate has so many places; half the processors, so that the other half stays free, where places is 0 or less.
func newBacklogGate(places int) *BacklogGate {
	if places <= 0 {
		places = max(1, runtime.GOMAXPROCS(0)/2)
	}
	return &BacklogGate{free: places}
}

// TryEnter takes a place where one is free, which is never so while somebody waits. Who was let in calls Leave.
func (g *BacklogGate) TryEnter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free == 0 {
		return false
	}
	g.free--
	return true
}

// Enter waits for a place, after those who came before; who was let in calls Leave. Its error is that ctx ended, with its cause, and
// no place is taken then.
func (g *BacklogGate) Enter(ctx context.Context) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	g.queue = append(g.queue, turn)
	g.waiting.Store(int64(len(g.queue)))
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue, turn); i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
		g.waiting.Store(int64(len(g.queue)))
	} else {
		g.leave() // let in at the same moment
	}
	return fmt.Errorf("waiting to read old records: %w", context.Cause(ctx))
}

// Leave gives the place to who has waited longest, once for each time of being let in, and counts what was read.
func (g *BacklogGate) Leave(bytes int) {
	g.reads.Add(1)
	g.bytes.Add(int64(bytes))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leave()
}

// leave needs mu.
func (g *BacklogGate) leave() {
	if len(g.queue) == 0 {
		g.free++
		return
	}
	close(g.queue[0])
	g.queue[0] = nil
	g.queue = g.queue[1:]
	g.waiting.Store(int64(len(g.queue)))
}

// Waiting is how many wait for a place.
func (g *BacklogGate) Waiting() int { return int(g.waiting.Load()) }

// crowd is how many readers must wait for a place before the system's read-ahead costs more than it gives: it asks the disk for
// some MiB for each of them, and a sync of an append stands behind all of that. The reads of the others keep the disk busy then.
const crowd = 2

// Crowded says that so many wait that nothing shall be read ahead.
func (g *BacklogGate) Crowded() bool { return g.waiting.Load() >= crowd }

// Backlog is the gate for reads of the directory's logs that are further than TailBytes from their end.
func (d *Dir) Backlog() *BacklogGate { return d.backlog }

// BytesFrom estimates how many bytes lie from offset to the end of the log, from the offsets and sizes of its segments. A reader
// that has read knows it better from ReadResult.
func (l *Log) BytesFrom(offset int64) int64 {
	v := l.view.Load()
	i := segmentOf(v.segs, offset)
	end := v.end
	if i < len(v.segs)-1 {
		end = v.segs[i].next
	}
	records := max(end-v.segs[i].base, 1)
	left := min(max(end-offset, 0), records)
	return int64(float64(v.limit(i))*float64(left)/float64(records)) + v.bytesBehind(i)
}

// bytesBehind is the size of the segments behind segment i.
func (v *view) bytesBehind(i int) (n int64) {
	for i++; i < len(v.segs); i++ {
		n += v.limit(i)
	}
	return n
}
