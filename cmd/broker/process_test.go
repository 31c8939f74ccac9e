//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/testports"
)

// built is the real program, built once.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "penstock-broker-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "broker")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := built(); err == nil {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			code = 1
		}
	}
	os.Exit(code)
}

// program is a running broker, or broker dev.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *lockedBuffer
	exited chan struct{}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// launch starts the program with a clean environment; what it started is killed at the end of the test.
func launch(t *testing.T, args ...string) *program {
	t.Helper()
	return launchWith(t, "", nil, args...)
}

// launchWith launches the program with more variables, from a shell that runs the commands of before first, such as ulimit.
func launchWith(t *testing.T, before string, env []string, args ...string) *program {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, out: &lockedBuffer{}, exited: make(chan struct{})}
	if before == "" {
		p.cmd = exec.Command(path, args...) //nolint:gosec // our own program
	} else {
		p.cmd = exec.Command("sh", append([]string{"-c", before + ` && exec "$0" "$@"`, path}, args...)...) //nolint:gosec // the same
	}
	p.cmd.Env = append(childEnv(os.Environ()), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // the state tells how it ended
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.exited
		if t.Failed() {
			t.Logf("%v said:\n%s", args, p.out)
		}
	})
	return p
}

func (p *program) signal(s os.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
}

// exit waits for the end and returns the exit status; -1 after a signal.
func (p *program) exit() int {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		p.t.Fatalf("it does not end; it said:\n%s", p.out)
		return -1
	}
}

func (p *program) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		if err := lifecycle.Sleep(context.Background(), lifecycle.RealClock(), 5*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *program) awaitText(text string) {
	p.t.Helper()
	await(p.t, "it says "+text, func() bool {
		if !p.running() {
			p.t.Fatalf("it ended before it said %q:\n%s", text, p.out)
		}
		return strings.Contains(p.out.String(), text)
	})
}

// freePorts returns the first of some ports of loopback, as broker dev uses them, that are the test's.
func freePorts(t *testing.T, nodes int) int {
	t.Helper()
	return testports.Take(t, portStep*nodes)
}

// connect returns a client that is closed at the end of the test.
func connect(t *testing.T, addresses ...string) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var c *client.Client
	await(t, "a broker answers", func() bool {
		var err error
		c, err = client.Dial(ctx, client.Config{Bootstrap: addresses})
		return err == nil
	})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func healthy(c *client.Client, brokers int) func() bool {
	return func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		d, err := c.DescribeCluster(ctx)
		return err == nil && d.Healthy && len(d.Brokers) == brokers
	}
}
