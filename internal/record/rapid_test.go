package record

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// maybeNull draws bytes, null or empty.
func maybeNull(most int) *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
			return nil
		}
		b := rapid.SliceOfN(rapid.Byte(), 0, most).Draw(t, "bytes")
		if rapid.Bool().Draw(t, "repeated") {
			b = bytes.Repeat(b, rapid.IntRange(0, 200).Draw(t, "times"))
		}
		return append([]byte{}, b...)
	})
}

func anyRecord() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		r := Record{
			Key:       maybeNull(20).Draw(t, "key"),
			Value:     maybeNull(100).Draw(t, "value"),
			Timestamp: rapid.Int64Min(0).Draw(t, "timestamp"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			r.Headers = append(r.Headers, RecordHeader{
				Key: rapid.StringN(0, 10, -1).Draw(t, "header"), Value: maybeNull(10).Draw(t, "header value"),
			})
		}
		return r
	})
}

// Whatever is built is valid in any pieces, and reads back as it was, under every codec and with reused buffers.
func TestPropertyRoundTrip(t *testing.T) {
	builder := NewBuilder(BuilderOptions{})
	var it Iterator
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(anyRecord(), 1, 40).Draw(t, "records")
		codec := rapid.SampledFrom(Codecs()).Draw(t, "codec")
		base := rapid.Int64Range(0, 1<<60).Draw(t, "base offset")
		builder.Reset()
		for _, r := range records {
			if err := builder.Add(r); err != nil {
				t.Fatal(err)
			}
		}
		batch, err := builder.Finish(codec, 1, 0, rapid.Int32Min(0).Draw(t, "sequence"))
		if err != nil {
			t.Fatal(err)
		}
		PutHead(batch, base, int32(len(batch)-lengthOverhead), 3)
		h, err := Validate(pieces(batch, rapid.IntRange(1, len(batch)).Draw(t, "piece")), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := it.Reset(batch, Limits{}); err != nil {
			t.Fatal(err)
		}
		var got []Record
		for it.Next() {
			if want := base + int64(len(got)); it.Record().Offset != want {
				t.Fatalf("offset %d, want %d", it.Record().Offset, want)
			}
			got = append(got, it.Record().Clone())
		}
		if it.Err() != nil || int(h.Count) != len(records) {
			t.Fatal(it.Err(), h.Count)
		}
		if err := equalRecords(got, records); err != nil {
			t.Fatal(err)
		}
	})
}

// Header fields survive put and decode, whatever they are.
func TestPropertyHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := rapid.Make[Header]().Draw(t, "header")
		b := make([]byte, HeaderSize)
		h.put(b)
		if got := decodeHeader(b); got != h {
			t.Fatalf("%+v, want %+v", got, h)
		}
	})
}
