package server

import (
	"bytes"
	"context"
	"testing"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/record"
)

// A topic that keeps the producer's compression, and one whose compression the batch has, cost nothing.
func TestOpenCostsNothingWhereNothingIsToBeDone(t *testing.T) {
	b := record.NewBuilder(record.BuilderOptions{})
	if err := b.Add(record.Record{Value: bytes.Repeat([]byte("value "), 500)}); err != nil {
		t.Fatal(err)
	}
	for _, codec := range record.Codecs() {
		batch, err := b.Finish(codec, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
		if err != nil {
			t.Fatal(err)
		}
		a := appender{client: &Client{openings: openings{size: 1, used: 1}}} // nothing may be opened
		a.request.Batch = [][]byte{batch[:70], batch[70:]}
		limits := record.Limits{MaxBytes: len(batch)}
		if a.request.Header, err = record.Validate(a.request.Batch, limits); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []metadata.CompressionType{metadata.CompressionProducer, metadata.CompressionUncompressed + metadata.CompressionType(codec)} {
			settings := metadata.DefaultTopicSettings()
			settings.CompressionType = kind
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if n := testing.AllocsPerRun(20, func() {
				if err := a.open(ctx, &settings, limits); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s for a batch in %s: %v allocations", kind, codec, n)
			}
			if &a.request.Batch[0][0] != &batch[0] {
				t.Errorf("%s for a batch in %s: it was copied", kind, codec)
			}
		}
	}
}

// The types of the settings and the codecs of the batches are the same.
func TestCodecsOfCompressionTypes(t *testing.T) {
	for _, codec := range record.Codecs() {
		kind := metadata.CompressionUncompressed + metadata.CompressionType(codec)
		if got := storedAs(kind, record.Gzip); got != codec || (kind.String() != codec.String() && codec != record.None) {
			t.Errorf("%s is stored as %s", kind, got)
		}
		if got := storedAs(metadata.CompressionProducer, codec); got != codec {
			t.Errorf("%s of a producer is stored as %s", codec, got)
		}
	}
}
