package peer_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/peer"
)

// entry is the metadata entry that follows the offset: the first names the cluster, others raise the producer ids.
func entry(cluster model.UUID, on uint64) *internalv1.MetadataEntry {
	record := &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_ProducerIds{
		ProducerIds: &internalv1.ProducerIDsRecord{NextProducerId: int64(on) * 1000}, //nolint:gosec // small
	}}
	if on == 0 {
		return &internalv1.MetadataEntry{DecidedOn: on, TimeMs: 1, Records: []*internalv1.MetadataRecord{
			{Kind: &internalv1.MetadataRecord_Cluster{Cluster: &internalv1.ClusterRecord{ClusterId: cluster.Bytes()}}},
			{Kind: &internalv1.MetadataRecord_FeatureLevel{FeatureLevel: &internalv1.FeatureLevelRecord{Level: 1}}},
		}}
	}
	return &internalv1.MetadataEntry{DecidedOn: on, TimeMs: 1, Records: []*internalv1.MetadataRecord{record}}
}

func (h *harness) follow(loader *metadata.Loader) *lifecycle.Group {
	group := h.group.Child("follower")
	peer.Follow(peer.FollowerConfig{
		NodeID: 0, Voters: h.voters, Loader: loader, Controllers: h.controllers,
		Clock: lifecycle.RealClock(), Logger: slog.New(slog.DiscardHandler),
	}, h.conns, group)
	return group
}

func TestFollowResumesElsewhereWhenTheSourceIsSilent(t *testing.T) {
	h := newHarness(t, 2)
	cluster := model.NewUUID()
	h.fakes[0].frames = func(uint64) []*internalv1.FollowMetadataResponse {
		return []*internalv1.FollowMetadataResponse{{
			Entries:      []*internalv1.MetadataEntry{entry(cluster, 0), entry(cluster, 1)},
			ControllerId: 2, ControllerAddress: h.fakes[1].address,
		}}
	}
	var asked uint64
	h.fakes[1].frames = func(from uint64) []*internalv1.FollowMetadataResponse {
		asked = from
		// A repeated entry is passed over.
		return []*internalv1.FollowMetadataResponse{{Entries: []*internalv1.MetadataEntry{entry(cluster, 1), entry(cluster, 2)}, ControllerId: -1}}
	}
	loader := metadata.NewLoader()
	h.follow(loader)
	await(t, "the first entries", func() bool { return loader.Image().Offset() == 2 })
	await(t, "the active controller", func() bool {
		id, address := h.controllers.Active()
		return id == 2 && address == h.fakes[1].address
	})
	await(t, "entries of the other source", func() bool { return loader.Image().Offset() == 3 })
	h.fakes[1].locked(func() {
		if asked != 2 {
			t.Errorf("the follower asked for what follows %d", asked)
		}
	})
}

func TestMetadataThatIsNotUnderstoodStopsTheNode(t *testing.T) {
	h := newHarness(t, 1)
	h.fakes[0].frames = func(uint64) []*internalv1.FollowMetadataResponse {
		return []*internalv1.FollowMetadataResponse{{Entries: []*internalv1.MetadataEntry{
			{DecidedOn: 0, TimeMs: 1, Records: []*internalv1.MetadataRecord{{}}},
		}}}
	}
	root := lifecycle.New(context.Background(), "node", slog.New(slog.DiscardHandler))
	loader := metadata.NewLoader()
	peer.Follow(peer.FollowerConfig{
		Voters: h.voters, Loader: loader, Controllers: h.controllers, Clock: lifecycle.RealClock(), Logger: slog.New(slog.DiscardHandler),
	}, h.conns, root)
	select {
	case <-root.Stopping():
	case <-time.After(20 * time.Second):
		t.Fatal("the node goes on")
	}
	if err := root.Stop(bounded(t, 20*time.Second)); !errors.Is(err, metadata.ErrUnknownRecord) {
		t.Errorf("got %v", err)
	}
}

func TestNodesPreferWhatIsRegistered(t *testing.T) {
	h := newHarness(t, 1)
	nodes := peer.NewNodes(h.voters)
	nodes.Hint(1, "gossip:1")
	nodes.Hint(9, "gossip:9")
	if got, _ := nodes.Address(1); got != h.voters[0].Address {
		t.Errorf("configured: %s", got)
	}
	if got, ok := nodes.Address(9); !ok || got != "gossip:9" {
		t.Errorf("hinted: %s", got)
	}
	image, err := metadata.FromSnapshot(&internalv1.MetadataSnapshot{MetadataOffset: 5, Records: []*internalv1.MetadataRecord{
		{Kind: &internalv1.MetadataRecord_FeatureLevel{FeatureLevel: &internalv1.FeatureLevelRecord{Level: 1}}},
		{Kind: &internalv1.MetadataRecord_BrokerRegistration{BrokerRegistration: &internalv1.BrokerRegistrationRecord{
			BrokerId: 1, IncarnationId: model.NewUUID().Bytes(), DirectoryId: model.NewUUID().Bytes(), PeerAddress: "registered:1",
			Restored: &internalv1.BrokerState{BrokerEpoch: 3},
		}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	nodes.Publish(image, &metadata.Delta{All: true})
	if got, _ := nodes.Address(1); got != "registered:1" {
		t.Errorf("registered: %s", got)
	}
	if n := len(nodes.Known()); n != 2 {
		t.Errorf("%d known", n)
	}
}
