package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"google.golang.org/grpc/grpclog"
)

// GRPCLog returns a logger for grpc-go, which takes one a process, by grpclog.SetLoggerV2 before anything else of it is used. What
// it calls information are steps of single connections: they are at LevelTrace, its warnings (a node that cannot be reached, which
// callers report themselves) at slog.LevelDebug, its errors at slog.LevelWarn. The part of gRPC that speaks stands in the attribute
// "component", such as grpc.core. Lines that repeat are limited, see [Limited].
func GRPCLog(logger *slog.Logger) grpclog.LoggerV2 { return &grpcBridge{logger: Limited(logger)} }

type grpcBridge struct{ logger *slog.Logger }

func (b *grpcBridge) log(level slog.Level, text string) {
	if !b.logger.Enabled(context.Background(), level) {
		return
	}
	component := "grpc"
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if part, message, ok := strings.Cut(rest, "]"); ok && !strings.ContainsAny(part, " #") {
			component, text = "grpc."+part, strings.TrimLeft(message, " ")
		}
	}
	b.logger.Log(context.Background(), level, strings.TrimRight(text, "\n"), "component", component)
}

func (b *grpcBridge) Info(args ...any)   { b.log(LevelTrace, fmt.Sprint(args...)) }
func (b *grpcBridge) Infoln(args ...any) { b.log(LevelTrace, fmt.Sprintln(args...)) }

func (b *grpcBridge) Infof(format string, args ...any) {
	b.log(LevelTrace, fmt.Sprintf(format, args...))
}

func (b *grpcBridge) Warning(args ...any) { b.log(slog.LevelDebug, fmt.Sprint(args...)) }

func (b *grpcBridge) Warningln(args ...any) { b.log(slog.LevelDebug, fmt.Sprintln(args...)) }

func (b *grpcBridge) Warningf(format string, args ...any) {
	b.log(slog.LevelDebug, fmt.Sprintf(format, args...))
}

func (b *grpcBridge) Error(args ...any) { b.log(slog.LevelWarn, fmt.Sprint(args...)) }

func (b *grpcBridge) Errorln(args ...any) { b.log(slog.LevelWarn, fmt.Sprintln(args...)) }

func (b *grpcBridge) Errorf(format string, args ...any) {
	b.log(slog.LevelWarn, fmt.Sprintf(format, args...))
}

// grpc-go ends the process itself after these.

func (b *grpcBridge) Fatal(args ...any) { b.log(slog.LevelError, fmt.Sprint(args...)) }

func (b *grpcBridge) Fatalln(args ...any) { b.log(slog.LevelError, fmt.Sprintln(args...)) }

func (b *grpcBridge) Fatalf(format string, args ...any) {
	b.log(slog.LevelError, fmt.Sprintf(format, args...))
}

// V reports whether the steps that cost something to describe are wanted.
func (b *grpcBridge) V(verbosity int) bool {
	return verbosity <= 2 && b.logger.Enabled(context.Background(), LevelTrace)
}
