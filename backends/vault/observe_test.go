package vault

import (
	"crypto/sha256"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// observed collects what a client tells of its exchanges.
type observed struct {
	mu  sync.Mutex
	all []string
}

func (o *observed) add(operation, code string, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if took <= 0 {
		operation += " in no time"
	}
	o.all = append(o.all, operation+" "+code)
}

func (o *observed) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.all
	o.all = nil
	return all
}

// Each exchange is told of once, by what was asked and what came back; no path,
// since that holds names.
func TestExchangesAreObserved(t *testing.T) {
	f, seen := newFake(t), &observed{}
	c := f.config()
	c.Observe = seen.add
	v, err := New(c, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if at := v.TokenExpires(); !at.IsZero() {
		t.Errorf("before the login the token ends at %s", at)
	}
	tr := v.Transit("m")
	sign := func() {
		t.Helper()
		key, err := tr.OpenKey(t.Context(), "k", f.key.Public())
		if err != nil {
			return
		}
		digest := sha256.Sum256([]byte("x"))
		_, _ = key.(*transitKey).SignDigest(t.Context(), digest[:])
	}
	want := func(when string, want ...string) {
		t.Helper()
		got := slices.DeleteFunc(seen.take(), func(s string) bool { return strings.HasPrefix(s, "capabilities ") })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	begun := time.Now()
	sign()
	want("a signature", "lookup-token 200", "read-key 200", "sign 200")
	if left := v.TokenExpires().Sub(begun); left < 59*time.Minute || left > 61*time.Minute {
		t.Errorf("a token that lives for an hour ends in %s", left)
	}

	f.on = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/sign/") {
			refuse(w, 503, "Vault is sealed")
			return true
		}
		return false
	}
	sign()
	want("sealed meanwhile", "read-key 200", "sign 503")

	f.on = func(w http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) }
	sign()
	want("an answer that does not come", "read-key none")

	f.on = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "{")
		return true
	}
	sign()
	want("half an answer", "read-key none")
	f.server.Close()
	sign()
	want("nobody there", "read-key none")
}

// Every request that there is has its word.
func TestEachCallHasItsWord(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for _, name := range files {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			if id, ok := lit.Type.(*ast.Ident); !ok || id.Name != "call" {
				return true
			}
			calls++
			if !slices.ContainsFunc(lit.Elts, func(e ast.Expr) bool {
				kv, ok := e.(*ast.KeyValueExpr)
				return ok && kv.Key.(*ast.Ident).Name == "op"
			}) {
				t.Errorf("%s: a call without op", set.Position(lit.Pos()))
			}
			return true
		})
	}
	if calls < 10 {
		t.Errorf("only %d calls were found: the test looks in the wrong place", calls)
	}
}
