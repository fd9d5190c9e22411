package pki

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"time"
)

// SelfSignAnchor makes a trust anchor with the key behind signer (ECDSA
// P-256). What is to be signed is built and judged, to the byte, before signer
// is asked, which it is once; what comes back is judged again from its DER.
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
	judge := func(c *x509.Certificate) error {
		if life := lifetimeOf(c); life != p.Lifetime.Truncate(time.Second) {
			return fmt.Errorf("it lives %s, want %s", life, p.Lifetime)
		}
		return cmp.Or(checkBuilt(c, template, pub), checkAnchorForm(c))
	}
	return sign(template, nil, pub, signer, judge, CheckAnchor)
}

// SignIssuer makes an issuer for pub from a template of NewIssuerTemplate,
// under anchor, whose key (ECDSA P-256) is behind signer. Like SelfSignAnchor
// it judges what is to be signed, and what comes back.
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
// parent names in errors. check judges all of it but the signature.
func signUnder(kind, parent string, template, ca *x509.Certificate, pub *ecdsa.PublicKey, signer crypto.Signer, check func(c, ca *x509.Certificate) error) (*x509.Certificate, error) {
	key, err := p256(signer)
	if err != nil {
		return nil, fmt.Errorf("sign %s %q: %w", kind, template.Subject.CommonName, err)
	}
	if !samePublic(ca.PublicKey, key) {
		return nil, fmt.Errorf("sign %s %q: the signing key is not that of %s %q", kind, template.Subject.CommonName, parent, ca.Subject.CommonName)
	}
	judge := func(c *x509.Certificate) error {
		return cmp.Or(checkBuilt(c, template, pub), check(c, ca), checkSigner(ca))
	}
	return sign(template, ca, pub, signer, judge, func(c *x509.Certificate) error { return checkSigned(c, ca, parent) })
}

// sign makes a certificate of template for pub, which signer is asked for once. judge says
// before and after that whether it is right, and proof whether its signature is. parent nil:
// it is signed by its own key.
func sign(template, parent *x509.Certificate, pub *ecdsa.PublicKey, signer crypto.Signer, judge, proof func(*x509.Certificate) error) (*x509.Certificate, error) {
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
	var c *x509.Certificate
	text, err := toBeSigned(&t, parent, pub, signer.Public())
	if err == nil {
		c, err = withSignature(text, nil)
	}
	if err == nil {
		err = judge(c)
	}
	if err != nil {
		return nil, wrongBefore(template, err)
	}
	if c, err = signText(text, signer); err != nil {
		return nil, fmt.Errorf("sign %q: %w", t.Subject.CommonName, err)
	}
	if err := cmp.Or(judge(c), proof(c)); err != nil {
		return nil, wrongAfter(template, err)
	}
	return c, nil
}

// toBeSigned is all of a certificate but its signature (TBSCertificate, RFC 5280 §4.1), as
// x509.CreateCertificate has it signed. That would verify at once what it gets; here it gets
// nothing, since whoever asks verifies what comes of it, and a signature is dear.
func toBeSigned(template, parent *x509.Certificate, pub, by crypto.PublicKey) ([]byte, error) {
	if template.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, fmt.Errorf("it is signed with %s, not ECDSA with SHA-256", template.SignatureAlgorithm)
	}
	taken := &taker{by: by}
	if _, err := x509.CreateCertificate(rand.Reader, template, parent, pub, taken); taken.text == nil {
		return nil, err
	}
	return taken.text, nil
}

// taker takes down what it is to sign, and signs nothing.
type taker struct {
	by   crypto.PublicKey
	text []byte
}

var errTaken = errors.New("what is to be signed was taken down")

func (t *taker) Public() crypto.PublicKey { return t.by }

func (t *taker) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errTaken }

// SignMessage implements crypto.MessageSigner, so that what comes is no digest.
func (t *taker) SignMessage(_ io.Reader, text []byte, _ crypto.SignerOpts) ([]byte, error) {
	t.text = bytes.Clone(text)
	return nil, errTaken
}

// signText has signer sign what toBeSigned returned. The signature is not verified.
func signText(text []byte, signer crypto.Signer) (*x509.Certificate, error) {
	digest := sha256.Sum256(text)
	signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return withSignature(text, signature)
}

// oidECDSAWithSHA256 is RFC 5758 §3.2.
var oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}

// withSignature is the certificate of what toBeSigned returned and an ECDSA signature over
// its SHA-256; nil has it parsed before there is one.
func withSignature(text, signature []byte) (*x509.Certificate, error) {
	der, err := asn1.Marshal(struct {
		Text      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: text}, pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
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
