package broker

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

func TestLostSeatsAreKeptUntilConfessed(t *testing.T) {
	dir := t.TempDir()
	load := func() ([]*internalv1.ReplicaState, string) {
		t.Helper()
		lost, allLost, err := loadSeats(fsys.OS(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return lost, allLost
	}
	keep := func(lost ...*internalv1.ReplicaState) {
		t.Helper()
		if err := keepSeats(fsys.OS(), dir, lost); err != nil {
			t.Fatal(err)
		}
	}
	if lost, allLost := load(); len(lost) != 0 || allLost != "" {
		t.Errorf("of a new directory: %v %q", lost, allLost)
	}
	one := &internalv1.ReplicaState{TopicId: model.NewUUID().Bytes(), Partition: 1, SeatLostReason: "cut"}
	two := &internalv1.ReplicaState{TopicId: model.NewUUID().Bytes(), Partition: 2, SeatLostReason: "damaged"}
	keep(one)
	keep(one, &internalv1.ReplicaState{TopicId: one.GetTopicId(), Partition: 9}, two)
	if lost, _ := load(); len(lost) != 2 || !proto.Equal(lost[0], one) || !proto.Equal(lost[1], two) {
		t.Errorf("kept: %v", lost)
	}
	found := []*internalv1.ReplicaState{{TopicId: one.GetTopicId(), Partition: 1}, {TopicId: one.GetTopicId(), Partition: 2}}
	if merged := mergeSeats(found, []*internalv1.ReplicaState{one, two}); len(merged) != 3 || merged[0].GetSeatLostReason() != "cut" ||
		merged[1].GetSeatLostReason() != "" || merged[2] != two {
		t.Errorf("merged: %v", merged)
	}
	name := filepath.Join(dir, seatsName)
	text, err := os.ReadFile(name) //nolint:gosec // our own file
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(text) {
		damaged := append([]byte(nil), text...)
		damaged[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if lost, allLost := load(); len(lost) != 0 || allLost == "" {
			t.Fatalf("bit %d of byte %d damaged: %v %q", bit%8, bit/8, lost, allLost)
		}
	}
	for size := range len(text) {
		if err := os.WriteFile(name, text[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, allLost := load(); allLost == "" {
			t.Errorf("the first %d bytes were believed", size)
		}
	}
	keep()
	if lost, allLost := load(); len(lost) != 0 || allLost != "" {
		t.Errorf("after the confession: %v %q", lost, allLost)
	}
}
