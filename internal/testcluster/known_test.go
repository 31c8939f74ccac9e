package testcluster_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/testcluster"
	"github.com/penstock-io/penstock/internal/wire"
)

// adminOf returns the administration service of one node.
func adminOf(t *testing.T, cluster *testcluster.Cluster, i int) penstockv1.AdminServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+cluster.ClientAddress(i), wire.DialOptions(wire.Limits{})...)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, conn.Close)
	return penstockv1.NewAdminServiceClient(conn)
}

// Whoever was told that a change is made finds it at every broker from then on, whichever he asks next: nobody need wait after
// a topic was created, changed or deleted.
func TestAChangeIsKnownToEveryBrokerWhenItIsAnswered(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 4}) // the last one has no vote
	brokers := make([]penstockv1.AdminServiceClient, 0, cluster.Nodes())
	for i := 1; i <= cluster.Nodes(); i++ {
		brokers = append(brokers, adminOf(t, cluster, i))
	}
	ctx := bounded(t, time.Minute)
	for asked, broker := range brokers {
		name := fmt.Sprintf("asked-%d", asked+1)
		everywhere := func(change string, is func(*penstockv1.DescribeTopicResponse) bool, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s %s: %v", change, name, err)
			}
			for i, other := range brokers {
				now, err := other.DescribeTopic(ctx, &penstockv1.DescribeTopicRequest{Name: name})
				if !is(now) {
					t.Errorf("broker %d answered %q, broker %d does not know: %v", asked+1, change, i+1, err)
				}
			}
		}
		_, err := broker.CreateTopic(ctx, &penstockv1.CreateTopicRequest{Name: name, Partitions: new(int32(1))})
		everywhere("create", func(now *penstockv1.DescribeTopicResponse) bool { return now.GetTopic() != nil }, err)
		_, err = broker.AddPartitions(ctx, &penstockv1.AddPartitionsRequest{Name: name, Total: 2})
		everywhere("add partitions", func(now *penstockv1.DescribeTopicResponse) bool { return len(now.GetTopic().GetPartitions()) == 2 }, err)
		_, err = broker.AlterTopicConfig(ctx, &penstockv1.AlterTopicConfigRequest{Name: name, Set: map[string]string{"max.message.bytes": "2048"}})
		everywhere("set", func(now *penstockv1.DescribeTopicResponse) bool {
			return configValue(now, "max.message.bytes") == "2048"
		}, err)
		_, err = broker.DeleteTopic(ctx, &penstockv1.DeleteTopicRequest{Name: name})
		everywhere("delete", func(now *penstockv1.DescribeTopicResponse) bool { return now.GetTopic() == nil }, err)
	}
}

func configValue(topic *penstockv1.DescribeTopicResponse, key string) string {
	for _, c := range topic.GetConfigs() {
		if c.GetKey() == key {
			return c.GetValue()
		}
	}
	return ""
}

// A broker that died is not waited for: the others are told, and the caller hears within his time.
func TestAChangeDoesNotWaitForADeadBroker(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 4})
	broker, other := adminOf(t, cluster, 1), adminOf(t, cluster, 2)
	ctx := bounded(t, 3*time.Minute)
	for i := range 5 {
		if i == 1 {
			cluster.Kill(4)
		}
		name := fmt.Sprintf("topic-%d", i)
		hurried, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := broker.CreateTopic(hurried, &penstockv1.CreateTopicRequest{Name: name, ReplicationFactor: new(int32(1))})
		cancel()
		if err != nil {
			t.Fatalf("create %s: %v", name, err)
		}
		if _, err := other.DescribeTopic(ctx, &penstockv1.DescribeTopicRequest{Name: name}); err != nil {
			t.Errorf("%s is not known at once: %v", name, err)
		}
	}
}
