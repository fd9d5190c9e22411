package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"log/slog"

	"certd.internal/cmd/certd/internal/api"
)

func TestClustersAreTestedAndGivenTheirManifest(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"passphrase": "p\n",
		"kube": "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}]\nusers: [{name: u, user: {token: t}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n",
		"certd.yaml": `apiVersion: certd/v1
kind: Fleet
name: acme-mesh
keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}
trust: {restartWorkloads: auto}
clusters:
  - {name: far, labels: {tier: prod}, kubeconfig: {file: kube}, linkerd: {namespace: mesh}, webhooks: {extra: [{name: quota, secret: {namespace: q, name: quota-tls}, dnsNames: [quota.q.svc], objects: [{kind: ValidatingWebhookConfiguration, name: quota}]}]}}
  - {name: folder, directory: folder}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "certd.yaml")
	d := Daemon{Getenv: func(string) string { return "" }, Log: func(slog.Leveler, string) *slog.Logger { return quiet }}
	list, err := d.Clusters(path)
	if err != nil || len(list) != 2 || list[0].Namespace != "mesh" || list[0].Target != "kubeconfig "+filepath.Join(dir, "kube") || list[1].Target != "directory "+filepath.Join(dir, "folder") {
		t.Errorf("%+v, %v", list, err)
	}

	tests, err := d.TestClusters(t.Context(), path, []string{"folder", "far"})
	if err != nil || len(tests) != 2 {
		t.Fatal(tests, err)
	}
	if folder := tests[0]; !folder.Reachable || folder.Problem != "" || len(folder.Rights) != 0 {
		t.Errorf("a folder: %+v", folder)
	}
	if far := tests[1]; far.Reachable || !strings.Contains(far.Problem, "connection refused") || len(far.Rights) != 0 {
		t.Errorf("a cluster out of reach: %+v", far)
	}
	if _, err := d.TestClusters(t.Context(), path, []string{"nowhere"}); !errors.Is(err, api.ErrUsage) {
		t.Errorf("a cluster that there is not: %v", err)
	}

	text, err := d.Manifest(path, api.ManifestRequest{Cluster: "far", Viz: true})
	if err != nil {
		t.Fatal(err)
	}
	for want, is := range map[string]bool{"  namespace: mesh\n": true, "  namespace: linkerd-viz\n": true, "  name: certd-webhook-quota\n": true, "resourceNames: [quota]": true,
		"certd-restart-workloads": true, "certd-proxies\n": false, "  namespace: linkerd\n": false} {
		if strings.Contains(string(text), want) != is {
			t.Errorf("that the manifest has %q is %t", want, !is)
		}
	}
	for _, name := range []string{"folder", "nowhere"} {
		if _, err := d.Manifest(path, api.ManifestRequest{Cluster: name}); !errors.Is(err, api.ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
