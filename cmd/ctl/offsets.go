package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/client"
)

// offsetRange is a parsed -O expression; it holds for each partition on its own. A zero end reads on for ever.
type offsetRange struct {
	from, end client.Position
}

const (
	offsetUsage = "use start, end, N, +N (N after the start), -N (the last N), N..M (M excluded), @TIME or @A..B"
	timeUsage   = "a time is RFC 3339 (2026-01-31T12:00:00Z), milliseconds since 1970, or so long ago (-1h)"
)

// parseOffsetRange parses start, end, N, +N, -N, N..M, @TIME and @A..B; times like -1h are before now.
func parseOffsetRange(s string, now time.Time) (offsetRange, error) {
	bad := func(why string) (offsetRange, error) {
		return offsetRange{}, usagef("offset %q: %s; %s", s, why, offsetUsage)
	}
	switch {
	case s == "start":
		return offsetRange{from: client.AtStart()}, nil
	case s == "end":
		return offsetRange{from: client.AtEnd()}, nil
	case s == "":
		return bad("it is empty")
	case s[0] == '@':
		return parseTimeRange(s, now)
	}
	if a, b, ok := strings.Cut(s, ".."); ok {
		from, err1 := parseOffset(a)
		to, err2 := parseOffset(b)
		if err1 != nil || err2 != nil {
			return bad("both ends must be numbers from 0 on")
		}
		if to < from {
			return bad("it ends before it begins")
		}
		return offsetRange{from: client.AtOffset(from), end: client.AtOffset(to)}, nil
	}
	at, digits := client.AtOffset, s
	switch s[0] {
	case '+':
		at, digits = client.AfterStart, s[1:]
	case '-':
		at, digits = client.BeforeEnd, s[1:]
	}
	n, err := parseOffset(digits)
	if err != nil {
		return bad("not a number from 0 on")
	}
	return offsetRange{from: at(n)}, nil
}

func parseOffset(s string) (int64, error) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, fmt.Errorf("%q is no offset", s)
	}
	return strconv.ParseInt(s, 10, 64)
}

// parseTimeRange parses @TIME and @A..B: from the first record of that time or later, up to the first of the other one.
func parseTimeRange(s string, now time.Time) (offsetRange, error) {
	a, b, bounded := strings.Cut(s[1:], "..")
	from, err := parseTime(a, now)
	if err != nil {
		return offsetRange{}, usagef("offset %q: %v; %s", s, err, timeUsage)
	}
	r := offsetRange{from: client.AtTime(from)}
	if !bounded {
		return r, nil
	}
	to, err := parseTime(b, now)
	switch {
	case err != nil:
		return offsetRange{}, usagef("offset %q: %v; %s", s, err, timeUsage)
	case to.Before(from):
		return offsetRange{}, usagef("offset %q: it ends before it begins; %s", s, timeUsage)
	}
	r.end = client.AtTime(to)
	return r, nil
}

func parseTime(s string, now time.Time) (time.Time, error) {
	if ms, err := parseOffset(s); err == nil {
		return time.UnixMilli(ms), nil
	}
	if ago, err := time.ParseDuration(s); err == nil && ago < 0 {
		return now.Add(ago), nil
	}
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return at, nil
	}
	return time.Time{}, fmt.Errorf("%q is no time", s)
}
