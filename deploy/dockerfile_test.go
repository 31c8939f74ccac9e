package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/documents"
)

var (
	goBuild    = regexp.MustCompile(`(CGO_ENABLED=0 )?go build -trimpath -ldflags "\$flags" -o (\S+) (\S+)`)
	stampValue = regexp.MustCompile(`-X \$stamp\.(\w+)=\$(\w+)`)
	stampOf    = regexp.MustCompile(`stamp=(\S+)`)
)

// TestDockerfile holds the image from source against the one that make image makes: base images cannot be pulled everywhere, so that no engine
// builds it here. Its build stage is run on this machine instead, what it gives is run, and both images end the same way.
func TestDockerfile(t *testing.T) {
	commands, err := documents.Lines(repository, "TestDockerfile")
	if err != nil || len(commands) != 1 {
		t.Fatalf("docs/deploy.md shows one way to build from source: %q %v", commands, err)
	}
	words := strings.Fields(commands[0])
	if len(words) != 7 || !slices.Equal(words[:3], []string{"docker", "build", "-f"}) || words[4] != "-t" || words[6] != "." {
		t.Fatalf("not docker build -f FILE -t IMAGE . : %q", words)
	}
	if words[5] != "penstock:local" {
		t.Errorf("the image is called %s, make image calls it penstock:local", words[5])
	}
	fromSource := instructions(t, words[3])
	builds := goBuild.FindAllStringSubmatch(strings.Join(fromSource, "\n"), -1)
	if len(builds) != 2 {
		t.Fatalf("%d programs are built in\n%s", len(builds), strings.Join(fromSource, "\n"))
	}
	for _, b := range builds {
		if b[1] == "" {
			t.Errorf("%s is not static", b[2])
		}
		if out := must(t, "go", "list", "-f", "{{.Name}}", b[3]); strings.TrimSpace(out) != "main" {
			t.Errorf("%s is no program", b[3])
		}
	}
	text := strings.Join(fromSource, "\n")
	stamp := stampOf.FindStringSubmatch(text)
	if stamp == nil || !strings.HasSuffix(stamp[1], "/internal/telemetry") {
		t.Fatalf("the version is stamped into %q", stamp)
	}
	version, err := os.ReadFile(filepath.Join(repository, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stampValue.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(string(version), "-X $(STAMP)."+s[1]+"=$("+s[2]+")") || !slices.ContainsFunc(fromSource, func(i string) bool { return strings.HasPrefix(i, "ARG "+s[2]+"=") }) {
			t.Errorf("%s=%s is stamped otherwise by the Makefile, or is no argument", s[1], s[2])
		}
	}
	// The last stage is the same but for where the files come from.
	local := instructions(t, "deploy/Dockerfile.local")
	from := slices.IndexFunc(fromSource, func(i string) bool { return i == "FROM scratch" })
	if from < 0 {
		t.Fatal("the last stage is not empty")
	}
	if got, want := settings(fromSource[from:]), settings(local); !slices.Equal(got, want) {
		t.Errorf("the image from source ends with\n%s\nmake image with\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	runBuildStage(t, fromSource[:from])
}

// runBuildStage follows the instructions of the build stage in a directory of its own, which stands for the root of the container.
func runBuildStage(t *testing.T, stage []string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the programs: not in -short")
	}
	container, env := t.TempDir(), []string{}
	inside := func(path string) string { return filepath.Join(container, filepath.FromSlash(path)) }
	work := ""
	for _, i := range stage {
		instruction, rest, _ := strings.Cut(i, " ")
		words := strings.Fields(rest)
		switch instruction {
		case "FROM":
			if len(words) != 3 || !strings.HasPrefix(words[0], "golang:") {
				t.Fatalf("the build stage begins with %q", i)
			}
		case "ARG":
			name, _, _ := strings.Cut(rest, "=")
			env = append(env, name+"=stage-"+name)
		case "WORKDIR":
			work = inside(rest)
			if err := os.MkdirAll(work, 0o750); err != nil {
				t.Fatal(err)
			}
		case "COPY":
			if words[len(words)-1] != "./" && words[len(words)-1] != "." {
				t.Fatalf("this test copies into the working directory alone: %q", i)
			}
			files := strings.Fields(must(t, "git", append([]string{"ls-files", "--"}, words[:len(words)-1]...)...))
			must(t, "cp", slices.Concat([]string{"--parents"}, files, []string{work})...)
		case "RUN":
			script := "cd " + work + " && " + strings.ReplaceAll(rest, "/image/", inside("image")+"/")
			must(t, "env", append(env, "sh", "-ec", script)...)
		default:
			t.Fatalf("this test cannot follow %q", i)
		}
	}
	if out := must(t, inside("image/bin/broker"), "version"); !strings.Contains(out, "stage-VERSION") || !strings.Contains(out, "stage-REVISION") {
		t.Errorf("broker version: %s", out)
	}
	if out := must(t, inside("image/bin/brokerctl"), "--version"); !strings.Contains(out, "stage-VERSION") {
		t.Errorf("brokerctl --version: %s", out)
	}
	if info, err := os.Stat(inside("image/data")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("the data directory: %v %v", info, err)
	}
}

// instructions are those of a Dockerfile, continued lines joined.
func instructions(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

// settings are the instructions that do not bring files.
func settings(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(i string) bool { return strings.HasPrefix(i, "COPY ") })
}
