package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/grpclog"

	"github.com/penstock-io/penstock/internal/broker"
	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/telemetry"
)

// stopSlack is added to shutdown.timeout for what a stop does besides moving leaderships.
const stopSlack = 20 * time.Second

// runNode runs a node until ctx ends or it fails.
func runNode(ctx context.Context, cfg *config.Config, errOut io.Writer) (err error) {
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	logger, err := telemetry.NewLogger(errOut, cfg.LogFormat, level)
	if err != nil {
		return err
	}
	logger = logger.With("node", int(cfg.NodeID))
	grpclog.SetLoggerV2(telemetry.GRPCLog(logger))
	if err := takeResources(cfg, logger); err != nil {
		return err
	}
	node, err := broker.Start(ctx, cfg, logger, broker.LogLevel(level))
	if err != nil {
		return err
	}
	remove, err := writePID(cfg.PIDFile)
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.ShutdownTimeout+stopSlack)
		defer cancel()
		err = errors.Join(err, node.Stop(stopCtx), remove())
		if err == nil {
			logger.Info("stopped")
		}
	}()
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		logger.Info("stopping")
		return nil
	case <-node.Done():
		return node.Err()
	}
}

// writePID replaces the file atomically; the data directory is locked already, so that no other node shares it.
func writePID(path string) (remove func() error, err error) {
	nothing := func() error { return nil }
	if path == "" {
		return nothing, nil
	}
	partial := filepath.Clean(path) + ".partial"
	if err := os.WriteFile(partial, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nothing, fmt.Errorf("write pid.file: %w", err)
	}
	if err := os.Rename(partial, path); err != nil {
		return nothing, fmt.Errorf("write pid.file: %w", err)
	}
	return func() error { return os.Remove(path) }, nil
}
