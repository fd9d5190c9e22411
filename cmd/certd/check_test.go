package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/cmd/certd/internal/check"
	"certd.internal/rotation"
)

// checked is what `certd check -o json` says, and its exit code.
func (s *site) checked(args ...string) (check.Report, int) {
	s.t.Helper()
	out, errs, code := s.certd(append([]string{"check", "--config", "certd.yaml", "-o", "json"}, args...)...)
	var r check.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		s.t.Fatalf("check %v: exit %d: %v\n%s%s", args, code, err, out, errs)
	}
	return r, code
}

// troubles are the claims that do not hold, and why.
func troubles(r check.Report) map[string]string {
	all := map[string]string{}
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			if c.Result != check.Success && !c.Ignored {
				all[c.ID] = string(c.Result) + ": " + c.Error
			}
		}
	}
	return all
}

// From before the beginning to a daemon that hangs, there is an answer.
func TestCheckOfFolders(t *testing.T) {
	s := newFolders(t)
	was := s.tree(".")
	if r, code := s.checked("--pre"); code != 0 || len(troubles(r)) > 0 {
		t.Errorf("before the beginning: exit %d, %v", code, troubles(r))
	}
	if now := s.tree("."); !maps.Equal(was, now) {
		t.Errorf("--pre left traces: %v, there was %v", now, was)
	}
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	if r, code := s.checked("--wait", "20s"); code != 0 || r.Source != "daemon" || r.Summary.Claims < 40 {
		t.Errorf("a healthy fleet: exit %d from %s, %v", code, r.Source, troubles(r))
	}
	if r, code := s.checked("--cluster", "east", "--category", "issuers"); code != 0 || len(r.Categories) != 1 || r.Categories[0].Checks[0].Clusters.Total != 1 {
		t.Errorf("one category of one cluster: exit %d, %+v", code, r)
	}
	if _, _, code := s.certd("check", "--config", "certd.yaml", "--cluster", "north"); code != 64 {
		t.Errorf("a cluster that is not there: exit %d", code)
	}

	// A daemon that hangs counts as none.
	if err := d.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r, code := s.checked()
	if got := troubles(r); code != 2 || r.Source != "command" || got["daemon-runs"] == "" || len(got) != 1 {
		t.Errorf("a daemon that hangs: exit %d from %s, %v", code, r.Source, got)
	}
	if err := d.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	d.term()
	if r, code := s.checked("--fail-on", "error"); code != 2 || r.State != rotation.StateCritical {
		t.Errorf("no daemon: exit %d, %s", code, r.State)
	}
}

const quiet = `
defaults:
  linkerd: {createNamespace: true}
  issuer:   {lifetime: 90d, renewBefore: 61d}
  webhooks: {lifetime: 90d, renewBefore: 61d}
`

// In front of a real Vault and a real API server every claim holds, from before the
// beginning on, and what is put wrong there is found by the claim that is about it.
func TestCheckOfVaultAndClusters(t *testing.T) {
	s := newSite(t, 1, quiet)
	if r, code := s.checked("--pre"); code != 0 || len(troubles(r)) > 0 || r.Summary.Claims < 25 {
		t.Errorf("before the beginning: exit %d, %d claims, %v", code, r.Summary.Claims, troubles(r))
	}
	s.must("init", "--config", "certd.yaml", "--yes")
	if r, code := s.checked("--pre"); code != 0 {
		t.Errorf("with an anchor: exit %d, %v", code, troubles(r))
	}
	d := s.run()
	s.converged()
	s.installIdentity(0)
	s.installWebhooks(0, "control-plane")
	s.eventually(90*time.Second, func() string {
		st, _ := s.status()
		for _, h := range st.Clusters[0].Webhooks {
			if h.Mode != "managed" || h.Served == nil || h.Served.State != "yes" {
				return h.Name + " is not served as it was delivered"
			}
		}
		if len(st.Clusters[0].Webhooks) != 3 || st.State != rotation.StateOK {
			return fmt.Sprintf("%d webhooks, %s", len(st.Clusters[0].Webhooks), st.State)
		}
		return ""
	})
	r, code := s.checked("--wait", "60s")
	if code != 0 || r.Source != "daemon" || r.Summary.Claims < 55 {
		t.Fatalf("a healthy fleet: exit %d from %s, %d claims, %v", code, r.Source, r.Summary.Claims, troubles(r))
	}

	// finds wants a claim not to hold, of all claims that one alone.
	finds := func(id, words string, but ...string) {
		t.Helper()
		r, _ := s.checked()
		got := troubles(r)
		if !strings.Contains(got[id], words) {
			t.Errorf("%s: want %q, got %q", id, words, got[id])
		}
		for other, why := range got {
			if other != id && !slices.Contains(but, other) {
				t.Errorf("beside %s: %s: %s", id, other, why)
			}
		}
	}
	ctx := context.Background()
	values := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "linkerd-config"}, Data: map[string]string{"values": "linkerdVersion: edge-26.8.3\nidentity:\n  externalCA: true\n  issuer: {scheme: linkerd.io/tls}\n" +
		"proxyInjector: {externalSecret: true}\nprofileValidator: {externalSecret: true}\npolicyValidator: {externalSecret: true}\n"}}
	if _, err := s.kube[0].CoreV1().ConfigMaps("linkerd").Create(ctx, values, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	finds("linkerd-issuer-scheme", `warning: c1: identity.issuer.scheme is "linkerd.io/tls"`)
	if err := s.kube[0].CoreV1().ConfigMaps("linkerd").Delete(ctx, "linkerd-config", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	key := "certd-transit/keys/" + s.fleet + "-anchor-1"
	s.vaultDo("POST", key+"/config", map[string]any{"deletion_allowed": true})
	finds("anchor-key-not-deletable", "warning: g1: "+s.fleet+"-anchor-1 has deletion_allowed=true")
	s.vaultDo("POST", key+"/config", map[string]any{"deletion_allowed": false, "exportable": true})
	finds("anchor-key-not-exportable", "error: g1: "+s.fleet+"-anchor-1 can be exported", "pairs-accepted")

	// Without the daemon the command sees the same.
	d.term()
	finds("daemon-runs", "no daemon answers", "anchor-key-not-exportable")
}

// What certd may do in Vault is held against what it uses, both ways.
func TestCheckOfRightsInVault(t *testing.T) {
	s := newSite(t, 1, quiet)
	s.role(unsigned(t) + "\npath \"sys/mounts/certd-transit\" {\n  capabilities = [\"delete\"]\n}\n")
	s.edit("roleID: certd", "roleID: "+s.fleet, s.lab.Vault.SecretIDFile, "secret-id")
	r, code := s.checked("--pre", "--category", "keys")
	got := troubles(r)
	if code != 2 || len(got) != 2 || !strings.Contains(got["keys-rights"], `"update" on certd-transit/sign/`+s.fleet+`-anchor-1 is missing`) ||
		!strings.Contains(got["keys-rights-excess"], "sys/mounts/certd-transit (delete)") {
		t.Errorf("exit %d, %v", code, got)
	}
	s.write("secret-id", "nonsense\n")
	if r, code := s.checked("--pre", "--category", "keys"); code != 2 || !strings.Contains(troubles(r)["vault-login"], "invalid role or secret ID") {
		t.Errorf("exit %d, %v", code, troubles(r))
	}
}

// A cluster that hangs takes its own time, and none of another's.
func TestCheckOfAClusterThatHangs(t *testing.T) {
	s := newSite(t, 1, quiet)
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.write("kube-gone", replaced(t, readFile(t, s.lab.Clusters[0].CertdKubeconfig), regexp.MustCompile(`server: \S+`).FindString(readFile(t, s.lab.Clusters[0].CertdKubeconfig)), "server: https://"+l.Addr().String()))
	s.write("certd.yaml", s.read("certd.yaml")+"  - {name: gone, kubeconfig: {file: kube-gone}}\n")
	r, code := s.checked("--pre", "--category", "clusters")
	got := troubles(r)
	if code != 2 || !strings.HasPrefix(got["cluster-reachable"], "error: gone: ") {
		t.Errorf("exit %d, %v", code, got)
	}
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			if c.Clusters != nil && (c.Clusters.Total == 2 && c.Clusters.Hold != 1 || c.Result == check.Unknown && !c.Follows() && !c.Ignored) {
				t.Errorf("%s holds in %d of %d: %s", c.ID, c.Clusters.Hold, c.Clusters.Total, c.Error)
			}
		}
	}
}
