package record

import (
	"bytes"
	"testing"
)

// Whatever batch a leader accepts is either refused with an error that the package promises, or stored with the same
// records and a header that differs in codec, length and CRC alone.
func FuzzRecompress(f *testing.F) {
	for _, b := range seeds(f) {
		for _, codec := range Codecs() {
			f.Add(b, uint8(codec), uint16(70))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, to uint8, piece uint16) {
		batch := bytes.Clone(data)
		if len(batch) >= HeaderSize {
			batch[posMagic] = byte(Magic)
			reseal(batch)
		}
		lim := Limits{MaxBytes: fuzzUncompressed, MaxUncompressedBytes: fuzzUncompressed}
		bufs := pieces(batch, int(piece)+1)
		h, err := Validate(bufs, lim)
		if err != nil {
			return
		}
		got, out, err := Recompress(bufs, h, Codec(to), lim)
		if err != nil {
			if !typed(err) {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		whole := bytes.Join(out, nil)
		if stored, err := Validate(out, lim); err != nil || stored != got || !sameButCodec(h, got) {
			t.Fatalf("%+v of %+v, returned %+v: %v", stored, h, got, err)
		}
		if bytes.Equal(whole, batch) {
			return // what has the codec already is not opened
		}
		want := recordsOf(t, batch)
		if err := equalRecords(recordsOf(t, whole), want); err != nil || len(want) != int(h.Count) {
			t.Fatalf("%d records of %d: %v", len(want), h.Count, err)
		}
	})
}
