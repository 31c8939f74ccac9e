package server_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/testcluster"
	"github.com/penstock-io/penstock/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a single node with a topic of one partition, and raw clients of it.
type node struct {
	*testing.T
	cluster  *testcluster.Cluster
	ctx      context.Context
	producer penstockv1.ProducerServiceClient
	consumer penstockv1.ConsumerServiceClient
	metadata penstockv1.MetadataServiceClient
	admin    penstockv1.AdminServiceClient
	conn     *grpc.ClientConn
}

func start(t *testing.T, settings map[string]string) *node {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	n := &node{T: t, ctx: ctx, cluster: testcluster.Start(t, testcluster.Options{Settings: settings})}
	t.Cleanup(cancel)
	n.connect(n.cluster.ClientAddress(1))
	if _, err := n.admin.CreateTopic(ctx, &penstockv1.CreateTopicRequest{Name: "t", Partitions: new(int32(1))}); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) connect(address string) {
	n.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, wire.DialOptions(wire.Limits{})...)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() {
		if err := conn.Close(); err != nil {
			n.Error(err)
		}
	})
	n.conn = conn
	n.producer, n.consumer = penstockv1.NewProducerServiceClient(conn), penstockv1.NewConsumerServiceClient(conn)
	n.metadata, n.admin = penstockv1.NewMetadataServiceClient(conn), penstockv1.NewAdminServiceClient(conn)
}

func plain(values ...string) []*penstockv1.Record {
	var records []*penstockv1.Record
	for _, v := range values {
		records = append(records, &penstockv1.Record{Value: []byte(v)})
	}
	return records
}

// put appends each value as a batch of its own.
func (n *node) put(values ...string) {
	n.Helper()
	for _, v := range values {
		if _, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "t", Records: plain(v)}); err != nil {
			n.Fatal(err)
		}
	}
}

func (n *node) wantCode(err error, want model.ErrorCode) {
	n.Helper()
	if got := model.CodeOf(wire.FromStatus(err)); got != want {
		n.Errorf("got %v (%v), want %v", got, err, want)
	}
}

// batchOf makes a batch of one record of that many bytes.
func batchOf(t *testing.T, size int) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	if err := b.Add(record.Record{Value: make([]byte, size)}); err != nil {
		t.Fatal(err)
	}
	batch, err := b.Finish(record.None, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}
