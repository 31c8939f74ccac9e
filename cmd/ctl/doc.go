// Command brokerctl administers a Penstock cluster and produces, consumes and measures from a shell. Data goes to
// standard output, everything for people to standard error. Exit status: 0 done, 1 failed or nobody reachable, 2 wrong
// usage, 3 the cluster is not healthy or has no quorum.
package main
