package rotation_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// mesh is the trust material of a mesh that certd did not make: an anchor whose
// key is nowhere, an issuer with its key, and what stands in the cluster.
type mesh struct {
	name     string
	anchor   *x509.Certificate
	bundle   []byte
	issuer   map[string][]byte
	keepers  map[string]*rotation.Keeper // by object
	external bool                        // scheme kubernetes.io/tls
}

// ca makes a CA certificate without the help of the code under test. parent nil:
// it signs itself.
func ca(t *testing.T, name pkix.Name, raw []byte, pub crypto.PublicKey, life time.Duration, pathLen int, parent *x509.Certificate, by crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: name, RawSubject: raw, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life).Truncate(time.Second),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if pathLen < 0 {
		template.MaxPathLen = -1
	}
	if parent == nil && name.CommonName == "identity.linkerd.cluster.local" { // as linkerd install has it
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certText(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

func sec1(t *testing.T, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func pkcs8(t *testing.T, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// spelled is a subject of one common name, in one of ASN.1's kinds of string.
func spelled(t *testing.T, tag int, name string) []byte {
	t.Helper()
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	inner, err := asn1.Marshal(attribute{asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.RawValue{Tag: tag, Bytes: []byte(name)}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := asn1.Marshal([]asn1.RawValue{{Tag: asn1.TagSet, IsCompound: true, Bytes: inner}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// meshes are the ways in which Linkerd is commonly installed.
func meshes(t *testing.T) []mesh {
	t.Helper()
	const life, long = 365 * 24 * time.Hour, 3650 * 24 * time.Hour
	name := func(cn string) pkix.Name { return pkix.Name{CommonName: cn} }
	var all []mesh

	// linkerd install makes one certificate, anchor and issuer at once, and forgets
	// no key, since it lies in the Secret.
	key := newKey(t)
	both := ca(t, name("identity.linkerd.cluster.local"), nil, key.Public(), life, -1, nil, key)
	all = append(all, mesh{name: "linkerd install", anchor: both, bundle: bytes.TrimSpace(certText(both)),
		issuer: map[string][]byte{"crt.pem": certText(both), "key.pem": sec1(t, key)}})

	// Helm is given what step made: anchors with path length 1, names as UTF8String.
	rootKey, key := newKey(t), newKey(t)
	root := ca(t, pkix.Name{}, spelled(t, asn1.TagUTF8String, "root.linkerd.cluster.local"), rootKey.Public(), long, 1, nil, rootKey)
	issuer := ca(t, pkix.Name{}, spelled(t, asn1.TagUTF8String, "identity.linkerd.cluster.local"), key.Public(), life, 0, root, rootKey)
	all = append(all, mesh{name: "Helm", anchor: root, bundle: bytes.TrimSpace(certText(root)),
		issuer:  map[string][]byte{"crt.pem": certText(issuer), "key.pem": sec1(t, key)},
		keepers: map[string]*rotation.Keeper{rotation.BundleObject: {Kind: rotation.KeeperHelm, Name: "linkerd-control-plane"}, rotation.IssuerObject: {Kind: rotation.KeeperHelm, Name: "linkerd-control-plane"}}})

	// cert-manager writes the Secret, Helm the bundle.
	rootKey, key = newKey(t), newKey(t)
	root = ca(t, name("root.linkerd.cluster.local"), nil, rootKey.Public(), long, -1, nil, rootKey)
	issuer = ca(t, name("identity.linkerd.cluster.local"), nil, key.Public(), 30*24*time.Hour, 0, root, rootKey)
	all = append(all, mesh{name: "cert-manager", anchor: root, bundle: bytes.TrimSpace(certText(root)), external: true,
		issuer:  map[string][]byte{"tls.crt": certText(issuer), "tls.key": sec1(t, key), "ca.crt": certText(root)},
		keepers: map[string]*rotation.Keeper{rotation.BundleObject: {Kind: rotation.KeeperHelm, Name: "linkerd-control-plane"}, rotation.IssuerObject: {Kind: rotation.KeeperCert, Name: "linkerd-identity-issuer"}}})

	// trust-manager publishes the bundle, with the next anchor in it already.
	rootKey, key = newKey(t), newKey(t)
	root = ca(t, name("root.linkerd.cluster.local"), nil, rootKey.Public(), long, -1, nil, rootKey)
	otherKey := newKey(t)
	other := ca(t, name("root.linkerd.cluster.local"), nil, otherKey.Public(), long, -1, nil, otherKey)
	issuer = ca(t, name("identity.linkerd.cluster.local"), nil, key.Public(), 30*24*time.Hour, 0, root, rootKey)
	all = append(all, mesh{name: "trust-manager", anchor: root, bundle: certText(root, other), external: true,
		issuer:  map[string][]byte{"tls.crt": certText(issuer), "tls.key": pkcs8(t, key), "ca.crt": certText(root)},
		keepers: map[string]*rotation.Keeper{rotation.BundleObject: {Kind: rotation.KeeperBundle, Name: "linkerd-identity-trust-roots"}, rotation.IssuerObject: {Kind: rotation.KeeperCert, Name: "linkerd-identity-issuer"}}})

	// By hand: an RSA root, an intermediate in the issuer's file, comments, CRLF.
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	midKey, key := newKey(t), newKey(t)
	root = ca(t, pkix.Name{}, spelled(t, asn1.TagPrintableString, "Acme Root"), rsaKey.Public(), long, 2, nil, rsaKey)
	mid := ca(t, name("Acme Meshes"), nil, midKey.Public(), long, 1, root, rsaKey)
	issuer = ca(t, pkix.Name{}, spelled(t, asn1.TagPrintableString, "Acme Mesh East"), key.Public(), life, 0, mid, midKey)
	all = append(all, mesh{name: "by hand", anchor: root, bundle: append([]byte("# the root of Acme\n"), certText(root)...), external: true,
		issuer: map[string][]byte{"tls.crt": certText(issuer, mid), "tls.key": sec1(t, key), "ca.crt": certText(root)}})
	return all
}

var layouts = []string{"linkerd install", "Helm", "cert-manager", "trust-manager", "by hand"}

func (m mesh) scheme() string {
	if m.external {
		return "kubernetes.io/tls"
	}
	return pki.SchemeLinkerd
}

// install puts the mesh into a cluster.
func (m mesh) install(c *memory.Cluster) {
	c.Edit(rotation.BundleObject, "installer", func(data map[string][]byte, _ *rotation.Marks) { data["ca-bundle.crt"] = m.bundle })
	c.Edit(rotation.IssuerObject, "installer", func(data map[string][]byte, _ *rotation.Marks) { maps.Copy(data, m.issuer) })
	for name, k := range m.keepers {
		c.SetKeeper(name, k)
	}
}

// released is what a person does before a change: nobody else writes any more.
func (m mesh) released(c *memory.Cluster) {
	for name := range m.keepers {
		c.SetKeeper(name, nil)
	}
}

// adopting is a fleet of linked clusters with meshes that were there before certd.
func adopting(t *testing.T, seed uint64, installed map[string]mesh) *changing {
	names := slices.Sorted(maps.Keys(installed))
	w := newWorld(t, names...)
	var all []*memory.Cluster
	for i, name := range names {
		w.clusters[name] = memory.NewCluster(memory.ClusterConfig{Name: name, Namespace: "linkerd", TrustDomain: "cluster.local", Existing: true,
			Scheme: installed[name].scheme(), Replicas: 2, Lag: time.Duration(20+60*i) * time.Second, Proxies: 9, LeafLifetime: leaf, Seed: seed})
		w.policy.Clusters[i].LeafLifetime = leaf
		installed[name].install(w.clusters[name])
		all = append(all, w.clusters[name])
	}
	time.Sleep(20 * time.Minute)
	w.start()
	time.Sleep(20 * time.Minute)
	c := &changing{world: w, chance: mathrand.New(mathrand.NewPCG(seed, 1)), asked: map[string]time.Time{}}
	t.Cleanup(func() {
		c.stop()
		synctest.Wait()
	})
	c.mesh = memory.NewMesh(all...)
	return c
}

// Taking over what was there changes nothing that anybody reads: no pod is created
// anew, no byte of the bundle or of the issuer changes; who else writes is named
// within a minute.
func TestAMeshIsTakenOver(t *testing.T) {
	t.Parallel()
	for i := range layouts {
		if thinned(i, len(layouts)) {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			m := meshes(t)[i]
			c := adopting(t, 3, map[string]mesh{"east": m})
			east := c.clusters["east"]
			if s := c.cluster("east"); s.Mode != "watched" {
				t.Fatalf("%s: it is %s before anybody asked: %+v", m.name, s.Mode, s.Findings)
			}
			before, writes := c.restarts(), east.Writes()
			if len(writes) > 0 {
				t.Errorf("%s: written before it was taken over: %v", m.name, writes)
			}
			if _, err := c.loop.Adopt("east", "lee@cli", "drill", true); err != nil {
				t.Fatalf("%s: %v", m.name, err)
			}
			if s := c.cluster("east"); s.Mode != "watched" {
				t.Errorf("%s: a dry run took it over", m.name)
			}
			if _, err := c.loop.Adopt("east", "lee@cli", "drill", false); err != nil {
				t.Fatalf("%s: %v", m.name, err)
			}
			time.Sleep(time.Minute)
			s := c.cluster("east")
			if s.Mode != "managed" || s.Bundle == nil || !s.Bundle.Current {
				t.Errorf("%s: mode %s, bundle %+v, %+v", m.name, s.Mode, s.Bundle, s.Findings)
			}
			for name, k := range m.keepers {
				if !slices.ContainsFunc(s.Findings, func(f rotation.Finding) bool {
					return f.ID == "SecondWriter" && strings.Contains(f.Message, name) && strings.Contains(f.Message, k.Name)
				}) {
					t.Errorf("%s: nobody says that %s is kept by %s: %+v", m.name, name, k, s.Findings)
				}
			}
			if f, ok := c.finding("east", "AnchorKeyElsewhere"); !ok || (f.Severity == rotation.StateCritical) != (m.name == "linkerd install" || strings.Contains(m.name, "manager")) {
				t.Errorf("%s: %+v", m.name, f)
			}
			time.Sleep(3 * day)
			if data := east.Data(rotation.BundleObject); !bytes.Equal(data["ca-bundle.crt"], m.bundle) {
				t.Errorf("%s: the bundle was changed to\n%s", m.name, data["ca-bundle.crt"])
			}
			data := east.Data(rotation.IssuerObject)
			for key, was := range m.issuer {
				if !bytes.Equal(data[key], was) {
					t.Errorf("%s: %s was changed", m.name, key)
				}
			}
			for _, key := range []string{"tls.crt", "tls.key", "ca.crt"} {
				if len(data[key]) == 0 {
					t.Errorf("%s: %s is missing", m.name, key)
				}
			}
			if !maps.EqualFunc(before, c.restarts(), maps.Equal) {
				t.Errorf("%s: pods were created anew: %v, then %v", m.name, before, c.restarts())
			}
			if got := east.Writes(); got[rotation.BundleObject] != 1 || got[rotation.IssuerObject] > 2 {
				t.Errorf("%s: written %v", m.name, got)
			}
			if _, err := c.loop.Adopt("east", "lee@cli", "again", false); !errors.Is(err, rotation.ErrNotNow) {
				t.Errorf("%s: taken over twice: %v", m.name, err)
			}
			if m.keepers != nil {
				if err := c.loop.CheckChange(); !errors.Is(err, rotation.ErrNotNow) || !strings.Contains(err.Error(), "would undo it") {
					t.Errorf("%s: a change is begun although others write: %v", m.name, err)
				}
			}
			c.sound()
			c.end()
		})
	}
}

// adopt takes over the clusters, as a person who has seen to it that nobody else
// writes there.
func (c *changing) adopt(m map[string]mesh) {
	c.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if _, err := c.loop.Adopt(name, "lee@cli", "drill", false); err != nil {
			c.t.Fatal(err)
		}
		m[name].released(c.clusters[name])
	}
	time.Sleep(5 * time.Minute)
}

// appsRestartedOnce checks that each workload's pod was created anew once.
func (c *changing) appsRestartedOnce(before map[string]map[string]int, clusters ...string) {
	c.t.Helper()
	for name, places := range c.restarts() {
		want := 0
		if slices.Contains(clusters, name) {
			want = 1
		}
		for place, n := range places {
			if n -= before[name][place]; strings.HasPrefix(place, "app/") && n != want {
				c.t.Errorf("%s in %s was created anew %d times, want %d", place, name, n, want)
			}
		}
	}
}

// A mesh whose anchor's key is lost is brought to the fleet's own anchor: nobody
// refuses anybody, each workload is created anew once, and nothing is left of what
// it came with.
func TestAMeshWithoutItsKeyIsBroughtHome(t *testing.T) {
	t.Parallel()
	for i, layout := range layouts {
		if thinned(i, len(layouts)) {
			continue
		}
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := meshes(t)[i]
				installed := map[string]mesh{"east": m, "west": m}
				c := adopting(t, uint64(i), installed)
				c.adopt(installed)
				before := c.restarts()
				c.begin()
				var stages []string
				for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 10*day; time.Sleep(time.Minute) {
					if s := c.rotation().Stage; s != "" && (len(stages) == 0 || stages[len(stages)-1] != s) {
						stages = append(stages, s)
					}
					c.obey()
					c.sound()
				}
				if want := []string{"bridge", "spread", "restart", "finish", "retire"}; !slices.Equal(stages, want) {
					for _, s := range c.loop.Status().Clusters {
						t.Logf("%s: %+v", s.Name, s.Findings)
					}
					t.Fatalf("it went through %v, and is %+v", stages, c.rotation())
				}
				time.Sleep(2 * time.Hour)
				c.appsRestartedOnce(before, "east", "west")
				for _, name := range []string{"east", "west"} {
					data := c.clusters[name].Data(rotation.IssuerObject)
					crt, _ := pem.Decode(data["tls.crt"])
					issuer, err := x509.ParseCertificate(crt.Bytes)
					if err != nil {
						t.Fatal(err)
					}
					was, _ := pem.Decode(append(m.issuer["tls.crt"], m.issuer["crt.pem"]...))
					if came, err := x509.ParseCertificate(was.Bytes); err != nil || bytes.Equal(came.RawSubjectPublicKeyInfo, issuer.RawSubjectPublicKeyInfo) {
						t.Errorf("%s still has the key it came with (%v)", name, err)
					}
				}
				if layout != "trust-manager" {
					c.ended("g1")
				} else { // an anchor that nobody knows stays
					time.Sleep(2 * day)
					for name, cl := range c.clusters {
						b, err := pki.ReadBundle(cl.Data(rotation.BundleObject)["ca-bundle.crt"])
						came, _ := pki.ReadBundle(m.bundle)
						if err != nil || len(b.Anchors()) != 2 || b.Covers(m.anchor) && !b.Covers(came.Anchors()[1]) {
							t.Errorf("%s has %d anchors, %v", name, len(b.Anchors()), err)
						}
					}
					c.sound()
				}
				c.end()
			})
		})
	}
}

// A fleet with an anchor of its own takes a mesh in: that one is changed, and the
// others are not touched, nor waited for, wherever they stand in the configuration.
func TestAMeshJoinsAFleet(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{"east", "home"}, {"home", "east"}} {
		synctest.Test(t, func(t *testing.T) { joins(t, names) })
	}
}

func joins(t *testing.T, names []string) {
	m := meshes(t)[1]
	w := newWorld(t, names...)
	for i, name := range names {
		w.clusters[name] = memory.NewCluster(memory.ClusterConfig{Name: name, Namespace: "linkerd", TrustDomain: "cluster.local", Existing: true,
			Scheme: m.scheme(), Replicas: 2, Lag: 40 * time.Second, Proxies: 9, LeafLifetime: leaf, Seed: 9})
		w.policy.Clusters[i].LeafLifetime = leaf
	}
	m.install(w.clusters["east"])
	w.ceremony()
	w.start()
	time.Sleep(20 * time.Minute)
	c := &changing{world: w, chance: mathrand.New(mathrand.NewPCG(9, 1)), asked: map[string]time.Time{}}
	c.adopt(map[string]mesh{"east": m})
	before, writes := c.restarts(), w.clusters["home"].Writes()
	a, adopts := c.loop.MovesTo()
	if !adopts || a.ID != "g1" {
		t.Fatalf("%+v, %t", a, adopts)
	}
	if err := c.loop.BeginChange(a, "lee@cli", "drill", false); err != nil {
		t.Fatal(err)
	}
	w.clusters["home"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
	c.mesh = memory.NewMesh(w.clusters["east"]) // home's pods do not know east's anchor, and need not
	c.until("idle", 10*day)
	w.clusters["home"].SetFaults(nil)
	time.Sleep(2 * time.Hour)
	c.mesh = memory.NewMesh(w.clusters["east"], w.clusters["home"]) // they do now
	c.ended("g1")
	c.appsRestartedOnce(before, "east")
	if got := w.clusters["home"].Writes(); !maps.Equal(got, writes) {
		t.Errorf("home was written: %v, then %v", writes, got)
	}
	if all := c.mesh.Broken(); len(all) > 0 {
		t.Errorf("they refuse each other: %v", all)
	}
	c.end()
}

// Two linked meshes, each with its own anchor and trusting the other's, are
// brought to one at the same time.
func TestMeshesOfTwoAnchorsAreBroughtToOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := meshes(t)
		east, west := all[0], all[1]
		both := certText(east.anchor, west.anchor)
		east.bundle, west.bundle = both, certText(west.anchor, east.anchor)
		installed := map[string]mesh{"east": east, "west": west}
		c := adopting(t, 4, installed)
		c.adopt(installed)
		if broken := c.mesh.Broken(); len(broken) > 0 {
			t.Fatalf("before it begins: %v", broken)
		}
		before := c.restarts()
		c.begin()
		c.until("idle", 10*day)
		time.Sleep(2 * time.Hour)
		c.ended("g1")
		c.appsRestartedOnce(before, "east", "west")
		c.end()
	})
}

// Of two linked meshes with one anchor, one is out of reach, and the other is brought to the fleet's
// without it. What it came with stays what it has until its own turn.
func TestALinkedMeshIsLeftWithWhatItCameWith(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := meshes(t)[1]
		other := newKey(t)
		stranger := ca(t, pkix.Name{CommonName: "partner"}, nil, other.Public(), 3650*24*time.Hour, 1, nil, other)
		m.bundle = certText(m.anchor, stranger)
		installed := map[string]mesh{"east": m, "west": m}
		c := adopting(t, 12, installed)
		c.adopt(installed)
		c.begin()
		time.Sleep(10 * time.Minute) // west has its second certificate
		c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		for _, phase := range []string{"retire", "idle"} {
			if _, err := c.loop.SteerChange(rotation.ChangeAdvance, []string{"west"}, "lee@cli", "it burnt"); err != nil {
				t.Fatal(err)
			}
			c.alone(phase)
		}
		c.clusters["west"].SetFaults(nil)
		time.Sleep(2 * day)
		if s := c.cluster("west"); s.Bundle == nil || len(s.Bundle.Anchors) != 2 || s.Bundle.Anchors[0].ID != "x1" && s.Bundle.Anchors[1].ID != "x1" {
			t.Errorf("west: %+v, %+v", s.Bundle, s.Findings)
		}
		c.end() // it is remembered
		c.start()
		time.Sleep(5 * time.Minute)
		writes := c.clusters["east"].Writes()[rotation.BundleObject]
		c.begin()
		c.alone("idle")
		time.Sleep(day)
		for _, v := range c.mesh.ForgetViolations() {
			if strings.Count(v.Text, " in west") != 1 || strings.Count(v.Text, " in east") != 1 {
				t.Errorf("%s: %s", v.At.Format(time.RFC3339), v.Text)
			}
		}
		if n := c.clusters["east"].Writes()[rotation.BundleObject] - writes; n != 0 {
			t.Errorf("the bundle of east was written %d times for west", n)
		}
		for _, name := range []string{"east", "west"} {
			if s := c.cluster(name); s.State != rotation.StateOK || len(s.Bundle.Anchors) != 2 || s.Issuer.Delivered.Anchor != "g1" {
				t.Errorf("%s: %s, %+v, %+v", name, s.State, s.Bundle, s.Findings)
			}
			if !bytes.Contains(c.clusters[name].Data(rotation.BundleObject)["ca-bundle.crt"], bytes.TrimSpace(certText(stranger))) {
				t.Errorf("%s lost the partner's anchor that it came with", name)
			}
		}
		c.end()
	})
}

// From every stage a mesh can be led back to what it came with, and from there
// begin again.
func TestAMeshIsLedBackToWhatItCameWith(t *testing.T) {
	t.Parallel()
	for i, stage := range []string{"bridge", "spread", "restart", "finish", "retire"} {
		if thinned(i, 5) {
			continue
		}
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := meshes(t)[[]int{0, 1, 4, 0, 1}[i]]
				installed := map[string]mesh{"east": m, "west": m}
				c := adopting(t, 11, installed)
				c.adopt(installed)
				c.begin()
				c.until(stage, 10*day)
				time.Sleep(time.Duration(c.chance.IntN(int(10 * time.Minute))))
				if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "lee@cli", "drill"); err != nil {
					t.Fatal(err)
				}
				if r := c.rotation(); r.Phase != "rollback" || r.From != "g1" || r.To != "" {
					t.Errorf("%+v", r)
				}
				c.until("idle", 12*day)
				time.Sleep(2 * time.Hour)
				c.sound()
				for _, name := range []string{"east", "west"} {
					data, s := c.clusters[name].Data(rotation.IssuerObject), c.cluster(name)
					want, _ := pem.Decode(append(m.issuer["tls.crt"], m.issuer["crt.pem"]...))
					if got, rest := pem.Decode(data["tls.crt"]); !bytes.Equal(got.Bytes, want.Bytes) || layouts[4] != m.name && len(rest) > 0 {
						t.Errorf("%s: the issuer is not the one that it came with, alone", name)
					}
					if len(s.Bundle.Anchors) != 1 || s.Bundle.Anchors[0].ID != "x1" || s.Proxies.Stale != 0 {
						t.Errorf("%s: bundle %+v, proxies %+v, %+v", name, s.Bundle, s.Proxies, s.Findings)
					}
				}
				if stage == "restart" {
					c.begin()
					c.until("idle", 12*day)
					time.Sleep(2 * time.Hour)
					c.ended("g1")
				}
				c.end()
			})
		})
	}
}

// certd is killed at random while a mesh is brought to another anchor.
func TestAMeshIsBroughtHomeByACertdThatIsKilled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := meshes(t)[0]
		installed := map[string]mesh{"east": m, "west": m}
		c := adopting(t, 13, installed)
		c.adopt(installed)
		before := c.restarts()
		c.begin()
		for begun := time.Now(); c.rotation().Phase != "idle"; time.Sleep(time.Minute) {
			if time.Since(begun) > 12*day {
				t.Fatalf("not over after 12 days: %+v", c.rotation())
			}
			c.obey()
			c.sound()
			if c.chance.IntN(40) == 0 {
				c.end()
				c.start()
				time.Sleep(10 * time.Second)
			}
		}
		time.Sleep(2 * time.Hour)
		c.ended("g1")
		c.appsRestartedOnce(before, "east", "west")
		c.end()
	})
}

// The journal is lost while a mesh has what it came with, or is on its way: the
// world says enough to go on.
func TestTheJournalOfAnAdoptedMeshIsLost(t *testing.T) {
	t.Parallel()
	for i, stage := range []string{"idle", "bridge", "spread", "restart", "finish", "retire"} {
		if thinned(i, 6) {
			continue
		}
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := meshes(t)[[]int{0, 1, 0, 4, 0, 1}[i]]
				installed := map[string]mesh{"east": m, "west": m}
				c := adopting(t, 17, installed)
				c.adopt(installed)
				if stage != "idle" {
					c.begin()
					c.until(stage, 10*day)
					time.Sleep(time.Duration(c.chance.IntN(int(10 * time.Minute))))
				}
				c.end()
				c.dir = journalDir(t)
				c.start()
				time.Sleep(5 * time.Minute)
				if stage == "idle" {
					for _, name := range []string{"east", "west"} {
						if s := c.cluster(name); s.Mode != "managed" || !bytes.Equal(c.clusters[name].Data(rotation.BundleObject)["ca-bundle.crt"], m.bundle) {
							t.Errorf("%s: mode %s, %+v", name, s.Mode, s.Findings)
						}
					}
					c.begin()
				}
				c.until("idle", 12*day)
				time.Sleep(2 * time.Hour)
				c.sound()
				for _, name := range []string{"east", "west"} {
					if s := c.cluster(name); len(s.Bundle.Anchors) != 1 || s.Bundle.Anchors[0].ID != "g1" || s.Issuer.Delivered.Anchor != "g1" {
						t.Errorf("%s: bundle %+v, issuer %+v, %+v", name, s.Bundle, s.Issuer.Delivered, s.Findings)
					}
				}
				c.end()
			})
		})
	}
}

// A backup from before meshes that were taken over are brought to the fleet's anchor, or from while
// they were, is restored in a later stage of that, or after it, or where the fleet's anchor has been
// changed as well, or is being.
func TestARestoredJournalKnowsMeshesThatAreBroughtHome(t *testing.T) {
	t.Parallel()
	type restoring struct {
		saved, restored string // stages
		again           bool   // of the next change
	}
	var rows []restoring
	stages := []string{"bridge", "spread", "restart", "finish", "retire", "over"}
	for _, saved := range []string{"idle", "bridge", "restart"} {
		for i, restored := range stages {
			if i > slices.Index(stages, saved) {
				rows = append(rows, restoring{saved, restored, false})
			}
			if i%2 == 0 || restored == "over" {
				rows = append(rows, restoring{saved, restored, true})
			}
		}
	}
	for row, r := range rows {
		if thinned(row, len(rows)) {
			continue
		}
		t.Run(fmt.Sprintf("saved in %s, restored in %s, of another change: %t", r.saved, r.restored, r.again), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := meshes(t)[1]
				installed := map[string]mesh{"east": m, "west": m}
				c := adopting(t, uint64(row), installed)
				c.adopt(installed)
				a, _ := c.loop.MovesTo()
				if a.Certificate == nil { // as certd init does
					c.end()
					c.ceremony()
					c.start()
					time.Sleep(5 * time.Minute)
				}
				to := func(stage string) {
					if stage == "over" {
						c.until("idle", 12*day)
						time.Sleep(day)
					} else if stage != "idle" {
						c.until(stage, 10*day)
					}
					time.Sleep(time.Duration(1+c.chance.IntN(9)) * time.Minute)
				}
				if r.saved != "idle" {
					c.begin()
				}
				to(r.saved)
				backup, leads := c.backup(), "g1"
				if r.saved == "idle" {
					c.begin()
				}
				if r.again {
					to("over")
					c.begin()
					leads = "g2"
				}
				to(r.restored)
				c.restore(backup)
				c.start()
				time.Sleep(10 * time.Minute)
				c.sound()
				c.until("idle", 14*day)
				time.Sleep(day)
				c.stands(leads)
				c.end()
			})
		})
	}
}

// The owners of a mesh that was taken over go on renewing its issuer, also while
// it is bridged: certd goes on from there.
func TestTheOwnersOfAMeshGoOnRenewing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const long = 3650 * 24 * time.Hour
		rootKey := newKey(t)
		root := ca(t, pkix.Name{CommonName: "root.linkerd.cluster.local"}, nil, rootKey.Public(), long, -1, nil, rootKey)
		key := newKey(t)
		renew := func(data map[string][]byte) {
			issuer := ca(t, pkix.Name{CommonName: "identity.linkerd.cluster.local"}, nil, key.Public(), 90*24*time.Hour, 0, root, rootKey)
			data["tls.crt"], data["tls.key"], data["ca.crt"] = certText(issuer), pkcs8(t, key), certText(root)
		}
		m := mesh{name: "renewed", anchor: root, bundle: certText(root), external: true, issuer: map[string][]byte{}}
		renew(m.issuer)
		c := adopting(t, 19, map[string]mesh{"east": m})
		c.adopt(map[string]mesh{"east": m})
		again := func() {
			time.Sleep(time.Hour)
			c.clusters["east"].Edit(rotation.IssuerObject, "cert-manager", func(data map[string][]byte, _ *rotation.Marks) { renew(data) })
			time.Sleep(30 * time.Second)
			if f, ok := c.finding("east", "SecondWriter"); !ok || !strings.Contains(f.Message, "cert-manager") {
				t.Errorf("who wrote is not named: %+v", c.cluster("east").Findings)
			}
			s := c.cluster("east")
			if left := time.Until(s.Issuer.Delivered.NotAfter); left < 90*day-time.Minute {
				t.Errorf("what they made is not what is there: it ends in %s", left)
			}
		}
		again() // the same key with other dates
		key = newKey(t)
		again()
		time.Sleep(10 * time.Minute)
		c.begin()
		c.until("bridge", time.Hour)
		time.Sleep(20 * time.Minute)
		key = newKey(t)
		c.clusters["east"].Edit(rotation.IssuerObject, "cert-manager", func(data map[string][]byte, _ *rotation.Marks) { renew(data) })
		time.Sleep(20 * time.Minute)
		c.clusters["east"].Edit(rotation.IssuerObject, "cert-manager", func(data map[string][]byte, _ *rotation.Marks) { renew(data) })
		c.until("finish", 12*day)
		time.Sleep(20 * time.Minute)
		c.clusters["east"].Edit(rotation.IssuerObject, "cert-manager", func(data map[string][]byte, _ *rotation.Marks) { renew(data) })
		c.until("idle", 12*day)
		time.Sleep(2 * time.Hour)
		c.leads("g1") // linkerd-identity has refused what they wrote then
		c.end()
	})
}

// What could not be brought to its end is not begun.
func TestAMeshThatEndsTooSoonIsNotMoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key := newKey(t)
		both := ca(t, pkix.Name{CommonName: "identity.linkerd.cluster.local"}, nil, key.Public(), 26*time.Hour, -1, nil, key)
		m := mesh{name: "late", anchor: both, bundle: certText(both), issuer: map[string][]byte{"crt.pem": certText(both), "key.pem": sec1(t, key)}}
		c := adopting(t, 23, map[string]mesh{"east": m})
		c.adopt(map[string]mesh{"east": m})
		if err := c.loop.CheckChange(); !errors.Is(err, rotation.ErrNotNow) || !strings.Contains(err.Error(), "a change takes up to 6 ×") {
			t.Errorf("%v", err)
		}
		if f, ok := c.finding("east", "AnchorKeyElsewhere"); !ok || f.Severity != rotation.StateCritical {
			t.Errorf("%+v", f)
		}
		c.end()
	})
}

// A mesh that has ended, as every `linkerd install` does after a year, has nothing to
// take over: certd says how to begin anew, and looks after what follows.
func TestAMeshThatHasEndedBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key := newKey(t)
		both := ca(t, pkix.Name{CommonName: "identity.linkerd.cluster.local"}, nil, key.Public(), 6*time.Hour, -1, nil, key)
		m := mesh{name: "ended", anchor: both, bundle: certText(both), issuer: map[string][]byte{"crt.pem": certText(both), "key.pem": sec1(t, key)}}
		c := adopting(t, 29, map[string]mesh{"east": m})
		c.end()
		c.ceremony()
		c.start()
		time.Sleep(7 * time.Hour)
		_, err := c.loop.Adopt("east", "lee@cli", "drill", false)
		if !errors.Is(err, rotation.ErrNotNow) || !strings.Contains(err.Error(), "kubectl -n linkerd delete configmap/linkerd-identity-trust-roots secret/linkerd-identity-issuer") {
			t.Fatalf("%v", err)
		}
		c.clusters["east"].Delete(rotation.BundleObject)
		c.clusters["east"].Delete(rotation.IssuerObject)
		time.Sleep(5 * time.Minute)
		for _, name := range []string{"linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"} {
			c.clusters["east"].RollOut(name)
		}
		for begun := time.Now(); len(c.mesh.Broken()) > 0 || c.cluster("east").State != rotation.StateOK; time.Sleep(time.Minute) {
			if time.Since(begun) > 3*time.Hour {
				t.Fatalf("still %v, %+v", c.mesh.Broken(), c.cluster("east").Findings)
			}
			c.obey()
		}
		c.mesh.ForgetViolations()
		time.Sleep(day)
		c.leads("g1")
		c.end()
	})
}

// A mesh whose anchor's key was found is taken over with it: its issuer is renewed on
// schedule with new keys, and still no byte of the bundle changes.
func TestAMeshWhoseAnchorWasImported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root, rootKey := madeElsewhere(t, 3650*day)
		signer, err := x509.ParsePKCS8PrivateKey(mustDecode(t, rootKey.PKCS8PEM()))
		if err != nil {
			t.Fatal(err)
		}
		key := newKey(t)
		issuer := ca(t, pkix.Name{CommonName: "identity.linkerd.cluster.local"}, nil, key.Public(), 8*day, 0, root.Certificate, signer.(crypto.Signer))
		m := mesh{name: "imported", anchor: root.Certificate, bundle: bytes.TrimSpace(certText(root.Certificate)), external: true,
			issuer: map[string][]byte{"tls.crt": certText(issuer), "tls.key": sec1(t, key), "ca.crt": certText(root.Certificate)}}
		c := adopting(t, 31, map[string]mesh{"east": m})
		c.end()
		if r := c.importing(root, rootKey, c.keys, nil, false); r.err != nil || !r.made {
			t.Fatalf("%+v", r)
		}
		c.start()
		time.Sleep(5 * time.Minute)
		before := c.restarts()
		c.adopt(map[string]mesh{"east": m})
		if s := c.cluster("east"); s.State != rotation.StateOK || s.Bundle.Anchors[0].ID != "g1" {
			t.Errorf("%s: %+v, %+v", s.State, s.Bundle, s.Findings)
		}
		time.Sleep(9 * day)
		if data := c.clusters["east"].Data(rotation.BundleObject); !bytes.Equal(data["ca-bundle.crt"], m.bundle) {
			t.Errorf("the bundle was changed to\n%s", data["ca-bundle.crt"])
		}
		if s := c.cluster("east"); s.State != rotation.StateOK || s.Issuer.Delivered.SHA256 == pki.Fingerprint(issuer) || time.Until(s.Issuer.Delivered.NotAfter) < 3*day {
			t.Errorf("%s: %+v, %+v", s.State, s.Issuer.Delivered, s.Findings)
		}
		if !maps.EqualFunc(before, c.restarts(), maps.Equal) {
			t.Errorf("pods were created anew: %v, then %v", before, c.restarts())
		}
		c.sound()
		c.begin()
		c.until("idle", 10*day)
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

func mustDecode(t *testing.T, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("it is not PEM")
	}
	return block.Bytes
}
