// Package checktest makes evidence for claims to be judged by, in tests.
package checktest

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/kube"
	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/pki"
	"certd.internal/rotation"
)

const day = 24 * time.Hour

// A World makes what a fleet has: an anchor, issuers and webhooks' certificates, as
// of Now.
type World struct {
	T         testing.TB
	Now       time.Time
	AnchorKey pki.PrivateKey
	Anchor    *x509.Certificate
}

// New makes an anchor of 10 years.
func New(t testing.TB, now time.Time) *World {
	t.Helper()
	w := &World{T: t, Now: now}
	w.AnchorKey, w.Anchor = w.NewAnchor("root.linkerd.cluster.local 2026-1", 3650*day)
	return w
}

// NewAnchor makes another anchor, that has lived for 69 days.
func (w *World) NewAnchor(name string, lifetime time.Duration) (pki.PrivateKey, *x509.Certificate) {
	w.T.Helper()
	key := w.key()
	c, err := pki.SelfSignAnchor(w.Now.Add(-69*day), pki.AnchorProfile{CommonName: name, Lifetime: lifetime, Backdate: time.Hour}, key)
	w.must(err)
	return key, c
}

func (w *World) key() pki.PrivateKey {
	w.T.Helper()
	key, err := pki.GenerateKey()
	w.must(err)
	return key
}

func (w *World) must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// Issuer is the data of a Secret with an issuer signed at a time, under the world's
// anchor.
func (w *World) Issuer(at time.Time, lifetime time.Duration) map[string][]byte {
	w.T.Helper()
	key := w.key()
	t, err := pki.NewIssuerTemplate(at, pki.IssuerProfile{Namespace: "linkerd", TrustDomain: "cluster.local", Lifetime: lifetime, Backdate: 10 * time.Minute}, w.Anchor)
	w.must(err)
	c, err := pki.SignIssuer(t, w.Anchor, key.PublicKey(), w.AnchorKey)
	w.must(err)
	return pair(key, c, w.Anchor)
}

func pair(key pki.PrivateKey, c, ca *x509.Certificate) map[string][]byte {
	crt, pem := pki.EncodeCertificates(c), key.PKCS8PEM()
	return map[string][]byte{"tls.crt": crt, "tls.key": pem, "crt.pem": crt, "key.pem": pem, "ca.crt": pki.EncodeCertificates(ca)}
}

// Webhook is one of Linkerd's as it is in a cluster, under a CA of its own.
func (w *World) Webhook(spec rotation.WebhookSpec, at time.Time, lifetime time.Duration) rotation.Webhook {
	w.T.Helper()
	caKey, ca := w.NewAnchor("webhook-ca", 730*day)
	key := w.key()
	spec.Namespace = "linkerd"
	spec.DNSNames = []string{spec.Service + ".linkerd.svc"}
	t, err := pki.NewServingTemplate(at, pki.ServingProfile{DNSNames: spec.DNSNames, Lifetime: lifetime, Backdate: 10 * time.Minute}, ca)
	w.must(err)
	c, err := pki.SignServing(t, ca, key.PublicKey(), caKey)
	w.must(err)
	set := pki.NewCASet(ca)
	hook := rotation.Webhook{Spec: spec, Facts: pki.ReadServing(pair(key, c, ca)), Secret: rotation.ObjectState{Exists: true, Marks: rotation.Marks{Fleet: "acme-mesh"}}}
	for _, o := range spec.Objects {
		hook.Objects = append(hook.Objects, rotation.WebhookObject{Ref: o, CABundle: set, CAText: set.PEM(), ObjectState: rotation.ObjectState{Exists: true}})
	}
	return hook
}

// Observe is what a look shows at a cluster whose Secret has this data, and whose
// bundle is the world's anchor.
func (w *World) Observe(name string, issuer map[string][]byte) *rotation.Observation {
	w.T.Helper()
	facts := pki.ReadIssuer(issuer, pki.Identity{Namespace: "linkerd", TrustDomain: "cluster.local", Scheme: "kubernetes.io/tls"}, w.Now)
	o := &rotation.Observation{At: w.Now, Target: "uid-" + name, Version: "v1.36.3", Namespace: true,
		Bundle: rotation.ObjectState{Exists: true, Marks: rotation.Marks{Fleet: "acme-mesh"}}, BundleText: pki.EncodeCertificates(w.Anchor),
		Issuer: rotation.ObjectState{Exists: true, Marks: rotation.Marks{Fleet: "acme-mesh"}}, IssuerFacts: facts,
		Identity: &rotation.Identity{Deployed: true, LeafLifetime: 24 * time.Hour, ClockSkew: 20 * time.Second, Scheme: "kubernetes.io/tls"}}
	for _, spec := range rotation.LinkerdWebhooks()[:3] {
		o.Webhooks = append(o.Webhooks, w.Webhook(spec, w.Now.Add(-10*day), 90*day))
	}
	return o
}

// Quiet is a configuration by which nothing ever has less than 60 days left.
const Quiet = `
defaults:
  issuer:   {lifetime: 90d, renewBefore: 61d}
  webhooks: {lifetime: 90d, renewBefore: 61d}
`

// Config loads a configuration of the named clusters, with further lines.
func Config(t testing.TB, now time.Time, more string, names ...string) *config.Config {
	t.Helper()
	var b strings.Builder
	b.WriteString("apiVersion: certd/v1\nkind: Fleet\nname: acme-mesh\nstateDir: /var/lib/certd\nkeys: {file: {dir: /var/lib/certd/keys, passphraseFrom: {env: PASSPHRASE}}}\nserver: {socket: /run/certd/certd.sock}\n" + more + "\nclusters:\n")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kube"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		fmt.Fprintf(&b, "  - {name: %s, kubeconfig: {file: kube, context: %[1]s}}\n", n)
	}
	path := filepath.Join(dir, "certd.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, problems := config.Load(path, config.Options{Getenv: func(string) string { return "" }, Now: now})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return c
}

// Healthy is the evidence of a fleet in which every claim holds, as a daemon has it.
func (w *World) Healthy(more string, names ...string) check.Evidence {
	w.T.Helper()
	last, asOf := w.Now.Add(-38*time.Second), w.Now
	c := Config(w.T, w.Now, more, names...)
	e := check.Evidence{Now: w.Now, Source: "daemon", Version: "1.0.0", DaemonVersion: "1.0.0", Config: c,
		Daemon:   &rotation.DaemonStatus{StartedAt: w.Now.Add(-12 * day), PID: 812, LastCycleAt: &last},
		StateDir: check.Place{Path: c.StateDir, Exists: true}, Socket: check.Place{Path: filepath.Dir(c.Server.Socket), Exists: true},
		Journal: check.Journal{Exists: true, Entries: 1204},
		Fleet:   rotation.Fleet{Policy: c.Fleet(), Anchors: []rotation.Anchor{{ID: "g1", Key: "acme-mesh-anchor-1", Backend: "file", Certificate: w.Anchor}}},
		Keys: check.Keys{About: "files in /var/lib/certd/keys", Files: &check.KeyFiles{Dir: check.Place{Path: "/var/lib/certd/keys", Exists: true}, Private: true},
			Anchors: []check.Key{{Of: "g1", Name: "acme-mesh-anchor-1", Public: w.Anchor.PublicKey, Info: rotation.KeyInfo{Backend: "file", Name: "acme-mesh-anchor-1", Public: w.Anchor.PublicKey}}}},
		Trust: &rotation.PromiseVerdict{ID: "I1", State: rotation.StateOK, Evidence: []string{}, Unseen: []string{}, At: &asOf},
		Pairs: rotation.PairSummary{Total: len(names) * len(names), Accepted: len(names) * len(names)},
	}
	for _, p := range e.Fleet.Policy.Clusters {
		o := w.Observe(p.Cluster, w.Issuer(w.Now.Add(-p.Issuer.Lifetime/9), p.Issuer.Lifetime))
		e.Clusters = append(e.Clusters, check.Cluster{View: rotation.View{Policy: p, Observed: o,
			Record:  rotation.ClusterRecord{Name: p.Cluster, Enrolled: true, LastContact: w.Now},
			Proxies: rotation.Proxies{At: w.Now, Sets: []rotation.ProxySet{{Anchors: w.bundle(), Pods: 120, Texts: map[string]int{pki.TextSHA256(o.BundleText): 118}}}}},
			Kube: &kube.Examination{Labels: map[string]string{"config.linkerd.io/admission-webhooks": "disabled"},
				Linkerd: kube.Linkerd{Found: true, Version: "edge-26.8.3", ExternalCA: true, Scheme: "kubernetes.io/tls",
					External: map[string]bool{"proxy-injector": true, "sp-validator": true, "policy-validator": true}}}})
	}
	return e
}

func (w *World) bundle() pki.Bundle {
	b, err := pki.NewBundle(w.Anchor)
	w.must(err)
	return b
}

// OnVault moves the anchor's key of a healthy fleet into Vault's Transit engine,
// where all is well, too.
func (w *World) OnVault(e *check.Evidence) {
	e.Keys.About, e.Keys.Files = "Vault at https://vault.example:8200", nil
	e.Keys.Vault = &vault.Examination{Address: "https://vault.example:8200", Health: vault.Health{Version: "1.21.2", TLSEnds: w.Now.Add(200 * day)}, Took: 34 * time.Millisecond,
		Token: vault.Token{Policies: []string{"certd-run"}, Expires: w.Now.Add(50 * time.Minute), Renewable: true, Lasting: true}, Audit: []string{"file/"}}
	e.Keys.Anchors[0].Info.Backend, e.Keys.Anchors[0].Flags = "vault-transit", &vault.KeyFlags{}
}
