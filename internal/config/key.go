package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is the type of a value, for people and for documentation.
type Kind string

// The kinds of values.
const (
	KindString   Kind = "string"
	KindInt      Kind = "int"
	KindDuration Kind = "duration" // with a unit, such as 500ms, 3s, 24h
	KindBytes    Kind = "bytes"    // with an optional KiB, MiB or GiB
	KindList     Kind = "list"     // YAML list, or separated by commas
	KindAddress  Kind = "address"  // host:port
	KindPath     Kind = "path"
	KindBool     Kind = "bool" // true or false
)

// Takes says when a change of a setting takes effect.
type Takes string

// When changes take effect. Files, variables and flags are read once, at the start.
const (
	TakesAtStart Takes = "at the next start"
	TakesAtOnce  Takes = "at the next start; at once through the admin listener"
	TakesNever   Takes = "never: it is fixed for the life of the data directory"
)

// Key is one row of the table of settings. What is checked of a value and what is documented of it is the same.
type Key struct {
	Name    string // in the file; also the flag (--name) and, upper-cased with the prefix PENSTOCK_, the variable
	Kind    Kind
	Default string
	Min     int64    // least value of an int, of bytes, or of a duration in nanoseconds
	Max     int64    // largest one; every key of these kinds has a bound above 0
	Values  []string // the only values, or items of a list; empty for any
	Takes   Takes    // empty is TakesAtStart
	Doc     string   // one sentence or two
	Secret  bool     // the value is never printed
	set     func(c *Config, value string) error
}

// bounded reports whether the values are numbers, which have bounds.
func (k Key) bounded() bool {
	return k.Kind == KindInt || k.Kind == KindBytes || k.Kind == KindDuration
}

// Effect says when a change takes effect.
func (k Key) Effect() Takes {
	if k.Takes == "" {
		return TakesAtStart
	}
	return k.Takes
}

// Allowed says in words what values there are.
func (k Key) Allowed() string {
	switch {
	case k.bounded():
		return k.text(k.Min) + " to " + k.text(k.Max)
	case len(k.Values) > 0:
		return strings.Join(k.Values, ", ")
	default:
		return ""
	}
}

// text writes a number as a value of the key.
func (k Key) text(n int64) string {
	switch k.Kind { //nolint:exhaustive // the bounded kinds
	case KindDuration:
		return shortDuration(time.Duration(n))
	case KindBytes:
		return shortBytes(n)
	default:
		return strconv.FormatInt(n, 10)
	}
}

// shortDuration leaves out what is zero: 24h instead of 24h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}

func shortBytes(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= unit.size && n%unit.size == 0 {
			return strconv.FormatInt(n/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// check says what is wrong with a value as far as the table tells; set looks at the rest.
func (k Key) check(value string) error {
	switch k.Kind { //nolint:exhaustive // the others are looked at by set
	case KindInt, KindBytes, KindDuration:
		n, err := k.number(value)
		if err != nil {
			return err
		}
		if n < k.Min || n > k.Max {
			return fmt.Errorf("%q is out of range: use %s", value, k.Allowed())
		}
	case KindList:
		for _, item := range splitList(value) {
			if len(k.Values) > 0 && !slices.Contains(k.Values, item) {
				return fmt.Errorf("%q is not one of them: use some of %s", item, k.Allowed())
			}
		}
	default:
		if len(k.Values) > 0 && !slices.Contains(k.Values, value) {
			return fmt.Errorf("%q is not one of them: use one of %s", value, k.Allowed())
		}
	}
	return nil
}

// number reads a value of one of the bounded kinds; durations are in nanoseconds.
func (k Key) number(value string) (int64, error) {
	switch k.Kind { //nolint:exhaustive // the others are no numbers
	case KindInt:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no whole number: use %s", value, k.Allowed())
		}
		return n, nil
	case KindBytes:
		n, err := parseBytes(value)
		if err != nil {
			return 0, fmt.Errorf("%q is no size: use a number of bytes, or such as 64KiB, 16MiB, 1GiB, from %s", value, k.Allowed())
		}
		return n, nil
	case KindDuration:
		d, err := time.ParseDuration(value)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration: use such as 500ms, 3s or 24h, from %s", value, k.Allowed())
		}
		return int64(d), nil
	default:
		return 0, errors.New("it is no number")
	}
}
