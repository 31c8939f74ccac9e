//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
)

// killsEnv sets how often the node is killed; the default keeps the test short.
const killsEnv = "PENSTOCK_TEST_KILLS"

func kills(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv(killsEnv))
	if err != nil {
		return 5
	}
	return n
}

func singleNode(t *testing.T) (configFile, address string) {
	t.Helper()
	plan := devPlan{brokers: 1, port: freePorts(t, 1), dir: t.TempDir()}
	if err := plan.prepare(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(plan.nodeDir(1), configName), plan.address(1, 0)
}

// ledger is what a producer was told.
type ledger struct {
	mu    sync.Mutex
	acked map[string]client.Receipt
	count atomic.Int64
}

func (l *ledger) note(value string, r client.Receipt, err error) {
	if err != nil {
		return // it may or may not be there
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[value] = r
	l.count.Add(1)
}

// A node that holds the only replica is killed again and again while it takes records: whatever it acknowledged is there.
func TestKill9LosesNothingAcknowledged(t *testing.T) {
	configFile, address := singleNode(t)
	node := launch(t, "--config", configFile)
	c := connect(t, address)
	await(t, "the node is healthy", healthy(c, 1))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if _, err := c.CreateTopic(ctx, client.TopicSpec{Name: "t", Partitions: new(int32(3)), ReplicationFactor: new(int32(1))}); err != nil {
		t.Fatal(err)
	}
	producer, err := c.NewProducer(ctx, client.ProducerConfig{BatchBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	book := &ledger{acked: map[string]client.Receipt{}}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-pace.C:
			}
			for j := range 10 {
				value := fmt.Sprintf("%d-%d", i, j)
				record := client.Record{Topic: "t", Key: fmt.Appendf(nil, "%d", j), Value: []byte(value)}
				if err := producer.Produce(ctx, record, func(r client.Receipt, err error) { book.note(value, r, err) }); err != nil {
					return
				}
			}
		}
	}()
	for range kills(t) {
		before := book.count.Load()
		await(t, "records are acknowledged", func() bool { return book.count.Load() > before+200 })
		node.signal(syscall.SIGKILL)
		if code := node.exit(); code != -1 {
			t.Fatalf("it ended by itself, with %d", code)
		}
		node = launch(t, "--config", configFile)
	}
	before := book.count.Load()
	await(t, "records are acknowledged again", func() bool { return book.count.Load() > before })
	close(stop)
	<-stopped
	if err := producer.Close(ctx); err != nil {
		t.Fatal(err)
	}
	checkLedger(ctx, t, c, book)
	node.signal(syscall.SIGTERM)
	if code := node.exit(); code != exitOK {
		t.Errorf("exit status %d after a clean stop", code)
	}
}

func checkLedger(ctx context.Context, t *testing.T, c *client.Client, book *ledger) {
	t.Helper()
	consumer, err := c.NewConsumer(client.ConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := consumer.Close(); err != nil {
			t.Error(err)
		}
	}()
	for p := range int32(3) {
		if err := consumer.Assign(ctx, client.Assignment{Topic: "t", Partition: p, From: client.AtStart(), To: client.AtEnd()}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]int{}
	for {
		fetch, err := consumer.Poll(ctx)
		if errors.Is(err, client.ErrDone) {
			break
		}
		if err = errors.Join(err, fetch.Err); err != nil {
			t.Fatal(err)
		}
		for _, r := range fetch.Records {
			seen[string(r.Value)]++
			if receipt, ok := book.acked[string(r.Value)]; ok && receipt.Offset >= 0 && receipt.Offset != r.Offset {
				t.Errorf("%s was acknowledged at offset %d and stands at %d", r.Value, receipt.Offset, r.Offset)
			}
		}
	}
	for value := range book.acked {
		if seen[value] != 1 {
			t.Errorf("%s was acknowledged and stands there %d times", value, seen[value])
		}
	}
	t.Logf("%d records acknowledged, %d in the log", len(book.acked), len(seen))
}
