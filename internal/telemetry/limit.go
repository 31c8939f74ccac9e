package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// How often a line may be repeated.
const (
	limitBurst  = 10               // lines of a kind
	limitWindow = 10 * time.Second // in so long
	limitKinds  = 1024             // kinds that are counted; beyond that counting begins anew
)

// Limited returns a logger that lets 10 lines of a kind through in 10 seconds. A kind is a level, a message and the attributes
// of the logger, not those of the line. The first line of the next 10 seconds says how many were left out, in the
// attribute "left_out". Lines below slog.LevelInfo are not limited: who wants them wants them all.
func Limited(logger *slog.Logger) *slog.Logger {
	return slog.New(&limitHandler{next: logger.Handler(), counts: &limitCounts{kinds: map[limitKind]*limitCount{}}})
}

type limitHandler struct {
	next   slog.Handler
	prefix string // the attributes and groups of the logger
	counts *limitCounts
}

type limitKind struct {
	level   slog.Level
	prefix  string
	message string
}

type limitCount struct {
	began   time.Time
	lines   int
	leftOut int
}

type limitCounts struct {
	mu    sync.Mutex
	kinds map[limitKind]*limitCount
}

// pass counts a line; it says whether it goes through, and how many were left out before it.
func (c *limitCounts) pass(kind limitKind, now time.Time) (leftOut int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := c.kinds[kind]
	switch {
	case count == nil:
		if len(c.kinds) >= limitKinds {
			clear(c.kinds)
		}
		count = &limitCount{began: now}
		c.kinds[kind] = count
	case now.Sub(count.began) >= limitWindow || now.Before(count.began):
		leftOut = count.leftOut
		*count = limitCount{began: now}
	}
	if count.lines++; count.lines > limitBurst {
		count.leftOut++
		return 0, false
	}
	return leftOut, true
}

// Enabled implements slog.Handler.
func (h *limitHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *limitHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		leftOut, ok := h.counts.pass(limitKind{level: r.Level, prefix: h.prefix, message: r.Message}, r.Time)
		if !ok {
			return nil
		}
		if leftOut > 0 {
			r = r.Clone()
			r.AddAttrs(slog.Int("left_out", leftOut))
		}
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *limitHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limitHandler{next: h.next.WithAttrs(attrs), prefix: h.prefix + fmt.Sprint(attrs), counts: h.counts}
}

// WithGroup implements slog.Handler.
func (h *limitHandler) WithGroup(name string) slog.Handler {
	return &limitHandler{next: h.next.WithGroup(name), prefix: h.prefix + name + ".", counts: h.counts}
}
