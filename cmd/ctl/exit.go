package main

import (
	"errors"
	"fmt"
)

// Exit codes of design and documents.
const (
	exitOK        = 0
	exitFailed    = 1
	exitUsage     = 2
	exitUnhealthy = 3
)

// usageError is a wrong command line: exit code 2.
type usageError struct{ text string }

// Error returns the text.
func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }

// errUnhealthy ends a command whose answer is "not healthy": exit code 3, the reasons are printed already.
var errUnhealthy = errors.New("the cluster is not healthy")

// errReported ends a command whose failure is printed already: exit code 1.
var errReported = errors.New("failed")
