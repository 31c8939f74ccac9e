package record

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// Interoperation with franz-go, an independent implementation of the format: a real producer sends its batches to a
// broker that lives in this test, over pipes; ours go through the code its consumer reads fetch responses with.

const (
	interopTopic      = "interop"
	interopProducerID = 4711
	interopEpoch      = 6
)

// pipeBroker answers just what a producer asks, and keeps the batches it is sent.
type pipeBroker struct {
	mu      sync.Mutex
	batches [][]byte
	failure error
}

func (b *pipeBroker) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go b.serve(server)
	return client, nil
}

// serve handles one connection until the client closes it.
func (b *pipeBroker) serve(conn net.Conn) {
	for {
		err := b.serveOne(conn)
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, io.ErrUnexpectedEOF) {
			b.mu.Lock()
			b.failure = err
			b.mu.Unlock()
		}
		_ = conn.Close() //nolint:errcheck // the client sees it closed either way
		return
	}
}

func (b *pipeBroker) serveOne(conn net.Conn) error {
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(conn, frame); err != nil {
		return err
	}
	req := kmsg.RequestForKey(int16(binary.BigEndian.Uint16(frame)))
	req.SetVersion(int16(binary.BigEndian.Uint16(frame[2:])))
	correlation, rest := frame[4:8], frame[8:]
	if n := int16(binary.BigEndian.Uint16(rest)); n > 0 { // the client id
		rest = rest[n:]
	}
	rest = rest[2:]
	if req.IsFlexible() {
		rest = rest[1:] // no tags
	}
	if err := req.ReadFrom(rest); err != nil {
		return fmt.Errorf("request %d version %d: %w", req.Key(), req.GetVersion(), err)
	}
	resp, err := b.answer(req)
	if err != nil {
		return err
	}
	resp.SetVersion(req.GetVersion())
	out := append(make([]byte, 4), correlation...)
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		out = append(out, 0)
	}
	out = resp.AppendTo(out)
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	_, err = conn.Write(out)
	return err
}

func (b *pipeBroker) answer(req kmsg.Request) (kmsg.Response, error) {
	switch req := req.(type) {
	case *kmsg.ApiVersionsRequest:
		resp := kmsg.NewPtrApiVersionsResponse()
		for _, k := range []struct {
			key kmsg.Key
			max int16
		}{{kmsg.Produce, 9}, {kmsg.Metadata, 8}, {kmsg.ApiVersions, 3}, {kmsg.InitProducerID, 4}} {
			resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: int16(k.key), MaxVersion: k.max})
		}
		return resp, nil
	case *kmsg.MetadataRequest:
		resp, topic := kmsg.NewPtrMetadataResponse(), kmsg.NewMetadataResponseTopic()
		resp.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "pipe", Port: 1}}
		topic.Topic = kmsg.StringPtr(interopTopic)
		topic.Partitions = []kmsg.MetadataResponseTopicPartition{{Leader: 1, Replicas: []int32{1}, ISR: []int32{1}}}
		resp.Topics = append(resp.Topics, topic)
		return resp, nil
	case *kmsg.InitProducerIDRequest:
		resp := kmsg.NewPtrInitProducerIDResponse()
		resp.ProducerID, resp.ProducerEpoch = interopProducerID, interopEpoch
		return resp, nil
	case *kmsg.ProduceRequest:
		b.mu.Lock()
		defer b.mu.Unlock()
		resp, topic := kmsg.NewPtrProduceResponse(), kmsg.NewProduceResponseTopic()
		topic.Topic = interopTopic
		p := kmsg.NewProduceResponseTopicPartition()
		p.BaseOffset = int64(len(b.batches)) * 1000
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		b.batches = append(b.batches, bytes.Clone(req.Topics[0].Partitions[0].Records))
		return resp, nil
	default:
		return nil, fmt.Errorf("a producer does not ask request %d", req.Key())
	}
}

func kgoCodecs() map[Codec]kgo.CompressionCodec {
	return map[Codec]kgo.CompressionCodec{
		None: kgo.NoCompression(), Gzip: kgo.GzipCompression(), Snappy: kgo.SnappyCompression(),
		LZ4: kgo.Lz4Compression(), Zstd: kgo.ZstdCompression(),
	}
}

// theirBatches lets a franz-go producer send the records and returns the batches it made.
func theirBatches(t *testing.T, records []Record, opts ...kgo.Opt) [][]byte {
	t.Helper()
	broker := new(pipeBroker)
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers("pipe:1"), kgo.Dialer(broker.dial), kgo.MaxVersions(kversion.V2_8_0()),
		kgo.DefaultProduceTopic(interopTopic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(50 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	out := make([]*kgo.Record, len(records))
	for i, r := range records {
		out[i] = &kgo.Record{Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp)}
		for _, h := range r.Headers {
			out[i].Headers = append(out[i].Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := client.ProduceSync(ctx, out...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	broker.mu.Lock()
	defer broker.mu.Unlock()
	if broker.failure != nil {
		t.Fatal(broker.failure)
	}
	return broker.batches
}

func TestInteropTheirBatches(t *testing.T) {
	records := sampleRecords(200)
	for codec, theirs := range kgoCodecs() {
		for _, idempotent := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s idempotent=%v", codec, idempotent), func(t *testing.T) {
				opts := []kgo.Opt{kgo.ProducerBatchCompression(theirs)}
				if !idempotent {
					opts = append(opts, kgo.DisableIdempotentWrite())
				}
				var got []Record
				for _, batch := range theirBatches(t, records, opts...) {
					h, err := Validate(pieces(batch, 1000), Limits{})
					if err != nil {
						t.Fatal(err)
					}
					switch {
					case h.Codec() != codec && int(h.Count) == len(records):
						t.Fatalf("codec %s", h.Codec())
					case idempotent && (h.ProducerID != interopProducerID || h.ProducerEpoch != interopEpoch || int(h.BaseSequence) != len(got)):
						t.Fatalf("producer fields of %+v after %d records", h, len(got))
					case !idempotent && (h.HasProducer() || h.LastSequence() != NoSequence):
						t.Fatalf("producer fields of %+v", h)
					}
					part, err := readAll(batch, Limits{})
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, part...)
				}
				if err := equalRecords(got, records); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestInteropOurBatches(t *testing.T) {
	records := sampleRecords(200)
	for _, codec := range Codecs() {
		t.Run(codec.String(), func(t *testing.T) {
			batch := buildBatch(t, codec, records)
			PutHead(batch, 5000, int32(len(batch)-lengthOverhead), 3)
			var rb kmsg.RecordBatch
			if err := rb.ReadFrom(batch); err != nil {
				t.Fatal(err)
			}
			if rb.FirstOffset != 5000 || rb.PartitionLeaderEpoch != 3 || rb.ProducerID != 7 || rb.ProducerEpoch != 2 ||
				rb.FirstSequence != 100 || int(rb.NumRecords) != len(records) || !bytes.Equal(rb.AppendTo(nil), batch) {
				t.Fatalf("%+v", rb)
			}
			fetched := kmsg.NewFetchResponseTopicPartition()
			fetched.RecordBatches = append(bytes.Clone(batch), batch[:70]...) // the last one cut off, as brokers do
			opts := kgo.ProcessFetchPartitionOpts{Topic: interopTopic, Offset: 5000}
			got, next := kgo.ProcessFetchPartition(opts, &fetched, kgo.DefaultDecompressor(), nil)
			if got.Err != nil || next != 5000+int64(len(records)) {
				t.Fatalf("next offset %d, %v", next, got.Err)
			}
			back := make([]Record, len(got.Records))
			for i, r := range got.Records {
				back[i] = Record{Key: r.Key, Value: r.Value, Timestamp: r.Timestamp.UnixMilli()}
				for _, h := range r.Headers {
					back[i].Headers = append(back[i].Headers, RecordHeader{Key: h.Key, Value: h.Value})
				}
				if r.Offset != 5000+int64(i) || r.ProducerID != 7 || r.ProducerEpoch != 2 || r.LeaderEpoch != 3 {
					t.Fatalf("record %d: %+v", i, r)
				}
			}
			if err := equalRecords(back, records); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A batch stamped by the leader, compressed or not, is one whose records all have the time of the append to their consumer too.
func TestInteropAppendTime(t *testing.T) {
	const appendTime = 1_800_000_000_123
	records := sampleRecords(50)
	for _, codec := range Codecs() {
		t.Run(codec.String(), func(t *testing.T) {
			batch := buildBatch(t, codec, records)
			StampAppendTime(batch, [][]byte{bytes.Clone(batch)}, appendTime)
			fetched := kmsg.NewFetchResponseTopicPartition()
			fetched.RecordBatches = batch
			opts := kgo.ProcessFetchPartitionOpts{Topic: interopTopic}
			got, _ := kgo.ProcessFetchPartition(opts, &fetched, kgo.DefaultDecompressor(), nil)
			if got.Err != nil || len(got.Records) != len(records) {
				t.Fatalf("%d records, %v", len(got.Records), got.Err)
			}
			ours, err := readAll(batch, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range got.Records {
				if r.Attrs.TimestampType() != 1 || r.Timestamp.UnixMilli() != appendTime || ours[i].Timestamp != appendTime {
					t.Fatalf("record %d: type %d, %d, ours says %d", i, r.Attrs.TimestampType(), r.Timestamp.UnixMilli(), ours[i].Timestamp)
				}
			}
		})
	}
}

// A transaction's marker as their types assemble it: read here, and refused from a producer, for brokers alone write it.
func TestInteropControlBatch(t *testing.T) {
	key := kmsg.ControlRecordKey{Type: kmsg.ControlRecordKeyTypeCommit}
	value := kmsg.EndTxnMarker{CoordinatorEpoch: 9}
	r := kmsg.Record{Key: key.AppendTo(nil), Value: value.AppendTo(nil)}
	r.Length = int32(len(r.AppendTo(nil))) - 1 // the length takes a byte, and does not count itself
	theirs := kmsg.RecordBatch{
		PartitionLeaderEpoch: 3, Magic: 2, Attributes: 0x30, FirstTimestamp: 1000, MaxTimestamp: 1000,
		ProducerID: interopProducerID, ProducerEpoch: interopEpoch, FirstSequence: NoSequence, NumRecords: 1, Records: r.AppendTo(nil),
	}
	theirs.Length = int32(len(theirs.AppendTo(nil)) - lengthOverhead)
	body := theirs.AppendTo(nil)
	theirs.CRC = int32(crc32.Checksum(body[posAttributes:], crc32.MakeTable(crc32.Castagnoli)))
	batch := theirs.AppendTo(nil)
	h, err := ParseHeader(batch)
	if err != nil || !h.IsControl() || !h.IsTransactional() || h.ProducerID != interopProducerID || h.ProducerEpoch != interopEpoch {
		t.Fatalf("%+v, %v", h, err)
	}
	got, err := readAll(batch, Limits{})
	if err != nil || len(got) != 1 || !bytes.Equal(got[0].Key, r.Key) || !bytes.Equal(got[0].Value, r.Value) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := Validate([][]byte{batch}, Limits{}); err == nil {
		t.Fatal("a producer may send a control batch")
	}
}

// Their own partitioner, which promises to be Kafka's, and ours choose alike.
func TestInteropPartitioner(t *testing.T) {
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic(interopTopic)
	for i := range 1000 {
		key := fmt.Appendf(nil, "key %d", i*i)
		for _, n := range []int32{1, 6, 50} {
			if got, want := Partition(key, n), theirs.Partition(&kgo.Record{Key: key}, int(n)); int(got) != want {
				t.Fatalf("%q of %d: %d, theirs is %d", key, n, got, want)
			}
		}
	}
}
