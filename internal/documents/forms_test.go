//go:build unix

package documents

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// shell runs a line in the root of the repository, as if typed there.
func shell(t *testing.T, line string, env ...string) (string, error) {
	t.Helper()
	return Shell(t.Context(), root, line, env...)
}

func onlyInFull(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs programs: not in -short")
	}
}

// TestShortForms runs the commands, with smaller figures where they would take long. The programs are built once, by make build.
func TestShortForms(t *testing.T) {
	onlyInFull(t)
	const build = "make build"
	programs := t.TempDir()
	runShort(t, build, lines[build].short, "SCRATCH="+programs)
	for command, a := range lines {
		if a.short != nil && command != build {
			t.Run(command, func(t *testing.T) {
				t.Parallel()
				runShort(t, command, a.short, "SCRATCH="+t.TempDir(), "PENSTOCK_BIN="+programs)
			})
		}
	}
}

func runShort(t *testing.T, command string, f *form, env ...string) {
	t.Helper()
	line := strings.NewReplacer(f.edit...).Replace(command)
	if len(f.edit) > 0 && line == command {
		t.Fatalf("the edit %q changes nothing", f.edit)
	}
	line = strings.TrimSpace(line + " " + f.add)
	began := time.Now()
	out, err := shell(t, line, env...)
	if err != nil || strings.Contains(out, "no tests to run") {
		t.Errorf("%s: %v\n%s", line, err, tail(out))
	} else if !regexp.MustCompile(f.shows).MatchString(out) {
		t.Errorf("%s ended well and did not show %q:\n%s", line, f.shows, tail(out))
	}
	t.Logf("%s: %v", line, time.Since(began).Round(100*time.Millisecond))
}

// TestCommandsOfCI holds .ci/run against the rows that say it runs them.
func TestCommandsOfCI(t *testing.T) {
	script, err := os.ReadFile(filepath.Join(root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	runs := func(command string) bool {
		for line := range strings.Lines(string(script)) {
			line = settings.ReplaceAllString(strings.TrimSpace(line), "")
			if line == command || strings.HasPrefix(line, command+" ") {
				return true
			}
		}
		return false
	}
	for command, a := range lines {
		if a.ci != "" && !runs(a.ci) {
			t.Errorf(".ci/run does not run %q, which would be the form of %q that is run", a.ci, command)
		}
		if asked, ran := strings.Fields(command), strings.Fields(a.ci); a.ci != "" && !slices.Equal(asked[:2], ran[:2]) {
			t.Errorf("%q is not run by %q", command, a.ci)
		}
	}
	if !runs("make sim") {
		t.Error(".ci/run has no simulation that is longer than those of the tests")
	}
}

// TestDryForms shows of the commands of make and go test that are not run here as they stand that what they name exists: targets, packages,
// test names, flags and variables.
func TestDryForms(t *testing.T) {
	onlyInFull(t)
	for command, a := range lines {
		program, _, _ := strings.Cut(command, " ")
		switch {
		case a.short != nil && len(a.short.edit) == 0, a.test != "" && !a.engine:
		case strings.Contains(command, ">"), strings.Contains(command, "=N"): // what goes elsewhere, or stands for a number, is seen by the short form
		case program == "make", program == "go":
			if why := dryRun(t, command); why != "" {
				t.Errorf("%s: %s", command, why)
			}
		case a.ci != "":
			t.Errorf("%s: nothing shows here that it exists", command)
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
	settings   = regexp.MustCompile(`^([A-Z_0-9]+=\S* )+`) // variables before a command
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
