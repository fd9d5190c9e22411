package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Manifests for extensions may be missing; the two of the control plane not.
func TestReadRights(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("certd.yaml", "kind: Role\n")
	if _, err := readRights(dir); err == nil || !strings.Contains(err.Error(), "certd-bootstrap.yaml") {
		t.Errorf("without a manifest: %v", err)
	}
	write("certd-bootstrap.yaml", "kind: ClusterRole\n")
	r, err := readRights(dir)
	if err != nil || len(r.extensions) > 0 {
		t.Errorf("without extensions: %v, %v", r, err)
	}
	write("certd-viz.yaml", "kind: Role\n---\nkind: RoleBinding\n")
	if r, err = readRights(dir); err != nil || len(r.extensions) != 1 || len(r.extensions["linkerd-viz"]) != 2 {
		t.Errorf("with viz: %v, %v", r, err)
	}
	write("certd-jaeger.yaml", "{")
	if _, err := readRights(dir); err == nil || !strings.Contains(err.Error(), "certd-jaeger.yaml") {
		t.Errorf("with a manifest that is none: %v", err)
	}
}
