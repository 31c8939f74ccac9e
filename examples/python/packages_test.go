package python_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/documents"
)

// pipModules says which distribution brings a module that the programs import.
var pipModules = map[string]string{"grpc": "grpcio", "google": "protobuf", "grpc_tools": "grpcio-tools"}

var imported = regexp.MustCompile(`(?m)(?:^(?:import|from) |python3 -m )(grpc_tools|grpc|google)\b`)

// TestPackages holds the two lists of packages in the README against what is needed. Nothing is installed: the names are held against the
// packages that own the files here, and against what the programs import.
func TestPackages(t *testing.T) {
	commands, err := documents.Lines(repository, "TestPackages")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range commands {
		words := strings.Fields(command)
		if len(words) < 3 || words[1] != "install" {
			t.Errorf("not PROGRAM install PACKAGE... : %s", command)
			continue
		}
		switch words[0] {
		case "apt-get":
			debianPackages(t, words[2:])
		case "pip":
			pipPackages(t, words[2:])
		default:
			t.Errorf("nobody checks %s", command)
		}
	}
}

func debianPackages(t *testing.T, named []string) {
	t.Helper()
	ci, err := os.ReadFile(filepath.Join(repository, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !strings.Contains(string(ci), "missing+=("+name+")") {
			t.Errorf(".ci/run does not install %s", name)
		}
	}
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		t.Log("no Debian: who owns the files was not looked up")
		return
	}
	for what, path := range map[string]string{
		"grpc":               "/usr/lib/python3/dist-packages/grpc/__init__.py",
		"protoc":             "/usr/bin/protoc",
		"grpc_python_plugin": "/usr/bin/grpc_python_plugin",
	} {
		if _, err := os.Stat(path); err != nil {
			t.Logf("%s is not installed", what)
			continue
		}
		out, err := exec.CommandContext(t.Context(), "dpkg-query", "-S", path).Output() //nolint:gosec // a path of this test
		if owner, _, _ := strings.Cut(string(out), ":"); err != nil || !slices.Contains(named, owner) {
			t.Errorf("%s comes from %q, the README names %v (%v)", what, owner, named, err)
		}
	}
}

func pipPackages(t *testing.T, named []string) {
	t.Helper()
	files, err := filepath.Glob("*.py")
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for _, name := range append(files, "generate") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range imported.FindAllStringSubmatch(string(text), -1) {
			needed[pipModules[found[1]]] = true
		}
	}
	needed["protobuf"] = true // the generated code imports it
	for _, name := range named {
		if !needed[name] {
			t.Errorf("nothing imports %s", name)
		}
		delete(needed, name)
	}
	if len(needed) > 0 {
		t.Errorf("the README does not name %v", needed)
	}
}
