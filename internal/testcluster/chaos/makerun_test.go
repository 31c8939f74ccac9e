//go:build unix

package chaos

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/documents"
)

// TestMakeRun types what the README begins with: it builds, is ready, ends cleanly at Ctrl-C, and goes on with the same data when it is
// run again. What differs: programs, ports and data are the test's own, by the settings of the Makefile.
func TestMakeRun(t *testing.T) {
	bin := thePrograms(t)
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is missing")
	}
	commands, err := documents.Lines(repository, "TestMakeRun")
	if err != nil || len(commands) != 1 {
		t.Fatalf("one command runs a cluster: %q %v", commands, err)
	}
	c := newCluster(t, bin, 3)
	home := filepath.Dir(c.dir)
	command := strings.Join([]string{
		"exec", commands[0], "BIN=" + filepath.Join(home, "bin"), "PORT=" + strconv.Itoa(c.port), "DATA_DIR=" + c.dir,
	}, " ")
	makeRun := func() {
		c.dev = launch(t, commands[0], repository, []string{"MAKEFLAGS="}, "bash", "-euc", command)
		c.started = append(c.started, c.dev)
		if err := c.dev.out.awaitLine("ready", readyTimeout+buildTimeout, c.dev.ended); err != nil {
			t.Fatalf("%s: %v\n%s%s", command, err, tail(c.dev.out.String()), tail(c.dev.err.String()))
		}
	}
	ctrlC := func() {
		// As a terminal does: to make and to what it started.
		if err := syscall.Kill(-c.dev.pid(), syscall.SIGINT); err != nil {
			t.Errorf("interrupt make run: %v", err)
		}
		c.dev.await(t, stopTimeout)
	}
	t.Cleanup(func() {
		if c.dev != nil && c.dev.running() {
			ctrlC()
		}
	})

	begin := time.Now()
	makeRun()
	t.Logf("make run was ready after %v", time.Since(begin).Round(10*time.Millisecond))
	c.awaitHealthy()
	c.createTopic("kept", 3, 3)
	if r := c.ctlInput("one\ntwo\n", "produce", "kept"); r.code != 0 {
		t.Fatalf("%s: %s", r.line, r.err)
	}
	pids := []int{c.pid(1), c.pid(2), c.pid(3)}
	ctrlC()
	for i, pid := range pids {
		if alive(pid) && c.ours(pid, i+1) {
			t.Errorf("node %d outlives Ctrl-C", i+1)
		}
		if left, err := c.readPID(i + 1); err == nil {
			t.Errorf("node %d left its pid file (%d) behind: it was not stopped cleanly", i+1, left)
		}
	}
	makeRun()
	got := strings.Fields(c.must("consume", "kept", "--from-beginning", "-e"))
	if len(got) != 2 {
		t.Errorf("run again, it has %q of two records", got)
	}
	ctrlC()
	c.dev = nil
}
