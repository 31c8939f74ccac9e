package broker

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/penstock-io/penstock/internal/telemetry"
)

// Option is a choice of whoever starts a node.
type Option func(*Node)

// LogLevel lets the admin listener change the level of the log, which level is that of.
func LogLevel(level *slog.LevelVar) Option { return func(n *Node) { n.level = level } }

func (n *Node) logLevel() string { return telemetry.LevelName(n.level.Level()) }

// setLogLevel changes the level and notes who did so, whatever the levels are.
func (n *Node) setLogLevel(name, remote string) error {
	level, err := telemetry.ParseLevel(name)
	if err != nil {
		return err
	}
	before := n.logLevel()
	n.level.Set(level)
	record := slog.NewRecord(n.clock.Now(), slog.LevelInfo, "the log level was changed", 0)
	record.AddAttrs(slog.String("from", before), slog.String("to", n.logLevel()), slog.String("by", remote))
	// Handlers do not look at the level themselves: loggers do so for them.
	if err := n.log.Handler().Handle(context.Background(), record); err != nil {
		return fmt.Errorf("the level was changed, but that could not be logged: %w", err)
	}
	return nil
}
