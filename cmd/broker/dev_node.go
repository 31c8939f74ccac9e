package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

// tailBytes is how much of a log is shown when a node ends.
const tailBytes = 2000

// lockName is the file in a data directory that its node holds locked.
const lockName = ".lock"

// running returns the process that runs the node, whoever started it. The pid file, which the node alone writes, says which
// one it is, and the lock on the data directory that it is still there.
func (n *devNode) running() (pid int, ok bool) {
	text, err := os.ReadFile(filepath.Join(n.dir, pidName))
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return 0, false
	}
	lock, err := fsys.OS().Lock(filepath.Join(n.dir, dataName, lockName))
	if err != nil {
		return pid, errors.Is(err, fsys.ErrLocked)
	}
	return 0, lock.Close() != nil
}

// childRunning reports whether the node is a child that has not ended.
func (n *devNode) childRunning() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (n *devNode) process() (*os.Process, bool) {
	if n.childRunning() {
		return n.cmd.Process, true
	}
	pid, ok := n.running()
	if !ok {
		return nil, false
	}
	process, err := os.FindProcess(pid)
	return process, err == nil
}

// awaitEnd waits until no process runs the node, and kills it at the deadline.
func (n *devNode) awaitEnd(deadline time.Time) error {
	for killed := false; ; {
		process, ok := n.process()
		if !ok {
			if killed {
				return fmt.Errorf("node %d did not stop in time and was killed; see %s", n.id, filepath.Join(n.dir, logName))
			}
			return n.badEnd()
		}
		if time.Now().After(deadline) && !killed {
			killed = true
			if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return fmt.Errorf("kill node %d: %w", n.id, err)
			}
		}
		if err := lifecycle.Sleep(context.Background(), lifecycle.RealClock(), pollInterval/4); err != nil {
			return err
		}
	}
}

// badEnd returns the failure that the node ended with while the cluster stopped; a node that was killed before is none.
func (n *devNode) badEnd() error {
	if n.cmd == nil || n.err == nil || n.cmd.ProcessState == nil || !n.cmd.ProcessState.Exited() {
		return nil
	}
	return fmt.Errorf("node %d ended with %s; the end of its log:\n%s", n.id, n.howEnded(), n.logTail())
}

func (n *devNode) howEnded() string {
	if n.err == nil {
		return "exit status 0"
	}
	return n.err.Error()
}

func (n *devNode) logTail() string {
	text, err := os.ReadFile(filepath.Join(n.dir, logName))
	if err != nil {
		return err.Error()
	}
	text = bytes.TrimSpace(text[max(0, len(text)-tailBytes):])
	return string(text)
}
