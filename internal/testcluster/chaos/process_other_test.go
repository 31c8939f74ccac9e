//go:build unix && !linux

package chaos

import (
	"os"
	"syscall"
)

// childAttributes put a child into a group of its own.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// narrow leaves the pipe as it is: its size cannot be chosen here.
func narrow(*os.File) error { return nil }
