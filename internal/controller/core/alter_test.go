package core

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

func TestAddPartitionsRefuses(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	w.create(&internalv1.CreateTopicRequest{Name: "t", Partitions: proto.Int32(3)})
	w.topic("__own", nil, 1)
	for what, c := range map[string]struct {
		name  string
		total int32
		want  model.ErrorCode
		says  string
	}{
		"as many":  {"t", 3, model.CodeInvalidPartitions, "has 3 partitions"},
		"fewer":    {"t", 2, model.CodeInvalidPartitions, "has 3 partitions"},
		"negative": {"t", -1, model.CodeInvalidPartitions, ""},
		"too many": {"t", metadata.MaxPartitionsPerTopic + 1, model.CodeInvalidPartitions, "between 1 and"},
		"unknown":  {"x", 4, model.CodeUnknownTopicOrPartition, ""},
		"internal": {"__own", 4, model.CodeInvalidTopic, "fixed"},
	} {
		t.Run(what, func(t *testing.T) {
			batch := w.state.Begin(w.now)
			_, err := batch.AddPartitions(&internalv1.AddPartitionsRequest{Name: c.name, Total: c.total})
			wantCode(t, err, c.want)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
			if batch.Entry() != nil {
				t.Error("a refused request left a trace")
			}
		})
	}
	w.kill(1, 2)
	_, err := w.state.Begin(w.now).AddPartitions(&internalv1.AddPartitionsRequest{Name: "t", Total: 4})
	wantCode(t, err, model.CodeBrokerNotAvailable)
}

func TestAddPartitionsLeavesTheOldOnesAndSpreadsTheNewOnes(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	w.create(&internalv1.CreateTopicRequest{Name: "other", Partitions: proto.Int32(2)})
	w.create(&internalv1.CreateTopicRequest{Name: "t", Partitions: proto.Int32(2), ReplicationFactor: proto.Int32(2)})
	before, _ := w.state.Image().Topic("t")
	add := func(total int32, only bool) (resp *internalv1.AddPartitionsResponse) {
		w.batch(func(b *Batch) {
			var err error
			req := &internalv1.AddPartitionsRequest{TopicId: before.ID.Bytes(), Total: total, ValidateOnly: only, Actor: "anna"}
			if resp, err = b.AddPartitions(req); err != nil {
				t.Fatal(err)
			}
		})
		return resp
	}
	offset := w.state.Image().Offset()
	planned := add(300, true)
	if w.state.Image().Offset() != offset || len(planned.GetPartitions()) != 298 {
		t.Fatalf("validate only: %d partitions, offset %d after %d", len(planned.GetPartitions()), w.state.Image().Offset(), offset)
	}
	done := add(300, false)
	if !slices.EqualFunc(planned.GetPartitions(), done.GetPartitions(), func(a, b *internalv1.PartitionRecord) bool { return proto.Equal(a, b) }) {
		t.Error("done is not what was planned")
	}
	if done.GetPreviousTotal() != 2 || model.MetadataOffset(done.GetMetadataOffset()) != w.state.Image().Offset() {
		t.Errorf("%d before, at offset %d", done.GetPreviousTotal(), done.GetMetadataOffset())
	}
	after, _ := w.state.Image().Topic("t")
	if after.Partitions() != 300 {
		t.Fatalf("%d partitions", after.Partitions())
	}
	leads, replicas := map[model.NodeID]int{}, map[model.NodeID]int{}
	for n, p := range after.AllPartitions() {
		if old, was := before.Partition(n); was && old != p {
			t.Errorf("partition %d was changed", n)
		}
		leads[p.Leader]++
		for _, id := range p.Replicas {
			replicas[id]++
		}
		if len(p.Replicas) != 2 || len(p.ISR) != 2 {
			t.Fatalf("partition %d: %+v", n, p)
		}
	}
	for id := model.NodeID(1); id <= 3; id++ {
		if leads[id] != 100 || replicas[id] != 200 {
			t.Errorf("broker %d leads %d and holds %d of the topic, want 100 and 200", id, leads[id], replicas[id])
		}
	}
	if last := w.entries[len(w.entries)-1]; last.GetActor() != "anna" || last.GetCause() != "partitions-added" {
		t.Errorf("%v", last.GetCause())
	}
}

func (w *world) alter(req *internalv1.AlterTopicConfigRequest) (resp *internalv1.AlterTopicConfigResponse) {
	w.t.Helper()
	w.batch(func(b *Batch) {
		var err error
		if resp, err = b.AlterTopicConfig(req); err != nil {
			w.t.Fatalf("%v", err)
		}
	})
	return resp
}

func TestAlterTopicConfig(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	w.create(&internalv1.CreateTopicRequest{Name: "t", Configs: map[string]string{"segment.bytes": "65536", "flush.mode": "os"}})
	type req = internalv1.AlterTopicConfigRequest
	set := func(kv ...string) *req {
		r := &req{Name: "t", Set: map[string]string{}}
		for i := 0; i < len(kv); i += 2 {
			r.Set[kv[i]] = kv[i+1]
		}
		return r
	}
	for what, c := range map[string]struct {
		req  *req
		want model.ErrorCode
		says string
	}{
		"nothing":             {set(), model.CodeInvalidRequest, "no setting"},
		"unknown topic":       {&req{Name: "x", Set: map[string]string{"flush.mode": "os"}}, model.CodeUnknownTopicOrPartition, ""},
		"unknown":             {set("segment.byte", "65536"), model.CodeInvalidConfig, `"segment.bytes"`},
		"unknown to unset":    {&req{Name: "t", Unset: []string{"segment.byte"}}, model.CodeInvalidConfig, `"segment.bytes"`},
		"out of bounds":       {set("segment.bytes", "1"), model.CodeInvalidConfig, "between 16384 and 1073741824"},
		"one of two":          {set("flush.mode", "fsync", "segment.ms", "x"), model.CodeInvalidConfig, "segment.ms"},
		"above the replicas":  {set("min.insync.replicas", "4"), model.CodeInvalidConfig, "at most 3"},
		"set and unset":       {&req{Name: "t", Set: map[string]string{"flush.mode": "os"}, Unset: []string{"flush.mode"}}, model.CodeInvalidConfig, "at once"},
		"unknown codec":       {set("compression.type", "brotli"), model.CodeInvalidConfig, "zstd"},
		"id of another topic": {&req{TopicId: model.UUID{9}.Bytes(), Unset: []string{"flush.mode"}}, model.CodeUnknownTopicID, ""},
		"another of Kafka's":  {set("unclean.leader.election.enable", "true"), model.CodeInvalidConfig, "unknown"},
	} {
		t.Run(what, func(t *testing.T) {
			batch := w.state.Begin(w.now)
			_, err := batch.AlterTopicConfig(c.req)
			wantCode(t, err, c.want)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
			if batch.Entry() != nil {
				t.Error("a refused request left a trace")
			}
		})
	}
	offset := w.state.Image().Offset()
	check := set("flush.mode", "fsync")
	check.ValidateOnly = true
	if resp := w.alter(check); resp.GetConfigs()["flush.mode"] != "fsync" || w.state.Image().Offset() != offset {
		t.Errorf("validate only: %v", resp)
	}
	if w.alter(set("segment.bytes", "65536")); w.state.Image().Offset() != offset {
		t.Error("setting what is set made an entry")
	}
	change := set("segment.ms", "5000", "segment.bytes", "131072")
	change.Unset, change.Actor = []string{"flush.mode", "max.message.bytes"}, "anna"
	w.alter(change)
	topic, _ := w.state.Image().Topic("t")
	want := metadata.DefaultTopicSettings()
	want.SegmentMs, want.SegmentBytes = 5000, 131072
	if topic.Settings() != want || len(topic.Configs()) != 2 {
		t.Errorf("%+v, %v", topic.Settings(), topic.Configs())
	}
	if last := w.entries[len(w.entries)-1]; last.GetActor() != "anna" || last.GetCause() != "topic-config-changed" || len(last.GetRecords()) != 3 {
		t.Errorf("%v", last)
	}
}

// R11: once the HighWatermark may move again without the eligible leader replicas, they are eligible no more, in the same entry.
func TestR11LoweringMinISREmptiesTheELR(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2, 3)
	tp := w.topic("t", nil, 1, 2, 3)
	w.kill(2, 3)
	if p, _ := w.state.Image().Partition(tp); len(p.ISR) != 1 || len(p.ELR) != 2 {
		t.Fatalf("%+v", p)
	}
	w.alter(&internalv1.AlterTopicConfigRequest{Name: "t", Set: map[string]string{"min.insync.replicas": "1"}})
	if p, _ := w.state.Image().Partition(tp); len(p.ISR) != 1 || len(p.ELR) != 0 || p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
	w.kill(1)
	if p, _ := w.state.Image().Partition(tp); p.Leader != model.NoNode {
		t.Fatalf("broker %d was elected without what was committed since: %+v", p.Leader, p)
	}
	w.alter(&internalv1.AlterTopicConfigRequest{Name: "t", Unset: []string{"min.insync.replicas"}})
	w.join(2)
	if p, _ := w.state.Image().Partition(tp); p.Leader != model.NoNode {
		t.Fatalf("broker %d was elected without what was committed since: %+v", p.Leader, p)
	}
}

func TestCreateTopicRefusesAMinISRThatCannotBeMet(t *testing.T) {
	w := newWorld(t, Config{})
	w.join(1, 2)
	_, err := w.state.Begin(w.now).CreateTopic(&internalv1.CreateTopicRequest{
		Name: "t", Configs: map[string]string{"min.insync.replicas": "3"},
	}, w.uuid())
	wantCode(t, err, model.CodeInvalidConfig)
}
