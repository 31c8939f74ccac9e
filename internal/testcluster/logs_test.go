package testcluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/testcluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const partitions = 6

func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func createTopic(t *testing.T, c *client.Client, name string, replicationFactor int32, configs map[string]string) {
	t.Helper()
	create(t, c, client.TopicSpec{
		Name: name, Partitions: new(int32(partitions)), ReplicationFactor: new(replicationFactor), Configs: configs,
	})
}

// expected is what was produced: the values of each key, in order.
type expected map[string][][]byte

// keyOfLine is a field of the line, so that there are hundreds of keys.
func keyOfLine(line []byte) []byte {
	fields := bytes.Fields(line)
	if len(fields) == 0 {
		return []byte("empty")
	}
	return fields[len(fields)-1]
}

func produceLogs(t *testing.T, c *client.Client, topic string, key func(testcluster.SampleLog, []byte) []byte) expected {
	t.Helper()
	ctx := bounded(t, 2*time.Minute)
	producer, err := c.NewProducer(ctx, client.ProducerConfig{BatchBytes: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	want := expected{}
	var mu sync.Mutex
	var failures []error
	for _, log := range testcluster.SampleLogs(t) {
		for _, line := range log.Lines {
			k := key(log, line)
			want[string(k)] = append(want[string(k)], line)
			err := producer.Produce(ctx, client.Record{Topic: topic, Key: k, Value: line}, func(_ client.Receipt, err error) {
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					failures = append(failures, err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := producer.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if len(failures) > 0 {
		t.Fatalf("%d records failed, the first: %v", len(failures), failures[0])
	}
	return want
}

// consumeAll reads a topic from start to end.
func consumeAll(t *testing.T, c *client.Client, topic string) []client.Record {
	t.Helper()
	ctx := bounded(t, 2*time.Minute)
	consumer, err := c.NewConsumer(client.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := consumer.Close(); err != nil {
			t.Error(err)
		}
	}()
	for p := range int32(partitions) {
		if err := consumer.Assign(ctx, client.Assignment{Topic: topic, Partition: p, From: client.AtStart(), To: client.AtEnd()}); err != nil {
			t.Fatal(err)
		}
	}
	var records []client.Record
	for {
		fetch, err := consumer.Poll(ctx)
		if errors.Is(err, client.ErrDone) {
			return records
		}
		if err == nil {
			err = fetch.Err
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range fetch.Records {
			records = append(records, r.Clone())
		}
	}
}

func verify(t *testing.T, c *client.Client, topic string, want expected) {
	t.Helper()
	got := expected{}
	for _, r := range consumeAll(t, c, topic) {
		got[string(r.Key)] = append(got[string(r.Key)], r.Value)
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d keys, want %d", topic, len(got), len(want))
	}
	for key, values := range want {
		if len(got[key]) != len(values) {
			t.Errorf("%s: key %q has %d records, want %d", topic, key, len(got[key]), len(values))
			continue
		}
		for i := range values {
			if !bytes.Equal(got[key][i], values[i]) {
				t.Errorf("%s: key %q, record %d: got %q, want %q", topic, key, i, got[key][i], values[i])
				break
			}
		}
	}
}

func TestRealLogsSurviveStopsAndKills(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3})
	c := cluster.Client()
	createTopic(t, c, "by-file", 3, nil)
	createTopic(t, c, "by-field", 3, nil)
	byFile := produceLogs(t, c, "by-file", func(l testcluster.SampleLog, _ []byte) []byte { return []byte(l.Name) })
	byField := produceLogs(t, c, "by-field", func(_ testcluster.SampleLog, line []byte) []byte { return keyOfLine(line) })
	check := func(when string) {
		t.Helper()
		t.Run(when, func(t *testing.T) {
			verify(t, c, "by-file", byFile)
			verify(t, c, "by-field", byField)
		})
	}
	check("at first")
	cluster.StopAll()
	compareReplicas(t, cluster)
	cluster.RestartAll()
	cluster.AwaitHealthy()
	check("after all were stopped and started")
	cluster.KillAll()
	cluster.RestartAll()
	cluster.AwaitHealthy()
	check("after all were killed")
	for i := 1; i <= cluster.Nodes(); i++ {
		cluster.Kill(i)
		check(fmt.Sprintf("while node %d is down", i))
		cluster.Restart(i)
		cluster.AwaitHealthy()
	}
	check("at last")
	cluster.StopAll()
	compareReplicas(t, cluster)
}
