// Package lifecycle owns every goroutine and every timer of Penstock.
//
// A [Group] is the only place where goroutines start. Each has a name; everything that was started is awaited at
// shutdown, and what does not end in time is named. The first failure stops its group and all groups above it; a panic
// ends the process, with the name of its goroutine. Groups form a tree: children stop before their parent, the
// youngest first, so that a tree built bottom-up is stopped top-down.
//
// [Clock] is the one seam to the wall clock. [RealClock] follows the fake time inside a testing/synctest bubble.
package lifecycle
