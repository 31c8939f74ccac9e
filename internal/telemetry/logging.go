package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// LevelTrace is one step more talkative than slog.LevelDebug; libraries use it for each of their steps.
const LevelTrace = slog.LevelDebug - 4

// LogFormat is the form of log lines.
type LogFormat string

// The forms of log lines.
const (
	LogText LogFormat = "text" // key=value pairs
	LogJSON LogFormat = "json" // one object a line
)

// NewLogger returns a logger that writes whole lines to w, one Write call each. The level is looked at for each line,
// so a *slog.LevelVar changes it at run time; nil means slog.LevelInfo. An unknown format is an error.
func NewLogger(w io.Writer, format LogFormat, level slog.Leveler) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: nameTrace}
	switch format {
	case LogText:
		return slog.New(slog.NewTextHandler(w, options)), nil
	case LogJSON:
		return slog.New(slog.NewJSONHandler(w, options)), nil
	default:
		return nil, fmt.Errorf("unknown log format %q: use %q or %q", format, LogText, LogJSON)
	}
}

// Levels are the names of the levels, from the most talkative on.
func Levels() []string { return []string{"trace", "debug", "info", "warn", "error"} }

// LevelName is what ParseLevel reads as the level, where it is one of those; another one is named after the next lower one.
func LevelName(level slog.Level) string {
	name := "trace"
	for _, n := range Levels() {
		if l, err := ParseLevel(n); err == nil && level >= l {
			name = n
		}
	}
	return name
}

// ParseLevel reads trace, debug, info, warn or error, in upper or lower case.
func ParseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "trace":
		return LevelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	default:
		return 0, fmt.Errorf("unknown log level %q: use trace, debug, info, warn or error", name)
	}
}

func nameTrace(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) > 0 || attr.Key != slog.LevelKey {
		return attr
	}
	if level, ok := attr.Value.Any().(slog.Level); ok && level == LevelTrace {
		attr.Value = slog.StringValue("TRACE")
	}
	return attr
}
