package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"sync"
	"time"
)

// Identity names a Linkerd control plane: its namespace and trust domain.
type Identity struct {
	Namespace, TrustDomain string
	// Scheme is which names linkerd-identity reads in its Secret: SchemeLinkerd's
	// are crt.pem and key.pem; "": it is not known.
	Scheme string
}

// SchemeLinkerd is the scheme of issuers that Linkerd's chart makes (linkerd2,
// pkg/k8s/labels.go).
const SchemeLinkerd = "linkerd.io/tls"

// leafName is the name of a leaf that this control plane could be asked for
// (linkerd2, controller/identity/domain.go).
func (id Identity) leafName() string {
	return "certd-proof." + id.Namespace + ".serviceaccount.identity." + id.Namespace + "." + id.TrustDomain
}

// Credential is a certificate chain with its key: an issuer or what a webhook
// serves. A chain may hold further certificates of the same key and subject,
// under other anchors, and cross-signed anchors.
type Credential struct {
	chain []*x509.Certificate
	key   PrivateKey
	proof *Proof // shared by copies
}

// Proof is what Prove has found out of a credential, without its key. Nil is none.
type Proof struct {
	mu    sync.Mutex
	of    Identity
	facts IssuerFacts // with a Probe
}

// about returns what was found out of an issuer for a control plane, if anything was.
func (p *Proof) about(issuer *x509.Certificate, id Identity) (facts IssuerFacts, proved bool) {
	if p == nil {
		return facts, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.facts.Probe == nil || p.of.leafName() != id.leafName() || !p.facts.Chain[0].Equal(issuer) {
		return IssuerFacts{}, false
	}
	return p.facts, true
}

// NewCredential joins a key with its certificates; the first, and every other
// one of the same subject, must be for this key.
func NewCredential(key PrivateKey, chain ...*x509.Certificate) (Credential, error) {
	switch {
	case key.gone():
		return Credential{}, errors.New("credential: there is no private key")
	case len(chain) == 0:
		return Credential{}, errors.New("credential: there is no certificate")
	}
	for i, c := range chain {
		if i > 0 && !bytes.Equal(c.RawSubject, chain[0].RawSubject) {
			continue
		}
		if !samePublic(c.PublicKey, key.Public()) {
			return Credential{}, fmt.Errorf("credential: certificate %d (%q) is not for this key", i+1, c.Subject.CommonName)
		}
	}
	return Credential{slices.Clone(chain), key, &Proof{}}, nil
}

// WithChain is the same key with other certificates.
func (c Credential) WithChain(chain ...*x509.Certificate) (Credential, error) {
	return NewCredential(c.key, chain...)
}

// Chain returns the certificates, the issuer first.
func (c Credential) Chain() []*x509.Certificate { return slices.Clone(c.chain) }

// ChainPEM is the chain as tls.crt holds it.
func (c Credential) ChainPEM() []byte { return EncodeCertificates(c.chain...) }

// KeyPEM is the key as tls.key holds it, PKCS#8. Whoever asks wipes it.
func (c Credential) KeyPEM() []byte { return c.key.PKCS8PEM() }

// Wipe overwrites the key.
func (c Credential) Wipe() { c.key.Wipe() }

// LogValue shows no more than the serial.
func (c Credential) LogValue() slog.Value {
	if len(c.chain) == 0 {
		return slog.StringValue("[no credential]")
	}
	return slog.StringValue("certificate " + Serial(c.chain[0]))
}

// Prove makes a leaf as linkerd-identity would and verifies it under b at a
// time, as server and as client, by Go's rules and by the proxies'.
func (c Credential) Prove(b Bundle, id Identity, at time.Time) error {
	if len(c.chain) == 0 {
		return errors.New("prove: there is no issuer")
	}
	facts, proved := c.proof.about(c.chain[0], id)
	if !proved {
		leaf, err := probe(c.key, c.chain[0], id)
		if err != nil {
			return err
		}
		facts = IssuerFacts{Chain: c.chain, Probe: leaf, held: newHeldVerdicts()}
		c.proof.mu.Lock()
		c.proof.of, c.proof.facts = id, facts
		c.proof.mu.Unlock()
	}
	return facts.Verify(b, at)
}

// Proof is what Prove has found out, for ReadProved.
func (c Credential) Proof() *Proof { return c.proof }

// probe signs a leaf with an issuer's key. It is valid as long as the issuer
// is, so that what is asked later is about the chain and not about the probe.
func probe(key crypto.Signer, issuer *x509.Certificate, id Identity) (*x509.Certificate, error) {
	leafKey, err := GenerateKey()
	if err != nil {
		return nil, err
	}
	defer leafKey.Wipe()
	// Form and algorithm are linkerd-identity's (linkerd2, pkg/tls/ca.go),
	// which fixes the latter whatever key it holds.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: id.leafName()}, DNSNames: []string{id.leafName()},
		NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter,
		KeyUsage:           x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:        []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	text, err := toBeSigned(template, issuer, leafKey.Public(), key.Public())
	if err != nil {
		return nil, fmt.Errorf("build a leaf to try the issuer: %w", err)
	}
	leaf, err := signText(text, key)
	if err != nil {
		return nil, fmt.Errorf("sign a leaf to try the issuer: %w", err)
	}
	return leaf, nil
}
