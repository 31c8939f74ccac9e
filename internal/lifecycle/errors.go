package lifecycle

import (
	"fmt"
	"strings"
)

// StillRunningError says that a group did not end within the time its Stop was given. It unwraps to the reason why the
// waiting ended, such as context.DeadlineExceeded.
type StillRunningError struct {
	Group      string   // the path of the group that was stopped
	Goroutines []string // the paths of the goroutines that had not returned, sorted
	Cause      error    // why the waiting ended
}

// Error names the goroutines that still run.
func (e *StillRunningError) Error() string {
	return fmt.Sprintf("group %s has not stopped in time (%v), still running: %s",
		e.Group, e.Cause, strings.Join(e.Goroutines, ", "))
}

// Unwrap returns the reason why the waiting ended.
func (e *StillRunningError) Unwrap() error { return e.Cause }
