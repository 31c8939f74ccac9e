package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/record"
)

func newTestConsumer(t testing.TB, c *Client, config ConsumerConfig) *Consumer {
	t.Helper()
	k, err := c.NewConsumer(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// fill appends n records of 8 bytes to a partition, in batches of up to 5, and returns nothing: record i stands at i.
func (c *fakeCluster) fill(t *fakeTopic, partition, n int, codec record.Codec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := t.partitions[partition]
	b := record.NewBuilder(record.BuilderOptions{})
	for i := 0; i < n; {
		b.Reset()
		for range min(1+c.rng.IntN(5), n-i) {
			r := record.Record{
				Key: fmt.Appendf(nil, "%d", i%3), Value: binary.BigEndian.AppendUint64(make([]byte, 0, 40), uint64(i)), Timestamp: int64(1000 + i),
			}
			r.Value = append(r.Value, make([]byte, 32)...)
			if i%7 == 0 {
				r.Headers = []record.RecordHeader{{Key: "h", Value: []byte{byte(i)}}}
			}
			if err := b.Add(r); err != nil {
				c.tb.Fatal(err)
			}
			i++
		}
		data, err := b.Finish(codec, -1, -1, -1)
		if err != nil {
			c.tb.Fatal(err)
		}
		data = slices.Clone(data)
		h, err := record.ParseHeader(data)
		if err != nil {
			c.tb.Fatal(err)
		}
		record.PutHead(data, p.end, h.Length, p.epoch)
		h.BaseOffset = p.end
		p.batches = append(p.batches, fakeBatch{header: h, data: data})
		p.end = h.NextOffset()
	}
	p.committed = p.end
}

// read polls until every range has ended and checks that each partition's records come in order without a gap.
func read(t *testing.T, k *Consumer, from map[int32]int64) map[int32]int64 {
	t.Helper()
	next := map[int32]int64{}
	for p, offset := range from {
		next[p] = offset
	}
	for {
		f, err := k.Poll(testContext(t))
		if errors.Is(err, ErrDone) {
			return next
		}
		if err != nil || f.Err != nil {
			t.Fatalf("%v, %v", err, f.Err)
		}
		for _, r := range f.Records {
			if r.Offset != next[f.Partition] || r.Partition != f.Partition || r.Topic != "t" {
				t.Fatalf("got %s/%d offset %d, want %d", r.Topic, r.Partition, r.Offset, next[f.Partition])
			}
			if v := int64(binary.BigEndian.Uint64(r.Value)); v != r.Offset || r.TimestampMs != 1000+v {
				t.Fatalf("record %d at offset %d, time %d", v, r.Offset, r.TimestampMs)
			}
			if (r.Offset%7 == 0) != (len(r.Headers) == 1 && r.Headers[0].Key == "h" && r.Headers[0].Value[0] == byte(r.Offset)) {
				t.Fatalf("headers %v at %d", r.Headers, r.Offset)
			}
			next[f.Partition]++
		}
		if p, ok := k.Position("t", f.Partition); !ok || p != f.NextOffset {
			t.Fatalf("position %d, %v, want %d", p, ok, f.NextOffset)
		}
	}
}

func TestConsumeThroughFaults(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	fake := newFakeCluster(t, 3, seed)
	topic := fake.addTopic("t", 3)
	for i, codec := range []record.Codec{record.None, record.Zstd, record.LZ4} {
		fake.fill(topic, i, 4000, codec)
	}
	fake.setFaults(faults{moveLeader: 40, cutFetch: 40})
	k := newTestConsumer(t, fake.dial(), ConsumerConfig{CreditBytes: 2000})
	var list []Assignment
	for i := range int32(3) {
		list = append(list, Assignment{Topic: "t", Partition: i, From: AtStart(), To: AtEnd()})
	}
	if err := k.Assign(testContext(t), list...); err != nil {
		t.Fatal(err)
	}
	for p, next := range read(t, k, map[int32]int64{0: 0, 1: 0, 2: 0}) {
		if next != 4000 {
			t.Errorf("partition %d ended at %d", p, next)
		}
	}
	fake.mu.Lock()
	defer fake.mu.Unlock()
	t.Logf("faults: %v", fake.counts)
	if fake.counts["moved"] == 0 || fake.counts["fetch cut"] == 0 {
		t.Error("the faults did not bite")
	}
}

func TestRanges(t *testing.T) {
	fake := newFakeCluster(t, 2, 3)
	topic := fake.addTopic("t", 1)
	fake.fill(topic, 0, 100, record.Gzip)
	c := fake.dial()
	for name, want := range map[string]struct {
		from, to   Position
		first, end int64
	}{
		"start to end":  {AtStart(), AtEnd(), 0, 100},
		"N..M":          {AtOffset(13), AtOffset(17), 13, 17},
		"+N":            {AfterStart(90), AtEnd(), 90, 100},
		"-N":            {BeforeEnd(3), AtEnd(), 97, 100},
		"more than all": {BeforeEnd(1000), AtOffset(2), 0, 2},
		"empty":         {AtEnd(), AtEnd(), 100, 100},
		"backwards":     {AtOffset(50), AtOffset(20), 50, 50},
		"log end":       {AtOffset(99), AtLogEnd(), 99, 100},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTestConsumer(t, c, ConsumerConfig{})
			if err := k.Assign(testContext(t), Assignment{Topic: "t", From: want.from, To: want.to}); err != nil {
				t.Fatal(err)
			}
			if got := read(t, k, map[int32]int64{0: want.first}); got[0] != want.end {
				t.Errorf("ended at %d, want %d", got[0], want.end)
			}
		})
	}
	if offset, err := c.ListOffset(testContext(t), "t", 0, AtTime(time.UnixMilli(1050))); err != nil || offset > 50 || offset < 45 {
		t.Errorf("time: %d, %v", offset, err)
	}
	if offset, err := c.ListOffset(testContext(t), "t", 0, AtTime(time.UnixMilli(5000))); err != nil || offset != 100 {
		t.Errorf("late time: %d, %v", offset, err)
	}
}

func TestConsumerWaitsForRecords(t *testing.T) {
	fake := newFakeCluster(t, 2, 3)
	fake.addTopic("t", 1)
	c := fake.dial()
	k := newTestConsumer(t, c, ConsumerConfig{})
	if err := k.Assign(testContext(t), Assignment{Topic: "t", From: AtEnd()}); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := k.Poll(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	p := newTestProducer(t, c, ProducerConfig{})
	if _, err := p.ProduceSync(testContext(t), Record{Topic: "t", Value: nil, Key: []byte("k")}); err != nil {
		t.Fatal(err)
	}
	f, err := k.Poll(testContext(t))
	if err != nil || len(f.Records) != 1 || f.Records[0].Value != nil || string(f.Records[0].Key) != "k" {
		t.Fatalf("%+v, %v", f, err)
	}
	k.Unassign("t", 0)
	if _, err := k.Poll(testContext(t)); !errors.Is(err, ErrDone) {
		t.Errorf("%v", err)
	}
}

func TestLiesAreCorruptBatch(t *testing.T) {
	for name, damage := range map[string]func(*fakeBatch){
		"flipped bit": func(b *fakeBatch) { b.data[len(b.data)-1] ^= 1 },
		"cut off":     func(b *fakeBatch) { b.data = b.data[:len(b.data)-1] },
		"magic":       func(b *fakeBatch) { b.data[16] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			fake := newFakeCluster(t, 1, 3)
			topic := fake.addTopic("t", 1)
			fake.fill(topic, 0, 50, record.None)
			damage(&topic.partitions[0].batches[0])
			k := newTestConsumer(t, fake.dial(), ConsumerConfig{})
			if err := k.Assign(testContext(t), Assignment{Topic: "t", From: AtStart()}); err != nil {
				t.Fatal(err)
			}
			f, err := k.Poll(testContext(t))
			if err != nil || !IsName(f.Err, "CORRUPT_BATCH") || len(f.Records) != 0 {
				t.Fatalf("%+v, %v", f, err)
			}
			if _, err := k.Poll(testContext(t)); !errors.Is(err, ErrDone) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestCompressedLies damages the compressed body and mends the checksum: only decoding finds it.
func TestCompressedLies(t *testing.T) {
	fake := newFakeCluster(t, 1, 3)
	topic := fake.addTopic("t", 1)
	fake.fill(topic, 0, 50, record.Zstd)
	b := topic.partitions[0].batches[0]
	for i := record.HeaderSize + 1; i < len(b.data); i++ {
		b.data[i] = 0xff
	}
	if b.header.Codec() == record.None {
		t.Skip("the batch was too small to be compressed")
	}
	if err := record.SetProducer(b.data, -1, -1, -1); err != nil { // writes the checksum anew
		t.Fatal(err)
	}
	k := newTestConsumer(t, fake.dial(), ConsumerConfig{})
	if err := k.Assign(testContext(t), Assignment{Topic: "t", From: AtStart()}); err != nil {
		t.Fatal(err)
	}
	if f, err := k.Poll(testContext(t)); err != nil || !IsName(f.Err, "CORRUPT_BATCH") {
		t.Fatalf("%+v, %v", f, err)
	}
}

func TestConsumerErrors(t *testing.T) {
	t.Parallel()
	fake := newFakeCluster(t, 2, 3)
	topic := fake.addTopic("t", 1)
	fake.fill(topic, 0, 10, record.None)
	k := newTestConsumer(t, fake.dial(), ConsumerConfig{})
	ctx := testContext(t)
	for want, a := range map[string]Assignment{
		"UNKNOWN_TOPIC_OR_PARTITION": {Topic: "t", Partition: 7, From: AtStart()},
		"INVALID_TOPIC":              {Topic: "../x", From: AtStart()},
		"INVALID_REQUEST":            {Topic: "t"},
		"OFFSET_OUT_OF_RANGE":        {Topic: "t", From: AtOffset(-1)},
	} {
		if err := k.Assign(ctx, a); !IsName(err, want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := k.Assign(ctx, Assignment{Topic: "missing", From: AtStart()}); !IsName(err, "UNKNOWN_TOPIC_OR_PARTITION") {
		t.Errorf("%v", err)
	}
	if err := k.Assign(ctx, Assignment{Topic: "t", From: AtOffset(11)}); err != nil {
		t.Fatal(err)
	}
	if f, err := k.Poll(ctx); err != nil || !IsName(f.Err, "OFFSET_OUT_OF_RANGE") {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestDeletedTopicEndsConsumerAndProducer(t *testing.T) {
	t.Parallel()
	fake := newFakeCluster(t, 2, 3)
	topic := fake.addTopic("t", 1)
	fake.fill(topic, 0, 10, record.None)
	c := fake.dial()
	ctx := testContext(t)
	k := newTestConsumer(t, c, ConsumerConfig{})
	if err := k.Assign(ctx, Assignment{Topic: "t", From: AtEnd()}); err != nil {
		t.Fatal(err)
	}
	p := newTestProducer(t, c, ProducerConfig{})
	if _, err := p.ProduceSync(ctx, Record{Topic: "t", Value: binary.BigEndian.AppendUint64(nil, 10)}); err != nil {
		t.Fatal(err)
	}
	if f, err := k.Poll(ctx); err != nil || len(f.Records) != 1 {
		t.Fatalf("%+v, %v", f, err)
	}
	if err := c.DeleteTopic(ctx, "t"); err != nil {
		t.Fatal(err)
	}
	fresh := fake.addTopic("t", 1)
	if f, err := k.Poll(ctx); err != nil || f.Err == nil || asError(f.Err).Retryable && !IsName(f.Err, "UNKNOWN_TOPIC_OR_PARTITION") && !IsName(f.Err, "UNKNOWN_TOPIC_ID") {
		t.Errorf("%+v, %v", f, err)
	}
	// The producer goes on with the new topic, from sequence 0.
	deadline := time.Now().Add(30 * time.Second)
	for {
		receipts, err := p.ProduceSync(ctx, Record{Topic: "t", Value: []byte("x")})
		if err == nil {
			if receipts[0].Offset != 0 || fresh.partitions[0].end != 1 {
				t.Errorf("%+v", receipts)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
