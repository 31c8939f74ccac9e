package server_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// compressed is the compression types that have a leader compress, and their codecs.
var compressed = map[string]record.Codec{
	"uncompressed": record.None, "gzip": record.Gzip, "snappy": record.Snappy, "lz4": record.LZ4, "zstd": record.Zstd,
}

func (n *node) create(name string, configs map[string]string) {
	n.Helper()
	if _, err := n.admin.CreateTopic(n.ctx, &penstockv1.CreateTopicRequest{Name: name, Partitions: new(int32(1)), Configs: configs}); err != nil {
		n.Fatal(err)
	}
}

// stored returns the batches of a topic as they are in the log.
func (n *node) stored(topic string) (headers []record.Header, batches [][]byte) {
	n.Helper()
	for next, end := int64(0), int64(1); next < end; {
		resp, err := n.consumer.FetchOnce(n.ctx, &penstockv1.FetchOnceRequest{
			Partitions: []*penstockv1.FetchSubscribe{{Topic: topic, Offset: next}},
		})
		if err != nil {
			n.Fatal(err)
		}
		end = resp.GetPartitions()[0].GetHighWatermark()
		rest := resp.GetPartitions()[0].GetBatches()
		if len(rest) == 0 && next < end {
			n.Fatalf("%s: nothing at offset %d of %d", topic, next, end)
		}
		for len(rest) > 0 {
			h, err := record.ParseHeader(rest)
			if err != nil {
				n.Fatal(err)
			}
			if err := record.CheckCRC(rest[:h.Size()]); err != nil {
				n.Fatal(err)
			}
			headers, batches = append(headers, h), append(batches, rest[:h.Size()])
			rest, next = rest[h.Size():], h.NextOffset()
		}
	}
	return headers, batches
}

func (n *node) sequenced(codec record.Codec, sequence int32, records ...record.Record) []byte {
	n.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for _, r := range records {
		if err := b.Add(r); err != nil {
			n.Fatal(err)
		}
	}
	producer, epoch := int64(7), int16(0)
	if sequence < 0 {
		producer, epoch = record.NoProducerID, record.NoProducerEpoch
	}
	batch, err := b.Finish(codec, producer, epoch, sequence)
	if err != nil {
		n.Fatal(err)
	}
	return batch
}

// Whatever the client sends, batches and plain records, is stored with the topic's codec; sent again it is the same batch.
func TestCompressionOfATopic(t *testing.T) {
	n := start(t, nil)
	value := bytes.Repeat([]byte("a line of a log that repeats; "), 100)
	for name, want := range compressed {
		n.create(name, map[string]string{"compression.type": name})
		sequence := int32(0)
		for _, from := range record.Codecs() {
			batch := n.sequenced(from, sequence, record.Record{Key: []byte("k"), Value: value, Timestamp: 5}, record.Record{Value: value, Timestamp: 4})
			for try := range 2 {
				resp, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: name, Batch: batch})
				got := resp.GetReceipt()
				if err != nil || got.GetDuplicate() != (try > 0) || got.GetBaseOffset() != int64(sequence) || got.GetCount() != 2 {
					t.Errorf("%s to %s: %v, %v", from, name, got, err)
				}
			}
			sequence += 2
		}
		for c := range penstockv1.Compression_name {
			req := &penstockv1.ProduceRequest{Topic: name, Records: plain(string(value), string(value)), Compression: penstockv1.Compression(c)}
			if _, err := n.producer.ProduceOnce(n.ctx, req); err != nil {
				t.Errorf("%v to %s: %v", penstockv1.Compression(c), name, err)
			}
			sequence += 2
		}
		_, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: name, Records: plain("x"), Compression: 77})
		n.wantCode(err, model.CodeUnsupportedCompression)
		headers, batches := n.stored(name)
		if len(headers) != int(sequence)/2 {
			t.Errorf("%s: %d batches are stored", name, len(headers))
		}
		for i, h := range headers {
			if h.Codec() != want || h.BaseOffset != int64(2*i) || h.Count != 2 || (i < 5) != h.HasProducer() {
				t.Errorf("%s: batch %d is stored as %s: %+v", name, i, h.Codec(), h)
			}
			it, err := record.Records(batches[i], record.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			for it.Next() {
				if r := it.Record(); !bytes.Equal(r.Value, value) || (i < 5 && r.Timestamp != 5-(r.Offset-h.BaseOffset)) {
					t.Errorf("%s: batch %d: record at %d of %d", name, i, r.Offset, r.Timestamp)
				}
			}
			if it.Err() != nil {
				t.Error(it.Err())
			}
		}
	}
}

// The leader's time goes on what it has compressed anew; a change of the setting holds from the next batch on.
func TestCompressionWithLogAppendTime(t *testing.T) {
	n := start(t, nil)
	n.create("l", map[string]string{"compression.type": "lz4", "message.timestamp.type": "LogAppendTime"})
	batch := n.sequenced(record.Gzip, 0, record.Record{Value: make([]byte, 5000), Timestamp: 5})
	put := func(batch []byte) *penstockv1.Receipt {
		resp, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "l", Batch: batch})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetReceipt()
	}
	receipt := put(batch)
	if _, err := n.admin.AlterTopicConfig(n.ctx, &penstockv1.AlterTopicConfigRequest{Name: "l", Unset: []string{"compression.type"}}); err != nil {
		t.Fatal(err)
	}
	put(n.sequenced(record.Gzip, 1, record.Record{Value: make([]byte, 5000), Timestamp: 6}))
	if again := put(batch); !again.GetDuplicate() || again.GetBaseOffset() != 0 {
		t.Errorf("sent again: %v", again)
	}
	headers, _ := n.stored("l")
	if len(headers) != 2 || headers[0].Codec() != record.LZ4 || headers[1].Codec() != record.Gzip {
		t.Fatalf("%+v", headers)
	}
	if h := headers[0]; h.TimestampType() != record.LogAppendTime || h.MaxTimestamp != receipt.GetAppendTimeMs() || h.BaseTimestamp != 5 {
		t.Errorf("%+v", h)
	}
}

// Keys come first on a compacted topic; what lies or becomes too large leaves no trace.
func TestCompressionRefuses(t *testing.T) {
	n := start(t, nil)
	for name, codec := range compressed {
		other := record.Zstd
		if codec == other {
			other = record.Gzip
		}
		n.create(name, map[string]string{"compression.type": name, "cleanup.policy": "compact", "max.message.bytes": "65536"})
		put := func(batch []byte) error {
			_, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: name, Batch: batch})
			return err
		}
		keyed := record.Record{Key: []byte("k"), Value: make([]byte, 500)}
		n.wantCode(put(n.sequenced(other, -1, keyed, record.Record{Value: make([]byte, 100<<10)})), model.CodeInvalidRecord)
		n.wantCode(put(n.sequenced(other, -1, record.Record{Key: []byte("bomb"), Value: make([]byte, 3<<20)})), model.CodeBatchTooLarge)
		if err := put(n.sequenced(other, -1, keyed)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		headers, _ := n.stored(name)
		if len(headers) != 1 || headers[0].Codec() != codec {
			t.Errorf("%s: %+v", name, headers)
		}
	}
	n.create("u", map[string]string{"compression.type": "uncompressed", "max.message.bytes": "65536"})
	lies := bytes.Clone(n.sequenced(record.Gzip, -1, record.Record{Value: make([]byte, 500)}))
	lies[42]++ // the maximal timestamp
	for what, c := range map[string]struct {
		batch []byte
		want  model.ErrorCode
	}{
		"too large": {n.sequenced(record.Gzip, -1, record.Record{Value: make([]byte, 65536)}), model.CodeBatchTooLarge},
		"lies":      {resealed(t, lies), model.CodeCorruptBatch},
	} {
		if _, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "u", Batch: c.batch}); err == nil {
			t.Error(what)
		} else {
			n.wantCode(err, c.want)
		}
	}
	if headers, _ := n.stored("u"); len(headers) != 0 {
		t.Errorf("%+v", headers)
	}
}

// resealed gives a batch the CRC of its bytes.
func resealed(t *testing.T, batch []byte) []byte {
	t.Helper()
	if err := record.SetProducer(batch, record.NoProducerID, record.NoProducerEpoch, record.NoSequence); err != nil {
		t.Fatal(err)
	}
	return batch
}

// Many streams at once get their batches compressed, each in its order.
func TestCompressionOfManyStreams(t *testing.T) {
	n := start(t, nil)
	n.create("m", map[string]string{"compression.type": "zstd"})
	const streams, batches = 20, 30
	batch := n.sequenced(record.Gzip, -1, record.Record{Value: make([]byte, 200<<10)})
	failed := make(chan error, streams)
	for range streams {
		go func() { failed <- produceMany(n, batch, batches) }()
	}
	for range streams {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	resp, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "m", Batch: batch})
	if err != nil || resp.GetReceipt().GetBaseOffset() != streams*batches {
		t.Errorf("the next batch: %v, %v", resp, err)
	}
}

func produceMany(n *node, batch []byte, batches int) error {
	stream, err := n.producer.Produce(n.ctx)
	if err != nil {
		return err
	}
	for i := range batches {
		if err := stream.Send(&penstockv1.ProduceRequest{CorrelationId: uint64(i), Topic: "m", Batch: batch}); err != nil { //nolint:gosec // an index
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	last := int64(-1)
	for i := range batches {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if got := resp.GetReceipt(); resp.GetCorrelationId() != uint64(i) || got.GetBaseOffset() <= last { //nolint:gosec // an index
			return fmt.Errorf("batch %d after offset %d: %v", i, last, resp)
		}
		last = resp.GetReceipt().GetBaseOffset()
	}
	return nil
}

// What readers would not decompress is not let in, however large a batch may be.
func TestOpenedBatchesStayReadable(t *testing.T) {
	n := start(t, nil)
	n.create("r", map[string]string{"compression.type": "zstd", "max.message.bytes": "16777216"})
	for mib, want := range map[int]model.ErrorCode{60: model.CodeNone, 66: model.CodeBatchTooLarge} {
		_, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{
			Topic: "r", Batch: n.sequenced(record.Gzip, -1, record.Record{Value: make([]byte, mib<<20)}),
		})
		if want != model.CodeNone || err != nil {
			n.wantCode(err, want)
		}
	}
}
