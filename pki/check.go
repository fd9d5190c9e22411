package pki

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Extensions (RFC 5280 §4.2.1).
var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints  = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidCRLPoints        = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

func extension(c *x509.Certificate, id asn1.ObjectIdentifier) (e pkix.Extension, ok bool) {
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
	if i < 0 {
		return pkix.Extension{}, false
	}
	return c.Extensions[i], true
}

// CheckAnchor judges a certificate as a trust anchor, one that certd made or
// one that it was given (the root of Vault's PKI engine). It does not ask
// whether it is valid now.
func CheckAnchor(c *x509.Certificate) error {
	if err := checkAnchorForm(c); err != nil {
		return err
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return fmt.Errorf("trust anchor %q: it is not signed by its own key: %w", c.Subject.CommonName, err)
	}
	return nil
}

// checkAnchorForm is CheckAnchor but for the signature.
func checkAnchorForm(c *x509.Certificate) error {
	if err := cmp.Or(checkAnchorKind(c), checkCA(c)); err != nil {
		return fmt.Errorf("trust anchor %q: %w", c.Subject.CommonName, err)
	}
	switch {
	case c.MaxPathLenZero && c.MaxPathLen == 0:
		return fmt.Errorf("trust anchor %q: its path length is 0, so that Go programs would refuse every leaf below an issuer", c.Subject.CommonName)
	case !bytes.Equal(c.RawIssuer, c.RawSubject):
		return fmt.Errorf("trust anchor %q: it was issued by %q, and not by itself", c.Subject.CommonName, c.Issuer.CommonName)
	case len(c.AuthorityKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId):
		return fmt.Errorf("trust anchor %q: its authority key identifier is not its own", c.Subject.CommonName)
	}
	return nil
}

// checkAnchorKind is what `linkerd check` and the proxies demand of each
// anchor (linkerd2, pkg/issuercerts/issuercerts.go; rustls-webpki).
func checkAnchorKind(c *x509.Certificate) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return errors.New("it is not a CA certificate")
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("its key usage does not let it sign certificates")
	}
	if err := webpkiForm(c); err != nil {
		return fmt.Errorf("proxies refuse a whole bundle for it: %w", err)
	}
	return checkAlgorithm(c)
}

// checkAlgorithm is linkerd2's list, for anchors. Issuers must be P-256.
func checkAlgorithm(c *x509.Certificate) error {
	switch pub := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P256() && (c.SignatureAlgorithm == x509.ECDSAWithSHA256 || c.SignatureAlgorithm == x509.SHA256WithRSA) {
			return nil
		}
		return fmt.Errorf("its key is ECDSA %s signed with %s; Linkerd takes P-256 with SHA-256", pub.Curve.Params().Name, c.SignatureAlgorithm)
	case *rsa.PublicKey:
		if bits := pub.N.BitLen(); (bits == 2048 || bits == 4096) && c.SignatureAlgorithm == x509.SHA256WithRSA {
			return nil
		}
		return fmt.Errorf("its key is RSA %d signed with %s; Linkerd takes 2048 or 4096 with SHA-256", pub.N.BitLen(), c.SignatureAlgorithm)
	}
	return fmt.Errorf("its key is %s; Linkerd takes ECDSA P-256 and RSA", c.PublicKeyAlgorithm)
}

// checkCA is what certd demands of every CA certificate it signs with or
// makes, beyond what verifiers do: a missing keyCertSign is accepted by
// today's proxies and refused by the next.
func checkCA(c *x509.Certificate) error {
	basic, hasBasic := extension(c, oidBasicConstraints)
	usage, hasUsage := extension(c, oidKeyUsage)
	_, constrained := extension(c, oidNameConstraints)
	switch {
	case !hasBasic || !basic.Critical || !c.IsCA:
		return errors.New("it is not a CA certificate with critical basic constraints")
	case !hasUsage || !usage.Critical || c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("its key usage lacks keyCertSign or is not critical")
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0:
		return errors.New("it has extended key usages, which would bind every leaf below it")
	case len(c.SubjectKeyId) == 0:
		return errors.New("it has no subject key identifier")
	case constrained:
		return errors.New("it has name constraints, which proxies before 2.13.7 and 2.14.1 do not take")
	case c.Subject.CommonName == "" || c.Issuer.CommonName == "":
		return errors.New("its subject or issuer has no common name")
	case c.NotAfter.Before(c.NotBefore):
		return fmt.Errorf("it ends (%s) before it begins (%s)", stamp(c.NotAfter), stamp(c.NotBefore))
	}
	return webpkiForm(c)
}

// checkUnder is what makes c an issuer under anchor, whoever built it.
func checkUnder(c, anchor *x509.Certificate) error {
	if err := checkFormUnder(c, anchor); err != nil {
		return err
	}
	return checkSigned(c, anchor, "anchor")
}

// checkSigned says whether by, which errors call what, has signed c.
func checkSigned(c, by *x509.Certificate, what string) error {
	if err := c.CheckSignatureFrom(by); err != nil {
		return fmt.Errorf("it is not signed by %s %q: %w", what, by.Subject.CommonName, err)
	}
	return nil
}

// checkSigner is what Go asks of a certificate before it believes any signature by its key.
func checkSigner(ca *x509.Certificate) error {
	if !ca.BasicConstraintsValid || !ca.IsCA || ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("%q may not sign certificates", ca.Subject.CommonName)
	}
	return nil
}

// checkFormUnder is checkUnder but for the signature.
func checkFormUnder(c, anchor *x509.Certificate) error {
	pub, ok := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || pub.Curve != elliptic.P256():
		return fmt.Errorf("its key is %s, not ECDSA P-256", c.PublicKeyAlgorithm)
	case !c.MaxPathLenZero || c.MaxPathLen != 0:
		return errors.New("its path length is not 0")
	case len(c.DNSNames) != 1 || len(c.EmailAddresses)+len(c.IPAddresses)+len(c.URIs) > 0:
		return errors.New("its subject alternative names are not one DNS name alone")
	case !bytes.Equal(c.RawIssuer, anchor.RawSubject):
		return fmt.Errorf("it names %q as its issuer, not %q", c.Issuer.CommonName, anchor.Subject.CommonName)
	case len(c.AuthorityKeyId) == 0 || !bytes.Equal(c.AuthorityKeyId, anchor.SubjectKeyId):
		return errors.New("its authority key identifier is not the anchor's")
	case c.NotBefore.Before(anchor.NotBefore) || c.NotAfter.After(anchor.NotAfter):
		return errors.New("its validity is not within the anchor's")
	}
	return cmp.Or(checkAlgorithm(c), checkCA(c))
}

// CheckIssuer judges an issuer against what was asked for: what certd itself
// built, and what a CA that builds certificates itself (Vault's PKI engine)
// returned. Such a CA chooses the serial and may round the times, but not cut
// the lifetime, since schedules were proved with it.
func CheckIssuer(c, anchor *x509.Certificate, p IssuerProfile, pub *ecdsa.PublicKey, now time.Time) error {
	if err := checkUnder(c, anchor); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	// What the lifetime may lack: a minute's rounding, and the room that each
	// taken end may have asked for.
	slack := time.Minute + time.Duration(len(p.NotAfterTaken))*(2*apart+10*time.Second)
	due := anchor.NotAfter
	for _, t := range []time.Time{c.NotBefore.Add(p.Lifetime), now.Add(p.Lifetime - p.Backdate)} {
		if t.Before(due) {
			due = t
		}
	}
	switch {
	case !samePublic(c.PublicKey, pub):
		return errors.New("issuer: it is for another key")
	case c.Subject.CommonName != p.Name():
		return fmt.Errorf("issuer: its common name is %q, want %q", c.Subject.CommonName, p.Name())
	case c.DNSNames[0] != p.Name():
		return fmt.Errorf("issuer: its subject alternative name is %q, want %q", c.DNSNames[0], p.Name())
	case c.NotBefore.After(now), c.NotBefore.After(now.Add(-p.Backdate/2)) && c.NotBefore.After(anchor.NotBefore):
		return fmt.Errorf("issuer: notBefore %s is not %s in the past: linkerd-identity would skip it on a clock that is late, and not try again", stamp(c.NotBefore), p.Backdate)
	case !c.NotAfter.After(now):
		return fmt.Errorf("issuer: it has ended already, at %s", stamp(c.NotAfter))
	case lifetimeOf(c) > p.Lifetime+p.Backdate+2*time.Second:
		return fmt.Errorf("issuer: it lives %s, longer than the %s asked for", lifetimeOf(c), p.Lifetime)
	case c.NotAfter.Before(due.Add(-slack)):
		return fmt.Errorf("issuer: it lives %s, shorter than the %s asked for; does the CA cap lifetimes (max_ttl)?", lifetimeOf(c), p.Lifetime)
	}
	if i := slices.IndexFunc(p.NotAfterTaken, func(t time.Time) bool { return t.Sub(c.NotAfter).Abs() < apart }); i >= 0 {
		return fmt.Errorf("issuer: it ends within a minute of an earlier one (%s), so that its uptake could not be told", stamp(p.NotAfterTaken[i]))
	}
	return nil
}

// checkBuilt compares a certificate, parsed from its DER, with the template it
// was made from: nothing else, and nothing more, may have been signed.
func checkBuilt(c, template *x509.Certificate, pub *ecdsa.PublicKey) error {
	switch {
	case !samePublic(c.PublicKey, pub):
		return errors.New("it is for another key")
	case c.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return fmt.Errorf("it is signed with %s, not ECDSA with SHA-256", c.SignatureAlgorithm)
	case c.SerialNumber.Cmp(template.SerialNumber) != 0 || c.SerialNumber.BitLen() != 127:
		return fmt.Errorf("its serial %s is not the one chosen, or not 16 octets beginning with the bits 01", Serial(c))
	case c.Subject.String() != template.Subject.String():
		return fmt.Errorf("its subject is %q, want %q", c.Subject, template.Subject)
	case !slices.Equal(c.DNSNames, template.DNSNames):
		return fmt.Errorf("its DNS names are %q, want %q", c.DNSNames, template.DNSNames)
	case !c.NotBefore.Equal(template.NotBefore) || !c.NotAfter.Equal(template.NotAfter):
		return fmt.Errorf("it is valid from %s to %s, want %s to %s", stamp(c.NotBefore), stamp(c.NotAfter), stamp(template.NotBefore), stamp(template.NotAfter))
	case template.IsCA && c.KeyUsage != caKeyUsage:
		return errors.New("its key usage is not keyCertSign and cRLSign")
	case !template.IsCA && c.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("its key usage is not digitalSignature")
	case !slices.Equal(c.ExtKeyUsage, template.ExtKeyUsage) || len(c.UnknownExtKeyUsage) > 0:
		return errors.New("its extended key usages are not those asked for")
	case template.IsCA && c.MaxPathLen != template.MaxPathLen:
		return fmt.Errorf("its path length is %d, want %d", c.MaxPathLen, template.MaxPathLen)
	}
	made := madeExtensions
	if !template.IsCA {
		made = append(made, oidExtKeyUsage)
	}
	for _, e := range c.Extensions {
		if !slices.ContainsFunc(made, e.Id.Equal) {
			return fmt.Errorf("it has an extension that nobody asked for, %s", e.Id)
		}
	}
	return nil
}

// madeExtensions are all that certd puts into CA certificates; others have
// extended key usages besides.
var madeExtensions = slices.Clip([]asn1.ObjectIdentifier{oidBasicConstraints, oidKeyUsage, oidSubjectKeyID, oidAuthorityKeyID, oidSubjectAltName})

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
