// Package server is what a node answers: the gRPC services of the client listeners (one file a service), those of the peer
// listener, and HTTP on the admin listener.
//
// A request is checked and resolved against the metadata of the [Cache], goes down to replication or over to the active
// controller, and its outcome comes back as a row of the stable error table, with a hint at the leader where another broker is
// the right one. Every request passes [Authorize].
package server
