package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// layers are the packages from the bottom up. A package may import those of
// lower layers and of its own folder only.
var layers = []struct {
	folder string
	may    []string
}{
	{"pki", nil},
	{"rotation", []string{"pki"}},
	{"backends", []string{"pki", "rotation"}},
	{"state", []string{"pki", "rotation"}},
	{"docs", nil},
	{"cmd", []string{"pki", "rotation", "backends", "state", "docs", "deploy"}},
}

func TestImportsPointOneWay(t *testing.T) {
	const module = "certd.internal/"
	seen := 0
	for _, l := range layers {
		root := filepath.Join("..", "..", l.folder)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, imp := range f.Imports {
				name, _ := strconv.Unquote(imp.Path.Value)
				if strings.HasPrefix(name, "github.com/chromedp/") {
					t.Errorf("%s imports %s: a browser is for tests", path, name)
				}
				if strings.HasPrefix(name, "go.opentelemetry.io/") && filepath.Base(filepath.Dir(path)) != "traces" {
					t.Errorf("%s imports %s: whoever is traced does not know it", path, name)
				}
				inside, ok := strings.CutPrefix(name, module)
				if !ok {
					continue
				}
				seen++
				folder, _, _ := strings.Cut(inside, "/")
				allowed := folder == l.folder
				for _, m := range l.may {
					allowed = allowed || folder == m
				}
				if !allowed {
					t.Errorf("%s imports %s: %s may import %v", path, name, l.folder, l.may)
				}
				if folder == "deploy" && inside != "deploy/rbac" {
					t.Errorf("%s imports %s: of deploy, nothing but the manifests gets into certd", path, name)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen == 0 {
		t.Fatal("no import inside the module was seen: the test looks in the wrong place")
	}
}

// The daemon's own dependencies never see a kube-apiserver, etcd's or Vault's
// server.
func TestNoServerAmongTheDependencies(t *testing.T) {
	for _, l := range layers {
		err := filepath.WalkDir(filepath.Join("..", "..", l.folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, imp := range f.Imports {
				for _, no := range []string{`"k8s.io/kubernetes`, `"go.etcd.io/etcd/server`, `"github.com/hashicorp/vault/vault`, `"go.step.sm/crypto/kms"`} {
					if strings.HasPrefix(imp.Path.Value, no) {
						t.Errorf("%s imports %s", path, imp.Path.Value)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
