package resources

import (
	"errors"
	"fmt"

	"github.com/penstock-io/penstock/internal/config"
)

// ErrMemory says that there is less memory than the configuration needs at least.
var ErrMemory = errors.New("too little memory")

const (
	mib = 1 << 20

	// share of a control group's limit that the Go runtime may use, in per cent. The rest is for what it does not count.
	share = 90

	leastMemory = 32 * mib // of a node without clients
	goodMemory  = 64 * mib
)

// MemoryFound is what there is to say of memory at the start.
type MemoryFound struct {
	EnvSet     bool   // GOMEMLIMIT stands in the environment
	Env        int64  // the limit that it has set; 0 where it is "off"
	Cgroup     int64  // smallest limit of the control groups; 0 for none
	CgroupFile string // where that stands
}

// MemoryPlan is the soft limit of the Go runtime.
type MemoryPlan struct {
	Set    int64  // the limit to be set now, in bytes; 0 is none
	Bound  int64  // what the process has in the end, the control group considered; 0 where there is no limit
	Origin string // where the limit comes from; empty without one
}

// PlanMemory decides on the soft limit: GOMEMLIMIT of the environment goes before memory.limit.bytes, and that before the
// control group.
func PlanMemory(cfg config.Memory, found MemoryFound) MemoryPlan {
	var plan MemoryPlan
	switch {
	case found.EnvSet:
		plan = MemoryPlan{Bound: found.Env, Origin: "GOMEMLIMIT"}
	case cfg.LimitBytes > 0:
		plan = MemoryPlan{Set: cfg.LimitBytes, Bound: cfg.LimitBytes, Origin: "memory.limit.bytes"}
	case found.Cgroup > 0:
		limit := found.Cgroup / 100 * share
		plan = MemoryPlan{Set: limit, Bound: limit, Origin: fmt.Sprintf("%d%% of %s", share, found.CgroupFile)}
	}
	if found.Cgroup > 0 && (plan.Bound == 0 || found.Cgroup < plan.Bound) {
		plan.Bound, plan.Origin = found.Cgroup, found.CgroupFile
	}
	return plan
}

// CheckMemory compares the memory there is with the buffers that are configured. It returns a warning where one client that
// uses its limits can take it all, and an error wrapping ErrMemory where not even one request fits.
func CheckMemory(cfg *config.Config, plan MemoryPlan) (warning string, err error) {
	if plan.Bound == 0 {
		return "", nil
	}
	least, good := int64(leastMemory), int64(goodMemory)
	if cfg.Roles.Broker {
		// A request is held while it is written and while it is sent to followers.
		requests := 2 * int64(cfg.Limits.MessageBytes)
		least += cfg.Retention.CleanerMapBytes + requests
		good += cfg.Retention.CleanerMapBytes + max(requests, cfg.Limits.InFlightBytes)
	}
	const advice = "give the node more memory, or lower limits.message.bytes, limits.inflight.bytes or cleaner.map.bytes"
	switch {
	case plan.Bound < least:
		return "", fmt.Errorf("%w: there are %d MiB (%s), and this configuration needs %d at least: %s",
			ErrMemory, plan.Bound/mib, plan.Origin, least/mib, advice)
	case plan.Bound < good:
		return fmt.Sprintf("memory is scarce: there are %d MiB (%s), and one client that uses its limits takes the node to %d: %s",
			plan.Bound/mib, plan.Origin, good/mib, advice), nil
	default:
		return "", nil
	}
}
