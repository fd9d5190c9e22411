package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	mesh = Identity{Namespace: "linkerd", TrustDomain: "cluster.local"}
)

func days(n float64) time.Time { return noon.Add(time.Duration(n * 24 * float64(time.Hour))) }

// ca is a certificate with the key it is for.
type ca struct {
	*x509.Certificate
	key crypto.Signer
}

// with changes a certificate before it is signed.
type with func(*blueprint)

type blueprint struct {
	x509.Certificate
	key crypto.Signer
}

func named(cn string) with       { return func(b *blueprint) { b.Subject.CommonName = cn } }
func sameKeyAs(c *ca) with       { return func(b *blueprint) { b.key = c.key } }
func usage(u x509.KeyUsage) with { return func(b *blueprint) { b.KeyUsage = u } }
func eku(u ...x509.ExtKeyUsage) with {
	return func(b *blueprint) { b.ExtKeyUsage = u }
}
func valid(from, to time.Time) with {
	return func(b *blueprint) { b.NotBefore, b.NotAfter = from, to }
}
func pathLen(n int) with {
	return func(b *blueprint) { b.MaxPathLen, b.MaxPathLenZero = n, n == 0 }
}
func serial(n *big.Int) with { return func(b *blueprint) { b.SerialNumber = n } }
func signedWith(a x509.SignatureAlgorithm) with {
	return func(b *blueprint) { b.SignatureAlgorithm = a }
}
func notCA(b *blueprint) { b.IsCA, b.MaxPathLen, b.MaxPathLenZero = false, 0, false }
func permits(domain string) with {
	return func(b *blueprint) { b.PermittedDNSDomains, b.PermittedDNSDomainsCritical = []string{domain}, true }
}
func excludes(domain string) with {
	return func(b *blueprint) { b.ExcludedDNSDomains, b.PermittedDNSDomainsCritical = []string{domain}, true }
}
func permitsURI(domain string) with {
	return func(b *blueprint) { b.PermittedURIDomains, b.PermittedDNSDomainsCritical = []string{domain}, true }
}

var extraExtension = pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4, 5}, Critical: true, Value: []byte{5, 0}}

func unknownCritical(b *blueprint) { b.ExtraExtensions = append(b.ExtraExtensions, extraExtension) }

// extended sets an extension, not critical, in place of what would be there.
func extended(id asn1.ObjectIdentifier, der ...byte) with {
	return func(b *blueprint) {
		b.ExtraExtensions = append(b.ExtraExtensions, pkix.Extension{Id: id, Value: der})
	}
}

func kind(k string) with { return func(b *blueprint) { b.key = newKey(k) } }

// rsaKey is made once: it takes a while.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

func newKey(kind string) crypto.Signer {
	switch kind {
	case "P-384":
		return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	case "P-521":
		return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	case "RSA-2048":
		return rsaKey()
	case "Ed25519":
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return must(k, err)
	}
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// root is a trust anchor as certd makes them, but for what is changed.
func root(changes ...with) *ca {
	b := blueprint{Certificate: x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "root.linkerd.cluster.local 2026-1"},
		NotBefore: days(-100), NotAfter: days(3550), KeyUsage: caKeyUsage, BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
	}}
	return b.sign(nil, changes)
}

// issuer is an issuer as certd makes them, but for what is changed.
func issuer(by *ca, changes ...with) *ca {
	name := "identity.linkerd.cluster.local"
	b := blueprint{Certificate: x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: days(-1), NotAfter: days(6), KeyUsage: caKeyUsage, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}}
	return b.sign(by, changes)
}

// cross is an anchor's name and key under another anchor.
func cross(c, by *ca, changes ...with) *ca {
	return issuer(by, append([]with{sameKeyAs(c), named(c.Subject.CommonName), pathLen(-1), func(b *blueprint) { b.DNSNames = nil }}, changes...)...)
}

// leaf is a leaf of the mesh, as linkerd-identity makes them.
func leaf(by *ca, changes ...with) *ca {
	b := blueprint{Certificate: x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: mesh.leafName()}, DNSNames: []string{mesh.leafName()},
		NotBefore: days(-0.5), NotAfter: days(0.5), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}}
	return b.sign(by, changes)
}

func (b *blueprint) sign(by *ca, changes []with) *ca {
	for _, change := range changes {
		change(b)
	}
	if b.key == nil {
		b.key = newKey("P-256")
	}
	if pub, ok := b.key.Public().(*ecdsa.PublicKey); ok && b.IsCA {
		b.SubjectKeyId = must(keyID(pub))
	}
	if by == nil {
		by = &ca{&b.Certificate, b.key}
	}
	if pub, ok := by.key.Public().(*ecdsa.PublicKey); ok && pub.Curve == elliptic.P384() && b.SignatureAlgorithm == 0 {
		b.SignatureAlgorithm = x509.ECDSAWithSHA384
	}
	if b.SerialNumber.Sign() == 0 {
		// CreateCertificate does not make these.
		b.SerialNumber = big.NewInt(1)
		c := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &b.Certificate, by.Certificate, b.key.Public(), by.key))))
		return &ca{resign(c, by.key, func(tbs []byte) []byte {
			return []byte(strings.Replace(string(tbs), "\x02\x01\x01", "\x02\x01\x00", 1))
		}), b.key}
	}
	return &ca{must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &b.Certificate, by.Certificate, b.key.Public(), by.key)))), b.key}
}

// resign changes what is signed and signs it again, with ECDSA and SHA-256.
func resign(c *x509.Certificate, key crypto.Signer, change func(tbs []byte) []byte) *x509.Certificate {
	tbs := change(c.RawTBSCertificate)
	h := crypto.SHA256.New()
	h.Write(tbs)
	sig := must(key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256))
	return must(x509.ParseCertificate(must(asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}}))))
}

func certs(cas ...*ca) []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range cas {
		out = append(out, c.Certificate)
	}
	return out
}

func pemOf(cas ...*ca) []byte { return EncodeCertificates(certs(cas...)...) }

func keyPEM(key crypto.Signer) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
}

// says checks an error: want "" is none, otherwise a part of its text.
func says(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("got %q, want no error", err)
	case want != "" && err == nil:
		t.Errorf("got no error, want %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("got %q, want %q", err, want)
	}
}
