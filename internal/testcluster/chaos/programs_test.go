//go:build unix

package chaos

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

var (
	long     = flag.Bool("chaos.long", false, "run the full figures instead of the short form")
	seedFlag = flag.Uint64("chaos.seed", 0, "seed of the faults at random; 0 takes a new one")
)

// binEnv names a directory that holds broker and brokerctl; without it they are built.
const binEnv = "PENSTOCK_BIN"

// buildDir holds what the tests build; TestMain removes it.
var buildDir string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "penstock-chaos-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		buildDir = dir
		defer func() { _ = os.RemoveAll(dir) }()
		code := m.Run()
		if err := goleak.Find(); code == 0 && err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			return 1
		}
		return code
	}())
}

// programs are the paths of the programs under test.
type programs struct{ broker, ctl string }

var built = sync.OnceValues(func() (programs, error) {
	if dir := os.Getenv(binEnv); dir != "" {
		dir, err := filepath.Abs(dir)
		return programs{filepath.Join(dir, "broker"), filepath.Join(dir, "brokerctl")}, err
	}
	p := programs{filepath.Join(buildDir, "broker"), filepath.Join(buildDir, "brokerctl")}
	if err := build(p.broker, "./cmd/broker"); err != nil {
		return p, err
	}
	return p, build(p.ctl, "./cmd/ctl")
})

// build builds one main package of this module, with the flags given.
func build(target, pkg string, flags ...string) error {
	args := append(append([]string{"build"}, flags...), "-o", target, pkg)
	cmd := exec.Command("go", args...)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// repository is the root of the repository: tests run in the directory of their package.
const repository = "../../.."

// thePrograms gives the programs under test, and skips the test in -short.
func thePrograms(t *testing.T) programs {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real processes: not in -short")
	}
	p, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// either returns the figure of the long or of the short form.
func either(short, full int) int {
	if *long {
		return full
	}
	return short
}
