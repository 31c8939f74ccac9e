package layers

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// checkImports keeps the table of layers and the places of third-party packages.
func checkImports(s source) []string {
	var found []string
	_, _, ok := entryOf(s.dir)
	if !ok {
		return []string{fmt.Sprintf("%s: package %s has no layer: enter it in internal/layers/table_test.go", s.path, s.dir)}
	}
	imports := s.imports()
	for _, imported := range slices.Sorted(maps.Keys(imports)) {
		why := ""
		if target, inside := insideModule(imported); inside {
			why = forbiddenInside(s, target)
		} else {
			why = forbiddenOutside(s, imported)
		}
		if why != "" {
			found = append(found, fmt.Sprintf("%s: %s", s.at(imports[imported]), why))
		}
	}
	return found
}

func insideModule(imported string) (string, bool) {
	if imported == module {
		return ".", true
	}
	return strings.CutPrefix(imported, module+"/")
}

func forbiddenInside(s source, target string) string {
	from, fromLayer, _ := entryOf(s.dir)
	to, toLayer, ok := entryOf(target)
	switch {
	case !ok:
		return fmt.Sprintf("imports %s, which has no layer", target)
	case from == to, toLayer < fromLayer:
		return ""
	case s.isTest() && (toLayer == fromLayer || withinAny(target, testHouses)):
		return ""
	default:
		return fmt.Sprintf("%s (layer %d) imports %s (layer %d): only lower layers may be imported",
			s.dir, fromLayer, target, toLayer)
	}
}

func forbiddenOutside(s source, imported string) string {
	for pkg, house := range onlyIn {
		if within(imported, pkg) && !within(s.dir, house) {
			return fmt.Sprintf("%s is imported by %s alone", pkg, house)
		}
	}
	if imported == "os" && !s.isTest() && s.file.Name.Name != "main" && withinAny(s.dir, withoutOS) {
		return "os is not imported here: files are reached through internal/fsys"
	}
	return ""
}

// checkGoroutines finds go statements, and calls of a method Go with one argument, which start goroutines without name
// and owner (sync.WaitGroup, errgroup.Group).
func checkGoroutines(s source) []string {
	if s.isTest() || s.isGenerated() || within(s.dir, goroutineHouse) {
		return nil
	}
	var found []string
	ast.Inspect(s.file, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.GoStmt:
			found = append(found, s.at(n.Pos())+": go statement: start goroutines through lifecycle.Group")
		case *ast.CallExpr:
			if selector, ok := n.Fun.(*ast.SelectorExpr); ok && selector.Sel.Name == "Go" && len(n.Args) == 1 {
				found = append(found, s.at(n.Pos())+": Go without a name: start goroutines through lifecycle.Group")
			}
		}
		return true
	})
	return found
}

// checkSleeps finds time.Sleep in tests. Waiting for a condition that way is slow on a fast machine and wrong on a slow
// one; in the bubbles of testing/synctest it costs nothing and is exact, so files that use it may. The linter looks
// at code that is no test.
func checkSleeps(s source) []string {
	if _, bubbles := s.imports()["testing/synctest"]; bubbles || !s.isTest() {
		return nil
	}
	var found []string
	ast.Inspect(s.file, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok && selector.Sel.Name == "Sleep" {
			if pkg, ok := selector.X.(*ast.Ident); ok && pkg.Name == "time" {
				found = append(found, s.at(node.Pos())+": time.Sleep in a test: wait for the condition itself")
			}
		}
		return true
	})
	return found
}

// checkSizes keeps files and functions within their hard limits.
func checkSizes(s source) []string {
	if s.isGenerated() {
		return nil
	}
	var found []string
	if s.lines > maxFileLines {
		found = append(found, fmt.Sprintf("%s: %d lines, the limit is %d: split it", s.path, s.lines, maxFileLines))
	}
	if s.isTest() {
		return found
	}
	for _, decl := range s.file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		lines := s.fset.Position(f.Body.Rbrace).Line - s.fset.Position(f.Body.Lbrace).Line - 1
		if lines > maxFunctionLines {
			found = append(found, fmt.Sprintf("%s: %s has %d lines, the limit is %d: split it",
				s.at(f.Pos()), f.Name.Name, lines, maxFunctionLines))
		}
	}
	return found
}

// checkDocs wants a doc.go with the package comment in each package; a main package may keep the comment elsewhere.
func checkDocs(all []source) []string {
	documented, seen := map[string]bool{}, map[string]bool{}
	for _, s := range all {
		if s.isGenerated() {
			continue
		}
		seen[s.dir] = true
		inDocFile := path.Base(s.path) == "doc.go"
		if s.file.Doc != nil && (inDocFile || s.file.Name.Name == "main") {
			documented[s.dir] = true
		}
	}
	var found []string
	for _, dir := range slices.Sorted(maps.Keys(seen)) {
		if !documented[dir] {
			found = append(found, dir+": no doc.go with a package comment")
		}
	}
	return found
}

// checkPublicAPI finds types of hidden packages in what a public package exports.
func checkPublicAPI(s source) []string {
	if s.isTest() || !withinAny(s.dir, publicPackages) {
		return nil
	}
	hidden := hiddenNames(s.file)
	var found []string
	flag := func(node ast.Node) {
		ast.Inspect(node, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := selector.X.(*ast.Ident); ok && hidden[pkg.Name] != "" {
					found = append(found, fmt.Sprintf("%s: the exported API shows %s.%s of %s",
						s.at(n.Pos()), pkg.Name, selector.Sel.Name, hidden[pkg.Name]))
				}
			}
			return true
		})
	}
	for _, decl := range s.file.Decls {
		for _, node := range exportedParts(decl) {
			flag(node)
		}
	}
	return found
}

// hiddenNames maps the name by which a file knows a hidden package to the package.
func hiddenNames(file *ast.File) map[string]string {
	names := make(map[string]string)
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		target, inside := insideModule(imported)
		if !inside || !withinAny(target, hiddenInPublic) {
			continue
		}
		name := path.Base(target)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = target
	}
	return names
}

// exportedParts returns the parts of a declaration that users of the package see.
func exportedParts(decl ast.Decl) []ast.Node {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() || !exportedReceiver(d) {
			return nil
		}
		return []ast.Node{d.Type}
	case *ast.GenDecl:
		if d.Tok == token.IMPORT {
			return nil
		}
		var parts []ast.Node
		for _, spec := range d.Specs {
			parts = append(parts, exportedSpec(spec)...)
		}
		return parts
	default:
		return nil
	}
}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return true
	}
	receiver := f.Recv.List[0].Type
	for {
		switch r := receiver.(type) {
		case *ast.StarExpr:
			receiver = r.X
		case *ast.IndexExpr:
			receiver = r.X
		case *ast.IndexListExpr:
			receiver = r.X
		case *ast.Ident:
			return r.IsExported()
		default:
			return true
		}
	}
}

func exportedSpec(spec ast.Spec) []ast.Node {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if !s.Name.IsExported() {
			return nil
		}
		structure, ok := s.Type.(*ast.StructType)
		if !ok {
			return []ast.Node{s.Type}
		}
		var parts []ast.Node
		for _, field := range structure.Fields.List {
			embedded := len(field.Names) == 0
			if embedded || slices.ContainsFunc(field.Names, (*ast.Ident).IsExported) {
				parts = append(parts, field.Type)
			}
		}
		return parts
	case *ast.ValueSpec:
		if !slices.ContainsFunc(s.Names, (*ast.Ident).IsExported) {
			return nil
		}
		if s.Type != nil {
			return []ast.Node{s.Type}
		}
		var parts []ast.Node
		for _, value := range s.Values {
			if _, literal := value.(*ast.FuncLit); !literal {
				parts = append(parts, value)
			}
		}
		return parts
	default:
		return nil
	}
}
