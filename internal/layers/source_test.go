package layers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// source is one parsed Go file.
type source struct {
	fset  *token.FileSet
	file  *ast.File
	path  string // from the root of the repository, with slashes
	dir   string // the package, as in table
	lines int
}

func parseSource(fset *token.FileSet, name string, text []byte) (source, error) {
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return source{}, err
	}
	return source{fset: fset, file: file, path: name, dir: path.Dir(name), lines: strings.Count(string(text), "\n")}, nil
}

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) isGenerated() bool { return ast.IsGenerated(s.file) }

func (s source) at(pos token.Pos) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(pos).Line)
}

// imports gives the path of each import with its position.
func (s source) imports() map[string]token.Pos {
	all := make(map[string]token.Pos, len(s.file.Imports))
	for _, spec := range s.file.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			all[p] = spec.Pos()
		}
	}
	return all
}

// within reports whether package dir is prefix or lies below it.
func within(dir, prefix string) bool {
	return dir == prefix || strings.HasPrefix(dir, prefix+"/")
}

func withinAny(dir string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if within(dir, prefix) {
			return true
		}
	}
	return false
}

// entryOf finds the longest entry of the table that dir lies in.
func entryOf(dir string) (entry string, layer int, ok bool) {
	for candidate, l := range table {
		if within(dir, candidate) && len(candidate) >= len(entry) {
			entry, layer, ok = candidate, l, true
		}
	}
	return entry, layer, ok
}

// readTree parses every Go file of the main module.
func readTree(t *testing.T) []source {
	t.Helper()
	root := repositoryRoot(t)
	var all []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return enterDirectory(root, name, entry)
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		s, err := parseSource(fset, filepath.ToSlash(relative), text)
		if err != nil {
			return err
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no Go files found")
	}
	return all
}

func enterDirectory(root, name string, entry fs.DirEntry) error {
	if name == root {
		return nil
	}
	base := entry.Name()
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return filepath.SkipDir
	}
	if filepath.Dir(name) == root && (base == "bin" || base == "data") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func repositoryRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}
