// Package fsys is the only door to the disk: an append-only file with vector writes, directories, locks and the three
// kinds of sync, small enough to be implemented twice. OS is the machine's file system.
package fsys
