package backendtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
)

// WebhookCA is a CA for webhooks with its key.
type WebhookCA struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewWebhookCA makes one.
func NewWebhookCA(t testing.TB) *WebhookCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cn := pki.WebhookCACommonName("acme", "east", 2026, 1)
	cert, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: cn, Lifetime: 17520 * time.Hour, Backdate: time.Hour}, key)
	if err != nil {
		t.Fatalf("make a webhook CA: %v", err)
	}
	return &WebhookCA{cert, key}
}

// Set is the caBundle that holds this CA alone.
func (ca *WebhookCA) Set() pki.CASet { return pki.NewCASet(ca.Certificate) }

// Serving makes a serving certificate for names, with a new key.
func (ca *WebhookCA) Serving(t testing.TB, names ...string) pki.Credential {
	t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	template, err := pki.NewServingTemplate(time.Now(), pki.ServingProfile{DNSNames: names, Lifetime: 720 * time.Hour, Backdate: 10 * time.Minute}, ca.Certificate)
	if err != nil {
		t.Fatalf("make a serving certificate: %v", err)
	}
	pub, ok := any(key.Public()).(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("a key's public half is %T", key.Public())
	}
	cert, err := pki.SignServing(template, ca.Certificate, pub, ca.key)
	if err != nil {
		t.Fatalf("make a serving certificate: %v", err)
	}
	cred, err := pki.NewCredential(key, cert)
	if err != nil {
		t.Fatalf("make a serving certificate: %v", err)
	}
	return cred
}

// ChartPair is what Linkerd's chart makes for a webhook if it is told nothing:
// a self-signed leaf of one year (sprig's genSelfSignedCert) and its key. The
// leaf, under tls.crt, is the caBundle, too.
func ChartPair(t testing.TB, name string) map[string][]byte {
	t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatalf("self-sign a serving certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{payload.TLSCert: pki.EncodeCertificates(cert), payload.TLSKey: key.PKCS8PEM()}
}
