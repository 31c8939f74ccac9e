// Package record reads, checks, builds and walks Kafka's RecordBatch, magic 2, byte for byte. The batch is the unit of
// wire, disk and replication: a producer compresses and checksums it once, and broker, follower and consumer pass the
// same bytes on. The leader rewrites only the first 16 bytes (base offset, length, leader epoch; see PutHead), all of
// which lie outside the CRC.
//
// Three depths of checking exist:
//   - ParseHeader looks at the 61 fixed bytes alone: it bounds the length and the count, and needs no body.
//   - Verify adds the CRC over the whole batch; followers and recovery use it on batches a leader has accepted before.
//   - Validate adds everything a leader demands of a producer: dense offset deltas, producer fields that belong
//     together, and a walk over the records of an uncompressed body. Compressed bodies are not opened.
//
// The functions over [][]byte take one batch in pieces, as gRPC delivers it, and never copy it together.
//
// Recompress brings a batch that Validate has passed into the codec that its topic asks for.
//
// Builder makes batches and Iterator takes them apart, both without an allocation per record; Scanner splits a region
// of consecutive batches. Everything that parses is bounded by Limits and treats its input as hostile. Nothing here
// starts a goroutine, reads a clock or keeps its arguments, but for Builder and Iterator as documented there.
//
// The byte layout is described in docs/format/record-batch.md.
package record
