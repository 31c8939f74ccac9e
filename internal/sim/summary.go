package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Summary adds up schedules.
type Summary struct {
	// Schedules were played, Failed of them failed.
	Schedules, Failed int
	// Virtual, Steps, Records, Acked, Elections and the others are sums over all schedules.
	Virtual                                                            time.Duration
	Steps, Elections, LossyElections, Forgiven, Stuck, Bitten, Replays int
	Records, Acked                                                     int64
	// Faults counts the faults that bit, by kind.
	Faults map[string]int
}

// Add takes in one schedule.
func (s *Summary) Add(r Result) {
	one := Summary{
		Schedules: 1, Virtual: r.Virtual, Steps: r.Steps, Elections: r.Elections, LossyElections: r.LossyElections,
		Forgiven: r.ForgivenRecords, Stuck: r.StuckPartitions, Bitten: r.FaultsBitten, Replays: r.Replays, Records: r.Records,
		Acked: r.Acked, Faults: r.Faults,
	}
	if len(r.Failures) > 0 {
		one.Failed = 1
	}
	s.Merge(one)
}

// Merge takes in another sum.
func (s *Summary) Merge(o Summary) {
	s.Schedules += o.Schedules
	s.Failed += o.Failed
	s.Virtual += o.Virtual
	s.Steps += o.Steps
	s.Elections += o.Elections
	s.LossyElections += o.LossyElections
	s.Forgiven += o.Forgiven
	s.Stuck += o.Stuck
	s.Bitten += o.Bitten
	s.Replays += o.Replays
	s.Records += o.Records
	s.Acked += o.Acked
	if s.Faults == nil {
		s.Faults = map[string]int{}
	}
	for kind, n := range o.Faults {
		s.Faults[kind] += n
	}
}

// String is one paragraph for people.
func (s Summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d schedules, %d failed, %.0f virtual minutes, %d steps, %d records, %d acked, %d elections (%d lossy, %d records "+
		"forgiven, %d partitions stuck), %d replays of the sync journal, %d faults bit:", s.Schedules, s.Failed, s.Virtual.Minutes(), s.Steps, s.Records, s.Acked,
		s.Elections, s.LossyElections, s.Forgiven, s.Stuck, s.Replays, s.Bitten)
	for _, kind := range slices.Sorted(maps.Keys(s.Faults)) {
		fmt.Fprintf(&b, " %s %d,", kind, s.Faults[kind])
	}
	return strings.TrimSuffix(b.String(), ",")
}
