package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of rustls-webpki 0.103 (verify_cert.rs).
const (
	webpkiIntermediates = 6
	webpkiSignatures    = 100
)

// VerifyWebPKI verifies a chain, the leaf first, under a bundle at a time, as
// Linkerd's proxies do: a model of rustls-webpki 0.103 as linkerd2-proxy uses
// it. It differs from Go in what it overlooks (an anchor's validity, path
// length and key usage; a missing keyCertSign) and in what it refuses (unknown
// critical extensions anywhere in the bundle, a CA as leaf).
//
// Where proxies that are still in the field (webpki 0.22) are stricter than
// 0.103, so is the model: it refuses serials of 0 or beyond 20 octets, P-521,
// and SHA-384 by a P-256 key.
func VerifyWebPKI(chain []*x509.Certificate, b Bundle, dnsName string, usage x509.ExtKeyUsage, at time.Time) error {
	return verifyWebPKI(chain, b.anchors, dnsName, usage, at)
}

func verifyWebPKI(chain, anchors []*x509.Certificate, dnsName string, usage x509.ExtKeyUsage, at time.Time) error {
	return signatures{}.verify(chain, anchors, dnsName, usage, at)
}

// signatures are those that were checked, by who bears one and by whom it should be. What
// came of it depends on nothing else, and checking them is nearly all that judging costs.
type signatures map[[2]*x509.Certificate]error

// note takes over what Go's verifier has found: it checks the same signatures, with the same
// code, and is stricter in what it takes for one.
func (s signatures) note(paths [][]*x509.Certificate) {
	for _, path := range paths {
		for i, by := range path[1:] {
			s[[2]*x509.Certificate{path[i], by}] = nil
		}
	}
}

func (s signatures) check(child, by *x509.Certificate) error {
	pair := [2]*x509.Certificate{child, by}
	err, checked := s[pair]
	if !checked {
		err = by.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature)
		s[pair] = err
	}
	return err
}

func (s signatures) verify(chain, anchors []*x509.Certificate, dnsName string, usage x509.ExtKeyUsage, at time.Time) error {
	if len(chain) == 0 {
		return errors.New("there is no certificate")
	}
	for _, a := range anchors {
		if err := webpkiForm(a); err != nil {
			return fmt.Errorf("trust anchor %q: %w, and the whole bundle is refused", a.Subject.CommonName, err)
		}
	}
	for _, c := range chain {
		if err := webpkiForm(c); err != nil {
			return fmt.Errorf("certificate %q: %w", c.Subject.CommonName, err)
		}
	}
	leaf := chain[0]
	if leaf.IsCA {
		return errors.New("CaUsedAsEndEntity: the leaf is a CA certificate")
	}
	if err := webpkiUsable(leaf, usage, at); err != nil {
		return err
	}
	p := &webpkiPath{anchors: anchors, between: chain[1:], usage: usage, at: at, budget: webpkiSignatures, checked: s}
	if err := p.build([]*x509.Certificate{leaf}); err != nil {
		return err
	}
	// The names that count are DNS names; common names do not.
	if !slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, dnsName) }) {
		return fmt.Errorf("CertNotValidForName: %q is not among %q", dnsName, leaf.DNSNames)
	}
	return nil
}

// webpkiPath is one search.
type webpkiPath struct {
	anchors, between []*x509.Certificate
	usage            x509.ExtKeyUsage
	at               time.Time
	budget           int
	checked          signatures
}

// build goes from the last of path towards an anchor, depth first.
func (p *webpkiPath) build(path []*x509.Certificate) error {
	last := path[len(path)-1]
	found := errors.New("UnknownIssuer: no trust anchor of the bundle signed it")
	for _, a := range p.anchors {
		if !bytes.Equal(a.RawSubject, last.RawIssuer) {
			continue
		}
		err := p.signed(last, a)
		if err == nil {
			err = p.names(path, a)
		}
		if err == nil {
			return nil
		}
		found = worse(found, err)
	}
	for _, c := range p.between {
		if !bytes.Equal(c.RawSubject, last.RawIssuer) || slices.ContainsFunc(path, func(x *x509.Certificate) bool {
			return bytes.Equal(x.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) && bytes.Equal(x.RawSubject, c.RawSubject)
		}) {
			continue
		}
		err := p.asIntermediate(c, last, path)
		if err == nil {
			err = p.build(append(slices.Clone(path), c))
		}
		if err == nil {
			return nil
		}
		found = worse(found, err)
	}
	return found
}

func (p *webpkiPath) asIntermediate(c, child *x509.Certificate, path []*x509.Certificate) error {
	below := len(path) - 1 // intermediates between c and the leaf
	switch {
	case len(path) > webpkiIntermediates:
		return errors.New("MaximumPathDepthExceeded")
	case !c.IsCA:
		return errors.New("EndEntityUsedAsCa: " + c.Subject.CommonName)
	case c.MaxPathLenZero || c.MaxPathLen > 0:
		if below > c.MaxPathLen {
			return fmt.Errorf("PathLenConstraintViolated: %d below %q, which allows %d", below, c.Subject.CommonName, c.MaxPathLen)
		}
	}
	if err := webpkiUsable(c, p.usage, p.at); err != nil {
		return err
	}
	return p.signed(child, c)
}

// signed checks one signature, within the budget. It goes by the key alone:
// webpki asks an issuer neither for keyCertSign nor, if it is an anchor, for
// anything else.
func (p *webpkiPath) signed(child, by *x509.Certificate) error {
	if p.budget--; p.budget < 0 {
		return errors.New("MaximumSignatureChecksExceeded")
	}
	if !webpkiAlgorithm(child, by) {
		return fmt.Errorf("UnsupportedSignatureAlgorithmForPublicKey: %s by %q", child.SignatureAlgorithm, by.Subject.CommonName)
	}
	if p.checked.check(child, by) != nil {
		return errors.New("InvalidSignatureForPublicKey: " + child.Subject.CommonName)
	}
	return nil
}

// webpkiAlgorithm says whether every proxy takes child's signature by that
// key (linkerd2-proxy, rustls/src/crypto.rs, and its predecessors).
func webpkiAlgorithm(child, by *x509.Certificate) bool {
	switch pub := by.PublicKey.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return child.SignatureAlgorithm == x509.ECDSAWithSHA256
		case elliptic.P384():
			return child.SignatureAlgorithm == x509.ECDSAWithSHA384 || child.SignatureAlgorithm == x509.ECDSAWithSHA256
		}
		return false
	case ed25519.PublicKey:
		return child.SignatureAlgorithm == x509.PureEd25519
	case *rsa.PublicKey:
		ok := []x509.SignatureAlgorithm{x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA}
		return pub.N.BitLen() >= 2048 && pub.N.BitLen() <= 8192 && slices.Contains(ok, child.SignatureAlgorithm)
	}
	return false
}

// names holds the names of every certificate of the path against the name
// constraints of all CAs above it, the anchor's included.
func (p *webpkiPath) names(path []*x509.Certificate, anchor *x509.Certificate) error {
	all := append(slices.Clone(path), anchor)
	for i, ca := range all[1:] {
		if err := webpkiConstraints(ca); err != nil {
			return err
		}
		for _, below := range all[:i+1] {
			for _, name := range below.DNSNames {
				within := func(constraint string) bool { return withinDomain(name, constraint) }
				if slices.ContainsFunc(ca.ExcludedDNSDomains, within) || len(ca.PermittedDNSDomains) > 0 && !slices.ContainsFunc(ca.PermittedDNSDomains, within) {
					return fmt.Errorf("NameConstraintViolation: %q under %q", name, ca.Subject.CommonName)
				}
			}
		}
	}
	return nil
}

// webpkiConstraints refuses constraints of other names than DNS names:
// those of directory names and URIs are violated by whatever is below, and
// none of the others has a use here.
func webpkiConstraints(ca *x509.Certificate) error {
	const dnsName = 2 // GeneralName (RFC 5280 §4.2.1.6)
	e, ok := extension(ca, oidNameConstraints)
	if !ok {
		return nil
	}
	type subtree struct{ Base asn1.RawValue }
	var constraints struct {
		Permitted []subtree `asn1:"optional,tag:0"`
		Excluded  []subtree `asn1:"optional,tag:1"`
	}
	if _, err := asn1.Unmarshal(e.Value, &constraints); err != nil {
		return fmt.Errorf("BadDer: name constraints of %q: %w", ca.Subject.CommonName, err)
	}
	for _, s := range append(constraints.Permitted, constraints.Excluded...) {
		if s.Base.Tag != dnsName {
			return fmt.Errorf("NameConstraintViolation: %q constrains other names than DNS names", ca.Subject.CommonName)
		}
	}
	return nil
}

// withinDomain: with a leading dot only names below the domain match.
func withinDomain(name, constraint string) bool {
	name, constraint = strings.ToLower(name), strings.ToLower(constraint)
	if strings.HasPrefix(constraint, ".") {
		return strings.HasSuffix(name, constraint)
	}
	return constraint == "" || name == constraint || strings.HasSuffix(name, "."+constraint)
}

// webpkiUsable judges validity and extended use.
func webpkiUsable(c *x509.Certificate, usage x509.ExtKeyUsage, at time.Time) error {
	switch {
	case at.Before(c.NotBefore):
		return fmt.Errorf("CertNotValidYet: %q, before %s", c.Subject.CommonName, c.NotBefore.Format(time.RFC3339))
	case at.After(c.NotAfter):
		return fmt.Errorf("CertExpired: %q, after %s", c.Subject.CommonName, c.NotAfter.Format(time.RFC3339))
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, usage):
		return fmt.Errorf("RequiredEkuNotFound: %q", c.Subject.CommonName)
	}
	return nil
}

// webpkiForm is what its parser refuses.
func webpkiForm(c *x509.Certificate) error {
	switch {
	case c.Version != 3:
		return fmt.Errorf("UnsupportedCertVersion: X.509 version %d", c.Version)
	case c.SerialNumber.Sign() <= 0 || len(c.SerialNumber.Bytes()) > 20:
		return errors.New("InvalidSerialNumber: not positive, or longer than 20 octets (RFC 5280 §4.1.2.2)")
	}
	for _, e := range c.Extensions {
		if e.Critical && !slices.ContainsFunc(webpkiExtensions, e.Id.Equal) {
			return fmt.Errorf("UnsupportedCriticalExtension: %s", e.Id)
		}
	}
	return nil
}

// webpkiExtensions are those it knows; all others may not be critical.
var webpkiExtensions = []asn1.ObjectIdentifier{oidKeyUsage, oidSubjectAltName, oidBasicConstraints, oidNameConstraints, oidCRLPoints, oidExtKeyUsage}

// worse keeps the error that tells more than "unknown issuer".
func worse(have, next error) error {
	if strings.HasPrefix(have.Error(), "UnknownIssuer") {
		return next
	}
	return have
}
