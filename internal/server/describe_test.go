package server

import (
	"testing"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// TestPossiblyLossyElectionsAreDescribed takes the mark of R10 from the image to the answer.
func TestPossiblyLossyElectionsAreDescribed(t *testing.T) {
	id := model.NewUUID()
	partition := func(number int32, lossy bool) *internalv1.MetadataRecord {
		return &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Partition{Partition: &internalv1.PartitionRecord{
			TopicId: id.Bytes(), Partition: number, Replicas: []int32{1}, Isr: []int32{1}, Leader: 1, PossiblyLossy: lossy,
		}}}
	}
	image, _, err := metadata.Empty().Apply(&internalv1.MetadataEntry{Records: []*internalv1.MetadataRecord{
		{Kind: &internalv1.MetadataRecord_Topic{Topic: &internalv1.TopicRecord{Name: "t", TopicId: id.Bytes()}}},
		partition(0, false), partition(1, true),
	}})
	if err != nil {
		t.Fatal(err)
	}
	topic, ok := image.Topic("t")
	if !ok {
		t.Fatal("no topic")
	}
	for i, p := range topicOf(topic).GetPartitions() {
		if p.GetPossiblyLossy() != (i == 1) {
			t.Errorf("partition %d: possibly lossy %v", i, p.GetPossiblyLossy())
		}
	}
}
