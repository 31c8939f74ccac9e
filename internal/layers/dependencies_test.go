package layers

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

var (
	requirement = regexp.MustCompile(`(?m)^(?:require)?\s+(\S+\.\S+/\S+) (v\S+)`)
	row         = regexp.MustCompile(`(?m)^\| (\S+\.\S+/\S+) \| (v\S+) \|`)
)

// TestDependenciesAreExplained compares the modules that are imported, at their versions in go.mod, with
// docs/dependencies.md.
func TestDependenciesAreExplained(t *testing.T) {
	root := repositoryRoot(t)
	required := versions(t, requirement, filepath.Join(root, "go.mod"))
	explained := versions(t, row, filepath.Join(root, "docs", "dependencies.md"))
	imported := make(map[string]bool)
	for _, s := range readTree(t) {
		for p := range s.imports() {
			if mod := moduleOf(p, required); mod != "" {
				imported[mod] = true
			}
		}
	}
	for _, mod := range slices.Sorted(maps.Keys(imported)) {
		if explained[mod] != required[mod] {
			t.Errorf("docs/dependencies.md has no row for %s %s", mod, required[mod])
		}
	}
	for _, mod := range slices.Sorted(maps.Keys(explained)) {
		if !imported[mod] {
			t.Errorf("docs/dependencies.md explains %s, which nothing imports", mod)
		}
	}
}

func versions(t *testing.T, pattern *regexp.Regexp, name string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, match := range pattern.FindAllStringSubmatch(string(text), -1) {
		found[match[1]] = match[2]
	}
	if len(found) == 0 {
		t.Fatalf("%s names no module", name)
	}
	return found
}

// moduleOf finds the module that an imported package lies in, or "" for packages of the standard library and our own.
func moduleOf(imported string, required map[string]string) string {
	longest := ""
	for mod := range required {
		if within(imported, mod) && len(mod) > len(longest) {
			longest = mod
		}
	}
	return longest
}
