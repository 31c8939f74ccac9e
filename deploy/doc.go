// Package deploy holds how Penstock is shipped: container images, the compose cluster, release archives. Its tests bring
// the compose cluster up with the commands that users type, break it, and take it down again; and they unpack and run
// what a release ships.
package deploy
