package controller

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// follow reads a feed into a loader until it has reached the offset.
func follow(t testing.TB, feed *Feed, loader *metadata.Loader, to model.MetadataOffset) {
	t.Helper()
	ctx := testContext(t)
	for loader.Image().Offset() < to {
		frame, err := feed.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if frame.Snapshot != nil {
			err = loader.LoadSnapshot(frame.Snapshot)
		}
		if err = errors.Join(err, loader.LoadEntries(frame.Entries...)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFeedFromTheBeginningAndResumedElsewhere(t *testing.T) {
	c := startCluster(t, 3, nil)
	newFakeBroker(1).join(c)
	createTopic(c, "t0")
	loader := metadata.NewLoader()
	active := c.active()
	follow(t, active.ctl.Follow(0), loader, active.ctl.Image().Offset())
	if _, ok := loader.Image().Topic("t0"); !ok {
		t.Fatal("no topic")
	}
	createTopic(c, "t1")
	to := active.ctl.Image().Offset()
	for _, n := range c.nodes { // every controller serves feeds, active or not
		resumed := metadata.NewLoader()
		if err := resumed.LoadSnapshot(loader.Image().Snapshot()); err != nil {
			t.Fatal(err)
		}
		follow(t, n.ctl.Follow(resumed.Image().Offset()), resumed, to)
		if !proto.Equal(resumed.Image().Snapshot(), active.ctl.Image().Snapshot()) {
			t.Errorf("node %d: another image", n.id)
		}
	}
}

func TestFeedShowsProgressAndTheLeader(t *testing.T) {
	c := startCluster(t, 1, nil)
	n := c.active()
	offset := n.ctl.Image().Offset()
	feed := n.ctl.Follow(offset)
	began := time.Now()
	for range 3 {
		frame, err := feed.Next(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if frame.Snapshot != nil || len(frame.Entries) > 0 || frame.CommittedOffset != offset || frame.ControllerID != 1 ||
			frame.ControllerAddress != n.address {
			t.Fatalf("%+v", frame)
		}
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("three frames in %s; only the first comes at once", took)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := feed.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	n.stop()
	if _, err := feed.Next(context.Background()); !model.IsCode(err, model.CodeShuttingDown) {
		t.Errorf("got %v", err)
	}
}

// TestHubFallsBackToSnapshots follows from within the ring, from before it, and after the image was replaced.
func TestHubFallsBackToSnapshots(t *testing.T) {
	c := &Controller{cfg: Config{}.withDefaults(), hub: newHub()}
	ctx := testContext(t)
	image := metadata.Empty()
	add := func(n int, size int) {
		for range n {
			entry := &internalv1.MetadataEntry{
				DecidedOn: uint64(image.Offset()), Cause: string(make([]byte, size)),
				Records: []*internalv1.MetadataRecord{{Kind: &internalv1.MetadataRecord_ProducerIds{
					ProducerIds: &internalv1.ProducerIDsRecord{NextProducerId: image.NextProducerID() + 1},
				}}},
			}
			next, _, err := image.Apply(entry)
			if err != nil {
				t.Fatal(err)
			}
			image = next
			c.hub.publish(image, entry)
		}
	}
	next := func(f *Feed) FeedFrame {
		frame, err := f.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return frame
	}
	add(1000, 10)
	early := c.Follow(0)
	if frame := next(early); len(frame.Entries) != frameEntries || frame.CommittedOffset != 1000 {
		t.Fatalf("%d entries", len(frame.Entries))
	}
	if frame := next(early); len(frame.Entries) != 1000-frameEntries || frame.Entries[0].GetDecidedOn() != frameEntries {
		t.Fatalf("%d entries", len(frame.Entries))
	}
	add(64, 1<<20) // far more bytes than the ring holds
	if frame := next(early); frame.Snapshot == nil || frame.Snapshot.GetMetadataOffset() != 1064 {
		t.Fatalf("%+v", frame)
	}
	if frame := next(c.Follow(1063)); len(frame.Entries) != 1 || frame.Snapshot != nil {
		t.Fatalf("%+v", frame)
	}
	if frame := next(c.Follow(2000)); frame.Snapshot != nil || len(frame.Entries) > 0 {
		t.Fatalf("a follower that is ahead: %+v", frame)
	}
	restored, err := metadata.FromSnapshot(&internalv1.MetadataSnapshot{MetadataOffset: 5000})
	if err != nil {
		t.Fatal(err)
	}
	c.hub.reset(restored)
	if frame := next(early); frame.Snapshot.GetMetadataOffset() != 5000 {
		t.Fatalf("%+v", frame)
	}
}

func BenchmarkHubPublish(b *testing.B) {
	h := newHub()
	entry := &internalv1.MetadataEntry{Cause: "x"}
	for range b.N {
		h.publish(metadata.Empty(), entry)
	}
}

func FuzzFoldEntry(f *testing.F) {
	image := metadata.Empty()
	seed := func(records ...*internalv1.MetadataRecord) {
		entry := &internalv1.MetadataEntry{DecidedOn: uint64(image.Offset()), TimeMs: image.TimeMs(), Records: records}
		data, err := proto.Marshal(entry)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		next, _, err := image.Apply(entry)
		if err != nil {
			f.Fatal(err)
		}
		image = next
	}
	id, topic := model.UUID{1}.Bytes(), model.UUID{2}.Bytes()
	seed(&internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Cluster{Cluster: &internalv1.ClusterRecord{ClusterId: id}}})
	for n := range int32(3) {
		seed(&internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_BrokerRegistration{
			BrokerRegistration: &internalv1.BrokerRegistrationRecord{BrokerId: n, IncarnationId: id, DirectoryId: id},
		}})
	}
	seed(&internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Topic{
		Topic: &internalv1.TopicRecord{Name: "t", TopicId: topic},
	}}, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_Partition{
		Partition: &internalv1.PartitionRecord{TopicId: topic, Replicas: []int32{0, 1, 2}, Isr: []int32{0, 1}},
	}})
	change, err := proto.Marshal(&internalv1.MetadataEntry{
		DecidedOn: uint64(image.Offset()), Records: []*internalv1.MetadataRecord{{Kind: &internalv1.MetadataRecord_PartitionChange{
			PartitionChange: &internalv1.PartitionChangeRecord{TopicId: topic, Leader: proto.Int32(1), NewLeaderEpoch: true},
		}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(change)
	f.Fuzz(func(t *testing.T, data []byte) {
		before := encoded(t, image)
		_, next, err := foldEntry(image, data)
		if string(encoded(t, image)) != string(before) {
			t.Fatal("the old image changed")
		}
		if err != nil {
			if !errors.Is(err, ErrUnknownEntry) && !errors.Is(err, metadata.ErrStaleEntry) && !errors.Is(err, metadata.ErrInvalid) {
				t.Fatalf("an error of no known kind: %v", err)
			}
			return
		}
		back, err := metadata.FromSnapshot(next.Snapshot())
		if err != nil || string(encoded(t, back)) != string(encoded(t, next)) || next.Offset() != image.Offset()+1 {
			t.Fatalf("no exact round trip: %v", err)
		}
	})
}

func TestSnapshotFilesOfOtherKindsAreRefused(t *testing.T) {
	good := encoded(t, metadata.Empty())
	other := append([]byte{}, good...)
	other[len(snapshotMagic)+3]++
	for name, data := range map[string][]byte{
		"empty": nil, "short": good[:5], "foreign": make([]byte, 100), "future": other, "garbled": append(good, 0xff),
	} {
		if _, err := readSnapshot(bytes.NewReader(data)); !errors.Is(err, ErrUnknownEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readSnapshot(bytes.NewReader(good)); err != nil {
		t.Error(err)
	}
}

func bytesOf(t testing.TB, image *metadata.Image) *bytes.Reader {
	t.Helper()
	return bytes.NewReader(encoded(t, image))
}
