package record

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

func TestBuilderRefusals(t *testing.T) {
	b := NewBuilder(BuilderOptions{MaxBytes: 200})
	if _, err := b.Finish(None, -1, -1, -1); !errors.Is(err, ErrEmptyBatch) {
		t.Fatal(err)
	}
	if err := b.Add(Record{Timestamp: -1}); !errors.Is(err, ErrInvalidRecord) {
		t.Fatal(err)
	}
	if err := b.Add(Record{Value: make([]byte, 200)}); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	if err := b.Add(Record{Headers: make([]RecordHeader, MaxRecordHeaders+1)}); !errors.Is(err, ErrInvalidRecord) {
		t.Fatal(err)
	}
	good := Record{Value: make([]byte, 100)}
	if err := b.Add(good); err != nil {
		t.Fatal(err)
	}
	size := b.Len()
	if b.Fits(good) {
		t.Fatal("a second record fits")
	}
	if err := b.Add(good); !errors.Is(err, ErrTooLarge) || b.Len() != size || b.Count() != 1 {
		t.Fatalf("%v, %d bytes, %d records", err, b.Len(), b.Count())
	}
	if _, err := b.Finish(Codec(6), -1, -1, -1); !errors.Is(err, ErrUnknownCodec) {
		t.Fatal(err)
	}
	for _, p := range []struct {
		id       int64
		epoch    int16
		sequence int32
	}{{-1, 0, 0}, {1, -1, 0}, {1, 0, -1}, {-2, -1, -1}, {-1, -1, 0}} {
		if _, err := b.Finish(None, p.id, p.epoch, p.sequence); !errors.Is(err, ErrInvalidRecord) {
			t.Fatalf("%+v: %v", p, err)
		}
	}
	batch, err := b.Finish(None, -1, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Validate([][]byte{batch}, Limits{MaxBytes: 200}); err != nil {
		t.Fatal(err)
	}
}

// A Builder gives the same bytes after Reset, whatever it held, and leaves alone what does not get smaller.
func TestBuilderReuse(t *testing.T) {
	b := NewBuilder(BuilderOptions{InitialBytes: 1})
	for round := range 3 {
		for _, codec := range Codecs() {
			records := sampleRecords(5 + 20*round)
			b.Reset()
			if b.Len() != HeaderSize || b.Count() != 0 {
				t.Fatalf("%d bytes, %d records after Reset", b.Len(), b.Count())
			}
			for _, r := range records {
				if bound := b.Len() + SizeOf(r); b.SizeAfter(r) > bound {
					t.Fatalf("SizeOf is no upper bound: %d > %d", b.SizeAfter(r), bound)
				}
				if err := b.Add(r); err != nil {
					t.Fatal(err)
				}
			}
			got, err := b.Finish(codec, 7, 2, 100)
			if err != nil {
				t.Fatal(err)
			}
			if want := buildBatch(t, codec, records); !bytes.Equal(got, want) {
				t.Fatalf("%s: reused Builder gives other bytes", codec)
			}
			again, err := b.Finish(codec, 7, 2, 100)
			if err != nil || !bytes.Equal(got, again) {
				t.Fatalf("%s: second Finish gives other bytes: %v", codec, err)
			}
		}
	}
	tiny := buildBatch(t, Zstd, []Record{{Value: []byte("x")}})
	if h, err := Validate([][]byte{tiny}, Limits{}); err != nil || h.Codec() != None {
		t.Fatalf("a body that does not shrink: %s, %v", h.Codec(), err)
	}
}

func TestTimestampExtremes(t *testing.T) {
	records := []Record{{Timestamp: 0}, {Timestamp: math.MaxInt64}, {Timestamp: 1}}
	batch := buildBatch(t, None, records)
	if _, err := Validate([][]byte{batch}, Limits{}); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(batch, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := equalRecords(got, records); err != nil {
		t.Fatal(err)
	}
}

func TestSetProducer(t *testing.T) {
	for _, codec := range Codecs() {
		batch := buildBatch(t, codec, sampleRecords(20))
		if err := SetProducer(batch, 9, 3, 0); err != nil {
			t.Fatal(err)
		}
		h, err := Validate([][]byte{batch}, Limits{})
		if err != nil || h.ProducerID != 9 || h.ProducerEpoch != 3 || h.BaseSequence != 0 {
			t.Fatalf("%+v, %v", h, err)
		}
		if err := SetProducer(batch, 9, -1, 0); !errors.Is(err, ErrInvalidRecord) {
			t.Fatal(err)
		}
		if err := SetProducer(batch[:len(batch)-1], 9, 3, 0); !errors.Is(err, ErrCorruptBatch) {
			t.Fatal(err)
		}
	}
}

func TestStampAppendTime(t *testing.T) {
	batch := buildBatch(t, None, sampleRecords(6))
	for _, size := range []int{1, 40, 61, 100, len(batch)} {
		stamped := make([]byte, HeaderSize)
		h := StampAppendTime(stamped, pieces(batch, size), goldenTime+5)
		stamped = append(stamped, batch[HeaderSize:]...)
		if got, err := Verify([][]byte{stamped}, Limits{}); err != nil || got != h || h.TimestampType() != LogAppendTime {
			t.Fatalf("%+v, %v", got, err)
		}
		records, err := readAll(stamped, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if r.Timestamp != goldenTime+5 {
				t.Fatalf("record has timestamp %d", r.Timestamp)
			}
		}
	}
}

func TestScanner(t *testing.T) {
	one, two := buildBatch(t, Zstd, sampleRecords(9)), fromGolden(t, goldenRich)
	region := append(append([]byte{}, one...), two...)
	for n := range len(region) + 1 {
		batches, rest, err := SplitBatches(region[:n], Limits{})
		want := 0
		if n >= len(one) {
			want++
		}
		if n == len(region) {
			want++
		}
		if err != nil || len(batches) != want {
			t.Fatalf("%d bytes: %d batches, want %d, %v", n, len(batches), want, err)
		}
		s := NewScanner(region[:n], Limits{})
		for s.Next() {
			if s.Header().Size() != len(s.Batch()) {
				t.Fatal("header and batch disagree")
			}
		}
		if s.Offset()+len(rest) != n || len(rest) != len(s.Rest()) {
			t.Fatalf("%d bytes: offset %d, rest %d", n, s.Offset(), len(rest))
		}
		switch left := len(rest); {
		case left == 0 && s.Need() != 0:
			t.Fatalf("clean end needs %d", s.Need())
		case left > 0 && left < HeaderSize && s.Need() != HeaderSize:
			t.Fatalf("cut header needs %d", s.Need())
		case left >= HeaderSize && s.Need() != len(one) && s.Need() != len(two):
			t.Fatalf("cut batch needs %d", s.Need())
		}
	}
	zeros := append(append([]byte{}, region...), make([]byte, 100)...)
	batches, rest, err := SplitBatches(zeros, Limits{})
	if !errors.Is(err, ErrUnsupportedMagic) || len(batches) != 2 || len(rest) != 100 {
		t.Fatalf("preallocated zeros: %d batches, rest %d, %v", len(batches), len(rest), err)
	}
}

// Batches that compaction has thinned out: fewer records than offsets, or none.
func TestCompactedBatches(t *testing.T) {
	b := fromGolden(t, goldenRich)
	b = append(b[:richSecond:richSecond], b[richThird:]...) // without the second record
	put32(posCount, 2)(b)
	PutHead(b, 40, 0, 1)
	reseal(b)
	if _, err := Verify([][]byte{b}, Limits{}); err != nil {
		t.Fatal(err)
	}
	records, err := readAll(b, Limits{})
	if err != nil || len(records) != 2 || records[0].Offset != 40 || records[1].Offset != 42 {
		t.Fatalf("%+v, %v", records, err)
	}
	empty := reseal(put32(posCount, 0)(bytes.Clone(b[:HeaderSize])))
	if h, err := Verify([][]byte{empty}, Limits{}); err != nil || h.NextOffset() != 43 {
		t.Fatalf("%+v, %v", h, err)
	}
	if records, err := readAll(empty, Limits{}); err != nil || len(records) != 0 {
		t.Fatalf("%+v, %v", records, err)
	}
}

func TestNoAllocations(t *testing.T) {
	records := sampleRecords(64)
	b := NewBuilder(BuilderOptions{})
	encode := func() {
		b.Reset()
		for i := range records {
			if err := b.Add(records[i]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Finish(None, 7, 2, 100); err != nil {
			t.Fatal(err)
		}
	}
	batch := buildBatch(t, None, records)
	bufs := pieces(batch, 300)
	var it Iterator
	decode := func() {
		if err := it.Reset(batch, Limits{}); err != nil {
			t.Fatal(err)
		}
		n := 0
		for it.Next() {
			n++
		}
		if n != len(records) || it.Err() != nil {
			t.Fatal(n, it.Err())
		}
	}
	validate := func() {
		if _, err := Validate(bufs, Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range map[string]func(){"encode": encode, "decode": decode, "validate": validate} {
		if n := testing.AllocsPerRun(50, f); n != 0 {
			t.Errorf("%s: %v allocations a batch", name, n)
		}
	}
}
