package server_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/server"
	"github.com/penstock-io/penstock/internal/testcluster"
)

func TestWatchMetadataSendsWhatChanges(t *testing.T) {
	n := start(t, nil)
	watch, err := n.metadata.WatchMetadata(n.ctx, &penstockv1.WatchMetadataRequest{Topics: []string{"t", "later"}})
	if err != nil {
		t.Fatal(err)
	}
	next := func() map[string]*penstockv1.TopicMetadata {
		t.Helper()
		frame, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(frame.GetBrokers()) != 1 || frame.GetBrokers()[0].GetPort() == 0 {
			t.Errorf("brokers: %v", frame.GetBrokers())
		}
		topics := map[string]*penstockv1.TopicMetadata{}
		for _, topic := range frame.GetTopics() {
			topics[topic.GetName()] = topic
		}
		return topics
	}
	first := next()
	if len(first) != 2 || first["t"].GetError() != nil || first["later"].GetError() == nil {
		t.Errorf("first: %v", first)
	}
	for _, name := range []string{"of-no-interest", "later"} {
		if _, err := n.admin.CreateTopic(n.ctx, &penstockv1.CreateTopicRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if second := next(); len(second) != 1 || second["later"].GetError() != nil || len(second["later"].GetPartitions()) != 3 {
		t.Errorf("after a topic was created: %v", second)
	}
	if _, err := n.admin.DeleteTopic(n.ctx, &penstockv1.DeleteTopicRequest{Name: "later"}); err != nil {
		t.Fatal(err)
	}
	if third := next(); len(third) != 1 || third["later"].GetError() == nil {
		t.Errorf("after it was deleted: %v", third)
	}
}

func TestTopicsAreDescribed(t *testing.T) {
	n := start(t, nil)
	if _, err := n.admin.CreateTopic(n.ctx, &penstockv1.CreateTopicRequest{
		Name: "set", Configs: map[string]string{"flush.mode": "os"},
	}); err != nil {
		t.Fatal(err)
	}
	planned, err := n.admin.CreateTopic(n.ctx, &penstockv1.CreateTopicRequest{Name: "planned", ValidateOnly: true})
	if err != nil || len(planned.GetTopic().GetTopicId()) != 0 {
		t.Errorf("validate only: %v, %v", planned, err)
	}
	list, err := n.admin.ListTopics(n.ctx, &penstockv1.ListTopicsRequest{})
	if err != nil || len(list.GetTopics()) != 2 || list.GetTopics()[0].GetName() != "set" || list.GetTopics()[0].GetReplicationFactor() != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	described, err := n.admin.DescribeTopic(n.ctx, &penstockv1.DescribeTopicRequest{Name: "set"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range described.GetConfigs() {
		own := c.GetKey() == "flush.mode"
		if c.GetValue() == "" || (c.GetSource() == penstockv1.ConfigSource_CONFIG_SOURCE_TOPIC) != own || (own && c.GetValue() != "os") {
			t.Errorf("setting %v", c)
		}
	}
	got, err := n.metadata.GetMetadata(n.ctx, &penstockv1.GetMetadataRequest{Topics: []string{"set", "nowhere", "set"}})
	if err != nil || len(got.GetTopics()) != 2 || got.GetTopics()[0].GetError() == nil || got.GetControllerId() != 1 {
		t.Errorf("metadata: %v, %v", got, err)
	}
	quorum, err := n.admin.DescribeQuorum(n.ctx, &penstockv1.DescribeQuorumRequest{})
	if err != nil || quorum.GetLeaderId() != 1 || len(quorum.GetVoters()) != 1 || !quorum.GetVoters()[0].GetLeader() {
		t.Errorf("quorum: %v, %v", quorum, err)
	}
}

func TestHealthNamesWhatIsWrong(t *testing.T) {
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := &node{T: t, ctx: ctx, cluster: cluster}
	n.connect(cluster.ClientAddress(1))
	if _, err := n.admin.CreateTopic(ctx, &penstockv1.CreateTopicRequest{Name: "t"}); err != nil {
		t.Fatal(err)
	}
	reasons := func() string {
		health, err := n.admin.DescribeCluster(ctx, &penstockv1.DescribeClusterRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var codes []string
		for _, r := range health.GetReasons() {
			codes = append(codes, r.GetCode())
		}
		if health.GetHealthy() != (len(codes) == 0) {
			t.Errorf("%v", health)
		}
		return strings.Join(codes, " ")
	}
	want := func(codes string) {
		t.Helper()
		got := ""
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
			if got = reasons(); got == codes {
				return
			}
		}
		t.Errorf("reasons %q, want %q", got, codes)
	}
	want("")
	cluster.Kill(3)
	want("BROKER_FENCED UNDER_REPLICATED")
	cluster.Kill(2)
	want("NO_QUORUM BROKER_FENCED UNDER_REPLICATED")
	cluster.RestartAll()
	want("")
}

func TestAdminListenerAndStandardServices(t *testing.T) {
	n := start(t, nil)
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready", "/metrics": "penstock_broker_fenced 0"} {
		req, err := http.NewRequestWithContext(n.ctx, http.MethodGet, "http://"+n.cluster.AdminAddress(1)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %.100s %v", path, resp.Status, body, err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	for _, service := range []string{"", "penstock.v1.ProducerService"} {
		status, err := healthv1.NewHealthClient(n.conn).Check(n.ctx, &healthv1.HealthCheckRequest{Service: service})
		if err != nil || status.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, status, err)
		}
	}
}

func TestRequestsCarryTheirCaller(t *testing.T) {
	if got := server.RequestOf(context.Background()); got.Principal != "anonymous" || got.Listener != "" {
		t.Errorf("%+v", got)
	}
	n := start(t, nil)
	ctx := metadata.AppendToOutgoingContext(n.ctx, server.ClientIDHeader, strings.Repeat("x", 1000))
	if _, err := n.metadata.GetMetadata(ctx, &penstockv1.GetMetadataRequest{}); err != nil {
		t.Error(err)
	}
}
