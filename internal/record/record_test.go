package record

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// sampleRecords returns n records with headers, nulls and empties among them.
func sampleRecords(n int) []Record {
	records := make([]Record, n)
	for i := range records {
		r := &records[i]
		r.Timestamp = 1_700_000_000_000 + int64(i*7%5)
		r.Value = []byte(strings.Repeat(fmt.Sprintf("line %d of the log; ", i), i%9+1))
		switch i % 4 {
		case 0:
			r.Key = fmt.Appendf(nil, "key-%d", i)
		case 1:
			r.Key = []byte{}
			r.Headers = []RecordHeader{{Key: "trace", Value: []byte{1, 2, 3}}, {Key: "trace"}, {Key: "", Value: []byte{}}}
		case 2:
			r.Value = nil
		default:
		}
	}
	return records
}

// buildBatch builds one batch and returns a copy of its own.
func buildBatch(tb testing.TB, codec Codec, records []Record) []byte {
	tb.Helper()
	b := NewBuilder(BuilderOptions{})
	for _, r := range records {
		size := b.SizeAfter(r)
		if err := b.Add(r); err != nil {
			tb.Fatal(err)
		}
		if b.Len() != size {
			tb.Fatalf("SizeAfter said %d, Len is %d", size, b.Len())
		}
	}
	batch, err := b.Finish(codec, 7, 2, 100)
	if err != nil {
		tb.Fatal(err)
	}
	return bytes.Clone(batch)
}

// reseal makes the length field and the CRC of a changed batch true again.
func reseal(batch []byte) []byte {
	h := decodeHeader(batch)
	PutHead(batch, h.BaseOffset, int32(len(batch)-lengthOverhead), h.LeaderEpoch)
	seal(batch)
	return batch
}

func readAll(batch []byte, lim Limits) ([]Record, error) {
	it, err := Records(batch, lim)
	if err != nil {
		return nil, err
	}
	var out []Record
	for it.Next() {
		out = append(out, it.Record().Clone())
	}
	return out, it.Err()
}

func equalRecords(a, b []Record) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d records, want %d", len(a), len(b))
	}
	for i := range a {
		x, y := &a[i], &b[i]
		same := sameBytes(x.Key, y.Key) && sameBytes(x.Value, y.Value) && x.Timestamp == y.Timestamp && len(x.Headers) == len(y.Headers)
		for j := 0; same && j < len(x.Headers); j++ {
			same = x.Headers[j].Key == y.Headers[j].Key && sameBytes(x.Headers[j].Value, y.Headers[j].Value)
		}
		if !same {
			return fmt.Errorf("record %d is %+v, want %+v", i, *x, *y)
		}
	}
	return nil
}

// sameBytes tells null from empty.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func TestRoundTripAllCodecs(t *testing.T) {
	records := sampleRecords(50)
	for _, codec := range Codecs() {
		t.Run(codec.String(), func(t *testing.T) {
			batch := buildBatch(t, codec, records)
			h, err := Validate([][]byte{batch}, Limits{MaxBytes: len(batch)})
			if err != nil {
				t.Fatal(err)
			}
			if h.Codec() != codec || h.Count != 50 || h.Size() != len(batch) || h.ProducerID != 7 || h.LastSequence() != 149 {
				t.Fatalf("header %+v", h)
			}
			PutHead(batch, 1000, h.Length, 5)
			got, err := readAll(batch, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if err := equalRecords(got, records); err != nil {
				t.Fatal(err)
			}
			if got[0].Offset != 1000 || got[49].Offset != 1049 {
				t.Fatalf("offsets %d..%d", got[0].Offset, got[49].Offset)
			}
		})
	}
}

func TestParseCodec(t *testing.T) {
	for _, c := range Codecs() {
		if got, err := ParseCodec(c.String()); err != nil || got != c {
			t.Fatalf("%s: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCodec("brotli"); !errors.Is(err, ErrUnknownCodec) {
		t.Fatal(err)
	}
	if s := Codec(9).String(); s != "codec(9)" {
		t.Fatal(s)
	}
}
