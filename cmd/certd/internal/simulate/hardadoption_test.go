package simulate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"math/big"
	"runtime/debug"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

func newOrigin(t testing.TB, now time.Time) *origin {
	var err error
	o := &origin{}
	if o.root, err = pki.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	if o.anchor, err = pki.SelfSignAnchor(now.Add(-30*day), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: 3650 * day}, o.root); err != nil {
		t.Fatal(err)
	}
	if o.bundle, err = pki.NewBundle(o.anchor); err != nil {
		t.Fatal(err)
	}
	return o
}

// come is what a mesh has before certd comes: an anchor whose key certd does not get, and an
// issuer of its own.
func (h *hard) come(w *world, p rotation.Policy, o *origin) {
	h.came[p.Cluster] = o
	w.clusters[p.Cluster].Edit(rotation.BundleObject, "installer", func(d map[string][]byte, _ *rotation.Marks) { d["ca-bundle.crt"] = o.bundle.PEM() })
	h.issue(w, p, o)
}

// issue has the owners of a mesh give it an issuer under the anchor that it came with.
func (h *hard) issue(w *world, p rotation.Policy, o *origin) {
	template, err := pki.NewIssuerTemplate(w.now, pki.IssuerProfile{Namespace: p.Namespace, TrustDomain: p.TrustDomain, Lifetime: 365 * day, Backdate: time.Hour}, o.anchor)
	if err != nil {
		h.t.Fatal(err)
	}
	key, err := pki.GenerateKey()
	if err != nil {
		h.t.Fatal(err)
	}
	issuer, err := pki.SignIssuer(template, o.anchor, key.PublicKey(), o.root)
	if err != nil {
		h.t.Fatal(err)
	}
	data := map[string][]byte{"tls.crt": pki.EncodeCertificates(issuer), "tls.key": key.PKCS8PEM(), "ca.crt": o.bundle.PEM()}
	w.clusters[p.Cluster].Edit(rotation.IssuerObject, "installer", func(d map[string][]byte, _ *rotation.Marks) { maps.Copy(d, data) })
}

// serve has a mesh's webhooks come with what Helm makes: a certificate each that is its own
// caBundle.
func (h *hard) serve(w *world, p rotation.Policy) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, spec := range p.Webhooks.Specs {
		if !ownPart(spec) {
			continue
		}
		name := spec.Service + "." + p.Namespace + ".svc"
		template := &x509.Certificate{SerialNumber: big.NewInt(w.now.Unix()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: w.now.Add(-time.Hour), NotAfter: w.now.Add(365 * day),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			h.t.Fatal(err)
		}
		crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		secret := map[string][]byte{"tls.crt": crt, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
		w.clusters[p.Cluster].InstallWebhook(spec, memory.WebhookInstall{Ignore: spec.Check == rotation.CheckInjected, CABundle: crt, Secret: secret})
	}
}

// adopt has somebody take a cluster over.
func (h *hard) adopt(name string) error {
	_, err := h.loop.Adopt(name, "lee@cli", "drill", false)
	h.say("%s is taken over: %t", name, err == nil)
	return err
}

// adoptAll has somebody take the clusters over, in peace.
func (h *hard) adoptAll() {
	h.over = true
	for _, p := range h.policy.Clusters {
		if err := h.adopt(p.Cluster); err != nil {
			h.wrong("%s is not taken over: %v", p.Cluster, err)
		}
	}
	for until := h.now.Add(10 * time.Minute); h.now.Before(until); {
		h.turn(until)
	}
	h.over = false
}

// wouldBeFound says whether the clusters tell all that a journal holds which has no mirror and no
// backup: the certificate of an anchor that no cluster has yet they do not, nor, where the bundle
// has been deleted, that a cluster came with another.
func (h *hard) wouldBeFound() bool {
	shown := false
	for name, c := range h.clusters {
		o := h.came[name]
		if o != nil && c.Data(rotation.BundleObject) == nil {
			return false
		}
		shown = shown || o == nil || !bytes.Equal(c.Data(rotation.IssuerObject)["ca.crt"], o.bundle.PEM())
	}
	return shown
}

// hardAdoption goes through the days in which meshes that were there before certd are taken
// over, and brought to its anchor.
func hardAdoption(t testing.TB, seed uint64) *hard {
	const longest = 2 * day // then it is calm, whether or not it is over
	h := newHardChange(t, seed, true)
	defer h.close()
	h.settle()
	h.adoptAll()
	h.afflict()
	h.at(h.now.Add(time.Duration(h.chance.IntN(60))*time.Minute), h.beginChange)
	if h.chance.IntN(4) == 0 {
		h.at(h.now.Add(time.Duration(h.chance.IntN(90))*time.Minute), h.leaveBehind)
	}
	h.changeWithin(longest)
	return h
}

// Each seed is one fleet of meshes that certd did not make, which is brought to its anchor
// while everything goes wrong that does in a hard change.
func TestHardAdoptions(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1600))
	run := scoreboard.Start(t, "hard adoptions", 20)
	for seed := range run.Seeds() {
		h := shrunkLife(t, func() *hard { return hardAdoption(t, seed) })
		h.report(t)
		t.Logf("seed %d, over %s, %d changes, killed %d times, %s", seed, h.now.Sub(begin), h.changes, h.deaths, hex.EncodeToString(h.sum.Sum(nil))[:12])
		if t.Failed() {
			break
		}
	}
}
