package metadata

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// anyRecord draws a record; many of them contradict the image.
func anyRecord(t *rapid.T, i *Image) *rec {
	topic := uuid(rapid.IntRange(1, 4).Draw(t, "topic"))
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
	partition := rapid.Int32Range(0, 3).Draw(t, "partition")
	broker := rapid.Int32Range(1, 3).Draw(t, "broker")
	epoch := int64(-1)
	if b, ok := i.Broker(model.NodeID(broker)); ok {
		epoch = int64(b.Epoch)
	}
	some := func(label string) []int32 {
		return rapid.SliceOfNDistinct(rapid.Int32Range(1, 3), 0, 3, rapid.ID).Draw(t, label)
	}
	switch rapid.IntRange(0, 12).Draw(t, "kind") {
	case 0:
		return rRegister(broker)
	case 1:
		return rFenced(broker, epoch)
	case 2:
		return rUnfenced(broker, epoch)
	case 3:
		return rStopping(broker, epoch)
	case 4:
		return rTopic(name, topic)
	case 5:
		value := rapid.SampledFrom([]string{"os", "fsync"}).Draw(t, "value")
		return rConfig(topic, "flush.mode", rapid.SampledFrom([]*string{nil, &value}).Draw(t, "set"))
	case 6, 7:
		r := rPartition(topic, partition)
		r.GetPartition().PartitionEpoch = partition
		return r
	case 8:
		r := &internalv1.PartitionChangeRecord{TopicId: topic.Bytes(), Partition: partition, NewLeaderEpoch: true}
		r.Leader, r.Isr = proto.Int32(broker), &internalv1.NodeIDs{Ids: some("isr")}
		r.Elr, r.LastKnown = &internalv1.NodeIDs{}, &internalv1.NodeIDs{Ids: some("known")}
		return rChange(r)
	case 9:
		return rDeleted(topic, name, some("holders")...)
	case 10:
		return rReplicaDeleted(topic, broker, nil)
	case 11:
		return rRemoved(topic, partition, broker+3)
	default:
		return rProducerIDs(i.NextProducerID() + 1)
	}
}

// TestApplyFromRandomRecords checks, for entries of random records: images never change; a draft ends in the image that the
// entry makes; snapshots restore exactly; the delta names everything that differs.
func TestApplyFromRandomRecords(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		i := standard(t)
		for range rapid.IntRange(1, 30).Draw(rt, "entries") {
			draft := i.Draft(i.TimeMs())
			for range rapid.IntRange(1, 4).Draw(rt, "records") {
				_ = draft.Add(anyRecord(rt, draft.Image())) // what does not fit is left out
			}
			entry := draft.Entry("test", "tester")
			if entry == nil {
				continue
			}
			before := marshal(rt, i)
			next, delta, err := i.Apply(entry)
			if err != nil {
				rt.Fatalf("the draft took what the image refuses: %v", err)
			}
			if !slices.Equal(before, marshal(rt, i)) {
				rt.Fatalf("the old image changed")
			}
			if !slices.Equal(marshal(rt, draft.Image()), marshal(rt, next)) {
				rt.Fatalf("the draft's image is another one")
			}
			back, err := FromSnapshot(next.Snapshot())
			if err != nil || !slices.Equal(marshal(rt, back), marshal(rt, next)) {
				rt.Fatalf("no exact round trip: %v", err)
			}
			checkDelta(rt, i, next, delta)
			i = next
		}
	})
}

func marshal(t *rapid.T, i *Image) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(i.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkDelta compares two images the slow way.
func checkDelta(t *rapid.T, before, after *Image, d *Delta) {
	for topic := range after.Topics() {
		old, existed := before.TopicByID(topic.ID)
		if existed == slices.Contains(d.CreatedTopics, topic.ID) {
			t.Fatalf("topic %s existed: %t, created: %v", topic.Name, existed, d.CreatedTopics)
		}
		for n, p := range topic.AllPartitions() {
			tp := model.TopicPartition{TopicID: topic.ID, Partition: n}
			var was *Partition
			if existed {
				was, _ = old.Partition(n)
			}
			if was != p && !slices.Contains(d.Partitions, tp) {
				t.Fatalf("partition %s changed and is not named", tp)
			}
		}
		if existed && fmt.Sprint(old.Configs()) != fmt.Sprint(topic.Configs()) && !slices.Contains(d.ConfigTopics, topic.ID) {
			t.Fatalf("settings of %s changed and are not named", topic.Name)
		}
	}
	for topic := range before.Topics() {
		if _, ok := after.TopicByID(topic.ID); !ok && !slices.Contains(d.DeletedTopics, topic.ID) {
			t.Fatalf("topic %s was deleted and is not named", topic.Name)
		}
	}
	for _, tp := range d.Partitions {
		if _, ok := after.Partition(tp); !ok {
			t.Fatalf("partition %s is named and does not exist", tp)
		}
	}
	for _, b := range after.Brokers() {
		if old, _ := before.Broker(b.ID); old != b && !slices.Contains(d.Brokers, b.ID) {
			t.Fatalf("broker %d changed and is not named", b.ID)
		}
	}
}

// large is an image with one topic of the given number of partitions, and others of 16.
func large(b *testing.B, one, others int) *Image {
	i := Empty()
	add := func(n, partitions int) {
		id := uuid(n)
		records := []*rec{rTopic(fmt.Sprintf("topic-%05d", n), id)}
		for p := range partitions {
			records = append(records, rPartition(id, int32(p)))
		}
		next, _, err := i.Apply(entryOn(i, records...))
		if err != nil {
			b.Fatal(err)
		}
		i = next
	}
	add(1, one)
	for n := range others {
		add(n+2, 16)
	}
	return i
}

func BenchmarkApplyPartitionChange(b *testing.B) {
	for _, c := range []struct{ one, others int }{{16, 0}, {10_000, 0}, {10_000, 625}} {
		b.Run(fmt.Sprintf("partitions=%d", c.one+16*c.others), func(b *testing.B) {
			i := large(b, c.one, c.others)
			e := entryOn(i, rChange(&internalv1.PartitionChangeRecord{
				TopicId: uuid(1).Bytes(), Partition: 7, Isr: &internalv1.NodeIDs{Ids: []int32{1}},
			}))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, _, err := i.Apply(e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSnapshotRoundTrip20000(b *testing.B) {
	i := large(b, 10_000, 625)
	b.ReportAllocs()
	for range b.N {
		if _, err := FromSnapshot(i.Snapshot()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestOneChangeCopiesOneChunk is the benchmark's promise as a test: 20,000 partitions cost no more than 16.
func TestOneChangeCopiesOneChunk(t *testing.T) {
	i := standard(t)
	id := uuid(9)
	records := []*rec{rTopic("wide", id)}
	for p := range int32(5000) {
		records = append(records, rPartition(id, p))
	}
	i, _, err := i.Apply(entryOn(i, records...))
	if err != nil {
		t.Fatal(err)
	}
	next, _, err := i.Apply(entryOn(i, rChange(&internalv1.PartitionChangeRecord{
		TopicId: id.Bytes(), Partition: 300, NewLeaderEpoch: true,
	})))
	if err != nil {
		t.Fatal(err)
	}
	old, _ := i.TopicByID(id)
	topic, _ := next.TopicByID(id)
	for n := range topic.chunks {
		if shared := &old.chunks[n][0] == &topic.chunks[n][0]; shared == (n == 1) {
			t.Errorf("chunk %d: shared %t", n, shared)
		}
	}
	a, _ := i.TopicByID(uuid(2))
	if b, _ := next.TopicByID(uuid(2)); a != b {
		t.Error("another topic was copied")
	}
}
