package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"certd.internal/deploy/rbac"
	"certd.internal/rotation"
)

// pair is two certd for one fleet, each with a state directory, a socket and a port of its
// own, that elect one of them by a Lease in the first cluster.
type pair struct {
	*site
	other *site
	token string
}

// electionTimes lets the other one begin seconds after the leader's death.
const electionTimes = "  leaseDuration: 6s\n  renewDeadline: 4s\n  retryPeriod: 1s\n"

func newPair(t *testing.T, clusters int, defaults string) *pair {
	t.Helper()
	s := newSite(t, clusters, defaults)
	// What the shipped policy grants, with the mirror.
	s.vaultDo(http.MethodPut, "sys/policies/acl/mirror-"+s.fleet, map[string]any{"policy": fmt.Sprintf(
		"path \"secret/data/certd/%s\" { capabilities = [\"create\", \"update\", \"read\"] }\npath \"secret/metadata/certd/%[1]s\" { capabilities = [\"read\"] }\n", s.fleet)})
	token := s.vaultDo(http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"certd-run", "mirror-" + s.fleet}, "no_default_policy": true, "ttl": "1h"})["client_token"].(string)
	whole, err := os.ReadFile(s.dir + "/certd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(string(whole), "    auth:")
	_, after, _ = strings.Cut(after, "\n")
	text := before + "    auth: {token: {env: CERTD_TEST_TOKEN}}\n    mirror: {mount: secret, path: certd/" + s.fleet + "}\n" + after +
		"leaderElection:\n  lease: {namespace: certd, name: " + s.fleet + "}\n  cluster: " + s.lab.Clusters[0].Name + "\n" + electionTimes
	if err := os.WriteFile(s.dir+"/certd.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.mayElect()
	o := *s
	o.dir = shortDir(t)
	p := &pair{site: s, other: &o, token: token}
	o.write("certd.yaml", text)
	t.Cleanup(func() {
		err := s.kube[0].CoordinationV1().Leases("certd").Delete(context.Background(), s.fleet, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
		s.vaultDo(http.MethodDelete, "secret/metadata/certd/"+s.fleet, nil)
		s.vaultDo(http.MethodDelete, "sys/policies/acl/mirror-"+s.fleet, nil)
	})
	return p
}

// mayElect grants what the shipped manifest has, for a Lease of the site's own.
func (s *site) mayElect() {
	s.t.Helper()
	manifest := string(rbac.Manifest(rbac.Cluster{Namespace: "linkerd", CheckNamespace: "certd", Lease: &rbac.Lease{Namespace: "certd", Name: s.fleet}}))
	ctx, api, own := context.Background(), s.kube[0].RbacV1(), "certd-lease-"+s.fleet
	for doc := range strings.SplitSeq(manifest, "\n---\n") {
		var err error
		switch doc = strings.ReplaceAll(doc, "name: certd-lease", "name: "+own); {
		case !strings.Contains(doc, own):
		case strings.Contains(doc, "kind: RoleBinding\n"):
			var b rbacv1.RoleBinding
			if err = yaml.Unmarshal([]byte(doc), &b); err == nil {
				_, err = api.RoleBindings("certd").Create(ctx, &b, metav1.CreateOptions{})
			}
		default:
			var r rbacv1.Role
			if err = yaml.Unmarshal([]byte(doc), &r); err == nil {
				_, err = api.Roles("certd").Create(ctx, &r, metav1.CreateOptions{})
			}
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Cleanup(func() {
		if err := errors.Join(api.RoleBindings("certd").Delete(ctx, own, metav1.DeleteOptions{}), api.Roles("certd").Delete(ctx, own, metav1.DeleteOptions{})); err != nil {
			s.t.Error(err)
		}
	})
}

func (p *pair) begin(s *site) *process { return s.run("CERTD_TEST_TOKEN=" + p.token) }

// leads waits until the certd of a site leads and all is well.
func (p *pair) leads(s *site, within time.Duration) time.Duration {
	p.t.Helper()
	return s.eventually(within, func() string {
		st, code := s.status()
		if st.Election == nil || st.Election.Role != rotation.RoleLeader || code != 0 {
			return fmt.Sprintf("exit %d, state %s, election %+v, findings %+v", code, st.State, st.Election, st.Findings)
		}
		return ""
	})
}

// standsBy waits until the certd of a site stands by, knowing who leads.
func (p *pair) standsBy(s *site) {
	p.t.Helper()
	s.eventually(20*time.Second, func() string {
		out, errs, code := s.certd("status", "--config", "certd.yaml")
		if code != 3 || strings.Count(out, "\n") != 1 || !strings.Contains(out, "this certd is a standby; ") || !strings.Contains(out, "leads since") {
			return fmt.Sprintf("exit %d: %s%s", code, out, errs)
		}
		return ""
	})
}

// once checks that no issuer was signed twice: as many signatures as Vault's audit log has
// are in the two journals, each in one of them.
func (p *pair) once() {
	p.t.Helper()
	signs, _ := p.audit()
	inVault := map[string]int{}
	for _, s := range signs {
		if !s.Failed {
			inVault[s.ID]++
		}
	}
	journals := map[string]int{}
	for _, s := range []*site{p.site, p.other} {
		for _, e := range s.history() {
			if e.SignRequest != "" && e.Outcome == "ok" {
				journals[e.SignRequest]++
			}
		}
	}
	for id, n := range journals {
		if n != 1 || inVault[id] != 1 {
			p.t.Errorf("signature %s is %d times in the journals and %d times in Vault's log", id, n, inVault[id])
		}
	}
	if missing := len(inVault) - len(journals); missing > 1 { // the one that was killed with an answer under way
		p.t.Errorf("%d signatures are in no journal", missing)
	}
}

// One of two certd leads. When it is killed, the other one goes on within the time of the
// Lease, from what the mirror and the clusters show: it makes no new issuer, knows the
// anchor, and what was paused.
func TestAStandbyTakesOverFromALeaderThatWasKilled(t *testing.T) {
	p := newPair(t, 2, daily)
	a, b := p.site, p.other
	one := p.begin(a)
	p.eventually(40*time.Second, func() string {
		if st, _ := a.status(); st.Election == nil || st.Election.Role != rotation.RoleLeader {
			return fmt.Sprintf("%+v", st.Election)
		}
		return ""
	})
	a.must("init", "--config", "certd.yaml", "--yes")
	p.leads(a, 40*time.Second)
	two := p.begin(b)
	p.standsBy(b)
	if _, errs, code := b.certd("rotate", "issuer", "--all", "--yes", "--config", "certd.yaml"); code != 75 || !strings.Contains(errs, "this certd is a standby") {
		t.Errorf("a standby is asked to renew: exit %d, %s", code, errs)
	}
	if before := b.history(); len(before) != 0 {
		t.Errorf("a standby has recorded %+v", before)
	}
	a.must("pause", a.lab.Clusters[1].Name, "--for", "2h", "--reason", "its disk", "--yes", "--config", "certd.yaml")
	serials := fmt.Sprint(a.secret(0).Annotations["certd.io/serial"], a.secret(1).Annotations["certd.io/serial"])
	epoch := a.secret(0).Annotations["certd.io/epoch"]

	one.cmd.Process.Kill()
	<-one.done
	took := b.eventually(30*time.Second, func() string {
		if st, _ := b.status(); st.Election == nil || st.Election.Role != rotation.RoleLeader {
			return fmt.Sprintf("%+v", st.Election)
		}
		return ""
	})
	t.Logf("the other one led %s after the kill, with a lease of 6 s", took)
	b.eventually(20*time.Second, func() string {
		st, _ := b.status()
		if st.Trust.Active == nil || st.Trust.Active.ID != "g1" || len(st.Clusters) != 2 || st.Clusters[0].Issuer == nil || st.Clusters[1].Issuer == nil || st.Clusters[1].Mode != "paused" {
			return fmt.Sprintf("%s, active %+v, clusters %+v", st.State, st.Trust.Active, st.Clusters)
		}
		return ""
	})
	if now := fmt.Sprint(b.secret(0).Annotations["certd.io/serial"], b.secret(1).Annotations["certd.io/serial"]); now != serials {
		t.Errorf("issuers %s, and were %s before the kill (epoch %s)", now, serials, epoch)
	}
	// The first comes back, as a standby, and takes over again where the other one stops.
	one = p.begin(a)
	p.standsBy(a)
	b.must("resume", a.lab.Clusters[1].Name, "--reason", "mended", "--yes", "--config", "certd.yaml")
	two.term()
	took = p.leads(a, 30*time.Second)
	t.Logf("the first one led, and all was well, %s after the other had stopped", took)
	if now := fmt.Sprint(a.secret(0).Annotations["certd.io/serial"], a.secret(1).Annotations["certd.io/serial"]); now != serials {
		t.Errorf("issuers %s, and were %s", now, serials)
	}
	p.once()
	one.term()
}

// A leader that was stopped for longer than its lease writes nothing when it goes on, and
// ends, to be started again as a standby.
func TestALeaderThatSleptWritesNothing(t *testing.T) {
	p := newPair(t, 1, minutely)
	a, b := p.site, p.other
	one := p.begin(a)
	p.eventually(40*time.Second, func() string {
		if st, _ := a.status(); st.Election == nil || st.Election.Role != rotation.RoleLeader {
			return fmt.Sprintf("%+v", st.Election)
		}
		return ""
	})
	a.must("init", "--config", "certd.yaml", "--yes")
	p.leads(a, 40*time.Second)
	two := p.begin(b)
	p.standsBy(b)
	if err := one.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.leads(b, 40*time.Second)
	// The schedule fires each minute: on waking, the first has something to do at once.
	serial := a.secret(0).Annotations["certd.io/serial"]
	p.eventually(3*time.Minute, func() string {
		if now := b.secret(0).Annotations["certd.io/serial"]; now == serial {
			return "nothing was renewed"
		}
		return ""
	})
	signs, _ := p.audit()
	held := len(signs)
	if err := one.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-one.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("the first goes on\n%s", one.log)
	}
	if code := one.cmd.ProcessState.ExitCode(); code != 75 || !strings.Contains(one.log.String(), "to be started again as a standby") {
		t.Errorf("it ended with %d\n%s", code, one.log)
	}
	if signs, _ := p.audit(); len(signs) > held+1 { // the other one's, meanwhile
		t.Errorf("%d signatures when it woke, %d after", held, len(signs))
	}
	if st, code := b.status(); code != 0 || st.Election.Role != rotation.RoleLeader {
		t.Errorf("the second: exit %d, %+v, %+v", code, st.Election, st.Findings)
	}
	one = p.begin(a)
	p.standsBy(a)
	two.term()
	p.leads(a, 40*time.Second)
	p.once()
	one.term()
}

// What a standby shows over HTTP: alive and ready, so that a rolling update goes on, and
// not the leader.
func TestAStandbyIsReady(t *testing.T) {
	p := newPair(t, 1, daily)
	a, b := p.site, p.other
	one := p.begin(a)
	p.eventually(40*time.Second, func() string {
		if st, _ := a.status(); st.Election == nil || st.Election.Role != rotation.RoleLeader {
			return fmt.Sprintf("%+v", st.Election)
		}
		return ""
	})
	text, err := os.ReadFile(b.dir + "/certd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b.write("certd.yaml", strings.Replace(string(text), "server: {socket: certd.sock}", "server: {socket: certd.sock, listen: \""+address+"\"}", 1))
	two := p.begin(b)
	p.standsBy(b)
	get := func(path string) (int, string) {
		r, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, err.Error()
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		return r.StatusCode, string(body) + fmt.Sprint(errors.Join(err))
	}
	for path, want := range map[string]string{"/livez?verbose": "[+]journal ok", "/readyz": "ok", "/healthz": "ok", "/metrics": "\ncertd_leader 0\n", "/": "this certd is a standby", "/api/v1/status": `"role":"standby"`} {
		if code, body := get(path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %s", path, code, body)
		}
	}
	one.term()
	p.eventually(40*time.Second, func() string {
		if code, body := get("/metrics"); code != 200 || !strings.Contains(body, "\ncertd_leader 1\n") {
			return fmt.Sprintf("%d, %s", code, body)
		}
		return ""
	})
	if code, body := get("/readyz"); code != 200 {
		t.Errorf("it leads: %d, %s", code, body)
	}
	two.term()
}
