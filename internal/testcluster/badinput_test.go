package testcluster_test

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/testcluster"
	"github.com/penstock-io/penstock/internal/wire"
)

// dial opens a raw connection to a node, as any gRPC client does.
func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, wire.DialOptions(wire.Limits{})...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func wantCode(t *testing.T, err error, want model.ErrorCode) {
	t.Helper()
	if got := model.CodeOf(wire.FromStatus(err)); got != want {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

func TestBadTopics(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	admin := penstockv1.NewAdminServiceClient(dial(t, cluster.ClientAddress(1)))
	ctx := bounded(t, time.Minute)
	if _, err := admin.CreateTopic(ctx, &penstockv1.CreateTopicRequest{Name: "there"}); err != nil {
		t.Fatal(err)
	}
	before := cluster.Node(1).Image().TopicCount()
	cases := []struct {
		name string
		req  *penstockv1.CreateTopicRequest
		want model.ErrorCode
	}{
		{"exists", &penstockv1.CreateTopicRequest{Name: "there"}, model.CodeTopicAlreadyExists},
		{"too many replicas", &penstockv1.CreateTopicRequest{Name: "x", ReplicationFactor: new(int32(4))}, model.CodeInvalidReplicationFactor},
		{"no replicas", &penstockv1.CreateTopicRequest{Name: "x", ReplicationFactor: new(int32(0))}, model.CodeInvalidReplicationFactor},
		{"no partitions", &penstockv1.CreateTopicRequest{Name: "x", Partitions: new(int32(0))}, model.CodeInvalidPartitions},
		{"negative partitions", &penstockv1.CreateTopicRequest{Name: "x", Partitions: new(int32(-1))}, model.CodeInvalidPartitions},
		{"too many partitions", &penstockv1.CreateTopicRequest{Name: "x", Partitions: new(int32(1 << 30))}, model.CodeInvalidPartitions},
		{"path", &penstockv1.CreateTopicRequest{Name: "../x"}, model.CodeInvalidTopic},
		{"empty", &penstockv1.CreateTopicRequest{Name: ""}, model.CodeInvalidTopic},
		{"long", &penstockv1.CreateTopicRequest{Name: strings.Repeat("a", 250)}, model.CodeInvalidTopic},
		{"slash", &penstockv1.CreateTopicRequest{Name: "a/b"}, model.CodeInvalidTopic},
		{"umlaut", &penstockv1.CreateTopicRequest{Name: "ü"}, model.CodeInvalidTopic},
		{"reserved", &penstockv1.CreateTopicRequest{Name: "__x"}, model.CodeInvalidTopic},
		{"unknown setting", &penstockv1.CreateTopicRequest{Name: "x", Configs: map[string]string{"flush.mod": "os"}}, model.CodeInvalidConfig},
		{"bad setting", &penstockv1.CreateTopicRequest{Name: "x", Configs: map[string]string{"segment.bytes": "many"}}, model.CodeInvalidConfig},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := admin.CreateTopic(ctx, tc.req)
			wantCode(t, err, tc.want)
		})
	}
	if after := cluster.Node(1).Image().TopicCount(); after != before {
		t.Errorf("%d topics, before there were %d", after, before)
	}
	_, err := admin.DeleteTopic(ctx, &penstockv1.DeleteTopicRequest{Name: "nowhere"})
	wantCode(t, err, model.CodeUnknownTopicOrPartition)
	_, err = admin.DescribeTopic(ctx, &penstockv1.DescribeTopicRequest{Name: "nowhere"})
	wantCode(t, err, model.CodeUnknownTopicOrPartition)
}

// goodBatch is a batch of two records.
func goodBatch(t *testing.T) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for _, value := range []string{"one", "two"} {
		if err := b.Add(record.Record{Value: []byte(value), Timestamp: 1}); err != nil {
			t.Fatal(err)
		}
	}
	batch, err := b.Finish(record.None, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), batch...)
}

func TestBadProduceRequestsLeaveNoTrace(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{})
	conn := dial(t, cluster.ClientAddress(1))
	producer, ctx := penstockv1.NewProducerServiceClient(conn), bounded(t, time.Minute)
	topic, err := penstockv1.NewAdminServiceClient(conn).CreateTopic(ctx, &penstockv1.CreateTopicRequest{
		Name: "topic", Partitions: new(int32(1)), Configs: map[string]string{"max.message.bytes": "4096"},
	})
	if err != nil {
		t.Fatal(err)
	}
	wrongCRC, lyingCount := goodBatch(t), goodBatch(t)
	wrongCRC[len(wrongCRC)-1] ^= 1
	binary.BigEndian.PutUint32(lyingCount[57:], 3)
	request := func(change func(*penstockv1.ProduceRequest)) *penstockv1.ProduceRequest {
		req := &penstockv1.ProduceRequest{Topic: "topic", Batch: goodBatch(t), TimeoutMs: 5000}
		change(req)
		return req
	}
	cases := []struct {
		name string
		req  *penstockv1.ProduceRequest
		want model.ErrorCode
	}{
		{"unknown topic", request(func(r *penstockv1.ProduceRequest) { r.Topic = "nowhere" }), model.CodeUnknownTopicOrPartition},
		{"unknown partition", request(func(r *penstockv1.ProduceRequest) { r.Partition = 7 }), model.CodeUnknownTopicOrPartition},
		{"negative partition", request(func(r *penstockv1.ProduceRequest) { r.Partition = -1 }), model.CodeUnknownTopicOrPartition},
		{"no topic", request(func(r *penstockv1.ProduceRequest) { r.Topic = "" }), model.CodeInvalidRequest},
		{"unknown id", request(func(r *penstockv1.ProduceRequest) { r.TopicId = model.NewUUID().Bytes() }), model.CodeUnknownTopicID},
		{"malformed id", request(func(r *penstockv1.ProduceRequest) { r.TopicId = []byte("short") }), model.CodeInvalidRequest},
		{"name and id differ", request(func(r *penstockv1.ProduceRequest) {
			r.Topic, r.TopicId = "other", topic.GetTopic().GetTopicId()
		}), model.CodeInconsistentTopicID},
		{"no records", request(func(r *penstockv1.ProduceRequest) { r.Batch = nil }), model.CodeInvalidRequest},
		{"both forms", request(func(r *penstockv1.ProduceRequest) { r.Records = []*penstockv1.Record{{}} }), model.CodeInvalidRequest},
		{"unknown acks", request(func(r *penstockv1.ProduceRequest) { r.Acks = 9 }), model.CodeInvalidRequiredAcks},
		{"wrong CRC", request(func(r *penstockv1.ProduceRequest) { r.Batch = wrongCRC }), model.CodeCorruptBatch},
		{"lying count", request(func(r *penstockv1.ProduceRequest) { r.Batch = lyingCount }), model.CodeCorruptBatch},
		{"cut short", request(func(r *penstockv1.ProduceRequest) { r.Batch = r.Batch[:70] }), model.CodeCorruptBatch},
		{"too large", request(func(r *penstockv1.ProduceRequest) {
			r.Batch, r.Records = nil, []*penstockv1.Record{{Value: make([]byte, 8192)}}
		}), model.CodeBatchTooLarge},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := producer.ProduceOnce(ctx, tc.req)
			wantCode(t, err, tc.want)
		})
	}
	resp, err := producer.ProduceOnce(ctx, request(func(*penstockv1.ProduceRequest) {}))
	if err != nil || resp.GetReceipt().GetBaseOffset() != 0 || resp.GetReceipt().GetCount() != 2 {
		t.Errorf("a good batch after all the bad ones: %v, %v", resp, err)
	}
}

func TestTooFewInSyncReplicas(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	createTopic(t, c, "strict", 3, map[string]string{"min.insync.replicas": "3"})
	ctx := bounded(t, time.Minute)
	victim := cluster.LeaderOf("strict", 0)%3 + 1
	cluster.Kill(victim)
	leader := cluster.LeaderOf("strict", 0)
	cluster.Await("the dead replica has left the in-sync set", func() error {
		t, ok := cluster.Node(leader).Image().Topic("strict")
		if !ok {
			return errors.New("no topic")
		}
		if p, ok := t.Partition(0); !ok || len(p.ISR) != 2 {
			return errors.New("still in sync")
		}
		return nil
	})
	producer := penstockv1.NewProducerServiceClient(dial(t, cluster.ClientAddress(leader)))
	_, err := producer.ProduceOnce(ctx, &penstockv1.ProduceRequest{Topic: "strict", Batch: goodBatch(t), TimeoutMs: 2000})
	wantCode(t, err, model.CodeNotEnoughReplicas)
	cluster.Restart(victim)
	cluster.AwaitHealthy()
	if _, err := c.ListOffset(ctx, "strict", 0, client.AtEnd()); err != nil {
		t.Error(err)
	}
}

func TestWrongBrokerNamesTheLeader(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	createTopic(t, cluster.Client(), "topic", 1, nil)
	cluster.AwaitHealthy()
	leader := cluster.LeaderOf("topic", 0)
	other := leader%3 + 1
	ctx := bounded(t, time.Minute)
	_, err := penstockv1.NewProducerServiceClient(dial(t, cluster.ClientAddress(other))).
		ProduceOnce(ctx, &penstockv1.ProduceRequest{Topic: "topic", Batch: goodBatch(t)})
	var remote *wire.RemoteError
	if !errors.As(wire.FromStatus(err), &remote) || remote.Err.Code != model.CodeNotLeaderForPartition || !remote.Definite {
		t.Fatalf("got %v", err)
	}
	if got := remote.Leader.GetLeaderId(); got != int32(leader) || !strings.HasSuffix(cluster.ClientAddress(leader), portText(remote)) {
		t.Errorf("hint: %v, the leader is node %d at %s", remote.Leader, leader, cluster.ClientAddress(leader))
	}
}

func portText(remote *wire.RemoteError) string {
	return ":" + strconv.Itoa(int(remote.Leader.GetPort()))
}
