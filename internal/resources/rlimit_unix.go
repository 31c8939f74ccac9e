//go:build unix

package resources

import (
	"fmt"
	"syscall"
)

// mostLimit is taken for no limit at all.
const mostLimit = 1 << 30

// RaiseOpenFiles raises the soft limit of open files to the hard one and returns what is in force then; 0 is no limit.
func RaiseOpenFiles() (int64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("ask for the limit of open files: %w", err)
	}
	if limit.Cur < limit.Max {
		raised := syscall.Rlimit{Cur: limit.Max, Max: limit.Max}
		// Some systems have a bound below the hard limit; the soft one then stays.
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err == nil {
			limit = raised
		}
	}
	if limit.Cur >= mostLimit {
		return 0, nil
	}
	return int64(limit.Cur), nil //nolint:gosec // below 1<<30
}
