// Command broker runs a node of Penstock, or, as "broker dev", a whole cluster of them on this machine.
//
// Exit status: 0 stopped cleanly, 1 failed, 2 wrong usage or configuration.
package main
