package kube

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodKubeconfig = `apiVersion: v1
kind: Config
current-context: x
contexts:
- {name: x, context: {cluster: c, user: u}}
- {name: nowhere, context: {cluster: gone, user: u}}
- {name: nobody, context: {cluster: c, user: gone}}
clusters:
- {name: c, cluster: {server: "https://127.0.0.1:1"}}
users:
- {name: u, user: {token: s3cr3t-t0ken}}
`

// Each row changes one thing in a good kubeconfig.
func TestKubeconfig(t *testing.T) {
	for _, row := range []struct {
		name     string
		old, new string
		context  string
		err      string // "" = it is accepted
	}{
		{name: "a token over https"},
		{name: "no current-context", old: "current-context: x", new: "", err: "has no current-context"},
		{name: "a context that is not there", context: "y", err: `has no context "y"`},
		{name: "a context without its cluster", context: "nowhere", err: `names cluster "gone"`},
		{name: "a context without its user", context: "nobody", err: `names user "gone"`},
		{name: "a program for credentials", old: "token: s3cr3t-t0ken", new: "exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [/tmp/x], interactiveMode: Never}", err: `user "u" uses the exec plugin "touch"`},
		{name: "an auth-provider", old: "token: s3cr3t-t0ken", new: "auth-provider: {name: gcp}", err: `user "u" uses the auth-provider "gcp"`},
		{name: "no check of the server", old: `1"}`, new: `1", insecure-skip-tls-verify: true}`, err: `cluster "c" sets insecure-skip-tls-verify`},
		{name: "no TLS", old: "https", new: "http", err: "only https:// is supported"},
		{name: "a server without a scheme", old: "https://127.0.0.1:1", new: "127.0.0.1:1", err: "only https:// is supported"},
		{name: "a password in the server's address", old: "https://127.0.0.1:1", new: "https://certd:s3cr3t-t0ken@127.0.0.1:1", err: "holds a user name or a password"},
		{name: "a password without TLS", old: "https://127.0.0.1:1", new: "http://certd:s3cr3t-t0ken@127.0.0.1:1", err: "holds a user name or a password"},
		{name: "something else", old: "clusters:", new: "clusters: {{", err: "is not a kubeconfig"},
		{name: "a CA file that is not there", old: `1"}`, new: `1", certificate-authority: none.pem}`, err: "none.pem"},
		{name: "a program in a context that is not used", old: "users:", new: "users:\n- {name: other, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, interactiveMode: Never}}}"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "prod-eu-1")
			if err := os.WriteFile(path, []byte(strings.Replace(goodKubeconfig, row.old, row.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := New(Config{Cluster: "prod-eu-1", Namespace: "linkerd", Access: Access{File: path, Context: row.context}}, slog.New(slog.DiscardHandler))
			switch {
			case row.err == "" && err != nil:
				t.Errorf("refused: %v", err)
			case row.err == "":
			case err == nil:
				t.Error("accepted")
			case !strings.Contains(err.Error(), row.err) || !strings.Contains(err.Error(), path):
				t.Errorf("error %q; want the file's name and %q", err, row.err)
			case strings.Contains(err.Error(), "s3cr3t"):
				t.Error("the error holds the token")
			}
		})
	}
}

func TestAccessIsOneWay(t *testing.T) {
	for _, row := range []struct {
		name   string
		access Access
		err    string
	}{
		{"none", Access{}, "exactly one"},
		{"two", Access{File: "x", Data: []byte("x")}, "exactly one"},
		{"in a cluster, outside of any", Access{InCluster: true}, "works in a pod only"},
		{"data that names a file beside it", Access{Data: []byte(strings.Replace(goodKubeconfig, "token: s3cr3t-t0ken", "tokenFile: token", 1))}, "relative path"},
		{"a file that is not there", Access{File: "/nowhere/at/all"}, "/nowhere/at/all"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			_, err := New(Config{Cluster: "c", Namespace: "linkerd", Access: row.access}, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("error %v; want %q", err, row.err)
			}
		})
	}
}

// Whatever a kubeconfig says, it runs no program and needs no luck to parse.
func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte(goodKubeconfig))
	f.Add([]byte(strings.Replace(goodKubeconfig, "token: s3cr3t-t0ken", "exec: {command: touch}", 1)))
	f.Add([]byte(strings.Replace(goodKubeconfig, "https", "http", 1)))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		rc, err := Access{Data: text}.restConfig()
		if err != nil {
			return
		}
		if rc.ExecProvider != nil || rc.AuthProvider != nil || rc.Insecure || !strings.HasPrefix(rc.Host, "https://") {
			t.Errorf("accepted: exec %v, auth-provider %v, insecure %t, host %q", rc.ExecProvider, rc.AuthProvider, rc.Insecure, rc.Host)
		}
	})
}
