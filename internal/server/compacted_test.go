package server_test

import (
	"testing"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// Records of a compacted topic need keys, and what is compressed is opened, to a bound, to see them.
func TestCompactedTopicsWantKeys(t *testing.T) {
	n := start(t, nil)
	if _, err := n.admin.CreateTopic(n.ctx, &penstockv1.CreateTopicRequest{
		Name: "c", Partitions: new(int32(1)), Configs: map[string]string{"cleanup.policy": "compact", "max.message.bytes": "65536"},
	}); err != nil {
		t.Fatal(err)
	}
	put := func(batch []byte) error {
		_, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "c", Batch: batch})
		return err
	}
	batch := func(codec record.Codec, size int, keys ...[]byte) []byte {
		b := record.NewBuilder(record.BuilderOptions{})
		for _, key := range keys {
			if err := b.Add(record.Record{Key: key, Value: make([]byte, size)}); err != nil {
				t.Fatal(err)
			}
		}
		data, err := b.Finish(codec, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, codec := range record.Codecs() {
		if err := put(batch(codec, 100, []byte("a"), []byte{}, []byte("b"))); err != nil {
			t.Errorf("%v: %v", codec, err)
		}
		n.wantCode(put(batch(codec, 100, []byte("a"), nil)), model.CodeInvalidRecord)
	}
	n.wantCode(put(batch(record.Zstd, 3<<20, []byte("bomb"))), model.CodeBatchTooLarge)
	_, err := n.producer.ProduceOnce(n.ctx, &penstockv1.ProduceRequest{Topic: "c", Records: plain("no key")})
	n.wantCode(err, model.CodeInvalidRecord)
	n.put("other topics do without")
}
