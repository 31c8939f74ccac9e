package storage

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
)

// ClockVerdict says how far the wall clock can be believed when data is to be deleted by age.
type ClockVerdict uint8

// The verdicts, from good to bad.
const (
	// ClockTrusted deletes what is too old.
	ClockTrusted ClockVerdict = iota
	// ClockDoubtful deletes what is too old unless nothing of a log would stay: the clock is far ahead of when it was looked at
	// last, before the broker was started.
	ClockDoubtful
	// ClockJumped deletes nothing by age: the wall clock went ahead of the monotonic one.
	ClockJumped
)

// String names the verdict.
func (v ClockVerdict) String() string {
	switch v {
	case ClockTrusted:
		return "trusted"
	case ClockDoubtful:
		return "doubtful"
	case ClockJumped:
		return "jumped"
	default:
		return fmt.Sprintf("ClockVerdict(%d)", uint8(v))
	}
}

// ClockGuardOptions are the bounds of a ClockGuard. Zero values stand for the defaults.
type ClockGuardOptions struct {
	// Tolerance is how far the wall clock may go ahead of the monotonic one; default 5 minutes.
	Tolerance time.Duration
	// RestartTolerance is how long the broker may have been away before the clock is doubtful; default 24 hours.
	RestartTolerance time.Duration
	// Grace is how long deletions by age pause; a clock that is still the same then is believed. Default 24 hours.
	Grace time.Duration
}

// ClockGuard watches the wall clock against the monotonic one, so that a clock that was set wrongly does not delete all data. It
// is a pure core: the times are arguments. A jump ahead makes it distrust the clock until that goes back, or has gone on
// steadily for the grace time. Jumps back delete nothing and are taken over after the grace time too.
type ClockGuard struct {
	opts    ClockGuardOptions
	begun   bool
	offset  int64 // wall minus monotonic in ms, as trusted
	strange bool
	seen    int64         // the offset that is not trusted
	since   time.Duration // monotonic time since when it is seen
	doubt   bool          // doubtful since the start
	doubtAt time.Duration
}

// NewClockGuard returns a guard that has seen nothing yet.
func NewClockGuard(o ClockGuardOptions) *ClockGuard {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&o.Tolerance, 5*time.Minute)
	set(&o.RestartTolerance, 24*time.Hour)
	set(&o.Grace, 24*time.Hour)
	return &ClockGuard{opts: o}
}

// Begin takes the first look: lastSeenMs is what the wall clock said when an earlier process looked last, 0 where that is not
// known; mono is any monotonic time, the same for all calls.
func (g *ClockGuard) Begin(lastSeenMs, wallMs int64, mono time.Duration) {
	g.begun, g.offset = true, offsetOf(wallMs, mono)
	g.doubt = lastSeenMs > 0 && wallMs-lastSeenMs > g.opts.RestartTolerance.Milliseconds()
	g.doubtAt = mono
}

func offsetOf(wallMs int64, mono time.Duration) int64 { return wallMs - mono.Milliseconds() }

// Observe looks at the clocks and says how far the wall clock can be believed. alarm is set on the look at which it ceases to
// be; byMs is how far it is ahead.
func (g *ClockGuard) Observe(wallMs int64, mono time.Duration) (v ClockVerdict, alarm bool, byMs int64) {
	if !g.begun {
		g.Begin(0, wallMs, mono)
	}
	offset := offsetOf(wallMs, mono)
	ahead, tolerance := offset-g.offset, g.opts.Tolerance.Milliseconds()
	switch {
	case ahead <= tolerance && ahead >= -tolerance:
		g.strange = false // small steps are not taken over: many of them would be a jump
	case !g.strange || !near(offset, g.seen, tolerance):
		alarm = ahead > 0 && (!g.strange || offset > g.seen)
		g.strange, g.seen, g.since = true, offset, mono
	case mono-g.since >= g.opts.Grace:
		g.strange, g.offset = false, offset
	}
	g.doubt = g.doubt && mono-g.doubtAt < g.opts.Grace
	switch {
	case g.strange && ahead > 0:
		return ClockJumped, alarm, ahead
	case g.doubt:
		return ClockDoubtful, false, 0
	default:
		return ClockTrusted, false, 0
	}
}

func near(a, b, tolerance int64) bool { return a-b <= tolerance && b-a <= tolerance }

// seenTimeName is a hint: what the wall clock said when retention looked last, in ms since 1970, as text.
const seenTimeName = "clock.seen"

// SeenTime returns what NoteSeenTime noted last, in ms since 1970, or 0 where that is not known.
func (d *Dir) SeenTime() (int64, error) {
	data, err := readFile(d.fs, path.Join(d.path, seenTimeName), 64)
	if fsys.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	ms, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if errors.Is(err, strconv.ErrSyntax) || errors.Is(err, strconv.ErrRange) || ms < 0 {
		return 0, nil // a torn hint
	}
	return ms, nil
}

// NoteSeenTime notes what the wall clock says. Nothing is synced: it is a hint.
func (d *Dir) NoteSeenTime(nowMs int64) error {
	name := path.Join(d.path, seenTimeName)
	if err := writeHint(d.fs, name+tempSuffix, strconv.AppendInt(nil, nowMs, 10)); err != nil {
		return err
	}
	return d.fs.Rename(name+tempSuffix, name)
}
