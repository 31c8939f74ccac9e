// Package core holds the decisions of replication as pure state machines: who may be acknowledged what, when the
// HighWatermark moves, who joins and leaves the in-sync set, and how diverging logs are reconciled.
//
// A [Replica] is one partition on one broker. Its methods take what happened as plain values and return what has to be
// done as an [Output]; a few pull methods ([Replica.NextFrame], [Replica.NextSubscribe], [Replica.NextAck]) hand out work
// when the shell is ready for it. There is no clock, goroutine, disk, network, randomness or map order inside: the same
// calls give the same answers. Time is a time.Duration since any fixed point, the same for one Replica, never falling.
//
// The rules are numbered as in docs/architecture.md (R1 to R12), and each has a test that bears its number.
//
// The shell must do what an Output says in the order of its fields, before the next call. It holds one lock per partition,
// so that a Replica is never used from two goroutines at once.
package core
