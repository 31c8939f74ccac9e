// Command pack makes the files of a release from binaries that are built already: an archive a platform, an image archive for
// `docker load` a Linux platform, and SHA256SUMS over all of them. The same binaries, version and time give the same
// bytes. `make release` runs it.
package main
