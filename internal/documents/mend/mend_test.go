//go:build unix

package mend

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/documents"
)

const root = "../../.."

// toolsEnv is set where the tools of tools/go.mod must be there, so that nothing is skipped.
const toolsEnv = "PENSTOCK_TEST_TOOLS"

// copied is a copy of the working copy as git sees it, committed, with the tools that were built for it. Commands that write into a
// working copy run there.
func copied(t *testing.T) (dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs programs: not in -short")
	}
	if out, err := documents.Shell(t.Context(), root, "make --question .bin/.built"); err != nil {
		if os.Getenv(toolsEnv) != "" {
			t.Fatalf("the tools are not built, and %s is set: %v\n%s", toolsEnv, err, out)
		}
		t.Skip("the tools are not built: make verify builds them")
	}
	dir = t.TempDir()
	if out, err := documents.Shell(t.Context(), root, `
		git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
			if [[ -e "$file" ]]; then printf '%s\0' "$file"; fi
		done | tar --null --files-from - --create --file - | tar --extract --file - --directory "$COPY"
		ln -s "$PWD/.bin" "$COPY/.bin"
		cd "$COPY"
		git init --quiet
		git add .
		git -c user.name=test -c user.email=test@example.org -c commit.gpgsign=false commit --quiet --message copy`, "COPY="+dir); err != nil {
		t.Fatalf("copy the working copy: %v\n%s", err, out)
	}
	return dir
}

// spoil changes a file of the copy, and fails where the change changes nothing.
func spoil(t *testing.T, dir, file string, change func(string) string) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(file))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := change(string(text))
	if spoiled == string(text) {
		t.Fatalf("%s was to be spoiled and is the same", file)
	}
	if err := os.WriteFile(path, []byte(spoiled), 0o600); err != nil { //nolint:gosec // below the test's own directory
		t.Fatal(err)
	}
}

// mends runs the one command that the documents show for a test in the copy, which must then be as it was.
func mends(t *testing.T, dir string, shown []string, settings string) {
	t.Helper()
	if len(shown) != 1 {
		t.Fatalf("one command was to be shown: %q", shown)
	}
	// With trimmed paths what was built elsewhere counts here.
	out, err := documents.Shell(t.Context(), root, `cd "$COPY" && GOFLAGS="${GOFLAGS:-} -trimpath" `+shown[0]+" "+settings, "COPY="+dir)
	if err != nil {
		t.Fatalf("%s: %v\n%s", shown[0], err, out)
	}
	if left, err := documents.Shell(t.Context(), root, `cd "$COPY" && git -c core.fileMode=false status --porcelain && git -c core.fileMode=false diff`, "COPY="+dir); err != nil || left != "" {
		t.Errorf("%s did not make everything as it was: %v\n%s", shown[0], err, left)
	}
}

// TestGenerate loses everything that is generated, and has it made again.
func TestGenerate(t *testing.T) {
	shown, err := documents.Lines(root, "TestGenerate")
	if err != nil {
		t.Fatal(err)
	}
	dir := copied(t)
	for _, page := range []string{"docs/topic-settings.md", "docs/metrics.md", "docs/configuration.md"} {
		spoil(t, dir, page, func(string) string { return "" })
	}
	spoil(t, dir, "api/proto/penstock/v1/error_code.proto", func(s string) string { return strings.Replace(s, " = 1;", " = 1; // no more", 1) })
	if err := os.RemoveAll(filepath.Join(dir, "api", "gen")); err != nil {
		t.Fatal(err)
	}
	mends(t, dir, shown, "")
}

// TestFix gets a badly formatted program, proto and go.mod into order again.
func TestFix(t *testing.T) {
	shown, err := documents.Lines(root, "TestFix")
	if err != nil {
		t.Fatal(err)
	}
	dir := copied(t)
	spoil(t, dir, "cmd/broker/main.go", func(s string) string { return strings.Replace(s, "\n\t", "\n        ", 1) })
	spoil(t, dir, "api/proto/penstock/v1/admin.proto", func(s string) string { return strings.ReplaceAll(s, "\n  ", "\n      ") })
	spoil(t, dir, "go.mod", func(s string) string { return strings.Replace(s, " // indirect\n", "\n", 1) })
	mends(t, dir, shown, "PACKAGES=./internal/lifecycle")
}
