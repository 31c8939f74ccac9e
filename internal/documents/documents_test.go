package documents

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// TestEveryCommandIsRun holds the documents against the table: every block and every command line has somebody who runs it, and the
// table has no row that no document needs.
func TestEveryCommandIsRun(t *testing.T) {
	blocks, inText, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, missing := range unaccounted(sections, lines, blocks, inText) {
		t.Error(missing)
	}
	shown := map[string]bool{}
	for _, s := range singleCommands(sections, blocks, inText) {
		shown[s.Command] = true
	}
	for command, a := range lines {
		kinds := 0
		for _, set := range []bool{a.test != "", a.ci != "", a.short != nil} {
			if set {
				kinds++
			}
		}
		if !shown[command] || kinds != 1 {
			t.Errorf("the row %q: shown by a document: %v; it has %d of test, .ci/run and short form", command, shown[command], kinds)
		}
	}
	inSessions := 0
	for _, s := range sections {
		mine := 0
		for _, b := range blocks {
			if found, ok := sectionOf(sections, b); ok && found == s {
				mine += len(b.Commands())
			}
		}
		if mine == 0 {
			t.Errorf("%s has no commands below %q", s.document, s.heading)
		}
		inSessions += mine
	}
	t.Logf("%d command lines in sessions, %d others", inSessions, len(shown))
}

// A test that the table names exists, and takes its commands from here: what it runs is what the document shows.
func TestTheTestsOfTheTableTakeTheirCommandsFromHere(t *testing.T) {
	taken := map[string]map[string]bool{}
	check := func(dir, test, by string) {
		if taken[dir] == nil {
			taken[dir] = taking(t, filepath.Join(root, filepath.FromSlash(dir)))
		}
		for _, want := range []string{"func " + test, by + " " + test} {
			if !taken[dir][want] {
				t.Errorf("%s: the tests have no %s", dir, want)
			}
		}
	}
	for _, s := range sections {
		check(s.dir, s.test, "Session")
	}
	for _, a := range lines {
		if a.test != "" {
			check(a.dir, a.test, "Lines")
		}
	}
}

// taking lists the functions of the tests in a directory, and the calls by which they take commands.
func taking(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				found["func "+n.Name.Name] = true
			case *ast.CallExpr:
				called := strings.TrimPrefix(types.ExprString(n.Fun), "documents.") // which tests of this package leave out
				if len(n.Args) == 2 {
					if literal, ok := n.Args[1].(*ast.BasicLit); ok && literal.Kind == token.STRING {
						test, _ := strconv.Unquote(literal.Value)
						found[called+" "+test] = true
					}
				}
			}
			return true
		})
	}
	return found
}

// tail is the end of what a program wrote.
func tail(text string) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-30):], "\n")
}
