//go:build unix

package main

import (
	"os"
	"syscall"
)

// ownGroup keeps an interrupt at the terminal from reaching the children: broker dev passes it on in order.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// terminate asks a node to stop cleanly.
func terminate(process *os.Process) error { return process.Signal(syscall.SIGTERM) }
