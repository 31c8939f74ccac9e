// Package testports gives tests ports of loopback that nobody else takes while the test runs: a port that was found free and let go
// is free for others too, and a node that is down for a while must find its own again. Test processes that run at the same time
// share the ports out among them, and the ports lie below those that systems give to outgoing connections.
package testports
