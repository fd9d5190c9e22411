package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, name string) {
	t.Helper()
	if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", name, err)
	}
}

func kept(t *testing.T, name, content string) {
	t.Helper()
	if b, err := os.ReadFile(name); err != nil || string(b) != content {
		t.Errorf("%s: %q, %v, want %q", name, b, err, content)
	}
}

// A folder is taken over from an earlier lab, but only what a lab writes is
// replaced, and a journal is kept.
func TestTakingOverAFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	first, _, err := claimFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := claimFolder(dir); err == nil || !strings.Contains(err.Error(), "another lab runs in "+dir) {
		t.Errorf("a second lab at the same time: %v", err)
	}
	for _, name := range []string{"ready", "lab.json", "certd.yaml", "kube/c1", "kube/c12", "kube-certd/c1", ".lab/c1/ca.crt"} {
		put(t, first.in(name), "old")
	}
	for _, name := range []string{"notes", "kube/mine", "kube/c1.bak", "kube-certd/mine"} {
		put(t, first.in(name), "mine")
	}
	put(t, first.in("state/certd.db"), "journal")
	first.lock.Close()

	second, asides, err := claimFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.lock.Close()
	for _, name := range []string{"ready", "lab.json", "certd.yaml", "kube/c1", "kube/c12", "kube-certd/c1", ".lab/c1", "state"} {
		gone(t, second.in(name))
	}
	for _, name := range []string{"notes", "kube/mine", "kube/c1.bak", "kube-certd/mine"} {
		kept(t, second.in(name), "mine")
	}
	if len(asides) != 1 {
		t.Fatalf("moved aside: %v", asides)
	}
	kept(t, filepath.Join(asides[0], "certd.db"), "journal")
}

func TestAFolderWithFilesOfSomebodyElseIsRefused(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "certd.yaml"), "mine")
	if _, _, err := claimFolder(dir); err == nil || !strings.Contains(err.Error(), "no lab has written it") {
		t.Fatal(err)
	}
	kept(t, filepath.Join(dir, "certd.yaml"), "mine")
	gone(t, filepath.Join(dir, "kube"))
}

func TestInstalledIdentityHasTheArgumentsAskedFor(t *testing.T) {
	m, err := identityObjects("mesh-2", 3, map[string]string{"identity-scheme": "linkerd.io/tls", "identity-issuance-lifetime": "5m"})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range m {
		if in := o.GetNamespace(); in != "mesh-2" && o.GetName() != "mesh-2" {
			t.Errorf("%s %s is in namespace %q", o.GetKind(), o.GetName(), in)
		}
	}
	deployments := m.of(func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" })
	if len(deployments) != 1 {
		t.Fatalf("%d Deployments", len(deployments))
	}
	text, err := deployments[0].MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"replicas":3`, `"-identity-scheme=linkerd.io/tls"`, `"-identity-issuance-lifetime=5m"`, `"-identity-trust-domain=cluster.local"`,
		`"-controller-namespace=mesh-2"`, `"linkerd.io/control-plane-ns":"mesh-2"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}
