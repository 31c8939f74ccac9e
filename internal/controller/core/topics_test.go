package core

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

func TestCreateTopicRefuses(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	w.register(3)
	w.topic("exists", nil, 1)
	type req = internalv1.CreateTopicRequest
	name := func(n string) *req { return &req{Name: n} }
	config := func(k, v string) *req { return &req{Name: "t", Configs: map[string]string{k: v}} }
	for what, c := range map[string]struct {
		req  *req
		want model.ErrorCode
		says string
	}{
		"exists":              {name("exists"), model.CodeTopicAlreadyExists, "exists"},
		"empty":               {name(""), model.CodeInvalidTopic, ""},
		"path":                {name("../x"), model.CodeInvalidTopic, ""},
		"slash":               {name("a/b"), model.CodeInvalidTopic, ""},
		"dot":                 {name("."), model.CodeInvalidTopic, ""},
		"umlaut":              {name("ü"), model.CodeInvalidTopic, ""},
		"250 characters":      {name(strings.Repeat("a", 250)), model.CodeInvalidTopic, ""},
		"reserved":            {name("__x"), model.CodeInvalidTopic, "reserved"},
		"no partitions":       {&req{Name: "t", Partitions: proto.Int32(0)}, model.CodeInvalidPartitions, "between 1 and"},
		"negative partitions": {&req{Name: "t", Partitions: proto.Int32(-1)}, model.CodeInvalidPartitions, ""},
		"too many partitions": {&req{Name: "t", Partitions: proto.Int32(metadata.MaxPartitionsPerTopic + 1)}, model.CodeInvalidPartitions, ""},
		"no replicas":         {&req{Name: "t", ReplicationFactor: proto.Int32(0)}, model.CodeInvalidReplicationFactor, "at least 1"},
		"negative replicas":   {&req{Name: "t", ReplicationFactor: proto.Int32(-1)}, model.CodeInvalidReplicationFactor, ""},
		"too many replicas":   {&req{Name: "t", ReplicationFactor: proto.Int32(4)}, model.CodeInvalidReplicationFactor, "3 registered brokers"},
		"unknown setting":     {config("segment.byte", "1"), model.CodeInvalidConfig, "segment.bytes"},
		"not implemented":     {config("unclean.leader.election.enable", "true"), model.CodeInvalidConfig, "unknown"},
		"malformed":           {config("segment.bytes", "many"), model.CodeInvalidConfig, "many"},
		"out of range":        {config("min.insync.replicas", "0"), model.CodeInvalidConfig, "between"},
		"not a word":          {config("flush.mode", "never"), model.CodeInvalidConfig, "fsync"},
	} {
		t.Run(what, func(t *testing.T) {
			batch := w.state.Begin(w.now)
			_, err := batch.CreateTopic(c.req, w.uuid())
			wantCode(t, err, c.want)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
			if batch.Entry() != nil {
				t.Error("a refused topic left a trace")
			}
		})
	}
}

func (w *world) create(req *internalv1.CreateTopicRequest) *internalv1.CreateTopicResponse {
	w.t.Helper()
	var resp *internalv1.CreateTopicResponse
	w.batch(func(b *Batch) {
		var err error
		if resp, err = b.CreateTopic(req, w.uuid()); err != nil {
			w.t.Fatalf("%v", err)
		}
	})
	return resp
}

func TestCreateTopicDefaults(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	resp := w.create(&internalv1.CreateTopicRequest{Name: "two"})
	if len(resp.GetPartitions()) != 3 || len(resp.GetPartitions()[0].GetReplicas()) != 2 {
		t.Fatalf("%v", resp)
	}
	w.join(3, 4)
	resp = w.create(&internalv1.CreateTopicRequest{
		Name: "four", Configs: map[string]string{"flush.mode": "os"}, Actor: "anna", Partitions: proto.Int32(4),
	})
	if len(resp.GetPartitions()) != 4 || len(resp.GetPartitions()[0].GetReplicas()) != 3 ||
		model.MetadataOffset(resp.GetMetadataOffset()) != w.state.Image().Offset() {
		t.Fatalf("%v", resp)
	}
	topic, _ := w.state.Image().Topic("four")
	if topic.Settings().FlushMode != metadata.FlushOS || string(topic.ID.Bytes()) != string(resp.GetTopicId()) {
		t.Fatalf("%+v", topic)
	}
	if last := w.entries[len(w.entries)-1]; last.GetActor() != "anna" || last.GetCause() != "topic-created" {
		t.Fatalf("%v", last)
	}
	w.create(&internalv1.CreateTopicRequest{Name: "__internal", AllowInternal: true})
	offset := w.state.Image().Offset()
	resp = w.create(&internalv1.CreateTopicRequest{Name: "checked", ValidateOnly: true})
	if w.state.Image().Offset() != offset || len(resp.GetTopicId()) != 0 || len(resp.GetPartitions()) != 3 {
		t.Fatalf("validate only: %v", resp)
	}
}

func TestPlacementSpreadsLeadersAndReplicas(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3, 4, 5)
	leads, replicas := map[int32]int{}, map[int32]int{}
	for _, name := range []string{"a", "b", "c", "d"} {
		for _, p := range w.create(&internalv1.CreateTopicRequest{Name: name, Partitions: proto.Int32(10)}).GetPartitions() {
			leads[p.GetReplicas()[0]]++
			for _, id := range p.GetReplicas() {
				replicas[id]++
			}
		}
	}
	for id := int32(1); id <= 5; id++ {
		if leads[id] != 8 || replicas[id] != 24 {
			t.Errorf("broker %d leads %d and holds %d, want 8 and 24", id, leads[id], replicas[id])
		}
	}
}

func TestPlacementOfSmallTopicsSpreadsOverTopics(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	leads := map[int32]int{}
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		resp := w.create(&internalv1.CreateTopicRequest{Name: name, Partitions: proto.Int32(1), ReplicationFactor: proto.Int32(1)})
		leads[resp.GetPartitions()[0].GetLeader()]++
	}
	if leads[1] != 2 || leads[2] != 2 || leads[3] != 2 {
		t.Fatalf("%v", leads)
	}
}

func TestPlacementTakesLiveBrokersFirstAndCountsFencedOnes(t *testing.T) {
	w := newWorld(t, Config{})
	w.register(1)
	w.join(2, 3)
	for _, p := range w.create(&internalv1.CreateTopicRequest{Name: "two", ReplicationFactor: proto.Int32(2)}).GetPartitions() {
		if p.GetReplicas()[0] == 1 || p.GetReplicas()[1] == 1 {
			t.Errorf("a fenced broker was preferred: %v", p)
		}
	}
	for _, p := range w.create(&internalv1.CreateTopicRequest{Name: "three", ReplicationFactor: proto.Int32(3)}).GetPartitions() {
		if p.GetReplicas()[2] != 1 || len(p.GetIsr()) != 2 || p.GetLeader() != p.GetReplicas()[0] {
			t.Errorf("%v", p)
		}
	}
	w.kill(2, 3)
	_, err := w.state.Begin(w.now).CreateTopic(&internalv1.CreateTopicRequest{Name: "none"}, w.uuid())
	wantCode(t, err, model.CodeBrokerNotAvailable)
}

func TestPlacementSpreadsOverRacks(t *testing.T) {
	w := newWorld(t, Config{})
	for id := model.NodeID(1); id <= 6; id++ {
		rack := []string{"a", "a", "a", "b", "b", "c"}[id-1]
		w.register(id, func(r *internalv1.RegisterBrokerRequest) { r.Registration.Rack = rack })
		w.unfence(id)
	}
	for _, p := range w.create(&internalv1.CreateTopicRequest{Name: "t", Partitions: proto.Int32(12)}).GetPartitions() {
		racks := map[string]bool{}
		for _, id := range p.GetReplicas() {
			b, _ := w.state.Image().Broker(model.NodeID(id))
			racks[b.Rack] = true
		}
		if len(racks) != 3 {
			t.Errorf("replicas %v stand in %d racks", p.GetReplicas(), len(racks))
		}
	}
}

func TestDeleteTopic(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	tp := w.topic("t", nil, 2, 1)
	w.topic("__own", nil, 1)
	for what, c := range map[string]struct {
		req  *internalv1.DeleteTopicRequest
		want model.ErrorCode
	}{
		"unknown name":  {&internalv1.DeleteTopicRequest{Name: "x"}, model.CodeUnknownTopicOrPartition},
		"nothing":       {&internalv1.DeleteTopicRequest{}, model.CodeUnknownTopicOrPartition},
		"unknown id":    {&internalv1.DeleteTopicRequest{TopicId: model.UUID{9}.Bytes()}, model.CodeUnknownTopicID},
		"malformed id":  {&internalv1.DeleteTopicRequest{TopicId: []byte{9}}, model.CodeInvalidRequest},
		"another name":  {&internalv1.DeleteTopicRequest{Name: "x", TopicId: tp.TopicID.Bytes()}, model.CodeInconsistentTopicID},
		"internal name": {&internalv1.DeleteTopicRequest{Name: "__own"}, model.CodeInvalidTopic},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := w.state.Begin(w.now).DeleteTopic(c.req)
			wantCode(t, err, c.want)
		})
	}
	w.batch(func(b *Batch) {
		if _, err := b.DeleteTopic(&internalv1.DeleteTopicRequest{Name: "t", TopicId: tp.TopicID.Bytes()}); err != nil {
			t.Fatal(err)
		}
	})
	report := func(id model.NodeID) {
		w.batch(func(b *Batch) {
			_, err := b.ReportDeleted(&internalv1.ReportDeletedRequest{
				BrokerId: int32(id), BrokerEpoch: w.broker(id).epoch,
				TopicIds: [][]byte{tp.TopicID.Bytes(), tp.TopicID.Bytes(), model.UUID{9}.Bytes()},
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	report(1)
	report(1) // again, as after an unknown outcome
	if d, ok := w.state.Image().DeletedTopic(tp.TopicID); !ok || len(d.Holders) != 1 || d.Holders[0] != 2 {
		t.Fatalf("%+v", d)
	}
	report(2)
	if len(w.state.Image().DeletedTopics()) != 0 {
		t.Fatal("still waits")
	}
}

func TestRequestsOfOneBatchSeeOneAnother(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1)
	first, second := int64(-1), int64(-1)
	entry := w.batch(func(b *Batch) {
		if _, err := b.CreateTopic(&internalv1.CreateTopicRequest{Name: "t", Actor: "anna"}, w.uuid()); err != nil {
			t.Fatal(err)
		}
		_, err := b.CreateTopic(&internalv1.CreateTopicRequest{Name: "t"}, w.uuid())
		wantCode(t, err, model.CodeTopicAlreadyExists)
		for _, to := range []*int64{&first, &second} {
			resp, err := b.AllocateProducerIDs(&internalv1.AllocateProducerIDsRequest{BrokerId: 1, BrokerEpoch: w.broker(1).epoch})
			if err != nil || resp.GetCount() != 1000 {
				t.Fatalf("%v, %v", resp, err)
			}
			*to = resp.GetFirstProducerId()
		}
	})
	if first != 0 || second != 1000 || w.state.Image().NextProducerID() != 2000 {
		t.Fatalf("blocks at %d and %d, next %d", first, second, w.state.Image().NextProducerID())
	}
	if entry.GetCause() != "topic-created,producer-ids-allocated" || entry.GetActor() != "anna,broker 1" {
		t.Fatalf("%q by %q", entry.GetCause(), entry.GetActor())
	}
}
