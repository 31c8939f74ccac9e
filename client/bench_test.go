package client

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/penstock-io/penstock/internal/record"
)

// BenchmarkProduce sends records through the whole producer to fake brokers that check batches and keep nothing.
func BenchmarkProduce(b *testing.B) {
	for _, size := range []int{100, 1024} {
		for _, codec := range []string{"none", "zstd"} {
			b.Run(fmt.Sprintf("%dB/%s", size, codec), func(b *testing.B) {
				fake := newFakeCluster(b, 1, 1)
				fake.discard = true
				fake.addTopic("t", 6)
				p := newTestProducer(b, fake.dial(), ProducerConfig{Codec: codec})
				value := make([]byte, size)
				for i := range value {
					value[i] = byte(i * i)
				}
				var failed atomic.Int64
				done := func(_ Receipt, err error) {
					if err != nil {
						failed.Add(1)
					}
				}
				ctx := testContext(b)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					if err := p.Produce(ctx, Record{Topic: "t", Value: value}, done); err != nil {
						b.Fatal(err)
					}
				}
				if err := p.Flush(ctx); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
				if failed.Load() > 0 {
					b.Fatalf("%d records failed", failed.Load())
				}
			})
		}
	}
}

// BenchmarkProduceSync has one record outstanding.
func BenchmarkProduceSync(b *testing.B) {
	fake := newFakeCluster(b, 1, 1)
	fake.discard = true
	fake.addTopic("t", 1)
	p := newTestProducer(b, fake.dial(), ProducerConfig{})
	ctx := testContext(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.ProduceSync(ctx, Record{Topic: "t", Value: []byte("x")}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConsume reads a partition again and again.
func BenchmarkConsume(b *testing.B) {
	for _, size := range []int{100, 1024} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			fake := newFakeCluster(b, 1, 1)
			topic := fake.addTopic("t", 1)
			builder := record.NewBuilder(record.BuilderOptions{})
			part := topic.partitions[0]
			for builder.Len() < 64<<10 {
				if err := builder.Add(record.Record{Value: make([]byte, size)}); err != nil {
					b.Fatal(err)
				}
			}
			data, err := builder.Finish(record.None, -1, -1, -1)
			if err != nil {
				b.Fatal(err)
			}
			for range 50 {
				data := append([]byte(nil), data...)
				h, err := record.ParseHeader(data)
				if err != nil {
					b.Fatal(err)
				}
				record.PutHead(data, part.end, h.Length, 1)
				h.BaseOffset = part.end
				part.batches = append(part.batches, fakeBatch{header: h, data: data})
				part.end = h.NextOffset()
			}
			part.committed = part.end
			k := newTestConsumer(b, fake.dial(), ConsumerConfig{})
			ctx := testContext(b)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; {
				if err := k.Assign(ctx, Assignment{Topic: "t", From: AtStart(), To: AtEnd()}); err != nil {
					b.Fatal(err)
				}
				for end := false; !end; {
					f, err := k.Poll(ctx)
					if err != nil || f.Err != nil {
						b.Fatal(err, f.Err)
					}
					n += len(f.Records)
					end = f.EndOfRange
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
