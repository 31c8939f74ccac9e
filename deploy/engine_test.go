package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// repository is the root of the repository: tests run in the directory of their package.
const repository = ".."

// composeForm chooses the container test: it needs an engine, makes an image, and takes a minute.
var composeForm = flag.String("deploy.compose", "", "run the container test: short (one node killed, one cut off) or full (each node killed)")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// commandTimeout bounds every command; make up builds the programs first.
const commandTimeout = 5 * time.Minute

// result is what a command gave.
type result struct {
	line     string
	code     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit status %d\n%s%s", r.line, r.code, tail(r.out), tail(r.err))
}

// tail is the end of a text.
func tail(text string) string {
	const most = 5000
	if len(text) > most {
		return "[...]" + text[len(text)-most:]
	}
	return text
}

// run runs a program in the root of the repository to its end. Clean-ups pass a context of their own.
func run(ctx context.Context, t *testing.T, stdin io.Reader, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = repository, cleanEnv(), 5*time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	err := cmd.Run()
	r := result{line: strings.Join(append([]string{program}, args...), " "), out: out.String(), err: errOut.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", r.line, err)
	}
	return r
}

// cleanEnv is the environment without what would configure programs behind the test's back.
func cleanEnv() []string {
	var env []string
	for _, line := range os.Environ() {
		name, _, _ := strings.Cut(line, "=")
		if !strings.HasPrefix(name, "PENSTOCK_") && !strings.HasPrefix(name, "COMPOSE_") && name != "MAKEFLAGS" && name != "MAKELEVEL" {
			env = append(env, line)
		}
	}
	return env
}

// must runs a program that has to succeed, and returns its output.
func must(t *testing.T, program string, args ...string) string {
	t.Helper()
	r := run(t.Context(), t, nil, program, args...)
	if r.code != 0 {
		t.Fatal(r)
	}
	return r.out
}

// needEngine skips the test where no containers can be run, and says why.
func needEngine(t *testing.T) {
	t.Helper()
	if *composeForm != "short" && *composeForm != "full" {
		t.Skip("the container test was not asked for: make test-compose runs it")
	}
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skipf("no container engine here: %v", err)
	}
	if r := run(t.Context(), t, nil, "docker", "version", "--format", "{{.Server.Version}}"); r.code != 0 {
		t.Skipf("the container engine does not answer: %s", r)
	}
	if _, err := exec.LookPath("docker-compose"); err != nil && run(t.Context(), t, nil, "docker", "compose", "version").code != 0 {
		t.Skip("there is a container engine, but neither docker-compose nor docker compose")
	}
}

// eventually polls until the condition returns nil.
func eventually(t *testing.T, within time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(100 * time.Millisecond)
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
