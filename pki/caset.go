package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxCAs bounds what certd publishes as a caBundle.
const MaxCAs = 8

// CASet is what a caBundle holds: the certificates by which an API server
// knows the webhooks and aggregated API servers it calls. Unlike in a Bundle,
// anything may stand there that Go's verifier takes as a root, such as the
// self-signed leaf that Linkerd's chart makes. The zero CASet is empty. CASets
// are values: nothing changes one.
type CASet struct {
	certs []*x509.Certificate
	held  *heldVerdicts // shared by copies; nil keeps nothing
}

// NewCASet makes a set; order and repetition do not matter.
func NewCASet(certs ...*x509.Certificate) CASet {
	var s CASet
	for _, c := range certs {
		if !s.Contains(c) {
			s.certs = append(s.certs, c)
		}
	}
	slices.SortFunc(s.certs, newerFirst)
	return s
}

// ParseCASet reads what an API server makes of a caBundle: every certificate
// in it that can be parsed, whatever else stands around them (crypto/x509,
// CertPool.AppendCertsFromPEM).
func ParseCASet(text []byte) CASet {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock || len(block.Headers) > 0 {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, c)
		}
	}
	s := NewCASet(certs...)
	s.held = newHeldVerdicts()
	return s
}

// PEM is the set's canonical text, newest first; nil for an empty set.
func (s CASet) PEM() []byte { return EncodeCertificates(s.certs...) }

// SHA256 is over PEM(), in lower-case hex.
func (s CASet) SHA256() string {
	sum := sha256.Sum256(s.PEM())
	return hex.EncodeToString(sum[:])
}

// Certificates returns the certificates, newest first.
func (s CASet) Certificates() []*x509.Certificate { return slices.Clone(s.certs) }

// IsZero says whether the set is empty.
func (s CASet) IsZero() bool { return len(s.certs) == 0 }

// Contains says whether this very certificate is in the set.
func (s CASet) Contains(c *x509.Certificate) bool { return slices.ContainsFunc(s.certs, c.Equal) }

// Holds says whether all of o is in the set.
func (s CASet) Holds(o CASet) bool {
	return !slices.ContainsFunc(o.certs, func(c *x509.Certificate) bool { return !s.Contains(c) })
}

// Equal says whether both hold the same certificates.
func (s CASet) Equal(o CASet) bool {
	return slices.EqualFunc(s.certs, o.certs, (*x509.Certificate).Equal)
}

// Union returns the set of what is in either.
func (s CASet) Union(o CASet) CASet { return NewCASet(slices.Concat(s.certs, o.certs)...) }

// Where returns the set of the certificates for which keep is true.
func (s CASet) Where(keep func(*x509.Certificate) bool) CASet {
	return CASet{certs: slices.DeleteFunc(slices.Clone(s.certs), func(c *x509.Certificate) bool { return !keep(c) })}
}

// Verify says whether an API server that knows its webhook by this set would
// accept a served chain, the leaf first, under a name at a time.
func (s CASet) Verify(chain []*x509.Certificate, name string, at time.Time) error {
	return s.held.verdict(digestOf(name, chain), at, slices.Concat(chain, s.certs), func() error {
		return verifyGo(chain, s.certs, name, x509.ExtKeyUsageServerAuth, at)
	})
}

// ServingFacts is what the data of a webhook's Secret shows, without its key.
type ServingFacts struct {
	// Problem says why its servers could not use it at all; "" if they can.
	Problem string
	// Chain is what can be read of tls.crt; the serving certificate is first.
	Chain []*x509.Certificate
	// Complete: the chain is canonical PEM and the key PKCS#8, which kubert's
	// servers insist on (kubert, tls_rustls.rs).
	Complete bool
	// CAs is ca.crt, CAText as it stands; nil where it holds a private key.
	CAs    CASet
	CAText []byte

	held *heldVerdicts // shared by copies; nil keeps nothing
}

// SignedBy says whether ca has signed the serving certificate.
func (f ServingFacts) SignedBy(ca *x509.Certificate) bool {
	leaf := f.Chain[0]
	if !bytes.Equal(leaf.AuthorityKeyId, ca.SubjectKeyId) {
		return false
	}
	// Whether it did does not depend on the time.
	return f.held.verdict(digestOf("signed by", []*x509.Certificate{ca}), time.Time{}, nil, func() error { return leaf.CheckSignatureFrom(ca) }) == nil
}

// ReadServing reads the data of a webhook's Secret. It keeps nothing of the
// key. Whether the certificate is valid, and for which name, is not asked.
func ReadServing(data map[string][]byte) ServingFacts {
	f := ServingFacts{held: newHeldVerdicts()}
	if text := data["ca.crt"]; !bytes.Contains(text, []byte("PRIVATE KEY")) {
		f.CAText = bytes.Clone(text)
		f.CAs = ParseCASet(text)
	}
	f.Chain, _ = ReadCertificates(data["tls.crt"])
	switch {
	case len(f.Chain) == 0:
		f.Problem = "it holds no certificate (tls.crt)"
		return f
	case len(data["tls.key"]) == 0:
		f.Problem = "it holds no key (tls.key)"
		return f
	}
	key, err := parseKey(data["tls.key"])
	if err == nil && !samePublic(f.Chain[0].PublicKey, key.Public()) {
		err = errors.New("the key is not that of the first certificate")
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		defer wipe(k)
	}
	if err != nil {
		f.Problem = fmt.Sprintf("tls.crt and tls.key: %v", err)
		return f
	}
	block, _ := pem.Decode(data["tls.key"])
	f.Complete = block != nil && block.Type == "PRIVATE KEY" && bytes.Equal(data["tls.crt"], EncodeCertificates(f.Chain...))
	if block != nil {
		clear(block.Bytes)
	}
	return f
}
