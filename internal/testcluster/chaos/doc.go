// Package chaos proves Penstock on real processes: it starts the programs that users start, kills, pauses and restarts
// them under load, and checks afterwards what producers were promised against what consumers read and what lies on the
// disks.
//
// The history checker is pure: Check takes what was sent, the receipts and everything that was read, and names each broken
// promise. Its own tests plant wrong histories. CompareReplicas holds the segment files of the nodes of a stopped cluster
// against each other.
//
// The harness and the scenarios are tests: they need a Unix system and build the programs first, unless PENSTOCK_BIN names
// a directory that holds broker and brokerctl. Without flags they run in a short form, with -short not at all; -chaos.long
// gives the full figures. docs/testing.md says more.
package chaos
