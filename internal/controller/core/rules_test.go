package core

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

const none = model.NoNode

func TestR2StaleIncarnationIsRefusedInTheISR(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", nil, 1, 2, 3)
	if r := w.propose(tp, ids(1, 2)); r.GetErrorCode() != 0 || r.GetPartitionEpoch() != 1 {
		t.Fatalf("%v", r)
	}
	w.expect(tp, 1, ids(1, 2), nil, nil)
	seen := w.broker(3).epoch
	w.join(3) // registers anew: the incarnation that was seen in sync is gone
	r := w.propose(tp, ids(1, 2, 3), func(req *internalv1.AlterPartitionRequest) {
		req.Partitions[0].Isr[2].BrokerEpoch = seen
	})
	if model.ErrorCode(r.GetErrorCode()) != model.CodeIneligibleReplica {
		t.Fatalf("%v", r)
	}
	w.kill(3)
	if r := w.propose(tp, ids(1, 2, 3)); model.ErrorCode(r.GetErrorCode()) != model.CodeIneligibleReplica {
		t.Fatalf("a fenced broker: %v", r)
	}
	w.unfence(3)
	if r := w.propose(tp, ids(1, 2, 3)); r.GetErrorCode() != 0 {
		t.Fatalf("%v", r)
	}
	w.expect(tp, 1, ids(1, 2, 3), nil, nil)
}

func TestR3ProposalsAreComparedAndSet(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", nil, 1, 2, 3)
	first := func(fn func(*internalv1.PartitionIsr)) func(*internalv1.AlterPartitionRequest) {
		return func(r *internalv1.AlterPartitionRequest) { fn(r.GetPartitions()[0]) }
	}
	w.propose(tp, ids(1, 2))
	for name, c := range map[string]struct {
		isr  []model.NodeID
		tune func(*internalv1.AlterPartitionRequest)
		want model.ErrorCode
	}{
		"stale partition epoch": {ids(1, 2, 3), first(func(p *internalv1.PartitionIsr) { p.PartitionEpoch-- }), model.CodeInvalidUpdateVersion},
		"future partition epoch": {
			ids(1, 2, 3), first(func(p *internalv1.PartitionIsr) { p.PartitionEpoch++ }), model.CodeInvalidUpdateVersion,
		},
		"old leader epoch": {ids(1), first(func(p *internalv1.PartitionIsr) { p.LeaderEpoch-- }), model.CodeFencedLeaderEpoch},
		"new leader epoch": {ids(1), first(func(p *internalv1.PartitionIsr) { p.LeaderEpoch++ }), model.CodeUnknownLeaderEpoch},
		"not the leader": {ids(1), func(r *internalv1.AlterPartitionRequest) {
			r.BrokerId, r.BrokerEpoch = 2, w.broker(2).epoch
		}, model.CodeNotLeaderForPartition},
		"stale broker":       {ids(1), func(r *internalv1.AlterPartitionRequest) { r.BrokerEpoch-- }, model.CodeStaleBrokerEpoch},
		"unknown broker":     {ids(1), func(r *internalv1.AlterPartitionRequest) { r.BrokerId = 9 }, model.CodeBrokerIDNotRegistered},
		"without the leader": {ids(2), nil, model.CodeInvalidRequest},
		"empty":              {nil, nil, model.CodeInvalidRequest},
		"twice":              {ids(1, 1), nil, model.CodeInvalidRequest},
		"no replica":         {ids(1, 4), nil, model.CodeInvalidRequest},
		"unknown topic": {ids(1), first(func(p *internalv1.PartitionIsr) {
			p.TopicId = model.UUID{1, 2, 3}.Bytes()
		}), model.CodeUnknownTopicID},
		"unknown partition": {ids(1), first(func(p *internalv1.PartitionIsr) { p.Partition = 1 }), model.CodeUnknownTopicOrPartition},
	} {
		t.Run(name, func(t *testing.T) {
			tune := c.tune
			if tune == nil {
				tune = func(*internalv1.AlterPartitionRequest) {}
			}
			if r := w.propose(tp, c.isr, tune); model.ErrorCode(r.GetErrorCode()) != c.want || r.GetMessage() == "" {
				t.Errorf("got %v, want %s", r, c.want)
			}
			w.expect(tp, 1, ids(1, 2), nil, nil)
		})
	}
	// The same set moves the partition epoch on: the leader wants to know that nothing it proposed before can take effect.
	before := w.partition(tp).PartitionEpoch
	if r := w.propose(tp, ids(2, 1)); r.GetErrorCode() != 0 || w.partition(tp).PartitionEpoch != before+1 {
		t.Fatalf("the same set ends what was proposed on partition epoch %d: %v", before, r)
	}
	w.expect(tp, 1, ids(1, 2), nil, nil)
}

func TestR6SameDirectoryFencesAndRegistersInOneEntry(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	led := w.topic("led", nil, 1, 2, 3)
	followed := w.topic("followed", nil, 2, 1, 3)
	sole := w.topic("sole", nil, 1)
	offset := w.state.Image().Offset()
	w.register(1)
	if w.state.Image().Offset() != offset+1 {
		t.Fatal("more than one entry")
	}
	b, _ := w.state.Image().Broker(1)
	if !b.Fenced || model.MetadataOffset(b.Epoch) != offset+1 {
		t.Fatalf("%+v", b)
	}
	w.expect(led, 2, ids(2, 3), nil, nil)
	w.expect(followed, 2, ids(2, 3), nil, nil)
	w.expect(sole, none, nil, ids(1), nil)
	if p := w.partition(followed); p.LeaderEpoch != 0 {
		t.Fatalf("a partition that it followed got a new leader epoch: %+v", p)
	}
	w.unfence(1)
	w.expect(sole, 1, ids(1), nil, nil)
	// R9: the restarted leader leads in a new epoch, even where nobody else did in between.
	if p := w.partition(sole); p.LeaderEpoch != 2 || p.PossiblyLossy {
		t.Fatalf("%+v", p)
	}
}

func TestR6OtherDirectoryIsRefusedUntilTheOldIncarnationIsFenced(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	tp := w.topic("t", nil, 1, 2)
	b := w.broker(1)
	req := w.request(b)
	req.Registration.DirectoryId, req.Registration.IncarnationId = w.uuid().Bytes(), w.uuid().Bytes()
	_, err := w.state.Begin(w.now).RegisterBroker(req)
	wantCode(t, err, model.CodeDuplicateBroker)
	w.kill(1, 2)
	w.expect(tp, none, nil, ids(1, 2), nil)
	b.directory = w.uuid()
	w.register(1) // says nothing of lost seats: the other directory says it all
	w.unfence(1)
	w.expect(tp, none, nil, ids(2), ids(1))
	w.unfence(2)
	w.expect(tp, 2, ids(2), nil, nil)
}

func TestR6RepeatedRegistrationChangesNothing(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1)
	offset := w.state.Image().Offset()
	w.batch(func(b *Batch) {
		resp, err := b.RegisterBroker(w.request(w.broker(1)))
		if err != nil || resp.GetBrokerEpoch() != w.broker(1).epoch {
			t.Fatalf("%v, %v", resp, err)
		}
	})
	if w.state.Image().Offset() != offset {
		t.Fatal("something changed")
	}
}

func TestR6TwoIncarnationsInOneBatch(t *testing.T) {
	w := newWorld(t, Config{})
	w.batch(func(b *Batch) {
		x := w.broker(1)
		x.incarnation = w.uuid()
		if _, err := b.RegisterBroker(w.request(x)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.RegisterBroker(w.request(x)); err != nil {
			t.Fatalf("the same one again: %v", err)
		}
		x.incarnation = w.uuid()
		_, err := b.RegisterBroker(w.request(x))
		wantCode(t, err, model.CodeDuplicateBroker)
	})
}

func TestR6LostSeats(t *testing.T) {
	os := map[string]string{"flush.mode": "os"}
	type req = internalv1.RegisterBrokerRequest
	for name, c := range map[string]struct {
		tune               func(w *world, cut model.TopicPartition) func(*req)
		cut, whole, osMode bool // the seat is lost
	}{
		"clean": {func(*world, model.TopicPartition) func(*req) { return func(*req) {} }, false, false, false},
		"one is cut": {func(_ *world, cut model.TopicPartition) func(*req) {
			return func(r *req) {
				r.LostSeats = []*internalv1.ReplicaState{{TopicId: cut.TopicID.Bytes(), SeatLostReason: "cut"}}
			}
		}, true, false, false},
		"no reason, no loss": {func(_ *world, cut model.TopicPartition) func(*req) {
			return func(r *req) { r.LostSeats = []*internalv1.ReplicaState{{TopicId: cut.TopicID.Bytes()}} }
		}, false, false, false},
		"machine lost":   {func(*world, model.TopicPartition) func(*req) { return func(r *req) { r.OsModeSeatsLost = true } }, false, false, true},
		"empty":          {func(*world, model.TopicPartition) func(*req) { return func(r *req) { r.AllSeatsLostReason = "new" } }, true, true, true},
		"restored disk":  {func(*world, model.TopicPartition) func(*req) { return func(r *req) { r.PreviousBrokerEpoch-- } }, true, true, true},
		"disk of others": {func(*world, model.TopicPartition) func(*req) { return func(r *req) { r.PreviousBrokerEpoch += 90 } }, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			w.join(1, 2, 3)
			w.join(1) // so that an epoch before exists
			cut, whole, osMode := w.topic("cut", nil, 1, 2), w.topic("whole", nil, 1, 2), w.topic("os", os, 1, 2)
			w.kill(1, 2)
			w.register(1, c.tune(w, cut))
			w.unfence(1)
			for tp, lostSeat := range map[model.TopicPartition]bool{cut: c.cut, whole: c.whole, osMode: c.osMode} {
				if lostSeat {
					w.expect(tp, none, nil, ids(2), ids(1))
				} else {
					w.expect(tp, 1, ids(1), nil, nil)
				}
			}
		})
	}
}

func TestR6DeathBeforeTheEpochWasWrittenDownCostsNoSeat(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1)
	tp := w.topic("t", nil, 1)
	onFile := w.broker(1).epoch
	for range 2 { // registers, and dies before it writes its epoch down
		w.register(1, func(r *internalv1.RegisterBrokerRequest) { r.PreviousBrokerEpoch = onFile })
		w.expect(tp, none, nil, ids(1), nil)
	}
	w.register(1, func(r *internalv1.RegisterBrokerRequest) { r.PreviousBrokerEpoch = onFile - 1 })
	w.expect(tp, none, nil, nil, ids(1)) // older than the last that served: a restored disk
}

func TestR6LateRegistrationOfAnEarlierProcessDoesNoHarm(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	tp := w.topic("t", nil, 1)
	b := w.broker(1)
	b.incarnation = w.uuid()
	late := w.request(b) // sent, and then the process dies
	w.join(1)            // the next one registers and is let in
	_, err := w.state.Begin(w.now).RegisterBroker(late)
	wantCode(t, err, model.CodeDuplicateBroker)
	w.expect(tp, 1, ids(1), nil, nil)
	w.kill(1) // as a restored disk it would get through once the live one is gone
	w.batch(func(b *Batch) {
		if _, err := b.RegisterBroker(late); err != nil {
			t.Fatal(err)
		}
	})
	w.expect(tp, none, nil, nil, ids(1))
}

func TestR6RefusedRegistrations(t *testing.T) {
	w := newWorld(t, Config{})
	type req = internalv1.RegisterBrokerRequest
	for name, c := range map[string]struct {
		tune func(*req)
		want model.ErrorCode
	}{
		"nothing":        {func(r *req) { r.Registration = nil }, model.CodeInvalidRequest},
		"negative id":    {func(r *req) { r.Registration.BrokerId = -1 }, model.CodeInvalidRequest},
		"no incarnation": {func(r *req) { r.Registration.IncarnationId = nil }, model.CodeInvalidRequest},
		"short id":       {func(r *req) { r.Registration.IncarnationId = []byte{1} }, model.CodeInvalidRequest},
		"no directory":   {func(r *req) { r.Registration.DirectoryId = nil }, model.CodeInvalidRequest},
		"no listeners":   {func(r *req) { r.Registration.Listeners = nil }, model.CodeInvalidRequest},
		"restored":       {func(r *req) { r.Registration.Restored = &internalv1.BrokerState{} }, model.CodeInvalidRequest},
		"other cluster":  {func(r *req) { r.ClusterId = model.UUID{1}.Bytes() }, model.CodeInconsistentClusterID},
		"too new":        {func(r *req) { r.Registration.MinFeatureLevel = 2 }, model.CodeUnsupportedFeatureLevel},
		"too old":        {func(r *req) { r.Registration.MaxFeatureLevel = 0 }, model.CodeUnsupportedFeatureLevel},
		"bad seat":       {func(r *req) { r.LostSeats = []*internalv1.ReplicaState{{TopicId: []byte{1}, SeatLostReason: "x"}} }, model.CodeInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			b := w.broker(1)
			b.incarnation = w.uuid()
			r := w.request(b)
			c.tune(r)
			batch := w.state.Begin(w.now)
			_, err := batch.RegisterBroker(r)
			wantCode(t, err, c.want)
			if batch.Entry() != nil {
				t.Error("a refused registration left a trace")
			}
		})
	}
}

func TestR6UnfencesOnlyWhatHasCaughtUpToItsRegistration(t *testing.T) {
	w := newWorld(t, Config{})
	w.register(1)
	late := func(r *internalv1.HeartbeatRequest) {
		r.WantUnfence, r.MetadataOffset = true, uint64(r.GetBrokerEpoch()-1)
	}
	if resp := w.heartbeat(1, late); !resp.GetFenced() {
		t.Fatal("unfenced before it knew its own registration")
	}
	if resp := w.heartbeat(1); !resp.GetFenced() {
		t.Fatal("unfenced without asking")
	}
	w.unfence(1)
}

func TestR8StaleBrokersAreRefused(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1)
	stale := w.broker(1).epoch - 1
	b := w.state.Begin(w.now)
	_, err := w.state.Touch(&internalv1.HeartbeatRequest{BrokerId: 1, BrokerEpoch: stale}, w.now)
	wantCode(t, err, model.CodeStaleBrokerEpoch)
	_, err = b.Heartbeat(&internalv1.HeartbeatRequest{BrokerId: 1, BrokerEpoch: stale})
	wantCode(t, err, model.CodeStaleBrokerEpoch)
	_, err = b.AllocateProducerIDs(&internalv1.AllocateProducerIDsRequest{BrokerId: 1, BrokerEpoch: stale})
	wantCode(t, err, model.CodeStaleBrokerEpoch)
	_, err = b.ReportDeleted(&internalv1.ReportDeletedRequest{BrokerId: 1, BrokerEpoch: stale})
	wantCode(t, err, model.CodeStaleBrokerEpoch)
	_, err = b.Heartbeat(&internalv1.HeartbeatRequest{BrokerId: 2})
	wantCode(t, err, model.CodeBrokerIDNotRegistered)
}

func TestR9ARestartedLeaderNeverResumesItsEpoch(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	tps := []model.TopicPartition{w.topic("sole", nil, 1), w.topic("pair", nil, 1, 2)}
	seen := map[model.TopicPartition]map[model.LeaderEpoch]string{tps[0]: {}, tps[1]: {}}
	for range 5 {
		for _, tp := range tps {
			if p := w.partition(tp); p.Leader != none {
				leader := w.broker(p.Leader)
				if other, used := seen[tp][p.LeaderEpoch]; used && other != leader.incarnation.String() {
					t.Fatalf("%s: epoch %d is led by two incarnations", tp, p.LeaderEpoch)
				}
				seen[tp][p.LeaderEpoch] = leader.incarnation.String()
			}
		}
		w.join(1)
		w.join(2)
	}
}

func TestR12ProducerIDsAreHandedOutOnce(t *testing.T) {
	w := newWorld(t, Config{ProducerIDBlock: 10})
	w.join(1, 2)
	seen := map[int64]bool{}
	for n := range 20 {
		b := w.broker(model.NodeID(n%2 + 1))
		w.batch(func(batch *Batch) {
			resp, err := batch.AllocateProducerIDs(&internalv1.AllocateProducerIDsRequest{BrokerId: int32(b.id), BrokerEpoch: b.epoch})
			if err != nil {
				t.Fatal(err)
			}
			for id := resp.GetFirstProducerId(); id < resp.GetFirstProducerId()+int64(resp.GetCount()); id++ {
				if seen[id] {
					t.Fatalf("producer id %d twice", id)
				}
				seen[id] = true
			}
		})
		if n == 10 {
			w.state.Deactivate()
			w.state.Activate(w.now, w.state.Image())
		}
	}
	if len(seen) != 200 {
		t.Fatalf("%d ids", len(seen))
	}
}

func TestR10SoleSurvivorThatLostItsSeatIsElectedAsPossiblyLossy(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	sole, pair := w.topic("sole", nil, 1), w.topic("pair", nil, 1, 2)
	w.kill(1, 2)
	lose := func(r *internalv1.RegisterBrokerRequest) { r.AllSeatsLostReason = "disk" }
	w.register(1, lose)
	w.expect(sole, none, nil, nil, ids(1))
	w.unfence(1)
	w.expect(sole, 1, ids(1), nil, nil)
	if !w.partition(sole).PossiblyLossy {
		t.Fatal("not recorded as possibly lossy")
	}
	w.expect(pair, none, nil, ids(2), ids(1))
	w.join(1) // a clean election clears the mark
	if p := w.partition(sole); p.Leader != 1 || p.PossiblyLossy {
		t.Fatalf("%+v", p)
	}
}

func TestR10OfThoseThatLostTheirSeatsTheOneThatKnowsMostIsElected(t *testing.T) {
	type end struct {
		epoch  int32
		offset int64
	}
	for name, c := range map[string]struct {
		ends map[model.NodeID]end // of brokers that tell
		want model.NodeID
	}{
		"longest":                  {map[model.NodeID]end{1: {3, 10}, 2: {3, 12}, 3: {3, 11}}, 2},
		"epoch before offset":      {map[model.NodeID]end{1: {2, 100}, 2: {3, 12}, 3: {4, 1}}, 3},
		"equal: order of replicas": {map[model.NodeID]end{1: {3, 10}, 2: {3, 10}, 3: {3, 10}}, 2},
		"empty logs":               {map[model.NodeID]end{1: {-1, 0}, 2: {-1, 0}, 3: {0, 1}}, 3},
		"one does not tell":        {map[model.NodeID]end{1: {3, 10}, 2: {3, 12}}, none},
		"nobody tells":             {nil, none},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			w.join(1, 2, 3)
			tp := w.topic("t", nil, 2, 3, 1)
			w.kill(1, 2, 3)
			for id := model.NodeID(1); id <= 3; id++ {
				w.register(id, func(r *internalv1.RegisterBrokerRequest) {
					s := &internalv1.ReplicaState{TopicId: tp.TopicID.Bytes(), SeatLostReason: "cut"}
					if e, tells := c.ends[id]; tells {
						s.LogEndOffset, s.LastLeaderEpoch = proto.Int64(e.offset), e.epoch
					}
					r.LostSeats = []*internalv1.ReplicaState{s}
				})
			}
			w.expect(tp, none, nil, nil, ids(1, 2, 3))
			w.unfence(1)
			w.unfence(2)
			w.expect(tp, none, nil, nil, ids(1, 2, 3)) // not all of them answer yet
			w.unfence(3)
			if c.want == none {
				w.expect(tp, none, nil, nil, ids(1, 2, 3))
				return
			}
			w.expect(tp, c.want, ids(c.want), nil, nil)
			if !w.partition(tp).PossiblyLossy {
				t.Fatal("not recorded as possibly lossy")
			}
		})
	}
}

func TestR10AnEmptyDirectoryIsNotElectedBeforeAllReplicasAnswer(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", map[string]string{"min.insync.replicas": "1"}, 1, 2, 3)
	tell := func(end int64) func(*internalv1.RegisterBrokerRequest) {
		return func(r *internalv1.RegisterBrokerRequest) {
			r.LostSeats = []*internalv1.ReplicaState{{TopicId: tp.TopicID.Bytes(), LogEndOffset: proto.Int64(end)}}
		}
	}
	w.kill(2, 3)
	w.kill(1)
	w.expect(tp, none, nil, ids(1), nil)
	w.register(1, func(r *internalv1.RegisterBrokerRequest) { r.AllSeatsLostReason = "the disk was replaced" })
	w.unfence(1)
	w.expect(tp, none, nil, nil, ids(1))
	w.register(2, tell(5))
	w.unfence(2)
	w.expect(tp, 2, ids(2), nil, nil) // it missed the last records, but it has all others
	if !w.partition(tp).PossiblyLossy {
		t.Fatal("not recorded as possibly lossy")
	}
	// Where nobody has anything, all of them must say so.
	empty := w.topic("empty", map[string]string{"min.insync.replicas": "1"}, 1, 2)
	nothing := func(r *internalv1.RegisterBrokerRequest) { r.AllSeatsLostReason = "new" }
	w.kill(2)
	w.kill(1)
	w.register(1, nothing)
	w.unfence(1)
	w.expect(empty, none, nil, nil, ids(1))
	w.register(2, nothing)
	w.unfence(2)
	w.expect(empty, 1, ids(1), nil, nil)
}

func TestR10EmptyDirectoriesHaveNothingToTell(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	tp := w.topic("t", nil, 1, 2)
	w.kill(1, 2)
	w.register(1, func(r *internalv1.RegisterBrokerRequest) { r.AllSeatsLostReason = "new" })
	w.register(2, func(r *internalv1.RegisterBrokerRequest) {
		r.LostSeats = []*internalv1.ReplicaState{{TopicId: tp.TopicID.Bytes(), SeatLostReason: "cut", LogEndOffset: proto.Int64(7)}}
	})
	w.unfence(2)
	w.unfence(1)
	w.expect(tp, 2, ids(2), nil, nil)
}

func TestR10MachinesLostTogetherInOSMode(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	tp := w.topic("t", map[string]string{"flush.mode": "os"}, 1, 2)
	w.kill(1, 2)
	tell := func(osLost bool) func(*internalv1.RegisterBrokerRequest) {
		return func(r *internalv1.RegisterBrokerRequest) {
			r.OsModeSeatsLost = osLost
			r.LostSeats = []*internalv1.ReplicaState{{
				TopicId: tp.TopicID.Bytes(), LogEndOffset: proto.Int64(int64(r.GetRegistration().GetBrokerId())),
			}}
		}
	}
	w.register(1, tell(true))
	w.register(2, tell(true))
	w.state.told = map[model.NodeID]confession{} // another controller takes over
	w.state.Deactivate()
	w.state.Activate(w.now, w.state.Image())
	w.unfence(1)
	w.unfence(2)
	w.expect(tp, none, nil, nil, ids(1, 2)) // nobody remembers what they told
	w.batch(func(b *Batch) {                // the answer to broker 2 was lost, so it asks again
		req := w.request(w.broker(2))
		tell(true)(req)
		if _, err := b.RegisterBroker(req); err != nil {
			t.Fatal(err)
		}
	})
	w.register(1, tell(false))
	w.unfence(1)
	w.expect(tp, 2, ids(2), nil, nil)
}

// What brokers told is lost with the active controller: they tell the next one with their heartbeats, for as long as they see a
// partition that waits for it.
func TestR10BrokersTellAnotherControllerWhereTheirLogsEnd(t *testing.T) {
	tell := func(tp model.TopicPartition, end int64) []*internalv1.ReplicaState {
		return []*internalv1.ReplicaState{{TopicId: tp.TopicID.Bytes(), LogEndOffset: proto.Int64(end), LastLeaderEpoch: 1}}
	}
	stuck := func(t *testing.T) (*world, model.TopicPartition) {
		w := newWorld(t, Config{})
		w.join(1, 2)
		tp := w.topic("t", nil, 1, 2)
		w.kill(1, 2)
		for id := model.NodeID(1); id <= 2; id++ {
			w.register(id, func(r *internalv1.RegisterBrokerRequest) {
				r.LostSeats = tell(tp, int64(id))
				r.LostSeats[0].SeatLostReason = "cut"
			})
		}
		w.state.told = map[model.NodeID]confession{} // another controller takes over
		w.state.Deactivate()
		w.state.Activate(w.now, w.state.Image())
		w.unfence(1)
		w.unfence(2)
		w.expect(tp, none, nil, nil, ids(1, 2))
		return w, tp
	}
	t.Run("with heartbeats", func(t *testing.T) {
		w, tp := stuck(t)
		epoch := w.broker(2).epoch
		for id := model.NodeID(1); id <= 2; id++ {
			w.expect(tp, none, nil, nil, ids(1, 2))
			w.heartbeat(id, func(r *internalv1.HeartbeatRequest) { r.LogEnds = tell(tp, 10*int64(id)) })
		}
		w.expect(tp, 2, ids(2), nil, nil)
		if !w.partition(tp).PossiblyLossy {
			t.Fatal("not recorded as possibly lossy")
		}
		if b, _ := w.state.Image().Broker(2); int64(b.Epoch) != epoch || b.Fenced {
			t.Fatalf("telling changed the registration: %+v", b)
		}
		leading := w.partition(tp).LeaderEpoch
		w.heartbeat(1, func(r *internalv1.HeartbeatRequest) { r.LogEnds = tell(tp, 90) }) // late
		if p := w.partition(tp); p.Leader != 2 || p.LeaderEpoch != leading {
			t.Fatalf("telling again changed the leader: %+v", p)
		}
	})
	t.Run("with repeated registrations", func(t *testing.T) {
		w, tp := stuck(t)
		for id := model.NodeID(1); id <= 2; id++ {
			w.expect(tp, none, nil, nil, ids(1, 2))
			w.batch(func(b *Batch) {
				req := w.request(w.broker(id))
				req.LostSeats = tell(tp, int64(id))
				resp, err := b.RegisterBroker(req)
				if err != nil || resp.GetBrokerEpoch() != w.broker(id).epoch {
					t.Fatalf("%v, %v", resp, err)
				}
			})
		}
		w.expect(tp, 2, ids(2), nil, nil)
	})
	t.Run("nonsense changes nothing", func(t *testing.T) {
		w, tp := stuck(t)
		b := w.state.Begin(w.now)
		req := w.beat(1)
		req.LogEnds = []*internalv1.ReplicaState{{TopicId: []byte{1}}}
		_, err := b.Heartbeat(req)
		wantCode(t, err, model.CodeInvalidRequest)
		w.heartbeat(1, func(r *internalv1.HeartbeatRequest) {
			r.LogEnds = append(tell(tp, 7), &internalv1.ReplicaState{TopicId: w.uuid().Bytes(), LogEndOffset: proto.Int64(1)})
		})
		w.expect(tp, none, nil, nil, ids(1, 2))
	})
}

func TestR11ElectionOrder(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", nil, 2, 3, 1)
	w.kill(2)
	w.expect(tp, 3, ids(3, 1), nil, nil) // the first live ISR member in the order of the replicas
	w.join(2)
	w.propose(tp, ids(1, 2, 3))
	w.kill(3)
	w.expect(tp, 2, ids(1, 2), nil, nil) // the preferred leader first
	w.kill(2)
	w.expect(tp, 1, ids(1), ids(2), nil) // one is below the majority: the ELR begins
	w.kill(1)
	w.expect(tp, none, nil, ids(1, 2), nil)
	w.unfence(3)
	w.expect(tp, none, nil, ids(1, 2), nil) // 3 left an ISR that was large enough without it
	w.unfence(1)
	w.expect(tp, 1, ids(1), ids(2), nil)
	w.propose(tp, ids(1, 3))
	w.expect(tp, 1, ids(1, 3), nil, nil) // the majority is there again
}

func TestR11RemovalsBelowMinISRGoToTheELR(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", nil, 1, 2, 3)
	w.propose(tp, ids(1, 2))
	w.expect(tp, 1, ids(1, 2), nil, nil)
	w.propose(tp, ids(1))
	w.expect(tp, 1, ids(1), ids(2), nil)
	w.kill(1)
	w.expect(tp, 2, ids(2), ids(1), nil) // the live ELR member, not broker 3
	one := w.topic("one", map[string]string{"min.insync.replicas": "1"}, 2, 3)
	w.propose(one, ids(2))
	w.expect(one, 2, ids(2), nil, nil)
}

func TestR11FoundDeadTogetherKeepTheirSeatsTogether(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", nil, 1, 2, 3)
	one := w.topic("one", map[string]string{"min.insync.replicas": "1"}, 1, 2, 3)
	w.kill(1, 2, 3)
	w.expect(tp, none, nil, ids(1, 2, 3), nil)
	w.expect(one, none, nil, ids(1, 2, 3), nil)
	w.unfence(3)
	w.expect(tp, 3, ids(3), ids(1, 2), nil)
	w.expect(one, 3, ids(3), nil, nil)
}

func TestR11ProbesUnderWayDelayEarlyFencing(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	one, _ := w.state.Lost(1, model.BrokerEpoch(w.broker(1).epoch))
	two, _ := w.state.Lost(2, model.BrokerEpoch(w.broker(2).epoch))
	w.state.ProbeStarted(one)
	w.state.ProbeStarted(two)
	w.state.ProbeEnded(one, w.now, true)
	if w.state.WantsFencing(w.now) {
		t.Fatal("broker 1 is fenced while broker 2 is probed")
	}
	w.state.ProbeEnded(two, w.now, true)
	entry := w.batch(func(b *Batch) {
		if dead, err := b.FenceDead(); err != nil || len(dead) != 2 {
			t.Fatalf("%v, %v", dead, err)
		}
	})
	if entry.GetCause() != "session-expired" || entry.GetActor() != "controller" || len(entry.GetRecords()) != 2 {
		t.Fatalf("%v", entry)
	}
}

func TestEarlyFencingNeedsSilenceSinceTheProbe(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1)
	target, ok := w.state.Lost(1, model.BrokerEpoch(w.broker(1).epoch))
	if !ok {
		t.Fatal("not to be probed")
	}
	w.state.ProbeStarted(target)
	sent := w.now
	w.now = w.now.Add(10 * time.Millisecond)
	w.heartbeat(1)
	w.state.ProbeEnded(target, sent, true)
	if w.state.WantsFencing(w.now) {
		t.Fatal("fenced though it was heard of since")
	}
	if _, ok := w.state.Lost(1, 1); ok {
		t.Fatal("the connection of an older incarnation is no loss")
	}
}
