package storage

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/internal/record"
)

func header(id int64, epoch int16, sequence, n int32, base int64) record.Header {
	return record.Header{
		ProducerID: id, ProducerEpoch: epoch, BaseSequence: sequence, LastOffsetDelta: n - 1, Count: n, BaseOffset: base, LeaderEpoch: 7,
	}
}

func TestIdempotence(t *testing.T) {
	fresh := func() *producerState {
		s := newProducerState()
		for i := range int32(80) { // sequences 0..159, two a batch; the window holds 32..159
			s.apply(header(1, 3, 2*i, 2, int64(100+2*i)), int64(5000+i))
		}
		s.apply(header(2, 0, math.MaxInt32-1, 2, 500), 1) // the next sequence wraps to 0
		return s
	}
	for _, tt := range []struct {
		name      string
		h         record.Header
		kind      error
		duplicate int64 // base offset of the original, -1 when it is none
	}{
		{"next", header(1, 3, 160, 5, 0), nil, -1},
		{"last again", header(1, 3, 158, 2, 0), nil, 258},
		{"oldest remembered again", header(1, 3, 32, 2, 0), nil, 132},
		{"older than remembered", header(1, 3, 30, 2, 0), ErrDuplicateSequence, -1},
		{"same start, other count", header(1, 3, 158, 1, 0), ErrOutOfOrderSequence, -1},
		{"a batch is missing", header(1, 3, 162, 2, 0), ErrOutOfOrderSequence, -1},
		{"older epoch", header(1, 2, 160, 2, 0), ErrInvalidProducerEpoch, -1},
		{"newer epoch from 0", header(1, 4, 0, 2, 0), nil, -1},
		{"newer epoch not from 0", header(1, 4, 160, 2, 0), ErrOutOfOrderSequence, -1},
		{"unknown producer from 0", header(9, 5, 0, 2, 0), nil, -1},
		{"unknown producer not from 0", header(9, 5, 4, 2, 0), ErrUnknownProducer, -1},
		{"wrapped", header(2, 0, 0, 3, 0), nil, -1},
		{"before the wrap again", header(2, 0, math.MaxInt32-1, 2, 0), nil, 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			original, duplicate, err := fresh().check(tt.h)
			if !errors.Is(err, tt.kind) || duplicate != (tt.duplicate >= 0) {
				t.Fatalf("duplicate %t, error %v", duplicate, err)
			}
			if duplicate && (original.baseOffset != tt.duplicate || original.leaderEpoch != 7 || original.appendTimeMs == 0) {
				t.Fatalf("original %+v", original)
			}
			var detail *SequenceError
			if err != nil && !errors.As(err, &detail) {
				t.Fatalf("error %v has no detail", err)
			}
		})
	}
}

func TestProducerRingGrowsLazily(t *testing.T) {
	s := newProducerState()
	s.apply(header(1, 0, 0, 1, 0), 1)
	if n := cap(s.byID[1].ring); n > 2 {
		t.Fatalf("one batch takes a ring of %d", n)
	}
	for i := range int32(1000) {
		s.apply(header(1, 0, 1+i, 1, int64(1+i)), 1)
	}
	if p := s.byID[1]; len(p.ring) != MaxProducerBatches || p.last().baseOffset != 1000 || p.at(0).baseOffset != 1000-63 {
		t.Fatalf("ring of %d, last %+v", len(p.ring), p.last())
	}
	if n := s.expire(1); n != 0 {
		t.Fatalf("%d expired too early", n)
	}
	if n := s.expire(2); n != 1 || len(s.byID) != 0 {
		t.Fatalf("%d expired", n)
	}
}

// A snapshot keeps the order of a window that is full: the producer's next batch is the one that follows the last, and the oldest goes
// first from then on.
func TestSnapshotOfAFullWindow(t *testing.T) {
	s := newProducerState()
	for i := range int32(MaxProducerBatches + 10) {
		s.apply(header(1, 0, i, 1, int64(i)), 1)
	}
	back, _, err := decodeProducers(s.encode(snapshotInfo{offset: 1000, maxTimestamp: noTimestamp}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int32(10) {
		if got, want := back.byID[1], s.byID[1]; got.at(0) != want.at(0) || got.last() != want.last() {
			t.Fatalf("%d batches later: from %+v to %+v, want from %+v to %+v", i, got.at(0), got.last(), want.at(0), want.last())
		}
		for _, p := range []*producerState{s, back} {
			p.apply(header(1, 0, MaxProducerBatches+10+i, 1, 2000+int64(i)), 1)
		}
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newProducerState()
		next := map[int64]int32{}
		n := rapid.IntRange(0, 300).Draw(t, "batches")
		for i := range n {
			id := rapid.Int64Range(0, 5).Draw(t, "id")
			s.apply(header(id, 1, next[id], 1, int64(i)), int64(i))
			next[id]++
		}
		info := snapshotInfo{offset: int64(n), segmentBase: 0, position: 17, maxTimestamp: noTimestamp}
		data := s.encode(info)
		back, got, err := decodeProducers(data)
		if err != nil || got != info || !bytes.Equal(back.encode(info), data) {
			t.Fatalf("%+v, %v", got, err)
		}
		bad := bytes.Clone(data)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, _, err := decodeProducers(bad); !errors.Is(err, ErrBadSnapshot) {
			t.Fatalf("a flipped bit passed: %v", err)
		}
	})
}
