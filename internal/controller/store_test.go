package controller

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
)

// TestVoterIsEmptyUntilItsLogHoldsMetadata: what Raft writes of its own accord promises nobody anything.
func TestVoterIsEmptyUntilItsLogHoldsMetadata(t *testing.T) {
	dir := t.TempDir()
	reopened := func(change func(s *store) error) bool {
		t.Helper()
		s, err := openStore(dir, lifecycle.RealClock(), nil, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		if err := change(s); err != nil {
			t.Fatal(err)
		}
		during := s.hasMetadata.Load()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, err = openStore(dir, lifecycle.RealClock(), nil, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		if after := s.hasMetadata.Load(); after != during {
			t.Fatalf("holds metadata: %t, after a restart: %t", during, after)
		}
		return during
	}
	entry := func(index uint64, kind raft.LogType) *raft.Log { return &raft.Log{Index: index, Term: 1, Type: kind} }
	if reopened(func(*store) error { return nil }) {
		t.Error("a new log")
	}
	if reopened(func(s *store) error {
		return s.StoreLogs([]*raft.Log{entry(1, raft.LogConfiguration), entry(2, raft.LogNoop), entry(3, raft.LogBarrier)})
	}) {
		t.Error("Raft's own entries")
	}
	if !reopened(func(s *store) error { return s.StoreLog(entry(4, raft.LogCommand)) }) {
		t.Error("a command")
	}
	if !reopened(func(s *store) error {
		if err := s.StoreLog(entry(5, raft.LogNoop)); err != nil {
			return err
		}
		return s.DeleteRange(1, 4)
	}) {
		t.Error("a log that was cut after a snapshot")
	}
}

func TestWritesAreTimed(t *testing.T) {
	release := make(chan struct{})
	wrap := func(inner logStore) logStore { return &slowLog{logStore: inner, wait: func() { <-release }} }
	s, err := openStore(t.TempDir(), lifecycle.RealClock(), wrap, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- s.StoreLog(&raft.Log{Index: 1}) }()
	until(t, "a write under way is seen", func() bool { _, underWay := s.writing(); return underWay > 20*time.Millisecond })
	close(release)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	slowest, underWay := s.writing()
	if slowest < 20*time.Millisecond || underWay != 0 {
		t.Errorf("slowest %s, under way %s", slowest, underWay)
	}
	if slowest, _ := s.writing(); slowest != 0 {
		t.Errorf("told twice: %s", slowest)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestSnapshotBytesArePinned fails when the bytes of snapshots change. Then snapshotVersion must change too, unless the
// records themselves did, at a feature level.
func TestSnapshotBytesArePinned(t *testing.T) {
	id, topic := make([]byte, 16), make([]byte, 16)
	id[0], topic[0] = 1, 2
	value := "os"
	records := []*internalv1.MetadataRecord{
		{Kind: &internalv1.MetadataRecord_Cluster{Cluster: &internalv1.ClusterRecord{ClusterId: id}}},
		{Kind: &internalv1.MetadataRecord_FeatureLevel{FeatureLevel: &internalv1.FeatureLevelRecord{Level: 1}}},
		{Kind: &internalv1.MetadataRecord_BrokerRegistration{BrokerRegistration: &internalv1.BrokerRegistrationRecord{
			BrokerId: 1, IncarnationId: id, DirectoryId: id, PeerAddress: "a:1", Rack: "r", MinFeatureLevel: 1, MaxFeatureLevel: 1,
			Listeners: []*internalv1.Listener{{Name: "client", Host: "h", Port: 9092, Security: "plaintext"}},
		}}},
		{Kind: &internalv1.MetadataRecord_Topic{Topic: &internalv1.TopicRecord{Name: "t", TopicId: topic}}},
		{Kind: &internalv1.MetadataRecord_TopicConfig{TopicConfig: &internalv1.TopicConfigRecord{
			TopicId: topic, Key: "flush.mode", Value: &value,
		}}},
		{Kind: &internalv1.MetadataRecord_Partition{Partition: &internalv1.PartitionRecord{
			TopicId: topic, Replicas: []int32{1, 2}, Isr: []int32{1}, Elr: []int32{2}, Leader: 1, LeaderEpoch: 3, PartitionEpoch: 4,
		}}},
		{Kind: &internalv1.MetadataRecord_ProducerIds{ProducerIds: &internalv1.ProducerIDsRecord{NextProducerId: 1000}}},
	}
	image, _, err := metadata.Empty().Apply(&internalv1.MetadataEntry{TimeMs: 5, Records: records})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(encoded(t, image))
	if got, want := hex.EncodeToString(sum[:8]), "4e5f1027b3ef830b"; got != want {
		t.Errorf("the bytes of snapshots changed: %s, were %s", got, want)
	}
}
