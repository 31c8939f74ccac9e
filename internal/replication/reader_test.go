package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/model"
)

func TestReaderStaysBelowTheHighWatermark(t *testing.T) {
	c := newCluster(t, 2, nil)
	tp := c.topic(1, nil, 1, 2)
	m := c.nodes[1].mgr
	reader, err := m.OpenReader(tp, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	woken := make(chan struct{}, 1)
	reader.Notify(func() { woken <- struct{}{} })
	mustAck(t, c.send(1, tp, AcksAll, "0", "1"))
	<-woken
	res, err := reader.Read(1<<20, nil)
	if err != nil || res.NextOffset != 2 || res.HighWatermark != 2 || !slices.Equal(valuesOf(t, res.Data), []string{"0", "1"}) {
		t.Fatalf("read %+v, %v", res, err)
	}
	// What is appended and not committed is not seen, and not out of range either.
	c.link(1, 2, false)
	mustAck(t, c.send(1, tp, AcksLeader, "2"))
	if res, err = reader.Read(1<<20, nil); err != nil || len(res.Data) != 0 {
		t.Fatalf("read %+v, %v", res, err)
	}
	beyond, err := m.OpenReader(tp, 3, model.NoLeaderEpoch)
	if err != nil {
		t.Fatal(err)
	}
	if res, err = beyond.Read(1<<20, nil); err != nil || len(res.Data) != 0 {
		t.Fatalf("read %+v, %v", res, err)
	}
	c.link(1, 2, true)
	reader.Notify(func() { woken <- struct{}{} })
	<-woken
	if res, err = reader.Read(1<<20, nil); err != nil || !slices.Equal(valuesOf(t, res.Data), []string{"2"}) {
		t.Fatalf("read %+v, %v", res, err)
	}
	// A change of leadership wakes, and ends the reader.
	cancelled := reader.Notify(func() { t.Error("a cancelled wake-up came") })
	cancelled()
	reader.Notify(func() { woken <- struct{}{} })
	c.lead(tp, 2, 1, 2)
	<-woken
	if _, err = reader.Read(1<<20, nil); !model.IsCode(err, model.CodeNotLeaderForPartition) {
		t.Fatalf("error %v", err)
	}
	reader.Notify(func() { woken <- struct{}{} }) // at once
	<-woken
	if n := m.partitions[tp].watch.n.Load(); n > 1 {
		t.Errorf("%d wake-ups are left", n)
	}
}

func TestReaderErrors(t *testing.T) {
	c := newCluster(t, 2, nil)
	tp := c.topic(1, nil, 1)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	m := c.nodes[1].mgr
	for _, row := range []struct {
		offset int64
		epoch  model.LeaderEpoch
		code   model.ErrorCode
	}{
		{0, 0, model.CodeNone},
		{1, model.NoLeaderEpoch, model.CodeNone},
		{2, model.NoLeaderEpoch, model.CodeOffsetOutOfRange},
		{-1, model.NoLeaderEpoch, model.CodeOffsetOutOfRange},
		{0, 1, model.CodeUnknownLeaderEpoch},
	} {
		if _, err := m.OpenReader(tp, row.offset, row.epoch); model.CodeOf(err) != row.code {
			t.Errorf("offset %d, epoch %d: %v, want %v", row.offset, row.epoch, err, row.code)
		}
	}
	c.lead(tp, 1, 1)
	if _, err := m.OpenReader(tp, 0, 0); !model.IsCode(err, model.CodeFencedLeaderEpoch) {
		t.Errorf("error %v", err)
	}
	if _, err := c.nodes[2].mgr.OpenReader(tp, 0, 0); !model.IsCode(err, model.CodeNotLeaderForPartition) {
		t.Errorf("error %v", err)
	}
	for spec, want := range map[OffsetSpec]int64{OffsetStart: 0, OffsetEnd: 1, OffsetLogEnd: 1, OffsetForTime: 0} {
		if got, err := m.ListOffset(tp, spec, 5); err != nil || got.Offset != want {
			t.Errorf("spec %d: %+v, %v", spec, got, err)
		}
	}
}

func TestNewLeaderDoesNotKnowOffsetsYet(t *testing.T) {
	c := newCluster(t, 3, nil)
	tp := c.topic(1, nil, 1, 2, 3)
	var want []string
	for i := range 3 {
		want = append(want, fmt.Sprint(i))
		mustAck(t, c.send(1, tp, AcksAll, want[i]))
	}
	// Broker 2 leads and reaches nobody: its HighWatermark stays where it was told of last.
	c.link(1, 2, false)
	c.link(2, 3, false)
	waiting := c.send(1, tp, AcksAll, "open")
	c.lead(tp, 2, 1, 2, 3)
	mustFail(t, waiting, model.CodeNotLeaderForPartition)
	m := c.nodes[2].mgr
	state, err := m.PartitionState(tp)
	if err != nil || state.Role != "leader" || state.LogEndOffset != 3 {
		t.Fatalf("state %+v, %v", state, err)
	}
	if state.HighWatermark < 3 {
		if _, err := m.ListOffset(tp, OffsetEnd, 0); !model.IsCode(err, model.CodeOffsetNotAvailable) {
			t.Errorf("error %v", err)
		}
		if _, err := m.OpenReader(tp, 99, model.NoLeaderEpoch); !model.IsCode(err, model.CodeOffsetNotAvailable) {
			t.Errorf("error %v", err)
		}
	}
	c.link(1, 2, true)
	c.link(2, 3, true)
	eventually(t, "the end is known", func() bool {
		end, err := m.ListOffset(tp, OffsetEnd, 0)
		return err == nil && end.Offset == 3
	})
	c.agree(tp, want, 1, 2, 3)
}

// TestReadersFarBehindTakeTurns fills the gate of the backlog: readers of old records wait for it and can give up, the one at the
// tail and the followers do not ask it, and an error gives the place back.
func TestReadersFarBehindTakeTurns(t *testing.T) {
	c := newCluster(t, 2, nil)
	tp := c.topic(1, nil, 1, 2)
	m := c.nodes[1].mgr
	open := func(offset int64) *Reader {
		t.Helper()
		r, err := m.OpenReader(tp, offset, 0)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const batches, size = 12, 900_000
	for i := range batches {
		mustAck(t, c.send(1, tp, AcksAll, strings.Repeat(string(rune('a'+i)), size)))
	}
	places := 0
	for m.Backlog().TryEnter() {
		places++
	}
	behind := open(0)
	if res, err := behind.Read(1<<20, nil); !errors.Is(err, ErrBacklogFull) {
		t.Fatalf("read %+v, %v", res, err)
	}
	if res, err := open(batches-2).Read(16<<20, nil); err != nil || res.NextOffset != batches {
		t.Fatalf("the tail waits too: %+v, %v", res, err)
	}
	mustAck(t, c.send(1, tp, AcksAll, "tail")) // the follower has read it meanwhile

	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() { waited <- behind.Await(ctx) }()
	eventually(t, "a reader waits", func() bool { return m.Backlog().Waiting() == 1 })
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	go func() { waited <- behind.Await(t.Context()) }()
	eventually(t, "a reader waits", func() bool { return m.Backlog().Waiting() == 1 })
	m.Backlog().Leave(0)
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	res, err := behind.Read(16<<20, nil)
	if err != nil || res.NextOffset != 1 {
		t.Fatalf("read up to %d: more than a MiB at a time, or %v", res.NextOffset, err)
	}
	for res.NextOffset < batches+1 { // each read gives its place back
		if res, err = behind.Read(1<<20, nil); err != nil {
			t.Fatalf("read at %d: %v", behind.Offset(), err)
		}
	}
	// A read that fails gives its place back too.
	old := open(0)
	if err := old.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.lead(tp, 2, 1, 2)
	if _, err := old.Read(1<<20, nil); !model.IsCode(err, model.CodeNotLeaderForPartition) {
		t.Fatalf("error %v", err)
	}
	if !m.Backlog().TryEnter() {
		t.Error("a failed read holds its place")
	}
	for range places {
		m.Backlog().Leave(0)
	}
}
