package memory

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

const meshLag = 90 * time.Second

// authority is a trust anchor with its key.
type authority struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, cn string, lifetime time.Duration) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	a.Certificate = a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: cn}, MaxPathLen: -1}, &key.PublicKey, lifetime)
	return a
}

// sign makes a CA certificate, self-signed where a has none itself.
func (a *authority) sign(t testing.TB, template *x509.Certificate, pub *ecdsa.PublicKey, lifetime time.Duration) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	spki, err := pub.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ski := sha1.Sum(spki)
	now := time.Now()
	template.SerialNumber, template.SubjectKeyId = serial.Add(serial, big.NewInt(1)), ski[:]
	if template.NotAfter = now.Add(lifetime); template.NotBefore.IsZero() {
		template.NotBefore = now.Add(-time.Hour)
	}
	template.KeyUsage, template.BasicConstraintsValid, template.IsCA = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, true, true
	parent := template
	if a.Certificate != nil {
		parent = a.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// signedBy makes an issuer: one key and subject, with a certificate under each
// authority, in their order.
func signedBy(t testing.TB, lifetime time.Duration, by ...*authority) pki.Credential {
	t.Helper()
	return signedFrom(t, time.Time{}, lifetime, by...)
}

func signedFrom(t testing.TB, notBefore time.Time, lifetime time.Duration, by ...*authority) pki.Credential {
	t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	for _, a := range by {
		chain = append(chain, a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "identity.linkerd.cluster.local"}, DNSNames: []string{"identity.linkerd.cluster.local"}, MaxPathLenZero: true, NotBefore: notBefore}, key.PublicKey(), lifetime))
	}
	cred, err := pki.NewCredential(key, chain...)
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

// turned is an issuer with its certificates the other way round.
func turned(t testing.TB, c pki.Credential) pki.Credential {
	t.Helper()
	key, err := pki.ParsePrivateKey(c.KeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	chain := c.Chain()
	slices.Reverse(chain)
	cred, err := pki.NewCredential(key, chain...)
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

const quarter = 90 * 24 * time.Hour

// meshWorld is two clusters of one mesh, under one anchor.
type meshWorld struct {
	t          testing.TB
	east, west *Cluster
	mesh       *Mesh
	a, b       *authority
}

func meshConfig(name string, proxies int) ClusterConfig {
	cfg := clusterConfig()
	cfg.Name, cfg.Existing, cfg.Replicas, cfg.Lag, cfg.Proxies = name, true, 2, meshLag, proxies
	return cfg
}

func newMeshWorld(t testing.TB) *meshWorld {
	w := &meshWorld{t: t, east: NewCluster(meshConfig("east", 7)), west: NewCluster(meshConfig("west", 5)),
		a: newAuthority(t, "root.linkerd.cluster.local 2026-1", 10*365*24*time.Hour), b: newAuthority(t, "root.linkerd.cluster.local 2026-2", 10*365*24*time.Hour)}
	w.mesh = NewMesh(w.east, w.west)
	for _, c := range w.both() {
		w.trust(c, w.a)
		w.issue(c, signedBy(t, quarter, w.a))
	}
	time.Sleep(time.Hour)
	w.sound("at first")
	for _, c := range w.both() {
		if got, want := w.count(c), c.cfg.Proxies+6; got != want {
			t.Fatalf("%s: %d pods are ready; want %d", c.cfg.Name, got, want)
		}
	}
	return w
}

func (w *meshWorld) both() []*Cluster { return []*Cluster{w.east, w.west} }

// trust has certd write a bundle.
func (w *meshWorld) trust(c *Cluster, anchors ...*authority) {
	w.t.Helper()
	var certs []*x509.Certificate
	for _, a := range anchors {
		certs = append(certs, a.Certificate)
	}
	b, err := pki.NewBundle(certs...)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := c.WriteBundle(w.t.Context(), rotation.BundleWrite{Revision: w.look(c).Bundle.Revision, Bundle: b}); err != nil {
		w.t.Fatal(err)
	}
}

// issue has certd write an issuer.
func (w *meshWorld) issue(c *Cluster, cred pki.Credential) {
	w.t.Helper()
	if _, err := c.WriteIssuer(w.t.Context(), rotation.IssuerWrite{Revision: w.look(c).Issuer.Revision, Credential: &cred}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *meshWorld) look(c *Cluster) rotation.Observation {
	w.t.Helper()
	o, err := c.Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// count is how many pods are ready, of those that present a certificate of the
// issuer with this end, if one is given.
func (w *meshWorld) count(c *Cluster, ends ...time.Time) (n int) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, pl := range l.places {
			if pl.pod != nil && pl.pod.leaf != nil && (len(ends) == 0 || slices.Contains(ends, pl.pod.leaf.issuer.facts().Chain[0].NotAfter)) {
				n++
			}
		}
	})
	return n
}

// leaves are the ends of all that pods present.
func (w *meshWorld) leaves(c *Cluster) map[time.Time]int {
	ends := map[time.Time]int{}
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, pl := range l.places {
			if pl.pod != nil && pl.pod.leaf != nil {
				ends[pl.pod.leaf.notAfter.UTC()]++
			}
		}
	})
	return ends
}

func publicOf(t testing.TB, c pki.Credential) *ecdsa.PublicKey {
	t.Helper()
	pub, ok := c.Chain()[0].PublicKey.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("a key is %T", c.Chain()[0].PublicKey)
	}
	return pub
}

func (w *meshWorld) sound(when string) {
	w.t.Helper()
	for _, v := range w.mesh.ForgetViolations() {
		w.t.Errorf("%s: %s", when, v)
	}
	for _, r := range w.mesh.Broken() {
		w.t.Errorf("%s: %s", when, r)
	}
}

// violated wants one violation at least that says this, and all by one.
func (w *meshWorld) violated(by string, says ...string) (all []Violation) {
	w.t.Helper()
	all = w.mesh.ForgetViolations()
	for _, text := range says {
		if !slices.ContainsFunc(all, func(v Violation) bool { return strings.Contains(v.Text, text) }) {
			w.t.Errorf("no violation says %q: %v", text, all)
		}
	}
	for _, v := range all {
		if v.By != by {
			w.t.Errorf("%s; want it to be by %s", v, by)
		}
	}
	return all
}

// roll rolls Deployments out, one after another, and waits.
func (w *meshWorld) roll(c *Cluster, owners ...string) {
	for _, owner := range owners {
		c.RollOut(owner)
		time.Sleep(time.Minute)
	}
}

const drain = 25 * time.Hour

func TestSimulatedMesh(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(w *meshWorld)
	}{
		{"a new issuer reaches every proxy within 17 hours", func(w *meshWorld) {
			next := signedBy(w.t, 80*24*time.Hour, w.a)
			w.issue(w.east, next)
			time.Sleep(meshLag)
			if n := w.count(w.east, next.Chain()[0].NotAfter); n > 0 {
				w.t.Errorf("%d pods have it at once", n)
			}
			time.Sleep(17*time.Hour - time.Hour - meshLag) // an hour has passed since they got the last one
			if n, all := w.count(w.east, next.Chain()[0].NotAfter), w.count(w.east); n != all {
				w.t.Errorf("%d of %d pods have a certificate of the new issuer", n, all)
			}
			w.sound("under one anchor")
		}},
		{"a quiet quarter breaks nothing until the issuer ends", func(w *meshWorld) {
			end := w.look(w.east).IssuerFacts.Chain[0].NotAfter
			time.Sleep(time.Until(end))
			w.sound("until the end")
			time.Sleep(time.Second)
			all := w.violated(ByTime, "has expired")
			if len(all) == 0 || !all[0].At.Equal(end.Add(1)) {
				w.t.Errorf("violations %v; want them right after %s", all, end)
			}
			time.Sleep(30 * 24 * time.Hour)
		}},
		{"an issuer under an anchor that proxies lack is refused by them, and by their peers", func(w *meshWorld) {
			w.trust(w.east, w.a, w.b)
			time.Sleep(meshLag)
			w.roll(w.east, "linkerd-identity")
			w.sound("so far")
			w.issue(w.east, signedBy(w.t, quarter, w.b))
			time.Sleep(17 * time.Hour)
			all := w.violated(ByCertd, "app/app-0-0 in east refuses its own new certificate: ", "in east refuses linkerd/linkerd-identity-", "in west refuses linkerd/linkerd-identity-")
			for _, v := range all {
				if v.At.Before(time.Now().Add(-17 * time.Hour)) {
					w.t.Errorf("too early: %s", v)
				}
			}
			if len(w.mesh.Broken()) == 0 {
				w.t.Error("nothing is broken")
			}
		}},
		{"identity does not take up an issuer that it cannot verify", func(w *meshWorld) {
			w.issue(w.east, signedBy(w.t, quarter, w.b))
			time.Sleep(drain)
			w.sound("while replicas keep the old one")
			if n := w.east.Skipped(); n != 2 {
				w.t.Errorf("%d replicas skipped it; want 2", n)
			}
		}},
		{"two certificates for one key are accepted whatever of both anchors is trusted", func(w *meshWorld) {
			for _, c := range w.both() {
				w.issue(c, signedBy(w.t, quarter, w.a, w.b))
			}
			time.Sleep(drain)
			w.sound("under the old anchor")
			w.trust(w.east, w.a, w.b)
			time.Sleep(meshLag)
			w.roll(w.east, "app-0", "deploy/app-1")
			w.sound("with some pods that trust both")
			w.trust(w.west, w.b)
			time.Sleep(meshLag)
			w.roll(w.west, "app-0", "app-1", "linkerd-destination", "linkerd-proxy-injector")
			w.sound("with some pods that trust the new one alone")
			if got := w.west.CountProxies(w.t.Context()); len(got.Sets) != 1 || len(got.Earlier) != 1 || got.Earlier[0] != (rotation.ProxyOwner{Namespace: "linkerd", Kind: "Deployment", Name: "linkerd-identity", Pods: 2}) {
				w.t.Errorf("census in the west: %+v", got)
			}
		}},
		{"a bundle without the anchor of an issuer that kubelets may still show is caught, also where no replica starts then", func(w *meshWorld) {
			both := signedBy(w.t, quarter, w.a, w.b)
			for _, c := range w.both() {
				w.issue(c, both)
				w.trust(c, w.a, w.b)
			}
			time.Sleep(drain)
			for _, c := range w.both() {
				w.roll(c, "linkerd-identity")
			}
			w.mesh.Entitle(0)
			w.sound("with both")
			w.issue(w.east, turned(w.t, both))
			w.sound("while they learn of another order")
			time.Sleep(meshLag / 2)
			w.trust(w.east, w.b)
			w.violated(ByCertd, "a replica of linkerd-identity in east that started now could be in a crash loop")
			w.issue(w.west, turned(w.t, both))
			time.Sleep(meshLag)
			w.trust(w.west, w.b)
			w.sound("once every kubelet shows the new order")
		}},
		{"a leaf may be in use for as long as clocks may be wrong", func(w *meshWorld) {
			w.mesh.Entitle(5 * time.Minute)
			for _, c := range w.both() {
				w.issue(c, signedBy(w.t, quarter, w.a, w.b))
			}
			time.Sleep(meshLag + 24*time.Hour + 2*20*time.Second + 2*5*time.Minute)
			w.trust(w.east, w.b)
			w.violated(ByCertd, "any/pod-created-meanwhile-0 in east refuses any/pod-with-an-old-leaf-0 in east")
			time.Sleep(time.Second)
			w.trust(w.west, w.b)
			for _, v := range w.mesh.ForgetViolations() {
				if strings.Contains(v.Text, "an-old-leaf-0") {
					w.t.Errorf("a second later: %s", v)
				}
			}
		}},
		{"an anchor that goes too early is caught", func(w *meshWorld) {
			w.trust(w.east, w.b)
			time.Sleep(time.Hour)
			w.sound("until a pod is made")
			w.roll(w.east, "app-1")
			w.violated(ByCertd, "app/app-1-0 in east gets no certificate, for it refuses that of linkerd-identity")
			if n := w.east.Restarts()["app/app-1-0"]; n != 0 {
				w.t.Errorf("a pod that is not ready took the place of another %d times", n)
			}
			w.east.RestartProxy("app/app-1-0")
			if n, want := w.count(w.east), w.east.cfg.Proxies+5; n != want {
				w.t.Errorf("%d pods are ready; want %d", n, want)
			}
		}},
		{"a peer that trusts the new anchor alone is caught", func(w *meshWorld) {
			w.issue(w.east, signedBy(w.t, quarter, w.a, w.b))
			time.Sleep(drain)
			w.trust(w.east, w.b)
			time.Sleep(meshLag)
			w.roll(w.east, "app-0")
			all := w.violated(ByCertd, "app/app-0-0 in east refuses linkerd/linkerd-identity-0 in west")
			if len(all) != 1 {
				w.t.Errorf("violations %v; want one, with the rest of its kind", all)
			}
			if got := w.mesh.Broken(); len(got) != 1 || got[0].Pairs != 3*11 {
				w.t.Errorf("broken %v; want 33 pairs", got)
			}
		}},
		{"a start with what a kubelet still shows is in a crash loop until it shows more", func(w *meshWorld) {
			w.trust(w.east, w.a, w.b)
			w.roll(w.east, "linkerd-identity")
			w.issue(w.east, signedBy(w.t, quarter, w.b, w.a)) // while a kubelet may still show {A}
			time.Sleep(10 * time.Second)
			w.east.RestartIdentityReplica(1, true)
			w.violated(ByCertd, "linkerd-identity-1-2 in east is in a crash loop")
			if n := len(w.look(w.east).Identity.Replicas); n != 1 {
				w.t.Errorf("%d replicas run; want 1", n)
			}
			time.Sleep(meshLag)
			if n := len(w.look(w.east).Identity.Replicas); n != 2 {
				w.t.Errorf("%d replicas run; want 2", n)
			}
			w.sound("afterwards")
			w.east.RestartIdentityReplica(1, true)
			w.sound("when every volume shows it")
		}},
		{"a crash loop ends with time, where that is all it takes", func(w *meshWorld) {
			w.issue(w.east, signedFrom(w.t, time.Now().Add(20*time.Minute), quarter, w.a))
			time.Sleep(meshLag)
			w.east.RestartIdentityReplica(0, false)
			w.violated(ByCertd, "linkerd-identity-0-1 in east is in a crash loop")
			time.Sleep(18 * time.Minute)
			if n := len(w.look(w.east).Identity.Replicas); n != 1 {
				w.t.Errorf("%d replicas run; want 1", n)
			}
			time.Sleep(6 * time.Minute) // back-off included
			if n := len(w.look(w.east).Identity.Replicas); n != 2 || w.east.Skipped() != 2 {
				w.t.Errorf("%d replicas run; want 2; %d skipped it, want both", n, w.east.Skipped())
			}
			w.sound("afterwards")
		}},
		{"a crash loop ends with files that load", func(w *meshWorld) {
			early := signedBy(w.t, quarter, w.a)
			w.east.Edit(rotation.IssuerObject, "cert-manager", func(data map[string][]byte, _ *rotation.Marks) {
				data[payload.TLSCert], data[payload.TLSKey] = []byte("garbage"), early.KeyPEM()
			})
			time.Sleep(meshLag)
			w.east.RestartIdentityReplica(0, false)
			w.violated("cert-manager", "linkerd-identity-0-1 in east is in a crash loop")
			w.issue(w.east, early)
			time.Sleep(meshLag)
			w.sound("after the repair")
			if n := len(w.look(w.east).Identity.Replicas); n != 2 {
				w.t.Errorf("%d replicas run; want 2", n)
			}
		}},
		{"without identity every certificate ends, at its own time", func(w *meshWorld) {
			w.east.Edit(rotation.IssuerObject, "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) { data[payload.TLSCert] = []byte("garbage") })
			time.Sleep(meshLag)
			w.east.RestartIdentity()
			w.violated("kubectl-edit", "linkerd-identity-0-1 in east is in a crash loop", "linkerd-identity-1-1 in east is in a crash loop")
			var first time.Time
			for end := range w.leaves(w.east) {
				if first.IsZero() || end.Before(first) {
					first = end
				}
			}
			n := w.count(w.east)
			time.Sleep(time.Until(first) - time.Second)
			w.sound("until the first ends")
			time.Sleep(drain)
			all := w.violated(ByTime, "has expired")
			if len(all) != n || !all[0].At.Equal(first.Add(1)) {
				w.t.Errorf("violations %v; want %d, the first right after %s", all, n, first)
			}
			w.issue(w.east, signedBy(w.t, quarter, w.a))
			time.Sleep(time.Hour)
			w.sound("after the repair")
		}},
		{"a leaf ends no later than anything in the issuer's file", func(w *meshWorld) {
			dual := signedBy(w.t, quarter, w.a, w.b)
			brief := w.b.sign(w.t, &x509.Certificate{Subject: pkix.Name{CommonName: "identity.linkerd.cluster.local"}, MaxPathLenZero: true}, publicOf(w.t, dual), 30*time.Hour)
			key, err := pki.ParsePrivateKey(dual.KeyPEM())
			if err != nil {
				w.t.Fatal(err)
			}
			cred, err := pki.NewCredential(key, dual.Chain()[0], brief)
			if err != nil {
				w.t.Fatal(err)
			}
			w.issue(w.east, cred)
			time.Sleep(20 * time.Hour)
			for end := range w.leaves(w.east) {
				if !end.Equal(brief.NotAfter) {
					w.t.Errorf("a leaf ends at %s; want %s", end, brief.NotAfter)
				}
			}
			w.sound("while all of it is valid")
		}},
		{"a deaf replica goes on issuing under what it has", func(w *meshWorld) {
			w.east.DeafIdentity(1)
			next := signedBy(w.t, 80*24*time.Hour, w.a)
			w.issue(w.east, next)
			time.Sleep(drain)
			if n, all := w.count(w.east, next.Chain()[0].NotAfter), w.count(w.east); n == 0 || n == all {
				w.t.Errorf("%d of %d pods have the new issuer; want some", n, all)
			}
			w.east.RestartIdentityReplica(1, false)
			time.Sleep(drain)
			if n, all := w.count(w.east, next.Chain()[0].NotAfter), w.count(w.east); n != all {
				w.t.Errorf("%d of %d pods have the new issuer", n, all)
			}
			last := signedBy(w.t, 70*24*time.Hour, w.a)
			w.issue(w.east, last)
			time.Sleep(drain)
			if n, all := w.count(w.east, last.Chain()[0].NotAfter), w.count(w.east); n != all {
				w.t.Errorf("%d of %d pods have the last issuer: the new pod is deaf, too", n, all)
			}
		}},
		{"a pod made while an injector lags gets the old bundle", func(w *meshWorld) {
			w.trust(w.east, w.a, w.b)
			time.Sleep(time.Second)
			w.roll(w.east, "app-0")
			w.east.HideProxy("app/app-2-0")
			got := w.east.CountProxies(w.t.Context())
			if got.Total() != 12 || len(got.Sets) != 1 || !slices.Contains(got.Sets[0].Owners, rotation.ProxyOwner{Namespace: "app", Kind: "Deployment", Name: "app-0", Pods: 3}) {
				w.t.Errorf("census %+v", got)
			}
			time.Sleep(meshLag)
			w.roll(w.east, "app-0")
			got = w.east.CountProxies(w.t.Context())
			if len(got.Sets) != 2 || got.Sets[0].Pods != 3 || len(got.Sets[0].Anchors.Anchors()) != 2 || got.Sets[0].Owners[0].Name != "app-0" || len(got.Earlier) != 3 {
				w.t.Errorf("census %+v", got)
			}
			if n := w.east.Restarts()["app/app-0-2"]; n != 2 {
				w.t.Errorf("%d restarts; want 2", n)
			}
		}},
		{"pods that cannot read their bundle are counted as such", func(w *meshWorld) {
			w.east.Edit(rotation.BundleObject, "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) { data[payload.BundleKey] = []byte("garbage") })
			time.Sleep(meshLag)
			w.east.RestartProxy("app/app-0-0")
			w.violated("kubectl-edit", "app/app-0-0 in east does not start: ")
			if got := w.east.CountProxies(w.t.Context()); got.Unread != 7 || len(got.Earlier) != 3 || len(got.Odd) != 1 || got.Total() != 13 {
				w.t.Errorf("census %+v", got)
			}
		}},
		{"leaves live as long as identity is told", func(w *meshWorld) {
			if id := w.look(w.east).Identity; id.LeafLifetime != 0 || id.ClockSkew != 0 {
				w.t.Errorf("by default it is told %s and %s", id.LeafLifetime, id.ClockSkew)
			}
			cfg := meshConfig("north", 3)
			cfg.LeafLifetime, cfg.LeafSkew = time.Hour, time.Minute
			w.east = NewCluster(cfg)
			w.trust(w.east, w.a)
			w.issue(w.east, signedBy(w.t, 30*24*time.Hour, w.a))
			time.Sleep(time.Hour)
			next := signedBy(w.t, 80*24*time.Hour, w.a)
			w.issue(w.east, next)
			time.Sleep(time.Hour)
			if n, all := w.count(w.east, next.Chain()[0].NotAfter), w.count(w.east); n != all {
				w.t.Errorf("%d of %d pods have the new issuer", n, all)
			}
			if id := w.look(w.east).Identity; id.LeafLifetime != time.Hour || id.ClockSkew != time.Minute {
				w.t.Errorf("it is told %s and %s", id.LeafLifetime, id.ClockSkew)
			}
		}},
		{"a census that is not allowed says so", func(w *meshWorld) {
			w.east.SetFaults(func(call Call) ClusterFault {
				if call == CallProxies {
					return ClusterFault{Err: rotation.ErrDenied}
				}
				return ClusterFault{}
			})
			if got := w.east.CountProxies(w.t.Context()); got.Err == nil || got.Total() != 0 {
				w.t.Errorf("census %+v", got)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { row.test(newMeshWorld(t)) })
		})
	}
}

// stage is one step of a change of the trust anchor, by hand.
type stage struct {
	name string
	do   func(w *meshWorld)
}

// changeOfAnchor is a whole change from one anchor to another. Between any two
// steps a replica of linkerd-identity starts with the worst that a kubelet may
// still show.
func changeOfAnchor() []stage {
	dual := map[*Cluster]pki.Credential{}
	bridge := func(at func(w *meshWorld) *Cluster) func(w *meshWorld) {
		return func(w *meshWorld) {
			c := at(w)
			dual[c] = signedBy(w.t, quarter, w.a, w.b)
			w.issue(c, dual[c])
		}
	}
	east, west := func(w *meshWorld) *Cluster { return w.east }, func(w *meshWorld) *Cluster { return w.west }
	wait := func(d time.Duration) func(*meshWorld) { return func(*meshWorld) { time.Sleep(d) } }
	all := []stage{{"bridge east", bridge(east)}, {"bridge west", bridge(west)}, {"drain", wait(meshLag + drain)}}
	for name, at := range sorted(map[string]func(w *meshWorld) *Cluster{"east": east, "west": west}) {
		all = append(all,
			stage{"unite " + name, func(w *meshWorld) { w.trust(at(w), w.a, w.b) }},
			stage{"settle " + name, wait(meshLag)},
			stage{"roll identity " + name, func(w *meshWorld) { w.roll(at(w), "linkerd-identity") }},
			stage{"turn " + name, func(w *meshWorld) { w.issue(at(w), turned(w.t, dual[at(w)])) }},
			stage{"taken up " + name, wait(meshLag)},
			stage{"shrink " + name, func(w *meshWorld) { w.trust(at(w), w.b) }},
			stage{"shrunk " + name, wait(meshLag)},
			stage{"roll control plane " + name, func(w *meshWorld) {
				w.roll(at(w), "linkerd-identity", "linkerd-destination", "linkerd-proxy-injector")
			}})
	}
	for name, at := range sorted(map[string]func(w *meshWorld) *Cluster{"east": east, "west": west}) {
		all = append(all, stage{"restart " + name, func(w *meshWorld) { w.roll(at(w), "app-0", "app-1", "app-2") }})
	}
	for name, at := range sorted(map[string]func(w *meshWorld) *Cluster{"east": east, "west": west}) {
		all = append(all,
			stage{"finish " + name, func(w *meshWorld) { w.issue(at(w), signedBy(w.t, quarter, w.b)) }},
			stage{"drain after " + name, wait(meshLag + drain)})
	}
	return all
}

func sorted[V any](m map[string]V) func(yield func(string, V) bool) {
	return func(yield func(string, V) bool) {
		for _, k := range []string{"east", "west"} {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func TestChangeOfAnchorByHand(t *testing.T) {
	without := func(names ...string) func([]stage) []stage {
		return func(all []stage) []stage {
			return slices.DeleteFunc(all, func(s stage) bool {
				return slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(s.name, n) })
			})
		}
	}
	before := func(name, other string) func([]stage) []stage {
		return func(all []stage) []stage {
			i := slices.IndexFunc(all, func(s stage) bool { return s.name == name })
			moved := all[i]
			all = slices.Delete(all, i, i+1)
			return slices.Insert(all, slices.IndexFunc(all, func(s stage) bool { return s.name == other }), moved)
		}
	}
	for _, row := range []struct {
		name  string
		wrong func([]stage) []stage
		says  string // "": nothing
	}{
		{"in the right order", func(all []stage) []stage { return all }, ""},
		{"new bundles while leaves under the old anchor alone are alive", without("drain"), "in east refuses linkerd/linkerd-destination-0 in east"},
		{"new bundles in one cluster before the other is bridged", before("bridge west", "unite west"), "in east refuses linkerd/linkerd-identity-0 in west"},
		{"the new bundle before the issuer is turned", without("turn east"), "in east is in a crash loop"},
		{"the issuer turned while a volume may show the old bundle", without("settle east"), "in east is in a crash loop"},
		{"the new issuer before pods are restarted", without("restart"), "refuses its own new certificate"},
		{"the new issuer before pods of the other cluster are restarted", before("restart west", "finish west"), "app/app-0-0 in west refuses "},
		{"a bridge that a replica did not hear of", func(all []stage) []stage {
			return slices.Insert(all, 0, stage{"deafen", func(w *meshWorld) { w.west.DeafIdentity(0) }})
		}, "in west"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newMeshWorld(t)
				for _, s := range row.wrong(changeOfAnchor()) {
					s.do(w)
					if row.name != "a bridge that a replica did not hear of" {
						w.east.RestartIdentityReplica(1, true)
						w.west.RestartIdentityReplica(1, true)
					}
					if row.says == "" {
						w.sound(s.name)
					}
				}
				if row.says != "" {
					w.violated(ByCertd, row.says)
					return
				}
				for _, c := range w.both() {
					got := c.CountProxies(t.Context())
					if len(got.Sets) != 1 || !got.Sets[0].Anchors.Contains(w.b.Certificate) || len(got.Sets[0].Anchors.Anchors()) != 1 {
						t.Errorf("census of %s: %+v", c.cfg.Name, got)
					}
					for place, n := range c.Restarts() {
						if strings.HasPrefix(place, "app/") && n != 1 {
							t.Errorf("%s in %s was restarted %d times; want once", place, c.cfg.Name, n)
						}
					}
				}
			})
		})
	}
}

// A seed gives the same run again, and others give others.
func TestMeshIsDeterministic(t *testing.T) {
	run := func(seed uint64) (story string) {
		synctest.Test(t, func(t *testing.T) {
			cfg := meshConfig("east", 20)
			cfg.Seed = seed
			w := &meshWorld{t: t, east: NewCluster(cfg), a: newAuthority(t, "a", 10*365*24*time.Hour)}
			w.mesh = NewMesh(w.east)
			w.trust(w.east, w.a)
			for range 5 {
				w.issue(w.east, signedBy(t, quarter, w.a))
				time.Sleep(30 * time.Hour)
				w.east.onLinkerd(func(l *linkerd, _ time.Time) {
					for _, pl := range l.places {
						story += fmt.Sprintln(pl, pl.pod.leaf.notAfter)
					}
				})
			}
		})
		return story
	}
	if a, b := run(1), run(1); a != b {
		t.Errorf("seed 1 gives\n%s\nand\n%s", a, b)
	}
	if run(1) == run(2) {
		t.Error("seeds 1 and 2 give the same")
	}
}

// A week of three clusters whose issuers are renewed every day takes a moment.
func TestMeshIsCheap(t *testing.T) {
	begun := time.Now()
	synctest.Test(t, func(t *testing.T) {
		w := &meshWorld{t: t, a: newAuthority(t, "a", 10*365*24*time.Hour)}
		var clusters []*Cluster
		for _, name := range []string{"east", "north", "west"} {
			c := NewCluster(meshConfig(name, 60))
			w.trust(c, w.a)
			clusters = append(clusters, c)
		}
		w.mesh = NewMesh(clusters...)
		for range 7 {
			for _, c := range clusters {
				w.issue(c, signedBy(t, 7*24*time.Hour, w.a))
			}
			for range 24 * 60 {
				time.Sleep(time.Minute)
				w.look(clusters[0])
			}
		}
		w.sound("after a week")
	})
	if took := time.Since(begun); took > 10*time.Second { // 0.1 s on one core; the rest is for slow machines and the race detector
		t.Errorf("it took %s; want 10 s at most", took)
	} else {
		t.Log(took)
	}
}
