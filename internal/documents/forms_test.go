//go:build unix

package documents

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// shell runs a line in the root of the repository, as if typed there.
func shell(t *testing.T, line string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line) //nolint:gosec // shown by our own documents
	cmd.Dir, cmd.Env = root, env
	for _, kept := range os.Environ() {
		// What a make around these tests hands down is not what a reader has.
		if name, _, _ := strings.Cut(kept, "="); !slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}, name) {
			cmd.Env = append(cmd.Env, kept)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func onlyInFull(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs programs: not in -short")
	}
}

// TestShortForms runs the commands that would take long with smaller figures.
func TestShortForms(t *testing.T) {
	onlyInFull(t)
	for command, a := range lines {
		if a.add == "" && len(a.edit) == 0 {
			continue
		}
		t.Run(command, func(t *testing.T) {
			line := strings.NewReplacer(a.edit...).Replace(command)
			if len(a.edit) > 0 && line == command {
				t.Fatalf("the edit %q changes nothing", a.edit)
			}
			line = strings.TrimSpace(line + " " + a.add)
			out, err := shell(t, line, "SCRATCH="+t.TempDir())
			if err != nil || strings.Contains(out, "no tests to run") {
				t.Errorf("%s: %v\n%s", line, err, tail(out))
			}
		})
	}
}

// TestDryForms shows of the commands that are not run that what they name exists.
func TestDryForms(t *testing.T) {
	onlyInFull(t)
	for command, a := range lines {
		if a.dry == "" || a.dry == justNamed {
			continue
		}
		if why := dryRun(t, command); why != "" {
			t.Errorf("%s: %s", command, why)
		}
	}
}

// The dry forms find what does not exist.
func TestDryFormsCanFail(t *testing.T) {
	onlyInFull(t)
	for _, command := range []string{
		"make no-such-target", "make fuzz FUZZTIMES=30s", "make bench BENCH=NoSuchBenchmark",
		"go test ./internal/no-such-package -v", "go test ./internal/documents -no.such.flag", "go test -run TestNoSuchTest ./internal/documents",
		"go test -bench 'Dry|NoSuch' ./internal/documents", "go tset -short ./...", "go test -shrot ./...", "rm -rf data",
	} {
		if dryRun(t, command) == "" {
			t.Errorf("%s was taken for a command that works", command)
		}
	}
}

var (
	assignment = regexp.MustCompile(`^([A-Z_0-9]+)=(.*)$`)
	word       = regexp.MustCompile(`'[^']*'|"[^"]*"|[^ ]+`)
)

// dryRun tells what is wrong with a command line of make or go test, without running what it does.
func dryRun(t *testing.T, command string) string {
	t.Helper()
	words := word.FindAllString(command, -1)
	switch {
	case words[0] == "make":
		if why := variables(t, words[1:]); why != "" {
			return why
		}
		return failure(shell(t, "make -n "+strings.Join(words[1:], " ")))
	case len(words) > 2 && words[0] == "go" && words[1] == "test" && slices.Contains(words, "./..."):
		// All packages: the go tool plans the run, and knows its flags.
		return failure(shell(t, "go test -n "+strings.Join(words[2:], " ")+" >/dev/null"))
	case len(words) > 2 && words[0] == "go" && words[1] == "test":
		return listed(t, words[2:])
	}
	return "there is no dry form of it: name the test that runs it"
}

func failure(out string, err error) string {
	if err == nil {
		return ""
	}
	return err.Error() + "\n" + tail(out)
}

// variables looks at the assignments on a command line of make: the Makefile has such settings, and a benchmark of that name is there.
func variables(t *testing.T, words []string) string {
	t.Helper()
	for _, w := range words {
		found := assignment.FindStringSubmatch(w)
		if found == nil {
			continue
		}
		if out, err := shell(t, "grep -Eq '^"+found[1]+" \\?=' Makefile deploy/deploy.mk"); err != nil {
			return "the Makefile has no setting " + found[1] + out
		}
		if found[1] == "BENCH" && !benchmarkExists(t, found[2]) {
			return "there is no benchmark " + found[2]
		}
	}
	return ""
}

func benchmarkExists(t *testing.T, pattern string) bool {
	t.Helper()
	out, err := shell(t, "git grep -hoE '^func Benchmark\\w+' -- '*_test.go'")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return regexp.MustCompile("Benchmark.*" + pattern).MatchString(out)
}

// listed lets the test program itself parse its flags, and name the tests that the patterns choose.
func listed(t *testing.T, words []string) string {
	t.Helper()
	pattern := "."
	for _, flag := range []string{"-run", "-bench"} { // where benchmarks are asked for, -run chooses nothing
		if i := slices.Index(words, flag); i >= 0 && i+1 < len(words) {
			pattern = strings.Trim(words[i+1], `'"`)
		}
	}
	line := "go test -list '" + pattern + "' " + strings.Join(words, " ")
	out, err := shell(t, line)
	if err != nil {
		return failure(out, err)
	}
	// The last line is that of the package.
	names := strings.Split(strings.TrimSpace(out), "\n")
	names = names[:len(names)-1]
	for _, alternative := range strings.Split(pattern, "|") {
		if !slices.ContainsFunc(names, regexp.MustCompile(alternative).MatchString) {
			return "no test or benchmark is called " + alternative + ":\n" + tail(out)
		}
	}
	return ""
}
