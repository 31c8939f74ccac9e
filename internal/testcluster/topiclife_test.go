package testcluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/testcluster"
)

// closeAfter closes what a test made, at its end.
func closeAfter(t *testing.T, close func() error) {
	t.Helper()
	t.Cleanup(func() {
		if err := close(); err != nil {
			t.Error(err)
		}
	})
}

func newProducer(t *testing.T, c *client.Client, config client.ProducerConfig) *client.Producer {
	t.Helper()
	p, err := c.NewProducer(bounded(t, time.Minute), config)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return p.Close(ctx)
	})
	return p
}

func followTopic(t *testing.T, c *client.Client, topic string) *client.Consumer {
	t.Helper()
	k, err := c.NewConsumer(client.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, k.Close)
	if err := k.AssignTopic(bounded(t, time.Minute), topic, client.AtStart()); err != nil {
		t.Fatal(err)
	}
	return k
}

func createSmall(t *testing.T, c *client.Client, name string, partitions, replicationFactor int32, configs map[string]string) client.Topic {
	t.Helper()
	return create(t, c, client.TopicSpec{Name: name, Partitions: &partitions, ReplicationFactor: &replicationFactor, Configs: configs})
}

// create makes a topic, also where the active controller changes meanwhile: then it is there, or can be made.
func create(t *testing.T, c *client.Client, spec client.TopicSpec) client.Topic {
	t.Helper()
	ctx := bounded(t, time.Minute)
	topic, err := c.CreateTopic(ctx, spec)
	for client.IsName(err, "UNKNOWN_OUTCOME") {
		if topic, err = c.CreateTopic(ctx, spec); client.IsName(err, "TOPIC_ALREADY_EXISTS") {
			var made client.TopicDescription
			made, err = c.DescribeTopic(ctx, spec.Name)
			topic = made.Topic
		}
	}
	if err != nil {
		t.Fatalf("create topic %s: %v", spec.Name, err)
	}
	return topic
}

func wantName(t *testing.T, err error, name string) *client.Error {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || !client.IsName(err, name) {
		t.Fatalf("got %v, want %s", err, name)
	}
	return e
}

func TestPartitionsAddedWhileClientsRun(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	ctx := bounded(t, time.Minute)
	before := createSmall(t, c, "grows", 2, 3, nil)
	producer := newProducer(t, c, client.ProducerConfig{})
	consumer := followTopic(t, c, "grows")
	if _, err := producer.ProduceSync(ctx, client.Record{Topic: "grows", Value: []byte("0")}); err != nil {
		t.Fatal(err)
	}
	for _, total := range []int32{1, 2} {
		_, err := c.AddPartitions(ctx, "grows", total, false)
		wantName(t, err, "INVALID_PARTITIONS")
	}
	_, err := c.AddPartitions(ctx, "none", 4, false)
	wantName(t, err, "UNKNOWN_TOPIC_OR_PARTITION")
	plan, err := c.AddPartitions(ctx, "grows", 5, true)
	if err != nil || len(plan.Partitions) != 3 || plan.Partitions[0].Partition != 2 {
		t.Fatalf("%+v, %v", plan, err)
	}
	if now, err := c.DescribeTopic(ctx, "grows"); err != nil || len(now.Partitions) != 2 {
		t.Fatalf("planning changed something: %+v, %v", now, err)
	}
	if added, err := c.AddPartitions(ctx, "grows", 5, false); err != nil || len(added.Partitions) != 3 || added.Name != "grows" {
		t.Fatalf("%+v, %v", added, err)
	}
	var now client.TopicDescription
	cluster.Await("every broker knows them", func() (err error) {
		if now, err = c.DescribeTopic(ctx, "grows"); err != nil || len(now.Partitions) != 5 || now.ID != before.ID {
			return fmt.Errorf("%+v, %w", now.Topic, err)
		}
		return nil
	})
	for i, old := range before.Partitions {
		if fmt.Sprint(now.Partitions[i].Replicas) != fmt.Sprint(old.Replicas) || now.Partitions[i].LeaderEpoch != old.LeaderEpoch {
			t.Errorf("partition %d was changed: %+v after %+v", i, now.Partitions[i], old)
		}
	}
	// Neither client is told: both find the new partitions by themselves.
	want, used := map[string]bool{"0": true}, map[int32]bool{}
	for i := 1; len(used) < 5; i++ {
		value := strconv.Itoa(i)
		receipts, err := producer.ProduceSync(ctx, client.Record{Topic: "grows", Key: []byte(value), Value: []byte(value)})
		if err != nil {
			t.Fatal(err)
		}
		want[value], used[receipts[0].Partition] = true, true
	}
	for len(want) > 0 {
		fetch, err := consumer.Poll(ctx)
		if err != nil || fetch.Err != nil {
			t.Fatal(err, fetch.Err)
		}
		for _, r := range fetch.Records {
			if !want[string(r.Value)] {
				t.Fatalf("%q came twice, or from nowhere", r.Value)
			}
			delete(want, string(r.Value))
		}
	}
}

// segmentFiles counts the segments of a topic on a node.
func segmentFiles(t *testing.T, cluster *testcluster.Cluster, node int, topicID string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cluster.DataDir(node), "topics", topicID, "*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestTopicSettingsTakeEffectAtOnce(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	ctx := bounded(t, 2*time.Minute)
	topic := createSmall(t, c, "topic", 1, 3, nil)
	producer := newProducer(t, c, client.ProducerConfig{DeliveryTimeout: 20 * time.Second})
	set := func(kv ...string) {
		t.Helper()
		change := client.TopicConfigChange{Set: map[string]string{}}
		for i := 0; i < len(kv); i += 2 {
			change.Set[kv[i]] = kv[i+1]
		}
		if _, err := c.AlterTopicConfig(ctx, "topic", change); err != nil {
			t.Fatal(err)
		}
	}
	produce := func(r client.Record) (client.Receipt, error) {
		r.Topic = "topic"
		receipts, err := producer.ProduceSync(ctx, r)
		return receipts[0], err
	}
	_, err := c.AlterTopicConfig(ctx, "topic", client.TopicConfigChange{Set: map[string]string{"segment.byte": "16384"}})
	if e := wantName(t, err, "INVALID_CONFIG"); !strings.Contains(e.Error(), `"segment.bytes"`) {
		t.Error(e)
	}

	set("segment.bytes", "16384")
	big := make([]byte, 8<<10)
	for range 8 {
		if _, err := produce(client.Record{Value: big}); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Await("all replicas have small segments", func() error {
		for node := 1; node <= 3; node++ {
			if n := segmentFiles(t, cluster, node, topic.ID); n < 4 {
				return fmt.Errorf("node %d has %d", node, n)
			}
		}
		return nil
	})

	set("max.message.bytes", "1024")
	cluster.Await("the leader refuses large batches", func() error {
		_, err := produce(client.Record{Value: big})
		if e := new(client.Error); !errors.As(err, &e) || !e.Definite {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	if _, err := c.AlterTopicConfig(ctx, "topic", client.TopicConfigChange{
		Set: map[string]string{"message.timestamp.type": "LogAppendTime"}, Unset: []string{"max.message.bytes"},
	}); err != nil {
		t.Fatal(err)
	}
	cluster.Await("records get the time of the append", func() error {
		receipt, err := produce(client.Record{Value: big, TimestampMs: 1000})
		if err != nil {
			return err
		}
		if got := recordAt(t, c, receipt.Offset); got.TimestampMs != receipt.AppendTimeMs {
			return fmt.Errorf("the record at %d has time %d, appended at %d", receipt.Offset, got.TimestampMs, receipt.AppendTimeMs)
		}
		return nil
	})

	set("flush.mode", "os")
	cluster.Await("records are acknowledged in os mode", func() error { _, err := produce(client.Record{Value: big}); return err })
	set("flush.mode", "fsync")
	cluster.Await("records are acknowledged on all disks", func() error {
		r, err := produce(client.Record{Value: big})
		if err == nil && r.FSynced < 2 {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})

	set("min.insync.replicas", "3")
	leader := cluster.LeaderOf("topic", 0)
	cluster.Kill(leader%3 + 1)
	impatient := newProducer(t, c, client.ProducerConfig{DeliveryTimeout: time.Second})
	cluster.Await("two replicas are not enough", func() error {
		_, err := impatient.ProduceSync(ctx, client.Record{Topic: "topic", Value: []byte("x")})
		if err == nil || !strings.Contains(err.Error(), "NOT_ENOUGH_REPLICAS") {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	if _, err := c.AlterTopicConfig(ctx, "topic", client.TopicConfigChange{Unset: []string{"min.insync.replicas"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := produce(client.Record{Value: []byte("two are enough again")}); err != nil {
		t.Fatal(err)
	}
}

// recordAt reads one record of partition 0 of the topic "topic".
func recordAt(t *testing.T, c *client.Client, offset int64) client.Record {
	t.Helper()
	k, err := c.NewConsumer(client.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := bounded(t, time.Minute)
	if err := k.Assign(ctx, client.Assignment{Topic: "topic", From: client.AtOffset(offset), To: client.AtOffset(offset + 1)}); err != nil {
		t.Fatal(err)
	}
	for {
		fetch, err := k.Poll(ctx)
		if err != nil || fetch.Err != nil {
			t.Fatal(err, fetch.Err)
		}
		if len(fetch.Records) > 0 {
			return fetch.Records[0].Clone()
		}
	}
}

// A broker that lost its disk begins where the trimmed leader begins, knows the producers, and leads without refusing them.
func TestTrimmedTopicSurvivesANewReplicaAsLeader(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	ctx := bounded(t, 2*time.Minute)
	createTopic(t, c, "topic", 3, map[string]string{"segment.bytes": "16384"})
	producer := newProducer(t, c, client.ProducerConfig{})
	produce := func(tag string) {
		t.Helper()
		for p := range int32(partitions) {
			var done sync.WaitGroup
			var failed atomic.Pointer[error]
			for i := range 30 {
				done.Add(1)
				r := client.Record{Topic: "topic", Value: fmt.Appendf(nil, "%s-%d-%d-%01000d", tag, p, i, i)}
				err := producer.ProduceTo(ctx, p, r, func(_ client.Receipt, err error) {
					defer done.Done()
					if err != nil {
						failed.Store(&err)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			done.Wait()
			if err := failed.Load(); err != nil {
				t.Fatalf("%s: %v", tag, *err)
			}
		}
	}
	produce("first")
	for p := range int32(partitions) {
		if plan, err := c.TrimPartition(ctx, "topic", p, 25, true); err != nil || plan.Start != 25 || plan.PreviousStart != 0 || plan.HighWatermark != 30 {
			t.Fatalf("%+v, %v", plan, err)
		}
		if start, err := c.ListOffset(ctx, "topic", p, client.AtStart()); err != nil || start != 0 {
			t.Fatalf("planning trimmed: %d, %v", start, err)
		}
		to := []int64{25, client.TrimToEnd, 30}[p%3]
		if done, err := c.TrimPartition(ctx, "topic", p, to, false); err != nil || done.Start < 25 {
			t.Fatalf("%+v, %v", done, err)
		}
	}
	k, err := c.NewConsumer(client.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, k.Close)
	if err := k.Assign(ctx, client.Assignment{Topic: "topic", From: client.AtOffset(24)}); err != nil {
		t.Fatal(err)
	}
	if fetch, err := k.Poll(ctx); err != nil {
		t.Fatal(err)
	} else {
		wantName(t, fetch.Err, "OFFSET_OUT_OF_RANGE")
	}

	cluster.Stop(3)
	if err := os.RemoveAll(filepath.Join(cluster.DataDir(3), "topics")); err != nil {
		t.Fatal(err)
	}
	cluster.Restart(3)
	cluster.AwaitHealthy()
	led := func() (n int) {
		for p := range int32(partitions) {
			if cluster.LeaderOf("topic", p) == 3 {
				n++
			}
		}
		return n
	}
	for _, node := range []int{1, 2} { // one after the other makes way
		cluster.Kill(node)
		produce(fmt.Sprintf("without-%d", node))
		if led() > 0 {
			break
		}
		cluster.Restart(node)
		cluster.AwaitHealthy()
	}
	if led() == 0 {
		t.Fatal("node 3 leads nothing")
	}
	for p := range int32(partitions) {
		offsets, err := c.ListOffsets(ctx, "topic", p, client.AtStart(), client.AtEnd())
		if err != nil || offsets[0] < 25 || offsets[1] < 60 {
			t.Errorf("partition %d: %v, %v", p, offsets, err)
		}
	}
}

func TestRecreatedTopicIsAnotherOne(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	ctx := bounded(t, 2*time.Minute)
	old := createSmall(t, c, "topic", 1, 3, nil)
	producer := newProducer(t, c, client.ProducerConfig{})
	if _, err := producer.ProduceSync(ctx, client.Record{Topic: "topic", Value: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	consumer := followTopic(t, c, "topic")
	if fetch, err := consumer.Poll(ctx); err != nil || len(fetch.Records) != 1 {
		t.Fatal(fetch, err)
	}
	if err := c.DeleteTopic(ctx, "topic"); err != nil {
		t.Fatal(err)
	}
	fresh := createSmall(t, c, "topic", 1, 3, nil)
	if fresh.ID == old.ID {
		t.Fatal("the same id")
	}
	// What was meant for the old topic never gets into the new one, and the producer says so.
	_, err := producer.ProduceSync(ctx, client.Record{Topic: "topic", Value: []byte("for the old topic")})
	if e := wantName(t, err, "UNKNOWN_TOPIC_ID"); !e.Definite {
		t.Errorf("the outcome is left open: %v", e)
	}
	// The consumer of the old topic reports, and never sees records of the new one.
	other := newProducer(t, cluster.Client(), client.ProducerConfig{})
	if _, err := other.ProduceSync(ctx, client.Record{Topic: "topic", Value: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	fetch, err := consumer.Poll(ctx)
	if err != nil || len(fetch.Records) != 0 {
		t.Fatal(fetch, err)
	}
	var gone *client.Error
	if !errors.As(fetch.Err, &gone) || (gone.Name != "UNKNOWN_TOPIC_ID" && gone.Name != "UNKNOWN_TOPIC_OR_PARTITION") {
		t.Errorf("the consumer was told %v", fetch.Err)
	}
	// Once it was told, the producer takes the new topic.
	cluster.Await("the producer takes the new topic", func() error {
		_, err := producer.ProduceSync(ctx, client.Record{Topic: "topic", Value: []byte("for the new topic")})
		if err != nil {
			wantName(t, err, "UNKNOWN_TOPIC_ID")
		}
		return err
	})
	again := followTopic(t, c, "topic")
	var got []string
	for len(got) < 2 {
		fetch, err := again.Poll(ctx)
		if err != nil || fetch.Err != nil {
			t.Fatal(err, fetch.Err)
		}
		for _, r := range fetch.Records {
			got = append(got, string(r.Value))
		}
	}
	if fmt.Sprint(got) != "[new for the new topic]" {
		t.Errorf("the new topic holds %q", got)
	}
	refuseOldID(t, ctx, dial(t, cluster.ClientAddress(cluster.LeaderOf("topic", 0))), old.ID)
}

// refuseOldID asks with the id of a deleted topic, as clients do that keep it.
func refuseOldID(t *testing.T, ctx context.Context, conn *grpc.ClientConn, oldID string) { //nolint:revive // t goes first in tests
	t.Helper()
	id, err := model.ParseUUID(oldID)
	if err != nil {
		t.Fatal(err)
	}
	admin := penstockv1.NewAdminServiceClient(conn)
	_, err = admin.TrimPartition(ctx, &penstockv1.TrimPartitionRequest{Topic: "topic", TopicId: id.Bytes(), ToOffset: -1})
	wantCode(t, err, model.CodeUnknownTopicID)
	_, err = admin.AddPartitions(ctx, &penstockv1.AddPartitionsRequest{Name: "topic", TopicId: id.Bytes(), Total: 9})
	wantCode(t, err, model.CodeUnknownTopicID)
	_, err = admin.AlterTopicConfig(ctx, &penstockv1.AlterTopicConfigRequest{
		Name: "topic", TopicId: id.Bytes(), Set: map[string]string{"flush.mode": "os"},
	})
	wantCode(t, err, model.CodeUnknownTopicID)
	_, err = penstockv1.NewConsumerServiceClient(conn).ListOffsets(ctx, &penstockv1.ListOffsetsRequest{
		Topic: "topic", TopicId: id.Bytes(), Queries: []*penstockv1.OffsetQuery{{}},
	})
	wantCode(t, err, model.CodeUnknownTopicID)
	producer := penstockv1.NewProducerServiceClient(conn)
	for _, name := range []string{"", "topic"} {
		_, err = producer.ProduceOnce(ctx, &penstockv1.ProduceRequest{
			Topic: name, TopicId: id.Bytes(), Records: []*penstockv1.Record{{Value: []byte("with the old id")}},
		})
		wantCode(t, err, model.CodeUnknownTopicID)
	}
	fetched, err := penstockv1.NewConsumerServiceClient(conn).FetchOnce(ctx, &penstockv1.FetchOnceRequest{
		Partitions: []*penstockv1.FetchSubscribe{{Topic: "topic", TopicId: id.Bytes()}},
	})
	if err == nil && len(fetched.GetPartitions()) == 1 {
		if e := fetched.GetPartitions()[0]; e.GetError().GetCode() != penstockv1.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC_ID || len(e.GetRecords()) != 0 || len(e.GetBatches()) != 0 {
			t.Errorf("%v", e)
		}
		return
	}
	wantCode(t, err, model.CodeUnknownTopicID)
}

func TestTopicsDeletedWhileABrokerWasDown(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	ctx := bounded(t, 2*time.Minute)
	gone := createSmall(t, c, "gone", 3, 3, nil)
	again := createSmall(t, c, "again", 3, 3, nil)
	stays := createSmall(t, c, "stays", 3, 3, nil)
	producer := newProducer(t, c, client.ProducerConfig{})
	for _, name := range []string{"gone", "again", "stays"} {
		if _, err := producer.ProduceSync(ctx, client.Record{Topic: name, Value: []byte("old")}); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Await("node 3 has the logs", func() error {
		for _, topic := range []client.Topic{gone, again, stays} {
			if n := segmentFiles(t, cluster, 3, topic.ID); n != 3 {
				return fmt.Errorf("%d of %s", n, topic.Name)
			}
		}
		return nil
	})
	cluster.Kill(3)
	for _, name := range []string{"gone", "again"} {
		if err := c.DeleteTopic(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	fresh := createSmall(t, c, "again", 3, 3, nil)
	other := newProducer(t, cluster.Client(), client.ProducerConfig{})
	if _, err := other.ProduceSync(ctx, client.Record{Topic: "again", Value: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	cluster.Await("those that run have deleted and reported", func() error {
		for _, d := range cluster.Node(1).Image().DeletedTopics() {
			if len(d.Holders) != 1 || d.Holders[0] != 3 {
				return fmt.Errorf("%s is held by %v", d.Name, d.Holders)
			}
		}
		return nil
	})
	if n := len(cluster.Node(1).Image().DeletedTopics()); n != 2 {
		t.Fatalf("%d deletions wait for node 3", n)
	}
	if segmentFiles(t, cluster, 3, gone.ID) == 0 {
		t.Fatal("node 3 deleted while it was down")
	}
	cluster.Restart(3)
	cluster.AwaitHealthy()
	cluster.Await("node 3 has deleted and reported", func() error {
		if n := len(cluster.Node(3).Image().DeletedTopics()); n != 0 {
			return errLeft
		}
		return nil
	})
	for topic, want := range map[*client.Topic]int{&gone: 0, &again: 0, &stays: 3, &fresh: 3} {
		if n := segmentFiles(t, cluster, 3, topic.ID); n != want {
			t.Errorf("%s of id %s has %d segments on node 3, want %d", topic.Name, topic.ID, n, want)
		}
	}
	if strays, err := filepath.Glob(filepath.Join(cluster.DataDir(3), "topics", "*", "*.stray")); err != nil || len(strays) != 0 {
		t.Errorf("set aside: %v, %v", strays, err)
	}
}
