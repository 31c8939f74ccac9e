// Package controller owns the cluster's metadata: a Raft quorum of controllers agrees on the metadata log, and the one that
// leads the quorum, the active controller, decides what goes into it.
//
//	request -> core.Batch decides records -> Raft -> FSM -> metadata.Image -> Feed -> brokers
//
// Everything is decided in one event loop on the active controller (loop.go) by the pure package core. One entry is in flight at
// a time; requests that arrive meanwhile are decided together as the next one. Each entry names the metadata offset it was
// decided on, and the state machine (fsm.go), the same on every controller, drops it where that is not the current one: an
// entry of a deposed controller that is committed late does no harm. A new active controller waits for a barrier, and thereby for
// everything its predecessors committed, before it decides.
//
// The outcome of a write that was under way when leadership was lost, or that takes too long, is unknown; requests say so
// (UNKNOWN_OUTCOME), and the controller decides nothing further before another barrier has told it what became of the write.
//
// Raft's log and snapshots live in files of their own, under Config.Dir: raft.db (bbolt) and snapshots/. They are the one thing
// that does not go through package fsys, since both libraries open files themselves.
//
// # Stopping
//
// All goroutines belong to a child of the group given to Start. Stopping that group ends the loop first (waiting requests get
// SHUTTING_DOWN), hands Raft's leadership over where there is somebody to take it, shuts Raft down and waits for it, and then
// closes transport and log. Stop the gRPC services that call the controller before the group.
package controller
