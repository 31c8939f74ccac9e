package record

import (
	"bytes"
	"testing"
)

// Whatever batch is thinned, the result is a valid batch with the records that were kept, or the batch was no good.
func FuzzThinner(f *testing.F) {
	b := NewBuilder(BuilderOptions{})
	for i := range 5 {
		if err := b.Add(Record{Key: []byte{byte(i)}, Value: bytes.Repeat([]byte("value"), 50), Timestamp: int64(100 + i)}); err != nil {
			f.Fatal(err)
		}
	}
	for _, codec := range Codecs() {
		batch, err := b.Finish(codec, 1, 2, 3)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(batch), uint64(0b10110), int64(1_700_000_000_000))
		batch[posBaseTimestamp], batch[posBaseTimestamp+1] = 0x80, 0x01 // a time long past
		f.Add(bytes.Clone(batch), uint64(0b10110), int64(1_700_000_000_000_000_000))
	}
	f.Fuzz(func(t *testing.T, batch []byte, mask uint64, horizon int64) {
		if len(batch) >= HeaderSize {
			batch = bytes.Clone(batch)
			seal(batch)
		}
		var thin Thinner
		if thin.Reset(batch, Limits{MaxUncompressedBytes: 1 << 20}) != nil {
			return
		}
		before := thin.Header()
		var want []Record
		for i := 0; thin.Next(); i++ {
			if mask>>(i%64)&1 == 1 {
				thin.Keep()
				want = append(want, thin.Record().Clone())
			}
		}
		if thin.Err() != nil {
			return
		}
		out, err := thin.Append(nil, horizon)
		if err != nil {
			t.Fatalf("a good batch could not be thinned: %v", err)
		}
		h, err := Verify([][]byte{out}, Limits{})
		if err != nil || h.BaseOffset != before.BaseOffset || h.LastOffset() != before.LastOffset() || int(h.Count) != len(want) {
			t.Fatalf("%+v of %+v: %v", h, before, err)
		}
		it, err := Records(out, Limits{MaxUncompressedBytes: 2 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; it.Next(); i++ {
			r := it.Record()
			if r.Offset != want[i].Offset || !bytes.Equal(r.Key, want[i].Key) || !bytes.Equal(r.Value, want[i].Value) {
				t.Fatalf("record %d is %+v, want %+v", i, r, want[i])
			}
			if before.TimestampType() == CreateTime && r.Timestamp != want[i].Timestamp {
				t.Fatalf("record %d is of %d, want %d", i, r.Timestamp, want[i].Timestamp)
			}
		}
		if it.Err() != nil {
			t.Fatal(it.Err())
		}
	})
}
