// Package testcluster runs the nodes of a cluster in one process, on free ports of loopback and in temporary directories,
// for tests. Nodes can be stopped cleanly, killed as if their process had died, and started again on what they left behind.
package testcluster
