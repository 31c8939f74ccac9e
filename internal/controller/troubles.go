package controller

import (
	"cmp"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// troubles are what brokers told with their last heartbeats of replicas and disks that are not in order: for people, nothing is
// decided on them.
type troubles struct {
	mu       sync.Mutex
	byBroker map[model.NodeID]*internalv1.HeartbeatRequest
}

// note takes a heartbeat that was answered; the broker said all there is.
func (t *troubles) note(beat *internalv1.HeartbeatRequest) {
	id := model.NodeID(beat.GetBrokerId())
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(beat.GetTroubles()) == 0 && beat.GetDisk() == nil {
		delete(t.byBroker, id)
		return
	}
	if t.byBroker == nil {
		t.byBroker = map[model.NodeID]*internalv1.HeartbeatRequest{}
	}
	t.byBroker[id] = beat
}

// list returns what the brokers that are let in have told of replicas, by topic id, partition and broker, and of disks, by broker.
func (t *troubles) list(image *metadata.Image) (replicas []*internalv1.ReplicaTrouble, disks []*internalv1.BrokerDisk) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, beat := range t.byBroker {
		if b, ok := image.Broker(id); !ok || b.Fenced || int64(b.Epoch) != beat.GetBrokerEpoch() {
			continue
		}
		for _, told := range beat.GetTroubles() {
			one := proto.CloneOf(told)
			one.BrokerId = int32(id)
			replicas = append(replicas, one)
		}
		if disk := beat.GetDisk(); disk != nil {
			disks = append(disks, &internalv1.BrokerDisk{BrokerId: int32(id), Disk: proto.CloneOf(disk)})
		}
	}
	slices.SortFunc(replicas, func(a, b *internalv1.ReplicaTrouble) int {
		return cmp.Or(slices.Compare(a.GetTopicId(), b.GetTopicId()), cmp.Compare(a.GetPartition(), b.GetPartition()),
			cmp.Compare(a.GetBrokerId(), b.GetBrokerId()))
	})
	slices.SortFunc(disks, func(a, b *internalv1.BrokerDisk) int { return cmp.Compare(a.GetBrokerId(), b.GetBrokerId()) })
	return replicas, disks
}
