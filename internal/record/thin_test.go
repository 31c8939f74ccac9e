package record

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

func thinBatch(t *testing.T, codec Codec, n int, key func(int) []byte, value func(int) []byte) []byte {
	t.Helper()
	b := NewBuilder(BuilderOptions{})
	for i := range n {
		r := Record{Key: key(i), Value: value(i), Timestamp: int64(1000 + 7*i)}
		if i%3 == 0 {
			r.Headers = []RecordHeader{{Key: "h", Value: []byte{byte(i)}}}
		}
		if err := b.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	batch, err := b.Finish(codec, 7, 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	batch = bytes.Clone(batch)
	PutHead(batch, 5000, int32(len(batch)-lengthOverhead), 3)
	return batch
}

func recordsOf(t *testing.T, batch []byte) (out []Record) {
	t.Helper()
	it, err := Records(batch, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for it.Next() {
		out = append(out, it.Record().Clone())
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return out
}

// Whatever is kept comes back as it was, with and without a delete horizon, over all codecs and over several rounds.
func TestThinnerKeepsWhatItIsTold(t *testing.T) {
	const seed = 42
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test
	var thin Thinner
	for _, codec := range Codecs() {
		for round := range 40 {
			n := 1 + r.IntN(60)
			value := func(i int) []byte {
				if i%4 == 0 {
					return nil
				}
				return bytes.Repeat([]byte{byte(i)}, r.IntN(60))
			}
			batch := thinBatch(t, codec, n, func(i int) []byte { return fmt.Appendf(nil, "key-%d", i) }, value)
			want, horizon := recordsOf(t, batch), int64(-1)
			for range 3 {
				if err := thin.Reset(batch, Limits{}); err != nil {
					t.Fatal(err)
				}
				kept := want[:0:0]
				for i := 0; thin.Next(); i++ {
					if r.IntN(3) > 0 {
						thin.Keep()
						kept = append(kept, want[i])
					}
				}
				if round%2 == 0 && horizon < 0 {
					horizon = 1_700_000_000_000
				}
				before := thin.Header()
				out, err := thin.Append([]byte("before"), horizon)
				if err != nil || thin.Err() != nil {
					t.Fatal(err, thin.Err())
				}
				out = out[len("before"):]
				h, err := Verify([][]byte{out}, Limits{})
				if err != nil {
					t.Fatalf("codec %v: %v", codec, err)
				}
				checkThinned(t, before, h, kept, recordsOf(t, out))
				if ms, ok := h.DeleteHorizon(); len(kept) > 0 && (ok != (horizon >= 0) || (ok && ms != horizon)) {
					t.Fatalf("horizon %d %t, want %d", ms, ok, horizon)
				}
				batch, want = bytes.Clone(out), kept
			}
		}
	}
}

func checkThinned(t *testing.T, before, h Header, want, got []Record) {
	t.Helper()
	if h.BaseOffset != before.BaseOffset || h.LastOffset() != before.LastOffset() || h.LeaderEpoch != before.LeaderEpoch ||
		h.ProducerID != before.ProducerID || h.ProducerEpoch != before.ProducerEpoch || h.BaseSequence != before.BaseSequence ||
		int(h.Count) != len(want) || len(got) != len(want) {
		t.Fatalf("%+v of %+v with %d records of %d", h, before, len(got), len(want))
	}
	maxTs := before.MaxTimestamp
	for i := range want {
		if fmt.Sprintf("%#v", got[i]) != fmt.Sprintf("%#v", want[i]) {
			t.Fatalf("record %d is %+v, want %+v", i, got[i], want[i])
		}
		if i == 0 {
			maxTs = 0
		}
		maxTs = max(maxTs, want[i].Timestamp)
	}
	if h.MaxTimestamp != maxTs {
		t.Fatalf("maximal timestamp %d, want %d", h.MaxTimestamp, maxTs)
	}
}

func TestCheckKeys(t *testing.T) {
	key := func(int) []byte { return []byte{} }
	value := func(int) []byte { return bytes.Repeat([]byte("v"), 100) }
	for _, codec := range Codecs() {
		good := thinBatch(t, codec, 20, key, value)
		if err := CheckKeys([][]byte{good[:30], good[30:]}, Limits{}); err != nil {
			t.Errorf("%v: %v", codec, err)
		}
		bad := thinBatch(t, codec, 20, func(i int) []byte {
			if i == 13 {
				return nil
			}
			return key(i)
		}, value)
		if err := CheckKeys([][]byte{bad}, Limits{}); !errors.Is(err, ErrInvalidRecord) {
			t.Errorf("%v: %v", codec, err)
		}
		if codec != None {
			if err := CheckKeys([][]byte{good}, Limits{MaxUncompressedBytes: 500}); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%v: a body beyond the limit: %v", codec, err)
			}
		}
	}
}

// What is left of a batch without records has no delete horizon: its timestamps are the maximal one of what it was.
func TestEmptyBatchHasNoHorizon(t *testing.T) {
	key := func(i int) []byte { return []byte{byte(i)} }
	var thin Thinner
	batch := thinBatch(t, None, 3, key, func(int) []byte { return nil })
	for round, horizon := range []int64{1_700_000_000_000, -1} {
		if err := thin.Reset(batch, Limits{}); err != nil {
			t.Fatal(err)
		}
		for thin.Next() {
			if round == 0 {
				thin.Keep()
			}
		}
		out, err := thin.Append(nil, horizon)
		if err != nil || thin.Err() != nil {
			t.Fatal(err, thin.Err())
		}
		batch = out
	}
	h, err := Verify([][]byte{batch}, Limits{})
	if _, has := h.DeleteHorizon(); err != nil || has || h.Count != 0 || h.BaseTimestamp != 1014 || h.MaxTimestamp != 1014 {
		t.Fatalf("%+v, %v", h, err)
	}
}
