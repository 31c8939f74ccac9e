package metadata

import (
	"errors"
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

func TestLoaderIsIdempotentAndRefusesGaps(t *testing.T) {
	var told []string
	note := func(name string) Publisher {
		return PublisherFunc(func(i *Image, d *Delta) { told = append(told, fmt.Sprintf("%s@%d all=%t", name, i.Offset(), d.All)) })
	}
	l := NewLoader(note("first"), note("second"))
	if l.Image().Offset() != 0 {
		t.Fatal("not empty")
	}
	image := Empty()
	var entries []*internalv1.MetadataEntry
	for n := range 4 {
		e := entryOn(image, rProducerIDs(int64(n+1)))
		entries = append(entries, e)
		image = mustApply(t, image, e.GetRecords()...)
	}
	if err := l.LoadEntries(entries[0], entries[1]); err != nil {
		t.Fatal(err)
	}
	if err := l.LoadEntries(entries[:3]...); err != nil || l.Image().Offset() != 3 {
		t.Fatalf("overlap: offset %d, %v", l.Image().Offset(), err)
	}
	far := entryOn(image)
	if err := l.LoadEntries(far); !errors.Is(err, ErrGap) || l.Image().Offset() != 3 {
		t.Fatalf("gap: %v", err)
	}
	if err := l.LoadSnapshot(mustSnapshot(t, 2)); err != nil || l.Image().Offset() != 3 {
		t.Fatalf("older snapshot: %v", err)
	}
	if err := l.LoadSnapshot(image.Snapshot()); err != nil || l.Image().Offset() != 4 {
		t.Fatalf("snapshot: %v", err)
	}
	want := []string{
		"first@1 all=false", "second@1 all=false", "first@2 all=false", "second@2 all=false", "first@3 all=false", "second@3 all=false",
		"first@4 all=true", "second@4 all=true",
	}
	if fmt.Sprint(told) != fmt.Sprint(want) {
		t.Fatalf("told %v", told)
	}
}

func mustSnapshot(t *testing.T, offset uint64) *internalv1.MetadataSnapshot {
	t.Helper()
	return &internalv1.MetadataSnapshot{MetadataOffset: offset}
}

func TestLoaderRefusesAnotherCluster(t *testing.T) {
	l := NewLoader()
	if err := l.LoadSnapshot(mustApply(t, Empty(), rCluster(uuid(1))).Snapshot()); err != nil {
		t.Fatal(err)
	}
	other := mustApply(t, mustApply(t, Empty(), rCluster(uuid(2))), rProducerIDs(1))
	if err := l.LoadSnapshot(other.Snapshot()); !errors.Is(err, ErrInvalid) || l.Image().ClusterID() != uuid(1) {
		t.Fatalf("got %v", err)
	}
}

func TestLoaderStopsAtWhatItDoesNotKnow(t *testing.T) {
	l := NewLoader()
	bad := entryOn(Empty(), rProducerIDs(1))
	bad.ProtoReflect().SetUnknown([]byte{0xa0, 0x06, 0x01})
	if err := l.LoadEntries(bad); !errors.Is(err, ErrUnknownRecord) || l.Image().Offset() != 0 {
		t.Fatalf("entry: %v", err)
	}
	snapshot := mustSnapshot(t, 1)
	snapshot.Records = []*rec{{}}
	if err := l.LoadSnapshot(snapshot); !errors.Is(err, ErrUnknownRecord) || l.Image().Offset() != 0 {
		t.Fatalf("snapshot: %v", err)
	}
}

func TestPreviousEpochIsThatOfTheLastRegistrationThatServed(t *testing.T) {
	i := mustApply(t, Empty(), rCluster(uuid(1)))
	check := func(want model.BrokerEpoch) {
		t.Helper()
		if b, _ := i.Broker(1); b.PreviousEpoch != want {
			t.Fatalf("previous epoch %d, want %d", b.PreviousEpoch, want)
		}
	}
	i = mustApply(t, i, rRegister(1)) // 2
	check(model.NoBrokerEpoch)
	i = mustApply(t, i, rRegister(1)) // 3, after one that never served
	check(model.NoBrokerEpoch)
	i = mustApply(t, i, rUnfenced(1, 3))
	i = mustApply(t, i, rRegister(1)) // 5
	check(3)
	i = mustApply(t, i, rRegister(1)) // 6
	check(3)
	i = mustApply(t, i, rUnfenced(1, 6))
	i = mustApply(t, i, rFenced(1, 6), rStopping(1, 6))
	check(3)
	i = mustApply(t, i, rRegister(1))
	check(6)
	if b, _ := i.Broker(1); b.Stopping || b.WasUnfenced || !b.Fenced {
		t.Fatalf("the state of the incarnation before: %+v", b)
	}
	_, _, err := i.Apply(entryOn(i, rRegister(1), rRegister(1)))
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("twice in one entry: %v", err)
	}
}
