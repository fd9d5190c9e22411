package pki

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// SelfSignAnchor makes a trust anchor with the key behind signer (ECDSA
// P-256). The certificate is built once with a throw-away key and judged
// before signer is asked, which it is once; what comes back is judged again
// from its DER.
func SelfSignAnchor(now time.Time, p AnchorProfile, signer crypto.Signer) (*x509.Certificate, error) {
	template, err := NewAnchorTemplate(now, p)
	if err != nil {
		return nil, err
	}
	return selfSign(template, p, signer)
}

// RenewAnchor makes an anchor with new dates for one that certd may sign for:
// the same key, the same subject to the byte, the same key identifier. Whoever
// trusts the one accepts what the other has signed.
func RenewAnchor(now time.Time, old *x509.Certificate, lifetime, backdate time.Duration, signer crypto.Signer) (*x509.Certificate, error) {
	p := AnchorProfile{CommonName: old.Subject.CommonName, Lifetime: lifetime, Backdate: backdate}
	template, err := NewAnchorTemplate(now, p)
	if err != nil {
		return nil, err
	}
	switch pub, err := p256(signer); {
	case err != nil:
		return nil, fmt.Errorf("renew trust anchor %q: %w", p.CommonName, err)
	case !samePublic(old.PublicKey, pub):
		return nil, fmt.Errorf("renew trust anchor %q: the signing key is not its own", p.CommonName)
	}
	template.Subject, template.RawSubject, template.SubjectKeyId = old.Subject, old.RawSubject, old.SubjectKeyId
	c, err := selfSign(template, p, signer)
	if err == nil && (!bytes.Equal(c.RawSubject, old.RawSubject) || !bytes.Equal(c.SubjectKeyId, old.SubjectKeyId)) {
		err = wrongAfter(template, errors.New("its subject or key identifier is not what it was"))
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func selfSign(template *x509.Certificate, p AnchorProfile, signer crypto.Signer) (*x509.Certificate, error) {
	pub, err := p256(signer)
	if err != nil {
		return nil, fmt.Errorf("sign trust anchor %q: %w", p.CommonName, err)
	}
	dry, err := GenerateKey()
	if err != nil {
		return nil, err
	}
	defer dry.Wipe()
	judge := func(c *x509.Certificate, pub *ecdsa.PublicKey) error {
		if life := lifetimeOf(c); life != p.Lifetime.Truncate(time.Second) {
			return fmt.Errorf("it lives %s, want %s", life, p.Lifetime)
		}
		return cmp.Or(checkBuilt(c, template, pub), CheckAnchor(c))
	}
	c, err := sign(template, nil, dry.PublicKey(), dry)
	if err == nil {
		err = judge(c, dry.PublicKey())
	}
	if err != nil {
		return nil, wrongBefore(template, err)
	}
	if c, err = sign(template, nil, pub, signer); err != nil {
		return nil, err
	}
	if err := judge(c, pub); err != nil {
		return nil, wrongAfter(template, err)
	}
	return c, nil
}

// SignIssuer makes an issuer for pub from a template of NewIssuerTemplate,
// under anchor, whose key (ECDSA P-256) is behind signer. Like SelfSignAnchor
// it tries with a throw-away key first and judges what comes back.
func SignIssuer(template, anchor *x509.Certificate, pub *ecdsa.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	return signUnder("issuer", "anchor", template, anchor, pub, signer, checkFormUnder)
}

// SignServing makes a serving certificate for pub from a template of
// NewServingTemplate, under a webhook CA, whose key (ECDSA P-256) is behind
// signer, in the same way as SignIssuer.
func SignServing(template, ca *x509.Certificate, pub *ecdsa.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	return signUnder("serving certificate", "webhook CA", template, ca, pub, signer, checkServingUnder)
}

// signUnder makes a certificate of some kind under a CA certificate, which
// parent names in errors. check judges all of it but the signature, the one tried with a
// throw-away key included, whose signature proves nothing.
func signUnder(kind, parent string, template, ca *x509.Certificate, pub *ecdsa.PublicKey, signer crypto.Signer, check func(c, ca *x509.Certificate) error) (*x509.Certificate, error) {
	key, err := p256(signer)
	if err != nil {
		return nil, fmt.Errorf("sign %s %q: %w", kind, template.Subject.CommonName, err)
	}
	if !samePublic(ca.PublicKey, key) {
		return nil, fmt.Errorf("sign %s %q: the signing key is not that of %s %q", kind, template.Subject.CommonName, parent, ca.Subject.CommonName)
	}
	dry, err := GenerateKey()
	if err != nil {
		return nil, err
	}
	defer dry.Wipe()
	dryCA := *ca
	dryCA.PublicKey = dry.PublicKey()

	c, err := sign(template, &dryCA, pub, dry)
	if err == nil {
		err = cmp.Or(checkBuilt(c, template, pub), check(c, ca), checkSigner(ca))
	}
	if err != nil {
		return nil, wrongBefore(template, err)
	}
	if c, err = sign(template, ca, pub, signer); err != nil {
		return nil, err
	}
	if err := cmp.Or(checkBuilt(c, template, pub), check(c, ca), checkSigned(c, ca, parent)); err != nil {
		return nil, wrongAfter(template, err)
	}
	return c, nil
}

// sign builds a certificate of template for pub, has it signed once, and
// parses it. parent nil: it is signed by its own key.
func sign(template, parent *x509.Certificate, pub *ecdsa.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	id, err := keyID(pub)
	if err != nil {
		return nil, fmt.Errorf("sign %q: key identifier: %w", template.Subject.CommonName, err)
	}
	t := *template
	if len(t.SubjectKeyId) == 0 {
		t.SubjectKeyId = id
	}
	if parent == nil {
		t.AuthorityKeyId = t.SubjectKeyId
		parent = &t
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", t.Subject.CommonName, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the new certificate %q: %w", t.Subject.CommonName, err)
	}
	return c, nil
}

func p256(signer crypto.Signer) (*ecdsa.PublicKey, error) {
	pub, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok || pub == nil || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the signing key is %T, not ECDSA P-256", signer.Public())
	}
	return pub, nil
}

func wrongBefore(template *x509.Certificate, err error) error {
	return fmt.Errorf("certificate %q would not be right, so the CA key was not asked: %w", template.Subject.CommonName, err)
}

func wrongAfter(template *x509.Certificate, err error) error {
	return fmt.Errorf("certificate %q came back wrong from the signer, and is not used: %w", template.Subject.CommonName, err)
}
