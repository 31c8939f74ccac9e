// Package replication holds the partitions of a broker: it appends as leader, copies as follower, decides the
// HighWatermark and lets consumers read below it. The decisions are made in the sub-package core; this package is the
// shell around them, which owns logs, streams and goroutines.
//
// [Manager] is split by concern:
//
//	manager.go      options, start, stop
//	recover.go      opening the logs found at start
//	publish.go      images: creating logs, taking roles
//	deletion.go     data of deleted and of unknown topics
//	partition.go    one partition: the lock, the core, and what its decisions ask for
//	append.go       appends and the requests that wait for an acknowledgement
//	read.go         readers, offset look-ups, wake-ups
//	serve.go        the leader's side of replica streams
//	fetch.go        the follower's side of replica streams
//	isr.go          proposals to the controller
//	sweep.go        the one sweeper: lag, timeouts, checkpoints
//
// # Concurrency
//
// A partition has one lock, under which it appends and the core decides. Locks are taken in the order Manager.mu,
// partition.mu, then one of the small locks of streams, watchers and queues; those never hold anything else. Callbacks run
// with no lock held. An idle partition costs no goroutine and no timer.
package replication
