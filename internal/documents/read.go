package documents

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Paths are the documents for people, below root, the root of the repository: README.md, CONTRIBUTING.md, all of docs, and the READMEs of
// examples. They are relative to root, with slashes, sorted.
func Paths(root string) ([]string, error) {
	paths := []string{"README.md", "CONTRIBUTING.md"}
	for _, dir := range []string{"docs", "examples"} {
		err := fs.WalkDir(os.DirFS(root), dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && strings.HasSuffix(path, ".md") && (dir == "docs" || entry.Name() == "README.md") {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for the documents in %s: %w", root, err)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// Read extracts the commands of all documents below root.
func Read(root string) ([]Block, []Span, error) {
	paths, err := Paths(root)
	if err != nil {
		return nil, nil, err
	}
	var blocks []Block
	var inText []Span
	for _, path := range paths {
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
		if err != nil {
			return nil, nil, fmt.Errorf("read a document: %w", err)
		}
		b, s := Extract(path, string(text))
		blocks, inText = append(blocks, b...), append(inText, s...)
	}
	return blocks, inText, nil
}

// Session gives the blocks that a test has to run, in their order; the table ties sections of documents to tests. It fails when there
// are none: a test whose commands went away says so.
func Session(root, test string) ([]Block, error) {
	blocks, _, err := Read(root)
	if err != nil {
		return nil, err
	}
	var mine []Block
	for _, b := range blocks {
		if s, ok := sectionOf(sections, b); ok && s.test == test {
			mine = append(mine, b)
		}
	}
	if len(mine) == 0 {
		return nil, fmt.Errorf("no document has a block for %s: the table of internal/documents and the documents do not agree", test)
	}
	return mine, nil
}

// Lines gives the single command lines that a test has to run, as the documents show them.
func Lines(root, test string) ([]string, error) {
	blocks, inText, err := Read(root)
	if err != nil {
		return nil, err
	}
	var mine []string
	for _, shown := range singleCommands(sections, blocks, inText) {
		if a, ok := lines[shown.Command]; ok && a.test == test && !slices.Contains(mine, shown.Command) {
			mine = append(mine, shown.Command)
		}
	}
	if len(mine) == 0 {
		return nil, fmt.Errorf("no document has a command for %s: the table of internal/documents and the documents do not agree", test)
	}
	return mine, nil
}

// singleCommands are the commands that belong to no session.
func singleCommands(sections []section, blocks []Block, inText []Span) []Span {
	all := slices.Clone(inText)
	for _, b := range blocks {
		if _, ok := sectionOf(sections, b); ok {
			continue
		}
		for _, command := range b.Commands() {
			all = append(all, Span{Document: b.Document, Line: b.Line, Command: command})
		}
	}
	return all
}

// unaccounted names the commands that are in no session and not in the table.
func unaccounted(sections []section, lines map[string]account, blocks []Block, inText []Span) []string {
	var found []string
	for _, s := range singleCommands(sections, blocks, inText) {
		if _, ok := lines[s.Command]; !ok {
			found = append(found, fmt.Sprintf("%s:%d: nobody runs %q: enter it in internal/documents/table.go with the test that runs it", s.Document, s.Line, s.Command))
		}
	}
	return found
}

func sectionOf(sections []section, b Block) (section, bool) {
	i := slices.IndexFunc(sections, func(s section) bool { return s.document == b.Document && s.heading == b.Heading })
	if i < 0 {
		return section{}, false
	}
	return sections[i], true
}
