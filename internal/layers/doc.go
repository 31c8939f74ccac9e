// Package layers holds no code, only the tests that keep the architecture: which package may import which, where
// goroutines may start, what the public client may show, and how large files and functions may grow. The table of layers
// stands in table_test.go; a new package is entered there.
package layers
