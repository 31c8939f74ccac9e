//go:build windows

package main

import (
	"os"
	"syscall"
)

// ownGroup keeps an interrupt at the terminal from reaching the children: broker dev passes it on in order.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// terminate ends a node. Windows has no signal that asks for a clean stop; the next start recovers.
func terminate(process *os.Process) error { return process.Kill() }
