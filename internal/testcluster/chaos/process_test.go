//go:build unix

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// output keeps what a process wrote, and lets tests wait for a text in it.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// awaitLine waits until a whole line begins with prefix.
func (o *output) awaitLine(prefix string, within time.Duration, ended <-chan struct{}) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		o.mu.Lock()
		text, changed := o.text.String(), o.changed
		o.mu.Unlock()
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, prefix) && strings.HasSuffix(line, "\n") {
				return nil
			}
		}
		select {
		case <-changed:
		case <-ended:
			return fmt.Errorf("ended without a line that begins with %q", prefix)
		case <-timer.C:
			return fmt.Errorf("no line that begins with %q within %v", prefix, within)
		}
	}
}

// process is a running program of ours.
type process struct {
	name     string
	cmd      *exec.Cmd
	out, err *output
	ended    chan struct{} // closed once it was awaited
	waitErr  error         // how it ended; set before ended is closed
}

// launch starts a program, which the caller ends: see process.end.
func launch(t *testing.T, name, dir string, env []string, program string, args ...string) *process {
	t.Helper()
	return launchWith(t, name, dir, env, nil, nil, program, args...)
}

// launchWith is launch with files as standard input and output; without them it has no input, and output is kept.
func launchWith(t *testing.T, name, dir string, env []string, stdin, stdout *os.File, program string, args ...string) *process {
	t.Helper()
	p := &process{name: name, out: newOutput(), err: newOutput(), ended: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, p.out, p.err
	if stdin != nil {
		p.cmd.Stdin = stdin
	}
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	p.cmd.Env = append(cleanEnv(), env...)
	p.cmd.SysProcAttr = childAttributes()
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.waitErr = p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

// cleanEnv is the environment without settings of Penstock.
func cleanEnv() []string {
	var env []string
	for _, line := range os.Environ() {
		if !strings.HasPrefix(line, "PENSTOCK_") {
			env = append(env, line)
		}
	}
	return env
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// end kills what still runs, and awaits it.
func (p *process) end() {
	if p.running() {
		_ = p.cmd.Process.Kill()
	}
	<-p.ended
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// await waits for the end and returns the exit status; -1 after a signal.
func (p *process) await(t *testing.T, within time.Duration) int {
	t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	if !p.running() {
		return p.cmd.ProcessState.ExitCode()
	}
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		t.Fatalf("%s did not end within %v\n%s%s", p.name, within, tail(p.out.String()), tail(p.err.String()))
		return 0
	}
}

// interrupt asks for a clean end and awaits it.
func (p *process) interrupt(t *testing.T, within time.Duration) int {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("interrupt %s: %v", p.name, err)
	}
	return p.await(t, within)
}

// result is what a command line gave.
type result struct {
	line     string
	code     int
	out, err string
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit status %d after %v\n%s%s", r.line, r.code, r.took.Round(time.Millisecond), tail(r.out), tail(r.err))
}

// runTimeout bounds every command that is not expected to run on.
const runTimeout = 60 * time.Second

// run runs a program to its end.
func run(t *testing.T, dir string, env []string, stdin, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, strings.NewReader(stdin), &out, &errOut
	cmd.Env = append(cleanEnv(), env...)
	cmd.SysProcAttr = childAttributes()
	cmd.WaitDelay = 5 * time.Second
	begin := time.Now()
	err := cmd.Run()
	r := result{
		line: strings.Join(append([]string{program[strings.LastIndex(program, "/")+1:]}, args...), " "),
		out:  out.String(), err: errOut.String(), took: time.Since(begin),
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s: no end within %v\n%s%s", r.line, runTimeout, tail(r.out), tail(r.err))
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", r.line, err)
	}
	return r
}

// tail is the end of a text.
func tail(text string) string {
	const most = 6000
	if len(text) > most {
		return "[...]" + text[len(text)-most:]
	}
	return text
}

// alive reports whether a process of that id exists, awaited or not.
func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// eventually polls until the condition returns nil.
func eventually(t *testing.T, within time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		}
	}
}
