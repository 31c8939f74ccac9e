// Package sim runs a whole cluster in one goroutine, under a seed: the pure cores of replication and of the controller over
// a model of everything that is slow, parallel or unreliable in the real world, with an oracle that looks on.
//
// [Run] plays one schedule. In [ModeCore] the replicas keep model logs; in [ModeStorage] the real partition log runs beside
// the model of it, on the in-memory file system that loses power and fails by seed. Time is virtual; what happens next is
// decided by one queue ordered by time and sequence and by one random generator. There is no goroutine, wall clock or map
// order in it: the same seed gives the same schedule, step for step, which the hash of the trace proves.
//
//	engine.go      queue, time, random numbers, trace
//	net.go         nodes, pauses, datagrams, streams, cut links
//	raft.go        Raft's ordered log and who leads it
//	controller.go  the shell around the controller's core
//	broker.go      the life of a broker: recovery, registration, heartbeats, images
//	partition.go   the shell around replication's core
//	stream.go      replica streams, both sides
//	log.go         the model log; storelog.go: the real one beside it
//	disk.go        what outlives a process
//	clients.go     producers and consumers
//	faults.go      what goes wrong, and what of it had an effect
//	oracle.go      what must hold after every step
//	schedule.go    one schedule from its seed to its verdict
//
// docs/simulation.md says what is modelled, what is not, and how to replay a seed.
package sim
