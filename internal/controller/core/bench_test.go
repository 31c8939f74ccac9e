package core

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
)

// wide is a cluster of ten brokers with 20,000 partitions at replication factor 3.
func wide(b *testing.B) *world {
	w := newWorld(b, Config{})
	w.join(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	for n := range 20 {
		w.create(&internalv1.CreateTopicRequest{Name: fmt.Sprintf("t%d", n), Partitions: proto.Int32(1000)})
	}
	return w
}

func BenchmarkFenceOneOfTen20000(b *testing.B) {
	w := wide(b)
	w.state.sessions[1].dead = true
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		batch := w.state.Begin(w.now)
		if _, err := batch.FenceDead(); err != nil || batch.Len() < 6000 {
			b.Fatalf("%d records, %v", batch.Len(), err)
		}
	}
}

func BenchmarkCreateTopic1000On20000(b *testing.B) {
	w := wide(b)
	id := w.uuid()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		batch := w.state.Begin(w.now)
		if _, err := batch.CreateTopic(&internalv1.CreateTopicRequest{Name: "new", Partitions: proto.Int32(1000)}, id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHeartbeat(b *testing.B) {
	w := wide(b)
	req := w.beat(1)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if resp, err := w.state.Touch(req, w.now); err != nil || resp == nil {
			b.Fatal(err)
		}
	}
}
