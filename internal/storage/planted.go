//go:build planted

package storage

import "fmt"

// The planted bugs: faults in our own rules that the proofs must find. One is switched on by Plant.
var (
	plantedSkipReplay        bool
	plantedAckBeforeTheRound bool
)

// PlantedBugs are the names that Plant knows. They show only where a sync journal is used.
func PlantedBugs() []string {
	return []string{"skip-replay", "ack-before-the-round"}
}

// Plant switches one planted bug on and all others off; the empty name switches all off. It is called before any Dir is open, never
// beside one.
func Plant(name string) error {
	known := name == ""
	for i, bug := range []*bool{&plantedSkipReplay, &plantedAckBeforeTheRound} {
		*bug = PlantedBugs()[i] == name
		known = known || *bug
	}
	if !known {
		return fmt.Errorf("plant a bug: %q is not one of %v", name, PlantedBugs())
	}
	return nil
}
