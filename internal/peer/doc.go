// Package peer is how a node speaks to other nodes: connections to their peer listeners, the way to the active
// controller, the broker's session there, the metadata that a node without a vote follows, and what replication asks of
// other nodes (replica streams, in-sync set proposals, reports of deletions).
//
// Replication, and everything else, have connections of their own, so that a heartbeat never waits behind data.
package peer
