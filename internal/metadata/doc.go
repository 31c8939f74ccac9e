// Package metadata is the state of the cluster as the metadata log tells it: an immutable Image, the entries that change
// it, and the Delta that says what an entry changed.
//
// Every node folds the same entries, in the same order, into the same image; an image is numbered by its MetadataOffset.
// Apply is pure: it never changes the image it is called on, it has no clock, no disk and no randomness, and its errors
// are as deterministic as its results. An entry takes effect whole or not at all.
//
// Images share what an entry did not touch. A change of one partition copies its chunk of 256 partitions, the chunk list of
// its topic and one shard of the topics; never all partitions.
//
// The package also holds the one table of topic settings.
package metadata
