package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// HCLog returns a logger for libraries that want hclog and writes through logger. The level stays with logger: SetLevel
// does nothing. Lines that repeat are limited, see [Limited]. A nil logger means slog.Default.
func HCLog(logger *slog.Logger) hclog.Logger {
	if logger == nil {
		logger = slog.Default()
	}
	logger = Limited(logger)
	return &hclogBridge{base: logger, logger: logger}
}

// hclogBridge is hclog.Logger over slog. The name stands in the attribute "component".
type hclogBridge struct {
	base    *slog.Logger // without name and implied arguments
	logger  *slog.Logger // with both
	name    string
	implied []any
}

var _ hclog.Logger = (*hclogBridge)(nil)

func (b *hclogBridge) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.Off {
		return
	}
	to := slogLevel(level)
	if to > slog.LevelDebug && closedHere(args) {
		to = slog.LevelDebug
	}
	if ctx := context.Background(); b.logger.Enabled(ctx, to) {
		b.logger.Log(ctx, to, msg, slogArgs(args)...)
	}
}

// closedHere says that a line tells no more than that this process has closed a connection, which libraries report as an error: each clean
// stop would end with some.
func closedHere(args []any) bool {
	return slices.ContainsFunc(args, func(arg any) bool {
		err, is := arg.(error)
		return is && errors.Is(err, net.ErrClosed)
	})
}

func (b *hclogBridge) Trace(msg string, args ...any) { b.Log(hclog.Trace, msg, args...) }
func (b *hclogBridge) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }
func (b *hclogBridge) Info(msg string, args ...any)  { b.Log(hclog.Info, msg, args...) }
func (b *hclogBridge) Warn(msg string, args ...any)  { b.Log(hclog.Warn, msg, args...) }
func (b *hclogBridge) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b *hclogBridge) IsTrace() bool { return b.enabled(LevelTrace) }
func (b *hclogBridge) IsDebug() bool { return b.enabled(slog.LevelDebug) }
func (b *hclogBridge) IsInfo() bool  { return b.enabled(slog.LevelInfo) }
func (b *hclogBridge) IsWarn() bool  { return b.enabled(slog.LevelWarn) }
func (b *hclogBridge) IsError() bool { return b.enabled(slog.LevelError) }

func (b *hclogBridge) enabled(level slog.Level) bool {
	return b.logger.Enabled(context.Background(), level)
}

func (b *hclogBridge) ImpliedArgs() []any { return slices.Clone(b.implied) }

func (b *hclogBridge) With(args ...any) hclog.Logger {
	return b.derive(b.name, append(slices.Clone(b.implied), args...))
}

func (b *hclogBridge) Name() string { return b.name }

func (b *hclogBridge) Named(name string) hclog.Logger {
	if b.name != "" {
		name = b.name + "." + name
	}
	return b.ResetNamed(name)
}

func (b *hclogBridge) ResetNamed(name string) hclog.Logger { return b.derive(name, b.implied) }

func (b *hclogBridge) derive(name string, implied []any) *hclogBridge {
	logger := b.base
	if name != "" {
		logger = logger.With("component", name)
	}
	if len(implied) > 0 {
		logger = logger.With(slogArgs(implied)...)
	}
	return &hclogBridge{base: b.base, logger: logger, name: name, implied: implied}
}

// SetLevel does nothing: the level is set where the slog logger is made.
func (b *hclogBridge) SetLevel(hclog.Level) {}

func (b *hclogBridge) GetLevel() hclog.Level {
	for _, level := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		if b.enabled(slogLevel(level)) {
			return level
		}
	}
	return hclog.Off
}

func (b *hclogBridge) StandardLogger(options *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(b.StandardWriter(options), "", 0)
}

// StandardWriter finds the level of each line in its prefix, such as [WARN]; only ForceLevel of options is looked at.
func (b *hclogBridge) StandardWriter(options *hclog.StandardLoggerOptions) io.Writer {
	writer := &lineWriter{logger: b.logger}
	if options != nil && options.ForceLevel != hclog.NoLevel {
		forced := slogLevel(options.ForceLevel)
		writer.forced = &forced
	}
	return writer
}

func slogLevel(level hclog.Level) slog.Level {
	switch level {
	case hclog.Trace:
		return LevelTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error, hclog.Off:
		return slog.LevelError
	case hclog.NoLevel, hclog.Info:
		return slog.LevelInfo
	default:
		return slog.LevelInfo
	}
}

// slogArgs turns hclog's pairs into slog attributes; a key need not be a string there, and a last value without
// key is kept.
func slogArgs(args []any) []any {
	attrs := make([]any, 0, (len(args)+1)/2)
	for len(args) > 1 {
		attrs = append(attrs, slog.Any(freeKey(fmt.Sprint(args[0])), slogValue(args[1])))
		args = args[2:]
	}
	if len(args) == 1 {
		attrs = append(attrs, slog.Any(hclog.MissingKey, slogValue(args[0])))
	}
	return attrs
}

// freeKey keeps the keys that every line has for what they mean there: Raft has a "node" of its own.
func freeKey(key string) string {
	switch key {
	case slog.TimeKey, slog.LevelKey, slog.MessageKey, "node", "component":
		return key + "_"
	default:
		return key
	}
}

func slogValue(value any) any {
	switch v := value.(type) {
	case hclog.Format:
		if len(v) == 0 {
			return ""
		}
		return fmt.Sprintf(fmt.Sprint(v[0]), v[1:]...)
	case hclog.Hex:
		return fmt.Sprintf("%#x", int(v))
	case hclog.Octal:
		return fmt.Sprintf("%#o", int(v))
	case hclog.Binary:
		return fmt.Sprintf("%#b", int(v))
	case hclog.Quote:
		return string(v)
	case error:
		return v.Error()
	case fmt.Stringer:
		return v.String()
	default:
		return value
	}
}
