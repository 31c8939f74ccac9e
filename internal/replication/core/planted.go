//go:build planted

package core

import "fmt"

// The planted bugs: faults in our own rules that the proofs must find. One is switched on by Plant.
var (
	plantedTruncateToHighWatermark bool
	plantedNoEpochCheckOnFetch     bool
	plantedAckBeforeFsync          bool
	plantedJoinWithoutEpochStart   bool
	plantedResumeEpoch             bool
	plantedLeaderAcksAlone         bool
	plantedDiscardInSync           bool
)

// DiscardInSync is the planted bug that discards damage before the seat is given up. It shows only where bits flip.
const DiscardInSync = "discard-in-sync"

// PlantedBugs are the names that Plant knows.
func PlantedBugs() []string {
	return []string{
		"truncate-to-high-watermark", "no-epoch-check-on-fetch", "ack-before-fsync", "join-without-epoch-start", "resume-epoch",
		"leader-acks-alone", DiscardInSync,
	}
}

// Plant switches one planted bug on and all others off; the empty name switches all off. It is called before any Replica
// exists, never beside one.
func Plant(name string) error {
	known := name == ""
	for i, bug := range []*bool{
		&plantedTruncateToHighWatermark, &plantedNoEpochCheckOnFetch, &plantedAckBeforeFsync,
		&plantedJoinWithoutEpochStart, &plantedResumeEpoch, &plantedLeaderAcksAlone,
		&plantedDiscardInSync,
	} {
		*bug = PlantedBugs()[i] == name
		known = known || *bug
	}
	if !known {
		return fmt.Errorf("plant a bug: %q is not one of %v", name, PlantedBugs())
	}
	return nil
}
