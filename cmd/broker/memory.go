package main

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/internal/config"
)

// tuneMemory sets the garbage collector's pace and its soft limit, unless the environment does.
func tuneMemory(m config.Memory) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(m.GCPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := m.LimitBytes
	if limit == 0 {
		limit = memoryThere() / 4 * 3
	}
	if limit > 0 {
		debug.SetMemoryLimit(limit)
	}
}

// memoryThere is the memory of the container or the machine in bytes; 0 where the system does not say.
func memoryThere() int64 {
	smallest := int64(math.MaxInt64)
	if text, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			smallest = min(smallest, n)
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) == 3 && fields[0] == "MemTotal:" {
				if kib, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
					smallest = min(smallest, kib<<10)
				}
			}
		}
	}
	if smallest == math.MaxInt64 {
		return 0
	}
	return smallest
}
