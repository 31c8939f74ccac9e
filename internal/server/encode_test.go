package server

import (
	"testing"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// A frame of batches that are small and decompress to very much is refused before the memory is gone.
func TestDecodeIsBounded(t *testing.T) {
	b := record.NewBuilder(record.BuilderOptions{MaxBytes: 64 << 20})
	value := make([]byte, 1<<20)
	for range 32 {
		if err := b.Add(record.Record{Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	batch, err := b.Finish(record.Zstd, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
	if err != nil {
		t.Fatal(err)
	}
	var frame []byte
	for n := range 6 { // 32 MiB each
		frame = append(frame, batch...)
		records, err := decode(frame, 0, -1)
		switch {
		case n < 3 && (err != nil || len(records) != 32*(n+1)):
			t.Fatalf("%d batches of %d bytes: %d records, %v", n+1, len(batch), len(records), err)
		case n >= 4 && !model.IsCode(err, model.CodeInvalidRequest):
			t.Fatalf("%d batches of %d bytes: %d records, %v", n+1, len(batch), len(records), err)
		}
	}
}
