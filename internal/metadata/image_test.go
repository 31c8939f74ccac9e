package metadata

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

type rec = internalv1.MetadataRecord

func uuid(n int) model.UUID {
	return model.UUID{byte(n), byte(n >> 8), 1, 2, 3, 4, 0x40, 7, 0x80, 9, 10, 11, 12, 13, 14, 15}
}

func rLevel(n int32) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_FeatureLevel{FeatureLevel: &internalv1.FeatureLevelRecord{Level: n}}}
}

func rCluster(id model.UUID) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_Cluster{Cluster: &internalv1.ClusterRecord{ClusterId: id.Bytes()}}}
}

func rRegister(id int32) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_BrokerRegistration{BrokerRegistration: &internalv1.BrokerRegistrationRecord{
		BrokerId: id, IncarnationId: uuid(int(id) + 100).Bytes(), DirectoryId: uuid(int(id) + 200).Bytes(),
		Listeners:   []*internalv1.Listener{{Name: "client", Host: "localhost", Port: 9092, Security: "plaintext"}},
		PeerAddress: fmt.Sprintf("localhost:%d", 9000+id), Rack: "r1", MinFeatureLevel: 1, MaxFeatureLevel: 1,
	}}}
}

func rFenced(id int32, epoch int64) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_BrokerFenced{
		BrokerFenced: &internalv1.BrokerFencedRecord{BrokerId: id, BrokerEpoch: epoch},
	}}
}

func rUnfenced(id int32, epoch int64) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_BrokerUnfenced{
		BrokerUnfenced: &internalv1.BrokerUnfencedRecord{BrokerId: id, BrokerEpoch: epoch},
	}}
}

func rStopping(id int32, epoch int64) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_BrokerStopping{
		BrokerStopping: &internalv1.BrokerStoppingRecord{BrokerId: id, BrokerEpoch: epoch},
	}}
}

func rTopic(name string, id model.UUID) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_Topic{Topic: &internalv1.TopicRecord{Name: name, TopicId: id.Bytes()}}}
}

func rConfig(id model.UUID, key string, value *string) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_TopicConfig{
		TopicConfig: &internalv1.TopicConfigRecord{TopicId: id.Bytes(), Key: key, Value: value},
	}}
}

func rPartition(id model.UUID, n int32) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_Partition{Partition: &internalv1.PartitionRecord{
		TopicId: id.Bytes(), Partition: n, Replicas: []int32{1, 2, 3}, Isr: []int32{1, 2}, Elr: []int32{3}, Leader: 1,
	}}}
}

func rChange(r *internalv1.PartitionChangeRecord) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_PartitionChange{PartitionChange: r}}
}

func rDeleted(id model.UUID, name string, holders ...int32) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_DeletedTopic{
		DeletedTopic: &internalv1.DeletedTopicRecord{TopicId: id.Bytes(), Name: name, Holders: holders},
	}}
}

func rReplicaDeleted(id model.UUID, broker int32, partition *int32) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_ReplicaDeleted{
		ReplicaDeleted: &internalv1.ReplicaDeletedRecord{TopicId: id.Bytes(), BrokerId: broker, Partition: partition},
	}}
}

func rRemoved(id model.UUID, partition, broker int32) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_RemovedReplica{
		RemovedReplica: &internalv1.RemovedReplicaRecord{TopicId: id.Bytes(), Partition: partition, BrokerId: broker},
	}}
}

func rProducerIDs(next int64) *rec {
	return &rec{Kind: &internalv1.MetadataRecord_ProducerIds{ProducerIds: &internalv1.ProducerIDsRecord{NextProducerId: next}}}
}

func entryOn(i *Image, records ...*rec) *internalv1.MetadataEntry {
	return &internalv1.MetadataEntry{
		DecidedOn: uint64(i.Offset()), Cause: "test", Actor: "tester", TimeMs: i.TimeMs() + 1, Records: records,
	}
}

func mustApply(t testing.TB, i *Image, records ...*rec) *Image {
	t.Helper()
	next, _, err := i.Apply(entryOn(i, records...))
	if err != nil {
		t.Fatal(err)
	}
	checkRoundTrip(t, next)
	return next
}

// checkRoundTrip fails unless the snapshot of the image restores to an image with the same snapshot bytes.
func checkRoundTrip(t testing.TB, i *Image) {
	t.Helper()
	s := i.Snapshot()
	back, err := FromSnapshot(s)
	if err != nil {
		t.Fatalf("restoring: %v", err)
	}
	opts := proto.MarshalOptions{Deterministic: true}
	a, err := opts.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := opts.Marshal(back.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a, b) {
		t.Fatalf("snapshot changed in a round trip:\n%v\n%v", s, back.Snapshot())
	}
	if back.PartitionCount() != i.PartitionCount() || back.TopicCount() != i.TopicCount() {
		t.Fatalf("counts changed in a round trip")
	}
}

// standard is a cluster of brokers 1..3 with topic "a" of 3 partitions.
func standard(t testing.TB) *Image {
	i := mustApply(t, Empty(), rCluster(uuid(1)), rLevel(1))
	i = mustApply(t, i, rRegister(1), rRegister(2), rRegister(3))
	i = mustApply(t, i, rUnfenced(1, 2), rUnfenced(2, 2))
	one := "1"
	return mustApply(t, i, rTopic("a", uuid(2)), rConfig(uuid(2), "min.insync.replicas", &one),
		rPartition(uuid(2), 0), rPartition(uuid(2), 1), rPartition(uuid(2), 2))
}

func TestApplyBuildsTheImage(t *testing.T) {
	i := standard(t)
	if i.Offset() != 4 || i.TimeMs() != 4 || i.ClusterID() != uuid(1) || i.FeatureLevel() != 1 {
		t.Fatalf("offset %d, time %d, cluster %s, level %d", i.Offset(), i.TimeMs(), i.ClusterID(), i.FeatureLevel())
	}
	b, ok := i.Broker(2)
	if !ok || b.Fenced || !b.WasUnfenced || b.Epoch != 2 || !b.Live() || b.Listeners[0].Port != 9092 {
		t.Fatalf("broker 2: %+v", b)
	}
	if b, _ := i.Broker(3); !b.Fenced || b.WasUnfenced {
		t.Fatalf("broker 3: %+v", b)
	}
	topic, ok := i.Topic("a")
	if !ok || topic.Partitions() != 3 || topic.Settings().MinInsyncReplicas != 1 || topic.Configs()["min.insync.replicas"] != "1" {
		t.Fatalf("topic: %+v", topic)
	}
	next := mustApply(t, i, rChange(&internalv1.PartitionChangeRecord{
		TopicId: uuid(2).Bytes(), Partition: 1, Leader: proto.Int32(2), NewLeaderEpoch: true,
		Isr: &internalv1.NodeIDs{Ids: []int32{2}}, Elr: &internalv1.NodeIDs{},
	}))
	p, _ := next.Partition(model.TopicPartition{TopicID: uuid(2), Partition: 1})
	if p.Leader != 2 || p.LeaderEpoch != 1 || p.PartitionEpoch != 1 || p.ELR != nil || !slices.Equal(p.ISR, []model.NodeID{2}) {
		t.Fatalf("partition: %+v", p)
	}
	old, _ := i.Partition(model.TopicPartition{TopicID: uuid(2), Partition: 1})
	if old.Leader != 1 || old.LeaderEpoch != 0 {
		t.Fatalf("the old image changed: %+v", old)
	}
}

func TestDeltaNamesWhatChanged(t *testing.T) {
	i := standard(t)
	two := "2"
	next, d, err := i.Apply(entryOn(i, rTopic("b", uuid(3)), rPartition(uuid(3), 0), rConfig(uuid(2), "min.insync.replicas", &two),
		rFenced(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(d.CreatedTopics, []model.UUID{uuid(3)}) || !slices.Equal(d.ChangedTopics, []model.UUID{uuid(2)}) ||
		!slices.Equal(d.ConfigTopics, []model.UUID{uuid(2)}) || !slices.Equal(d.Brokers, []model.NodeID{1}) ||
		!slices.Equal(d.Partitions, []model.TopicPartition{{TopicID: uuid(3)}}) || d.All || d.Deletions || d.Cause != "test" {
		t.Fatalf("%+v", d)
	}
	_, d, err = next.Apply(entryOn(next, rDeleted(uuid(2), "a", 3, 1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(d.DeletedTopics, []model.UUID{uuid(2)}) || len(d.Partitions) != 0 || len(d.ChangedTopics) != 0 || !d.Deletions {
		t.Fatalf("%+v", d)
	}
}

func TestDeletedTopicStaysUntilEveryHolderReported(t *testing.T) {
	i := standard(t)
	i = mustApply(t, i, rRemoved(uuid(2), 0, 7))
	if len(i.RemovedReplicas()) != 1 {
		t.Fatal("no removed replica")
	}
	i = mustApply(t, i, rDeleted(uuid(2), "a", 3, 1, 7, 1))
	if _, ok := i.Topic("a"); ok || i.PartitionCount() != 0 || len(i.RemovedReplicas()) != 0 {
		t.Fatal("the topic is still there")
	}
	d, ok := i.DeletedTopic(uuid(2))
	if !ok || !slices.Equal(d.Holders, []model.NodeID{1, 3, 7}) {
		t.Fatalf("%+v", d)
	}
	i = mustApply(t, i, rTopic("a", uuid(4)), rPartition(uuid(4), 0))
	i = mustApply(t, i, rReplicaDeleted(uuid(2), 3, nil), rReplicaDeleted(uuid(2), 1, nil))
	if len(i.DeletedTopics()) != 1 {
		t.Fatal("gone before broker 7 reported")
	}
	i = mustApply(t, i, rReplicaDeleted(uuid(2), 7, nil))
	if len(i.DeletedTopics()) != 0 {
		t.Fatal("still there after every holder reported")
	}
	i = mustApply(t, i, rRemoved(uuid(4), 0, 7))
	i = mustApply(t, i, rReplicaDeleted(uuid(4), 7, proto.Int32(0)))
	if len(i.RemovedReplicas()) != 0 {
		t.Fatal("removed replica still there")
	}
}

func TestApplyRefuses(t *testing.T) {
	i := standard(t)
	bad := "x"
	wide := proto.Clone(rPartition(uuid(2), 3)).(*rec)
	wide.GetPartition().Isr = []int32{9}
	leader := proto.Clone(rPartition(uuid(2), 3)).(*rec)
	leader.GetPartition().Leader = 3
	overlap := proto.Clone(rPartition(uuid(2), 3)).(*rec)
	overlap.GetPartition().Elr = []int32{2}
	restored := rRegister(4)
	restored.GetBrokerRegistration().Restored = &internalv1.BrokerState{}
	unknownField := rTopic("z", uuid(9))
	unknownField.GetTopic().ProtoReflect().SetUnknown(protoreflect.RawFields{0xa0, 0x06, 0x01})
	nested := rRegister(4)
	nested.GetBrokerRegistration().Listeners[0].ProtoReflect().SetUnknown(protoreflect.RawFields{0xa0, 0x06, 0x01})
	for name, c := range map[string]struct {
		record *rec
		want   error
	}{
		"no kind":                   {&rec{}, ErrUnknownRecord},
		"unknown field":             {unknownField, ErrUnknownRecord},
		"nested unknown field":      {nested, ErrUnknownRecord},
		"unknown setting":           {rConfig(uuid(2), "no.such", &bad), ErrUnknownRecord},
		"malformed setting":         {rConfig(uuid(2), "segment.bytes", &bad), ErrUnknownRecord},
		"future level":              {rLevel(MaxFeatureLevel + 1), ErrUnknownRecord},
		"level 0":                   {rLevel(0), ErrInvalid},
		"second cluster":            {rCluster(uuid(8)), ErrInvalid},
		"short cluster id":          {&rec{Kind: &internalv1.MetadataRecord_Cluster{Cluster: &internalv1.ClusterRecord{ClusterId: []byte{1}}}}, ErrInvalid},
		"topic exists":              {rTopic("a", uuid(9)), ErrInvalid},
		"topic id exists":           {rTopic("b", uuid(2)), ErrInvalid},
		"topic name":                {rTopic("../x", uuid(9)), ErrInvalid},
		"topic without partitions":  {rTopic("b", uuid(9)), ErrInvalid},
		"partition of no topic":     {rPartition(uuid(9), 0), ErrInvalid},
		"partition with a gap":      {rPartition(uuid(2), 4), ErrInvalid},
		"partition again":           {rPartition(uuid(2), 0), ErrInvalid},
		"isr beyond replicas":       {wide, ErrInvalid},
		"leader outside isr":        {leader, ErrInvalid},
		"isr and elr overlap":       {overlap, ErrInvalid},
		"fence unknown broker":      {rFenced(9, 2), ErrInvalid},
		"fence stale epoch":         {rFenced(1, 1), ErrInvalid},
		"stopping stale epoch":      {rStopping(1, 1), ErrInvalid},
		"restored in an entry":      {restored, ErrInvalid},
		"empty change":              {rChange(&internalv1.PartitionChangeRecord{TopicId: uuid(2).Bytes()}), ErrInvalid},
		"leader without new epoch":  {rChange(&internalv1.PartitionChangeRecord{TopicId: uuid(2).Bytes(), Leader: proto.Int32(2)}), ErrInvalid},
		"change without partition":  {rChange(&internalv1.PartitionChangeRecord{TopicId: uuid(2).Bytes(), Partition: 3, NewLeaderEpoch: true}), ErrInvalid},
		"delete unknown topic":      {rDeleted(uuid(9), "a"), ErrInvalid},
		"delete under another name": {rDeleted(uuid(2), "b"), ErrInvalid},
		"report without deletion":   {rReplicaDeleted(uuid(2), 1, nil), ErrInvalid},
		"report without removal":    {rReplicaDeleted(uuid(2), 1, proto.Int32(0)), ErrInvalid},
		"removal of a replica":      {rRemoved(uuid(2), 0, 1), ErrInvalid},
		"producer ids going back":   {rProducerIDs(0), ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			before, err := proto.Marshal(i.Snapshot())
			if err != nil {
				t.Fatal(err)
			}
			// A good record before the bad one must not take effect either.
			if _, _, err := i.Apply(entryOn(i, rFenced(2, 2), c.record)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			after, err := proto.Marshal(i.Snapshot())
			if err != nil || !slices.Equal(before, after) {
				t.Errorf("the image changed (%v)", err)
			}
		})
	}
}

func TestApplyRefusesStaleAndBackInTime(t *testing.T) {
	i := standard(t)
	e := entryOn(i, rProducerIDs(1000))
	for _, on := range []uint64{0, 3, 5} {
		e.DecidedOn = on
		if _, _, err := i.Apply(e); !errors.Is(err, ErrStaleEntry) {
			t.Errorf("decided on %d: %v", on, err)
		}
	}
	e.DecidedOn, e.TimeMs = 4, i.TimeMs()-1
	if _, _, err := i.Apply(e); !errors.Is(err, ErrInvalid) {
		t.Errorf("back in time: %v", err)
	}
}
