package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ServingProfile says what the serving certificate of a webhook or of an
// aggregated API server is to be.
type ServingProfile struct {
	DNSNames           []string      // the first is the common name, too
	Lifetime, Backdate time.Duration // as in AnchorProfile
}

// WebhookCACommonName is distinct for each cluster and generation.
func WebhookCACommonName(fleet, cluster string, year, generation int) string {
	return fmt.Sprintf("webhook-ca.%s.%s %d-%d", cluster, fleet, year, generation)
}

// NewServingTemplate is a serving certificate but for key and signature: no
// CA, for servers only, with exactly the DNS names given, within the CA's
// validity. (kubert's rustls refuses a serving certificate that is a CA:
// linkerd2 issue 9746.) It has no more in its subject than the first name.
func NewServingTemplate(now time.Time, p ServingProfile, ca *x509.Certificate) (*x509.Certificate, error) {
	if len(p.DNSNames) == 0 || slices.Contains(p.DNSNames, "") || p.Backdate < 0 || p.Lifetime <= p.Backdate {
		return nil, fmt.Errorf("serving profile: DNS names %q, lifetime %s, backdate %s: want a name, and 0 ≤ backdate < lifetime", p.DNSNames, p.Lifetime, p.Backdate)
	}
	if ca.NotBefore.After(now) {
		return nil, fmt.Errorf("serving profile: the CA %q is not valid before %s, and it is %s; is this clock right?", ca.Subject.CommonName, stamp(ca.NotBefore), stamp(now))
	}
	notBefore, notAfter := validity(now, p.Lifetime, p.Backdate)
	if notBefore.Before(ca.NotBefore) {
		notBefore = ca.NotBefore
	}
	if notAfter.After(ca.NotAfter) {
		notAfter = ca.NotAfter
	}
	if !notAfter.After(now) {
		return nil, fmt.Errorf("a serving certificate made now would end at %s: its CA %q ends at %s", stamp(notAfter), ca.Subject.CommonName, stamp(ca.NotAfter))
	}
	cn := p.DNSNames[0]
	if len(cn) > 64 { // ub-common-name (RFC 5280 appendix A.1)
		cn = cn[:64]
	}
	return &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: cn}, DNSNames: slices.Clone(p.DNSNames),
		NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, AuthorityKeyId: ca.SubjectKeyId, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, nil
}

// checkServingUnder is what makes c a serving certificate under a webhook CA, but for the
// signature.
func checkServingUnder(c, ca *x509.Certificate) error {
	pub, ok := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || pub.Curve != elliptic.P256():
		return fmt.Errorf("its key is %s, not ECDSA P-256", c.PublicKeyAlgorithm)
	case c.IsCA:
		return errors.New("it is a CA certificate, which kubert's servers do not take for serving")
	case !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}):
		return errors.New("its extended key usage is not serverAuth alone")
	case len(c.DNSNames) == 0 || len(c.EmailAddresses)+len(c.IPAddresses)+len(c.URIs) > 0:
		return errors.New("its subject alternative names are not DNS names alone")
	case !bytes.Equal(c.RawIssuer, ca.RawSubject):
		return fmt.Errorf("it names %q as its issuer, not %q", c.Issuer.CommonName, ca.Subject.CommonName)
	case len(c.AuthorityKeyId) == 0 || !bytes.Equal(c.AuthorityKeyId, ca.SubjectKeyId):
		return errors.New("its authority key identifier is not the CA's")
	case c.NotBefore.Before(ca.NotBefore) || c.NotAfter.After(ca.NotAfter):
		return errors.New("its validity is not within the CA's")
	}
	return nil
}
