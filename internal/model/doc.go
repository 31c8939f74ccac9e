// Package model holds the named types that every layer of Penstock shares: identifiers, epochs, offsets, the topic
// name rules and the stable error table. It has no behaviour beyond validation and formatting and imports nothing of
// Penstock.
//
// Widths are Kafka's: 32-bit ids and epochs, 64-bit offsets and broker epochs, 16-bit producer epochs. All offset
// ranges are half open: LogEndOffset is the next offset to be written, HighWatermark the first one not committed.
package model
