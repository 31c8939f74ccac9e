package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/client"
)

// offsetRange is a parsed -O expression; it holds for each partition on its own. A zero end reads on for ever.
type offsetRange struct {
	from, end client.Position
}

const offsetUsage = "use start, end, N, +N (N after the start), -N (the last N) or N..M (M excluded)"

// parseOffsetRange parses start, end, N, +N, -N and N..M.
func parseOffsetRange(s string) (offsetRange, error) {
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
