package storage

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
)

// awaitWaiting returns once so many wait for a place.
func awaitWaiting(t *testing.T, g *BacklogGate, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); g.Waiting() != n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, want %d", g.Waiting(), n)
		}
	}
}

func TestBacklogGateIsBoundedAndInOrder(t *testing.T) {
	const places, readers = 2, 12
	g := newBacklogGate(places)
	for range places {
		if !g.TryEnter() {
			t.Fatal("a free place was refused")
		}
	}
	if g.TryEnter() {
		t.Fatal("let in beyond the places")
	}
	var mu sync.Mutex
	var order []int
	var inside atomic.Int32
	var running sync.WaitGroup
	for i := range readers {
		running.Go(func() {
			if err := g.Enter(t.Context()); err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n > places {
				t.Errorf("%d are inside of %d", n, places)
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			inside.Add(-1)
			g.Leave(10)
		})
		awaitWaiting(t, g, i+1)
	}
	g.Leave(0) // one place goes round: whoever leaves lets the next one in
	running.Wait()
	if !slices.IsSorted(order) || len(order) != readers {
		t.Errorf("let in in the order %v", order)
	}
	if g.reads.Load() != readers+1 || g.bytes.Load() != 10*readers || g.Waiting() != 0 {
		t.Errorf("%d reads of %d bytes, %d wait", g.reads.Load(), g.bytes.Load(), g.Waiting())
	}
}

func TestBacklogGateNobodyOvertakesWhoWaits(t *testing.T) {
	g := newBacklogGate(1)
	g.TryEnter()
	entered := make(chan error)
	go func() { entered <- g.Enter(t.Context()) }()
	awaitWaiting(t, g, 1)
	g.Leave(0)
	if g.TryEnter() { // the place was given on before Leave returned
		t.Error("overtaken")
	}
	if err := <-entered; err != nil {
		t.Error(err)
	}
}

func TestBacklogGateCancelled(t *testing.T) {
	g := newBacklogGate(1)
	g.TryEnter()
	why := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	entered := make(chan error)
	go func() { entered <- g.Enter(ctx) }()
	awaitWaiting(t, g, 1)
	cancel(why)
	if err := <-entered; !errors.Is(err, why) || g.Waiting() != 0 {
		t.Errorf("%v, %d wait", err, g.Waiting())
	}
	g.Leave(0)
	if !g.TryEnter() {
		t.Error("who gave up holds the place")
	}
	// Giving up and being let in at the same moment: the place is not lost.
	for range 20_000 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { entered <- g.Enter(ctx) }()
		awaitWaiting(t, g, 1)
		go cancel()
		g.Leave(0)
		if err := <-entered; err == nil {
			g.Leave(0)
		}
		if !g.TryEnter() || g.TryEnter() {
			t.Fatal("a place was lost or made")
		}
	}
	if places := newBacklogGate(0); !places.TryEnter() {
		t.Error("the default has no place")
	}
}

// TestBytesLeft compares what reads and the estimate say with what was appended, over sealed segments and the active one.
func TestBytesLeft(t *testing.T) {
	d, err := OpenDir(fsys.NewMem(1, fsys.MemOptions{}), "data", DirOptions{})
	must(t, err)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 3000})
	must(t, err)
	data, h := makeBatch(t, noProducer, 1, 3, 200, 1000)
	const batches = 20
	for range batches {
		_, err := l.AppendLeader([][]byte{data}, h, 1, 1)
		must(t, err)
	}
	if l.SegmentCount() < 4 {
		t.Fatalf("%d segments", l.SegmentCount())
	}
	for at := int64(0); at < batches; at++ {
		res, err := l.Read(3*at, 1, l.LogEndOffset(), nil)
		if want := (batches - at - 1) * int64(len(data)); err != nil || res.BytesLeft != want {
			t.Errorf("%d bytes left behind batch %d, want %d: %v", res.BytesLeft, at, want, err)
		}
		if got, want := l.BytesFrom(3*at), (batches-at)*int64(len(data)); got < want-2 || got > want+2 {
			t.Errorf("estimate of %d bytes from batch %d on, there are %d", got, at, want)
		}
	}
	if got := l.BytesFrom(l.LogEndOffset()); got != 0 {
		t.Errorf("%d bytes from the end on", got)
	}
	must(t, d.Close())
}

// aheadFS notes what is said of the read-ahead of the files that it opens for reading.
type aheadFS struct {
	fsys.FS
	said []bool
}

type aheadFile struct {
	fsys.File
	fs *aheadFS
}

func (f aheadFile) ReadAhead(on bool) { f.fs.said = append(f.fs.said, on) }

func (a *aheadFS) OpenRead(name string) (fsys.File, error) {
	f, err := a.FS.OpenRead(name)
	return aheadFile{f, a}, err
}

// While readers crowd before the gate nothing is read ahead for anybody, and again as soon as they are gone.
func TestNothingIsReadAheadInACrowd(t *testing.T) {
	ahead := &aheadFS{FS: fsys.NewMem(1, fsys.MemOptions{})}
	d, err := OpenDir(ahead, "data", testDirOptions())
	must(t, err)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	appendTo(t, l, 0, 1, 2, 10)
	must(t, l.Roll())
	_, err = l.Sync()
	must(t, err)
	read := func(want ...bool) {
		t.Helper()
		ahead.said = nil
		for range 2 { // said once
			if res, err := l.Read(0, 1<<10, 2, nil); err != nil || res.NextOffset != 2 {
				t.Fatal(res, err)
			}
		}
		if !slices.Equal(ahead.said, want) {
			t.Fatalf("%d wait, and read-ahead was told %t, not %t", d.Backlog().Waiting(), ahead.said, want)
		}
	}
	g := d.Backlog()
	for g.TryEnter() { //nolint:revive // takes all places
	}
	var waiting sync.WaitGroup
	for i := range crowd {
		read()
		waiting.Go(func() {
			if err := g.Enter(t.Context()); err != nil {
				t.Error(err)
			}
		})
		awaitWaiting(t, g, i+1)
	}
	read(false)
	for range crowd {
		g.Leave(0)
	}
	waiting.Wait()
	read(true)
	must(t, d.Close())
}
