package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// AnchorProfile says what a trust anchor is to be.
type AnchorProfile struct {
	CommonName string
	Lifetime   time.Duration // notAfter − notBefore + 1 s, since both ends count (RFC 5280 §4.1.2.5)
	Backdate   time.Duration // how far notBefore lies before now; part of Lifetime
}

// IssuerProfile says what an issuer is to be.
type IssuerProfile struct {
	Namespace, TrustDomain string        // of the control plane: CN and DNS SAN are identity.<Namespace>.<TrustDomain>
	Lifetime, Backdate     time.Duration // as in AnchorProfile
	// NotAfterTaken are the ends of the cluster's recent issuers. The new one's
	// lies at least a minute from each: linkerd-identity shows of the issuer it
	// uses nothing but its end.
	NotAfterTaken []time.Time
}

// Name is the issuer's common name and DNS SAN, which Linkerd's documentation
// asks for and nothing in Linkerd checks.
func (p IssuerProfile) Name() string { return "identity." + p.Namespace + "." + p.TrustDomain }

// AnchorCommonName is distinct for each generation: anchors with one name
// work, and confuse old proxies and people.
func AnchorCommonName(trustDomain string, year, generation int) string {
	return fmt.Sprintf("root.linkerd.%s %d-%d", trustDomain, year, generation)
}

// apart is how far the ends of a cluster's issuers lie from each other.
const apart = time.Minute

// caKeyUsage is what the CA certificates that certd makes may do.
const caKeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign

// NewAnchorTemplate is a trust anchor but for key and signature: a CA without
// path length (Go counts it on anchors, and cross-signing needs room), for
// signing certificates and CRLs, for no extended use.
func NewAnchorTemplate(now time.Time, p AnchorProfile) (*x509.Certificate, error) {
	if p.CommonName == "" || p.Backdate < 0 || p.Lifetime <= p.Backdate {
		return nil, fmt.Errorf("anchor profile: common name %q, lifetime %s, backdate %s: want a name, and 0 ≤ backdate < lifetime", p.CommonName, p.Lifetime, p.Backdate)
	}
	notBefore, notAfter := validity(now, p.Lifetime, p.Backdate)
	return &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: p.CommonName},
		NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: caKeyUsage, BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, nil
}

// NewIssuerTemplate is an issuer but for key and signature: path length 0, no
// extended use (with serverAuth alone proxies could not be clients), within
// the anchor's validity. Its lifetime is shorter than asked where the anchor
// or NotAfterTaken make it so.
func NewIssuerTemplate(now time.Time, p IssuerProfile, anchor *x509.Certificate) (*x509.Certificate, error) {
	if p.Namespace == "" || p.TrustDomain == "" || p.Backdate < 0 || p.Lifetime <= p.Backdate {
		return nil, fmt.Errorf("issuer profile: namespace %q, trust domain %q, lifetime %s, backdate %s: want both names, and 0 ≤ backdate < lifetime", p.Namespace, p.TrustDomain, p.Lifetime, p.Backdate)
	}
	if anchor.NotBefore.After(now) {
		return nil, fmt.Errorf("issuer profile: the anchor %q is not valid before %s, and it is %s; is this clock right?", anchor.Subject.CommonName, stamp(anchor.NotBefore), stamp(now))
	}
	notBefore, notAfter := validity(now, p.Lifetime, p.Backdate)
	if notBefore.Before(anchor.NotBefore) {
		notBefore = anchor.NotBefore
	}
	if notAfter.After(anchor.NotAfter) {
		notAfter = anchor.NotAfter
	}
	// Moving away from one can land near another, but never near the same
	// again: as many moves as there are others suffice.
	for range p.NotAfterTaken {
		if i := slices.IndexFunc(p.NotAfterTaken, func(t time.Time) bool { return t.Sub(notAfter).Abs() < apart }); i >= 0 {
			notAfter = p.NotAfterTaken[i].UTC().Truncate(time.Second).Add(-apart)
		}
	}
	if !notAfter.After(now) {
		return nil, fmt.Errorf("an issuer made now would end at %s: its anchor %q ends at %s", stamp(notAfter), anchor.Subject.CommonName, stamp(anchor.NotAfter))
	}
	return &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: p.Name()}, DNSNames: []string{p.Name()},
		NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: caKeyUsage, BasicConstraintsValid: true, IsCA: true, MaxPathLen: 0, MaxPathLenZero: true,
		AuthorityKeyId: anchor.SubjectKeyId, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, nil
}

// NewSecondTemplate is another certificate for an issuer that exists: of the same
// key, subject and key identifier, so that each leaf of the one verifies through
// the other. It ends with the first, at least a minute from the ends in
// p.NotAfterTaken; names and lifetime of the profile are not looked at.
func NewSecondTemplate(now time.Time, p IssuerProfile, existing, anchor *x509.Certificate) (*x509.Certificate, error) {
	left := existing.NotAfter.Sub(now)
	if left <= 0 {
		return nil, fmt.Errorf("a second certificate for issuer %q: the first ended at %s", existing.Subject.CommonName, stamp(existing.NotAfter))
	}
	p.Namespace, p.TrustDomain = "second", "certificate"
	p.Lifetime = left + p.Backdate
	t, err := NewIssuerTemplate(now, p, anchor)
	if err != nil {
		return nil, err
	}
	if len(existing.DNSNames) == 1 {
		t.DNSNames = existing.DNSNames
	} else if existing.Subject.CommonName != "" {
		t.DNSNames = []string{existing.Subject.CommonName}
	}
	t.Subject, t.RawSubject, t.SubjectKeyId = existing.Subject, existing.RawSubject, existing.SubjectKeyId
	return t, nil
}

// validity returns both ends, in UTC and whole seconds, which is all that the
// encoding can hold (RFC 5280 §4.1.2.5.1, §4.1.2.5.2). Both belong to the
// interval, hence the second taken off notAfter.
func validity(now time.Time, lifetime, backdate time.Duration) (notBefore, notAfter time.Time) {
	notBefore = now.Add(-backdate).UTC().Truncate(time.Second)
	return notBefore, notBefore.Add(lifetime - time.Second).Truncate(time.Second)
}

// lifetimeOf is what validity was asked for, read back from a certificate.
func lifetimeOf(c *x509.Certificate) time.Duration {
	return c.NotAfter.Sub(c.NotBefore) + time.Second
}

// stamp writes a time in errors.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// newSerial makes a serial of 16 octets: the bits 01, then 126 random ones. It
// is never negative, never zero, and always of one length.
func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crashes the program rather than return an error
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// keyID is 160 bits of SHA-256 over the bits of the public key (RFC 7093 §2
// (1)). It is a name, and nothing trusts it; SHA-1, which RFC 5280 §4.2.1.2
// suggests, would stop the program where only FIPS 140 is allowed.
func keyID(pub *ecdsa.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki.Key.Bytes)
	return sum[:20], nil
}
