package backendtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"certd.internal/pki"
)

// Anchors are trust anchors with their keys, to fill clusters with.
type Anchors struct {
	id    pki.Identity
	keys  []*ecdsa.PrivateKey
	certs []*x509.Certificate
}

// NewAnchors makes one trust anchor for a control plane.
func NewAnchors(t testing.TB, id pki.Identity) *Anchors {
	t.Helper()
	return (&Anchors{id: id}).Second(t)
}

// Second returns the same anchors and a new one.
func (a *Anchors) Second(t testing.TB) *Anchors {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cn := pki.AnchorCommonName(a.id.TrustDomain, 2026, len(a.certs)+1)
	cert, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: cn, Lifetime: 87600 * time.Hour, Backdate: time.Hour}, key)
	if err != nil {
		t.Fatalf("make an anchor: %v", err)
	}
	return &Anchors{id: a.id, keys: append(a.keys[:len(a.keys):len(a.keys)], key), certs: append(a.certs[:len(a.certs):len(a.certs)], cert)}
}

// Bundle returns all anchors.
func (a *Anchors) Bundle(t testing.TB) pki.Bundle {
	t.Helper()
	b, err := pki.NewBundle(a.certs...)
	if err != nil {
		t.Fatalf("make a bundle: %v", err)
	}
	return b
}

// Issuer makes an issuer with a new key under the newest anchor.
func (a *Anchors) Issuer(t testing.TB) pki.Credential {
	t.Helper()
	now, n := time.Now(), len(a.certs)-1
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	template, err := pki.NewIssuerTemplate(now, pki.IssuerProfile{
		Namespace: a.id.Namespace, TrustDomain: a.id.TrustDomain, Lifetime: 168 * time.Hour, Backdate: 10 * time.Minute,
	}, a.certs[n])
	if err != nil {
		t.Fatalf("make an issuer: %v", err)
	}
	cert, err := pki.SignIssuer(template, a.certs[n], key.PublicKey(), a.keys[n])
	if err != nil {
		t.Fatalf("make an issuer: %v", err)
	}
	cred, err := pki.NewCredential(key, cert)
	if err != nil {
		t.Fatalf("make an issuer: %v", err)
	}
	return cred
}

func publicOf(t testing.TB, c *x509.Certificate) *ecdsa.PublicKey {
	t.Helper()
	pub, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("its key is %T", c.PublicKey)
	}
	return pub
}
