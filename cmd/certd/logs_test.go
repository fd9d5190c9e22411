package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"certd.internal/cmd/certd/internal/logs"
)

var update = flag.Bool("update", false, "rewrite what is made from the code")

// logged are the messages of all calls like log.Info("…") and
// log.InfoContext(ctx, "…") in the program, with their level: what comes out as events.
func logged(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, folder := range []string{"../../rotation", "../../backends", "../../state", "."} {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) == 0 {
					return true
				}
				method, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !isLog(method.X) {
					return true
				}
				args := call.Args
				name, withContext := strings.CutSuffix(method.Sel.Name, "Context")
				if withContext && len(args) > 1 {
					args = args[1:]
				}
				if !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, name) {
					return true
				}
				message, ok := args[0].(*ast.BasicLit)
				if !ok || message.Kind != token.STRING {
					t.Errorf("%s: a message that is no fixed phrase", path)
					return true
				}
				text, err := strconv.Unquote(message.Value)
				if err != nil {
					t.Fatal(err)
				}
				event, level := logs.Event(text), strings.ToLower(name)
				if before, known := found[event]; known && before != level {
					level = before + ", " + level
				}
				found[event] = level
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// isLog says whether an expression is called as loggers are here: log, x.log,
// s.logs.
func isLog(x ast.Expr) bool {
	switch e := x.(type) {
	case *ast.Ident:
		return e.Name == "log" || e.Name == "logs"
	case *ast.SelectorExpr:
		return e.Sel.Name == "log" || e.Sel.Name == "logs" || e.Sel.Name == "Log"
	}
	return false
}

// Who filters and counts by event finds in the reference what there is; an event
// that changes its word changes the reference, which is seen.
func TestEachEventIsDocumented(t *testing.T) {
	const path = "../../docs/reference/logs.md"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- events: made by make generate -->\n", "<!-- end of events -->"
	before, rest, ok := strings.Cut(string(doc), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no part for events", path)
	}
	all := logged(t)
	if len(all) < 30 {
		t.Fatalf("only %d events were found in the code: the test looks in the wrong place", len(all))
	}
	var table strings.Builder
	table.WriteString("| event | level |\n|---|---|\n")
	var names []string
	for event := range all {
		names = append(names, event)
	}
	slices.Sort(names)
	for _, event := range names {
		fmt.Fprintf(&table, "| `%s` | %s |\n", event, all[event])
	}
	want := before + begin + table.String() + end + after
	if want == string(doc) {
		return
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, event := range names {
		if !strings.Contains(rest, "`"+event+"`") {
			t.Errorf("event %s is not in %s", event, path)
		}
	}
	t.Errorf("%s is out of date: make generate", path)
}
