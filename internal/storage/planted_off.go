//go:build !planted

package storage

// The planted bugs do not exist in a normal build: the compiler removes them.
const (
	plantedSkipReplay        = false
	plantedAckBeforeTheRound = false
)
