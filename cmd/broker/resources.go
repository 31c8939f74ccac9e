package main

import (
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/resources"
)

// takeResources sets the limits of the process: the pace and the soft limit of the garbage collector, unless the environment
// does, and the open files. It says what is scarce, and fails where there is less than the configuration needs.
func takeResources(cfg *config.Config, logger *slog.Logger) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(cfg.Memory.GCPercent)
	}
	if err := takeMemory(cfg, logger); err != nil {
		return err
	}
	limit, err := resources.RaiseOpenFiles()
	if err != nil {
		return err
	}
	plan, err := resources.PlanFiles(cfg, limit)
	if err != nil {
		return err
	}
	if plan.Warning != "" {
		logger.Warn(plan.Warning)
	}
	cfg.OpenFiles = plan.OpenFiles
	logger.Info("open files", "limit", limit, "segments", plan.OpenFiles)
	return nil
}

func takeMemory(cfg *config.Config, logger *slog.Logger) error {
	var found resources.MemoryFound
	if found.EnvSet = os.Getenv("GOMEMLIMIT") != ""; found.EnvSet {
		if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
			found.Env = limit
		}
	}
	var err error
	if found.Cgroup, found.CgroupFile, err = resources.CgroupMemory(os.DirFS("/")); err != nil {
		logger.Warn("the memory limit of the control group is not known: set memory.limit.bytes", "error", err)
	}
	plan := resources.PlanMemory(cfg.Memory, found)
	warning, err := resources.CheckMemory(cfg, plan)
	if err != nil {
		return err
	}
	if warning != "" {
		logger.Warn(warning)
	}
	if plan.Set > 0 {
		debug.SetMemoryLimit(plan.Set)
	}
	if plan.Origin == "" {
		logger.Info("memory has no limit", "gc_percent", cfg.Memory.GCPercent)
		return nil
	}
	logger.Info("memory limit", "bytes", plan.Bound, "origin", plan.Origin, "gc_percent", cfg.Memory.GCPercent)
	return nil
}
