package server

import (
	"context"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/record"
)

const (
	// inflation bounds the records of a compressed batch that is opened, because the topic is compacted or has a compression of
	// its own, as a multiple of max.message.bytes; minInflation, in bytes, is allowed in any case. More than consumers and the
	// cleaner inflate (record.DefaultMaxUncompressedBytes) is not let in.
	inflation, minInflation = 16, 1 << 20
)

// codecs are those of the compression types after CompressionProducer.
var codecs = [...]record.Codec{
	metadata.CompressionUncompressed: record.None, metadata.CompressionGzip: record.Gzip, metadata.CompressionSnappy: record.Snappy,
	metadata.CompressionLZ4: record.LZ4, metadata.CompressionZstd: record.Zstd,
}

// storedAs returns the codec to store a batch with that came with another one.
func storedAs(kind metadata.CompressionType, came record.Codec) record.Codec {
	if kind == metadata.CompressionProducer {
		return came
	}
	return codecs[kind]
}

// open looks into a batch that record.Validate has passed, where the topic's settings ask for that: a compacted topic wants
// keys, and one with a compression of its own has batches compressed anew. It costs nothing where neither is so.
func (a *appender) open(ctx context.Context, settings *metadata.TopicSettings, limits record.Limits) error {
	came := a.request.Header.Codec()
	codec, compacts := storedAs(settings.CompressionType, came), settings.CleanupPolicy.Compacts()
	if codec == came && !compacts {
		return nil
	}
	limits.MaxUncompressedBytes = min(max(inflation*limits.MaxBytes, minInflation), record.DefaultMaxUncompressedBytes)
	most := limits.MaxUncompressedBytes
	if came == record.None {
		most = a.request.Header.Size()
	}
	granted, err := a.client.openings.reserve(ctx, 2*int64(most))
	if err != nil {
		return err
	}
	defer a.client.openings.release(granted)
	if compacts {
		if err := record.CheckKeys(a.request.Batch, limits); err != nil {
			return batchError(err)
		}
	}
	header, batch, err := record.Recompress(a.request.Batch, a.request.Header, codec, limits)
	if err != nil {
		return batchError(err)
	}
	a.request.Header, a.request.Batch = header, batch
	return nil
}
