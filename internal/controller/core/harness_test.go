package core

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// tb is what *testing.T and *rapid.T have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is a state, its clock and its brokers, with every entry committed at once.
type world struct {
	t       tb
	state   *State
	now     time.Time
	brokers map[model.NodeID]*broker
	ids     int
	entries []*internalv1.MetadataEntry
}

// broker is a broker's own view of its registration.
type broker struct {
	id                     model.NodeID
	incarnation, directory model.UUID
	epoch                  int64
}

func newWorld(t tb, cfg Config) *world {
	w := &world{t: t, state: New(cfg), now: time.UnixMilli(1_000_000), brokers: map[model.NodeID]*broker{}}
	w.state.Activate(w.now, metadata.Empty())
	w.batch(func(b *Batch) {
		if err := b.CreateCluster(w.uuid()); err != nil {
			t.Fatalf("%v", err)
		}
	})
	return w
}

// uuid returns a fresh id, the same in every run.
func (w *world) uuid() model.UUID {
	w.ids++
	return model.UUID{byte(w.ids * 7), byte(w.ids >> 8), byte(w.ids), 0, 0, 0, 0x40, 0, 0x80, 1}
}

// batch runs fn in a batch, commits its entry and checks what must hold of every image.
func (w *world) batch(fn func(b *Batch)) *internalv1.MetadataEntry {
	w.t.Helper()
	b := w.state.Begin(w.now)
	fn(b)
	entry := b.Entry()
	if entry == nil {
		return nil
	}
	before := w.state.Image()
	after, _, err := before.Apply(entry)
	if err != nil {
		w.t.Fatalf("the image refuses the entry: %v", err)
	}
	if !proto.Equal(after.Snapshot(), b.Image().Snapshot()) {
		w.t.Fatalf("the committed image is not the one that was decided on")
	}
	w.entries = append(w.entries, entry)
	checkInvariants(w.t, before, after)
	w.state.Applied(after)
	return entry
}

// checkInvariants holds for every image and every step between two.
func checkInvariants(t tb, before, after *metadata.Image) {
	t.Helper()
	for topic := range after.Topics() {
		for n, p := range topic.AllPartitions() {
			tp := model.TopicPartition{TopicID: topic.ID, Partition: n}
			minISR := topic.Settings().EffectiveMinISR(len(p.Replicas))
			if p.Leader != model.NoNode {
				b, ok := after.Broker(p.Leader)
				if !ok || b.Fenced || !p.InISR(p.Leader) {
					t.Fatalf("%s: leader %d is fenced or not in sync: %+v", tp, p.Leader, p)
				}
			}
			for _, id := range p.ISR {
				if b, ok := after.Broker(id); !ok || b.Fenced {
					t.Fatalf("%s: ISR member %d is fenced: %+v", tp, id, p)
				}
			}
			if len(p.ISR) >= minISR && (len(p.ELR) > 0 || len(p.LastKnown) > 0) {
				t.Fatalf("%s: ELR or last known beside a full ISR: %+v", tp, p)
			}
			if len(p.ISR)+len(p.ELR)+len(p.LastKnown) == 0 {
				t.Fatalf("%s: nobody is known to hold it: %+v", tp, p)
			}
			old, existed := before.Partition(tp)
			if !existed {
				continue
			}
			if p.LeaderEpoch < old.LeaderEpoch || p.PartitionEpoch < old.PartitionEpoch {
				t.Fatalf("%s: epochs went back: %+v after %+v", tp, p, old)
			}
			if p.Leader != old.Leader && p.LeaderEpoch == old.LeaderEpoch {
				t.Fatalf("%s: another leader in the same epoch: %+v after %+v", tp, p, old)
			}
			if p.Leader != model.NoNode && p.Leader != old.Leader && !p.PossiblyLossy && !old.InISR(p.Leader) && !old.InELR(p.Leader) {
				t.Fatalf("%s: elected from outside ISR and ELR: %+v after %+v", tp, p, old)
			}
		}
	}
}

func (w *world) broker(id model.NodeID) *broker {
	b := w.brokers[id]
	if b == nil {
		b = &broker{id: id, directory: w.uuid(), epoch: -1}
		w.brokers[id] = b
	}
	return b
}

func (w *world) request(b *broker) *internalv1.RegisterBrokerRequest {
	return &internalv1.RegisterBrokerRequest{
		ClusterId: w.state.Image().ClusterID().Bytes(),
		Registration: &internalv1.BrokerRegistrationRecord{
			BrokerId: int32(b.id), IncarnationId: b.incarnation.Bytes(), DirectoryId: b.directory.Bytes(),
			Listeners:   []*internalv1.Listener{{Name: "client", Host: "h", Port: 1}},
			PeerAddress: fmt.Sprintf("h:%d", b.id), MinFeatureLevel: 1, MaxFeatureLevel: 1,
		},
		PreviousBrokerEpoch: b.epoch,
	}
}

// register starts an incarnation of a broker and registers it; tune may change the request.
func (w *world) register(id model.NodeID, tune ...func(*internalv1.RegisterBrokerRequest)) {
	w.t.Helper()
	b := w.broker(id)
	b.incarnation = w.uuid()
	req := w.request(b)
	for _, fn := range tune {
		fn(req)
	}
	w.batch(func(batch *Batch) {
		resp, err := batch.RegisterBroker(req)
		if err != nil {
			w.t.Fatalf("registering broker %d: %v", id, err)
		}
		b.epoch = resp.GetBrokerEpoch()
	})
}

func (w *world) beat(id model.NodeID) *internalv1.HeartbeatRequest {
	b := w.broker(id)
	return &internalv1.HeartbeatRequest{
		BrokerId: int32(id), BrokerEpoch: b.epoch, MetadataOffset: uint64(w.state.Image().Offset()),
	}
}

// heartbeat sends a heartbeat; tune may change the request.
func (w *world) heartbeat(id model.NodeID, tune ...func(*internalv1.HeartbeatRequest)) *internalv1.HeartbeatResponse {
	w.t.Helper()
	req := w.beat(id)
	for _, fn := range tune {
		fn(req)
	}
	resp, err := w.state.Touch(req, w.now)
	if err != nil {
		w.t.Fatalf("heartbeat of %d: %v", id, err)
	}
	if resp != nil {
		return resp
	}
	w.batch(func(b *Batch) {
		if resp, err = b.Heartbeat(req); err != nil {
			w.t.Fatalf("heartbeat of %d: %v", id, err)
		}
	})
	return resp
}

func (w *world) unfence(id model.NodeID) {
	w.t.Helper()
	if resp := w.heartbeat(id, func(r *internalv1.HeartbeatRequest) { r.WantUnfence = true }); resp.GetFenced() {
		w.t.Fatalf("broker %d is still fenced", id)
	}
}

func (w *world) join(ids ...model.NodeID) {
	w.t.Helper()
	for _, id := range ids {
		w.register(id)
		w.unfence(id)
	}
}

// kill lets the brokers be found dead together.
func (w *world) kill(ids ...model.NodeID) {
	w.t.Helper()
	for _, id := range ids {
		b, _ := w.state.Image().Broker(id)
		w.state.ProbeEnded(targetOf(b), w.now, true)
	}
	w.batch(func(b *Batch) {
		dead, err := b.FenceDead()
		if err != nil || !slices.Equal(dead, ids) {
			w.t.Fatalf("fenced %v, want %v (%v)", dead, ids, err)
		}
	})
}

// topic makes a topic whose partition 0 has the replicas, all live ones in sync.
func (w *world) topic(name string, configs map[string]string, replicas ...int32) model.TopicPartition {
	w.t.Helper()
	id := w.uuid()
	tp := model.TopicPartition{TopicID: id}
	w.batch(func(b *Batch) {
		records := topicRecords(&internalv1.CreateTopicRequest{Name: name, Configs: configs}, id, []*internalv1.PartitionRecord{
			{TopicId: id.Bytes(), Replicas: replicas, Isr: replicas, Leader: replicas[0]},
		})
		if err := b.add("topic-created", "test", records...); err != nil {
			w.t.Fatalf("%v", err)
		}
	})
	return tp
}

func (w *world) partition(tp model.TopicPartition) *metadata.Partition {
	w.t.Helper()
	p, ok := w.state.Image().Partition(tp)
	if !ok {
		w.t.Fatalf("no partition %s", tp)
	}
	return p
}

// propose asks for an in-sync set as the leader would and returns the result; tune may change the proposal.
func (w *world) propose(tp model.TopicPartition, isr []model.NodeID, tune ...func(*internalv1.AlterPartitionRequest)) *internalv1.PartitionIsrResult {
	w.t.Helper()
	p := w.partition(tp)
	proposal := &internalv1.PartitionIsr{
		TopicId: tp.TopicID.Bytes(), Partition: tp.Partition, LeaderEpoch: int32(p.LeaderEpoch), PartitionEpoch: int32(p.PartitionEpoch),
	}
	for _, id := range isr {
		proposal.Isr = append(proposal.Isr, &internalv1.IsrMember{BrokerId: int32(id), BrokerEpoch: w.broker(id).epoch})
	}
	req := &internalv1.AlterPartitionRequest{BrokerId: int32(p.Leader), Partitions: []*internalv1.PartitionIsr{proposal}}
	if p.Leader != model.NoNode {
		req.BrokerEpoch = w.broker(p.Leader).epoch
	}
	for _, fn := range tune {
		fn(req)
	}
	var result *internalv1.PartitionIsrResult
	w.batch(func(b *Batch) {
		resp, err := b.AlterPartition(req)
		if err != nil {
			result = &internalv1.PartitionIsrResult{ErrorCode: int32(model.CodeOf(err)), Message: err.Error()}
			return
		}
		result = resp.GetResults()[0]
	})
	return result
}

// giveUpSeat lets a broker give up a seat in the present leader epoch; tune may change the request.
func (w *world) giveUpSeat(
	tp model.TopicPartition, id model.NodeID, whole bool, tune ...func(*internalv1.GiveUpSeatsRequest),
) (code model.ErrorCode) {
	w.t.Helper()
	req := &internalv1.GiveUpSeatsRequest{
		BrokerId: int32(id), BrokerEpoch: w.broker(id).epoch, Seats: []*internalv1.GivenUpSeat{{
			TopicId: tp.TopicID.Bytes(), Partition: tp.Partition, LeaderEpoch: int32(w.partition(tp).LeaderEpoch), LogWhole: whole,
		}},
	}
	for _, fn := range tune {
		fn(req)
	}
	w.batch(func(b *Batch) {
		resp, err := b.GiveUpSeats(req)
		if err != nil {
			code = model.CodeOf(err)
			return
		}
		code = model.ErrorCode(resp.GetResults()[0].GetErrorCode())
	})
	return code
}

// expect compares a partition with what it should be; the epochs are not looked at.
func (w *world) expect(tp model.TopicPartition, leader model.NodeID, isr, elr, lastKnown []model.NodeID) {
	w.t.Helper()
	p := w.partition(tp)
	same := func(a, b []model.NodeID) bool {
		return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
	}
	if p.Leader != leader || !same(p.ISR, isr) || !same(p.ELR, elr) || !same(p.LastKnown, lastKnown) {
		w.t.Fatalf("got leader %d, isr %v, elr %v, last known %v; want %d, %v, %v, %v",
			p.Leader, p.ISR, p.ELR, p.LastKnown, leader, isr, elr, lastKnown)
	}
}

func ids(n ...model.NodeID) []model.NodeID { return n }

func wantCode(t *testing.T, err error, code model.ErrorCode) {
	t.Helper()
	if model.CodeOf(err) != code {
		t.Fatalf("got %v, want %s", err, code)
	}
}
