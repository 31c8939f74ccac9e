// Package mend holds the tests of those documented commands that write into the working copy, make fix and make generate: they run in
// a copy of it, which was spoiled before.
package mend
