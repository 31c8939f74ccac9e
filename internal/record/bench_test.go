package record

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// benchRecords returns 1 KiB records that fill one batch of about 64 KiB.
func benchRecords() []Record {
	rng := rand.New(rand.NewPCG(1, 2))
	records := make([]Record, 63)
	for i := range records {
		var value []byte
		for len(value) < 1024 {
			value = fmt.Appendf(value, "2026-11-20 08:%02d:%02d,%03d - INFO  [worker-%d] - session 0x%x established for client %d\n",
				i, rng.IntN(60), rng.IntN(1000), rng.IntN(8), rng.Uint64(), rng.IntN(1e6))
		}
		value = value[:1024]
		records[i] = Record{Value: value, Timestamp: 1_700_000_000_000 + int64(i)}
	}
	return records
}

func pieces(b []byte, size int) [][]byte {
	var out [][]byte
	for len(b) > size {
		out = append(out, b[:size])
		b = b[size:]
	}
	return append(out, b)
}

func BenchmarkCRC(b *testing.B) {
	batch := buildBatch(b, None, benchRecords())
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		if err := CheckCRC(batch); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	batch := buildBatch(b, None, benchRecords())
	for _, bm := range []struct {
		name string
		bufs [][]byte
	}{{"whole", [][]byte{batch}}, {"16KiB", pieces(batch, 16<<10)}} {
		b.Run(bm.name, func(b *testing.B) {
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Validate(bm.bufs, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkValidateSmallRecords(b *testing.B) {
	records := make([]Record, 600)
	for i := range records {
		records[i] = Record{Value: bytes.Repeat([]byte{'x'}, 100)}
	}
	bufs := pieces(buildBatch(b, None, records), 16<<10)
	b.SetBytes(int64(vecSize(bufs)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Validate(bufs, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	records := benchRecords()
	for _, codec := range Codecs() {
		b.Run(codec.String(), func(b *testing.B) {
			builder := NewBuilder(BuilderOptions{})
			b.SetBytes(int64(len(buildBatch(b, None, records))))
			b.ReportAllocs()
			for b.Loop() {
				builder.Reset()
				for i := range records {
					if err := builder.Add(records[i]); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := builder.Finish(codec, 1, 0, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	records := benchRecords()
	for _, codec := range Codecs() {
		b.Run(codec.String(), func(b *testing.B) {
			batch := buildBatch(b, codec, records)
			b.SetBytes(int64(len(buildBatch(b, None, records))))
			b.ReportAllocs()
			var it Iterator
			for b.Loop() {
				if err := it.Reset(batch, Limits{}); err != nil {
					b.Fatal(err)
				}
				for it.Next() {
				}
				if it.Err() != nil {
					b.Fatal(it.Err())
				}
			}
		})
	}
}
