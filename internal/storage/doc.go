// Package storage is the partition log: append, read, roll, recovery, truncation, the indexes beside the segments, the
// state of idempotent producers, the leader epoch cache, and the files of one data directory.
//
// It is a synchronous core. No method starts a goroutine, waits for time or reads a clock; the time comes in as an
// argument and files are reached through internal/fsys alone, so that the simulator runs the very same code. The
// shells that live here are [Syncer], the group commit of a data directory, and the scrub that StartScrubber starts.
//
// # Directory
//
//	<data>/.lock                              held while the directory is open
//	<data>/.reserve                           space that is given up when the disk is full
//	<data>/meta.properties                    who this directory belongs to
//	<data>/checkpoints.journal                recovery points, HighWatermarks, LogStartOffsets, epoch starts
//	<data>/sync-journal/                      batches that many logs had synced together, until their own files are
//	<data>/topics/<topic id>/<partition>/     one log: <base offset>.log, .index, .timeindex, .producers, .digest
//
// The formats are described in docs/format. Only segments and the two journals are authoritative: indexes and producer
// snapshots are hints that are checked when used and rebuilt from the segments on any doubt.
//
// # Deleting and compacting
//
// [Log.RetentionStep] decides by age and size what the log begins with, [DecideRetention] purely; a [ClockGuard] says how far
// the wall clock can be believed. A [Cleaner] keeps the latest record of each key, step by step; docs/format/compaction.md says
// what is written, and how segments change places so that a crash loses and doubles nothing.
//
// # Concurrency
//
// A [Log] has one writer at a time (its methods that change it take the log's mutex); Read, OffsetForTime and the
// positions may be called from any goroutine beside it and see an atomic snapshot. Sync may run beside the writer.
// Locks are taken in the order Dir.noting, Log.discardMu, Log.syncMu, those of sharedJournal, Log.mu, journal.mu, Dir.mu, and the small ones
// of space and descriptors last (a bound on open files closes those of other logs with TryLock alone); nothing outside the package is
// called back while one is held.
//
// # Syncs
//
// A few logs are synced by themselves. Many are synced together: by the sync journal (internal/storage/syncjournal), which makes
// them durable by one sync of one file, or by one sync of the file system, where the journal does not take them. So there
// are two ends: DurableEnd, which is acknowledged, and FiledEnd, up to which a log does without the journal. What may change
// a log besides appends is said at sharedJournal. OpenDir writes what the journal holds to the segments first;
// logs that the disk has no room for are deferred ([DeferredError]).
//
// # Damage
//
// Below the recovery point bytes that are no batch, and anywhere bytes that cannot be read, are [Damage]: the log serves what lies
// around and takes no appends until DiscardDamage. Opening a log checks what lies above the recovery point; the rest is
// checked when it is read (CRC, order) and by Log.Scrub, which also compares leader epochs and the digests of sealed segments.
// [Offline] does the same without a broker. A full disk refuses appends ([SpaceError]) and damages nothing.
package storage
