package telemetry

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
)

// StdLog returns a logger for libraries that want the standard log package. A level in brackets at the beginning of a
// line, such as "[WARN] ", becomes the level of the record; other lines are at slog.LevelInfo. Lines that
// repeat are limited, see [Limited]. A nil logger means slog.Default.
func StdLog(logger *slog.Logger) *log.Logger {
	if logger == nil {
		logger = slog.Default()
	}
	return log.New(&lineWriter{logger: Limited(logger)}, "", 0)
}

// lineWriter logs each Write, which the log package makes once a line, as one record.
type lineWriter struct {
	logger *slog.Logger
	forced *slog.Level
}

// Write never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	level, text := splitLevel(string(bytes.TrimRight(p, "\n")))
	if w.forced != nil {
		level = *w.forced
	}
	w.logger.Log(context.Background(), level, text)
	return len(p), nil
}

func splitLevel(line string) (slog.Level, string) {
	if strings.HasPrefix(line, "[") {
		if name, rest, ok := strings.Cut(line[1:], "]"); ok {
			if name == "ERR" {
				name = "ERROR"
			}
			if level, err := ParseLevel(name); err == nil {
				return level, strings.TrimLeft(rest, " ")
			}
		}
	}
	return slog.LevelInfo, line
}
