package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"certd.internal/deploy/rbac"
)

// installed are the objects of a file that the chart was rendered to: those for people
// without Helm, and of deploy/helm's examples.
func installed(t testing.TB, file string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", file))
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, text)
}

func parsed(t testing.TB, text []byte) (all []*unstructured.Unstructured) {
	t.Helper()
	for doc := range bytes.SplitSeq(text, []byte("---\n")) {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
	return all
}

func of(all []*unstructured.Unstructured, kind string) (some []*unstructured.Unstructured) {
	for _, o := range all {
		if o.GetKind() == kind {
			some = append(some, o)
		}
	}
	return some
}

var renderings = []string{"manifests/certd.yaml", "helm/testdata/rendered/home.yaml", "helm/testdata/rendered/elsewhere.yaml", "helm/testdata/rendered/everything.yaml", "helm/testdata/rendered/bootstrap.yaml"}

// What the chart makes of its values is a configuration that certd takes.
func TestTheChartsConfigurationIsValid(t *testing.T) {
	for _, file := range renderings {
		maps := of(installed(t, file), "ConfigMap")
		if len(maps) != 1 {
			t.Fatalf("%s has %d ConfigMaps", file, len(maps))
		}
		text, _, _ := unstructured.NestedString(maps[0].Object, "data", "certd.yaml")
		path := filepath.Join(t.TempDir(), "certd.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, "config", "validate", "--config", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// The rights of the chart are those that certd clusters rbac prints, for another
// ServiceAccount.
func TestTheChartGrantsWhatCertdPrints(t *testing.T) {
	for file, row := range map[string]struct {
		cluster  rbac.Cluster
		name, in string
	}{
		"manifests/certd.yaml":                   {rbac.Cluster{Namespace: "linkerd", CheckNamespace: "certd"}, "certd", "certd"},
		"helm/testdata/rendered/home.yaml":       {rbac.Cluster{Namespace: "linkerd", CheckNamespace: "pki"}, "mesh-certd", "pki"},
		"helm/testdata/rendered/bootstrap.yaml":  {rbac.Cluster{Namespace: "linkerd", CheckNamespace: "pki", Bootstrap: true}, "mesh-certd", "pki"},
		"helm/testdata/rendered/everything.yaml": {rbac.Cluster{Namespace: "mesh", CheckNamespace: "pki", Viz: true, Jaeger: true, Proxies: true, RestartWorkloads: true}, "keeper", "pki"},
		"helm/testdata/rendered/elsewhere.yaml":  {},
	} {
		t.Run(file, func(t *testing.T) {
			printed := []byte{}
			if row.name != "" {
				printed = rbac.Manifest(row.cluster)
			}
			want := rights(t, parsed(t, printed), rbacv1.Subject{Kind: "ServiceAccount", Name: row.name, Namespace: row.in})
			if row.name != "" && len(want) < 4 {
				t.Fatalf("certd prints %d objects", len(want))
			}
			if diff := cmp.Diff(want, rights(t, installed(t, file), rbacv1.Subject{})); diff != "" {
				t.Errorf("the chart's rights differ (-certd's +chart's):\n%s", diff)
			}
		})
	}
}

// rights are the roles and bindings among objects, by kind, namespace and name, without
// labels. A subject takes the place of those that bindings have, unless it is empty.
func rights(t *testing.T, all []*unstructured.Unstructured, subject rbacv1.Subject) map[string]any {
	t.Helper()
	of := map[string]any{}
	for _, o := range all {
		if !strings.HasPrefix(o.GetAPIVersion(), "rbac.authorization.k8s.io/") {
			continue
		}
		o = o.DeepCopy()
		o.SetLabels(nil)
		if _, binds := o.Object["subjects"]; binds && subject.Name != "" {
			o.Object["subjects"] = []any{map[string]any{"kind": subject.Kind, "name": subject.Name, "namespace": subject.Namespace}}
		}
		of[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = o.Object
	}
	return of
}
