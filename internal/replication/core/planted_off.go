//go:build !planted

package core

// The planted bugs do not exist in a normal build: the compiler removes them.
const (
	plantedTruncateToHighWatermark = false
	plantedNoEpochCheckOnFetch     = false
	plantedAckBeforeFsync          = false
	plantedJoinWithoutEpochStart   = false
	plantedResumeEpoch             = false
	plantedLeaderAcksAlone         = false
	plantedDiscardInSync           = false
)
