package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// at logs a line at a time of the test's choice.
func at(logger *slog.Logger, when time.Time, level slog.Level, message string) {
	record := slog.NewRecord(when, level, message, 0)
	if handler := logger.Handler(); handler.Enabled(context.Background(), level) {
		if err := handler.Handle(context.Background(), record); err != nil {
			panic(err)
		}
	}
}

func lines(out *bytes.Buffer, text string) int { return strings.Count(out.String(), text) }

func TestRepeatedLinesAreLimited(t *testing.T) {
	logger, out := newTestLogger(t, LogText, LevelTrace)
	limited, began := Limited(logger), time.Unix(1000, 0)
	for i := range 100 {
		at(limited, began.Add(time.Duration(i)*10*time.Millisecond), slog.LevelWarn, "again")
	}
	at(limited, began, slog.LevelError, "again")
	at(limited.With("component", "other"), began, slog.LevelWarn, "again")
	at(limited, began, slog.LevelWarn, "another")
	if n := lines(out, "level=WARN msg=again\n"); n != limitBurst {
		t.Errorf("%d lines came through", n)
	}
	for _, want := range []string{"level=ERROR msg=again\n", "msg=again component=other", "msg=another"} {
		if lines(out, want) != 1 {
			t.Errorf("another kind did not come through: %s", want)
		}
	}
	out.Reset()
	at(limited, began.Add(limitWindow-time.Nanosecond), slog.LevelWarn, "again")
	if out.Len() > 0 {
		t.Errorf("too early: %s", out)
	}
	at(limited, began.Add(limitWindow), slog.LevelWarn, "again")
	at(limited, began.Add(limitWindow), slog.LevelWarn, "again")
	if text := out.String(); lines(out, "msg=again") != 2 || strings.Count(text, "left_out=91") != 1 || strings.Count(text, "left_out") != 1 {
		t.Errorf("after the window: %s", text)
	}
	out.Reset()
	for range 100 {
		at(limited, began, slog.LevelDebug, "detail")
	}
	if n := lines(out, "detail"); n != 100 {
		t.Errorf("%d of 100 lines for debugging came through", n)
	}
}

func TestTheLimitIsBounded(t *testing.T) {
	logger, out := newTestLogger(t, LogText, nil)
	handler, ok := Limited(logger).Handler().(*limitHandler)
	if !ok {
		t.Fatal("no limit")
	}
	for i := range 3 * limitKinds {
		at(slog.New(handler), time.Unix(1000, 0), slog.LevelInfo, fmt.Sprint("line ", i))
	}
	if n := len(handler.counts.kinds); n > limitKinds || lines(out, "line") != 3*limitKinds {
		t.Errorf("%d kinds are counted, %d lines came through", n, lines(out, "line"))
	}
}

func TestGRPCLog(t *testing.T) {
	logger, out := newTestLogger(t, LogText, LevelTrace)
	bridge := GRPCLog(logger)
	for _, c := range []struct {
		log  func()
		want string
	}{
		{func() { bridge.Infof("[core] [Channel #%d]Channel created", 1) }, `level=TRACE msg="[Channel #1]Channel created" component=grpc.core`},
		{func() { bridge.Warningln("[transport]", "closing") }, `level=DEBUG msg=closing component=grpc.transport`},
		{func() { bridge.Error("plain") }, `level=WARN msg=plain component=grpc`},
		{func() { bridge.Errorln("[Channel #3] gone") }, `level=WARN msg="[Channel #3] gone" component=grpc`},
		{func() { bridge.Fatalf("%d", 7) }, `level=ERROR msg=7 component=grpc`},
	} {
		c.log()
		if got := takeLine(out); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	if !bridge.V(2) || bridge.V(3) {
		t.Error("steps are not described at the level trace, or too many")
	}
	quiet, out := newTestLogger(t, LogText, nil)
	bridge = GRPCLog(quiet)
	if bridge.Infoln("x"); bridge.V(0) || out.Len() > 0 {
		t.Error("steps are described though nobody wants them")
	}
}

func TestLevelName(t *testing.T) {
	for _, name := range Levels() {
		level, err := ParseLevel(name)
		if err != nil || LevelName(level) != name || LevelName(level+1) != name {
			t.Errorf("%s: %v %s %v", name, level, LevelName(level), err)
		}
	}
}
