//go:build unix

package python_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-io/penstock/internal/testports"
)

const (
	repository = "../.."
	// binEnv names a directory that holds broker and brokerctl; without it they are built.
	binEnv = "PENSTOCK_BIN"
	// requireEnv is set where Python has to be there, as in CI: its absence then fails the tests.
	requireEnv = "PENSTOCK_TEST_PYTHON"

	brokers    = 3
	runTimeout = 2 * time.Minute
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needPython skips the test where Debian's Python with gRPC is not installed, and says what is missing.
func needPython(t *testing.T) {
	t.Helper()
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("runs real processes on Linux: not in -short")
	}
	missing := ""
	if out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", "import grpc, google.protobuf").CombinedOutput(); err != nil {
		missing = fmt.Sprintf("/usr/bin/python3 with python3-grpcio (%v: %s)", err, bytes.TrimSpace(out))
	}
	for program, debian := range map[string]string{"protoc": "protobuf-compiler", "grpc_python_plugin": "protobuf-compiler-grpc"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = debian
		}
	}
	switch {
	case missing == "":
	case os.Getenv(requireEnv) != "":
		t.Fatalf("missing: %s", missing)
	default:
		t.Skipf("missing: %s", missing)
	}
}

// devCluster is `broker dev` in a home that looks like the root of the repository.
type devCluster struct {
	t    *testing.T
	home string
	port int
	proc *exec.Cmd
	out  *firstLine
	log  bytes.Buffer
}

// firstLine closes ready when a line that begins with ready was written.
type firstLine struct {
	mu    sync.Mutex
	text  bytes.Buffer
	ready chan struct{}
	once  sync.Once
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.text.Write(p)
	if strings.HasPrefix(f.text.String(), "ready") {
		f.once.Do(func() { close(f.ready) })
	}
	return n, err
}

func startCluster(t *testing.T) *devCluster {
	t.Helper()
	c := &devCluster{t: t, home: t.TempDir(), port: testports.Take(t, 10*brokers), out: &firstLine{ready: make(chan struct{})}}
	for _, dir := range []string{"examples/python", "api/proto"} {
		if err := os.CopyFS(filepath.Join(c.home, dir), os.DirFS(filepath.Join(repository, dir))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(c.home, "examples/python/gen")); err != nil {
		t.Fatal(err)
	}
	c.programs()
	c.proc = exec.Command(filepath.Join(c.home, "bin/broker"), "dev", "--brokers", strconv.Itoa(brokers), //nolint:gosec // made by this test
		"--port", strconv.Itoa(c.port), "--data-dir", c.dir())
	c.proc.Env, c.proc.Stdout, c.proc.Stderr = cleanEnv(), c.out, &c.log
	if err := c.proc.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.proc.Wait() }()
	t.Cleanup(func() {
		_ = c.proc.Process.Signal(os.Interrupt)
		if err := <-ended; err != nil {
			t.Errorf("broker dev ended with %v\n%s", err, c.log.String())
		}
	})
	timer := time.NewTimer(runTimeout)
	defer timer.Stop()
	select {
	case <-c.out.ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("broker dev ended with %v\n%s", err, c.log.String())
	case <-timer.C:
		t.Fatalf("broker dev is not ready within %v\n%s", runTimeout, c.log.String())
	}
	return c
}

// programs puts broker and brokerctl into bin, built unless somebody did.
func (c *devCluster) programs() {
	c.t.Helper()
	bin := filepath.Join(c.home, "bin")
	if dir := os.Getenv(binEnv); dir != "" {
		if dir, err := filepath.Abs(dir); err != nil || os.Symlink(dir, bin) != nil {
			c.t.Fatalf("link %s: %v", dir, err)
		}
		return
	}
	for name, pkg := range map[string]string{"broker": "./cmd/broker", "brokerctl": "./cmd/ctl"} {
		cmd := exec.CommandContext(c.t.Context(), "go", "build", "-o", filepath.Join(bin, name), pkg) //nolint:gosec // ours
		cmd.Dir, cmd.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
}

func (c *devCluster) dir() string { return filepath.Join(c.home, "data/dev") }

func (c *devCluster) bootstrap() string {
	var addresses []string
	for i := range brokers {
		addresses = append(addresses, "127.0.0.1:"+strconv.Itoa(c.port+10*i))
	}
	return strings.Join(addresses, ",")
}

// command is a program in the home of the cluster that knows where the brokers are.
func (c *devCluster) command(ctx context.Context, stdin io.Reader, name string, args ...string) *exec.Cmd {
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		name = filepath.Join(c.home, name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.WaitDelay = c.home, append(cleanEnv(), "PENSTOCK_BOOTSTRAP="+c.bootstrap()), stdin, 5*time.Second
	return cmd
}

// must runs a program to its end; it has to succeed.
func (c *devCluster) must(stdin io.Reader, name string, args ...string) (out, errOut string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), runTimeout)
	defer cancel()
	var outBuffer, errBuffer bytes.Buffer
	cmd := c.command(ctx, stdin, name, args...)
	cmd.Stdout, cmd.Stderr = &outBuffer, &errBuffer
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, outBuffer.String(), errBuffer.String())
	}
	return outBuffer.String(), errBuffer.String()
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

// eventually polls until the condition returns nil.
func eventually(t *testing.T, within time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		<-tick.C
	}
}
