package pki

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// MaxAnchors bounds a bundle: more than a rotation that was rolled back
// half-way and begun again ever needs.
const MaxAnchors = 8

// Bundle is a set of trust anchors with one canonical text. The zero Bundle is
// empty. Bundles are values: nothing changes one.
type Bundle struct {
	anchors []*x509.Certificate
	text    []byte // instead of the canonical one; nil: that
}

// NewBundle makes a bundle of CA certificates that proxies, linkerd-identity
// and `linkerd check` all accept as anchors. Order and repetition do not
// matter: the newest comes first, and equal ones once. It does not ask whether
// they are valid now.
func NewBundle(anchors ...*x509.Certificate) (Bundle, error) {
	var b Bundle
	for _, c := range anchors {
		if err := checkAnchorKind(c); err != nil {
			return Bundle{}, fmt.Errorf("trust anchor %q: %w", c.Subject.CommonName, err)
		}
		if !b.Contains(c) {
			b.anchors = append(b.anchors, c)
		}
	}
	if len(b.anchors) > MaxAnchors {
		return Bundle{}, fmt.Errorf("a bundle holds %d anchors at most, these are %d", MaxAnchors, len(b.anchors))
	}
	slices.SortFunc(b.anchors, newerFirst)
	return b, nil
}

// newerFirst is the order of certificates in a canonical text.
func newerFirst(x, y *x509.Certificate) int {
	if order := y.NotBefore.Compare(x.NotBefore); order != 0 {
		return order
	}
	return cmp.Compare(Fingerprint(x), Fingerprint(y))
}

// ParseBundle reads a bundle that every reader of it reads alike: linkerd2's
// own PEM codec, Go's, and rustls'. It refuses, naming the block, what any of
// them refuses, silently leaves out or counts twice. The order of the blocks
// may be any.
func ParseBundle(text []byte) (Bundle, error) {
	certs, err := parseStrict(text)
	if err != nil {
		return Bundle{}, fmt.Errorf("parse trust bundle: %w", err)
	}
	for i, c := range certs {
		if first := slices.IndexFunc(certs, c.Equal); first < i {
			return Bundle{}, fmt.Errorf("parse trust bundle: block %d repeats block %d", i+1, first+1)
		}
	}
	b, err := NewBundle(certs...)
	if err != nil {
		return Bundle{}, fmt.Errorf("parse trust bundle: %w", err)
	}
	return b, nil
}

// ReadBundle reads a bundle that somebody else wrote, as linkerd2's own codec, Go
// and rustls do: text between the blocks, CR LF and repetitions are nothing to
// them. It refuses what they do not read alike.
func ReadBundle(text []byte) (Bundle, error) {
	if b, err := ParseBundle(text); err == nil { // as certd writes it
		return b, nil
	}
	const doing = "read trust bundle: "
	switch {
	case bytes.Contains(text, []byte("PRIVATE KEY")):
		return Bundle{}, errors.New(doing + "there is a private key in it")
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")):
		return Bundle{}, errors.New(doing + "it begins with a byte order mark, behind which parsers lose the first certificate")
	}
	certs, err := readAlike(text)
	if err != nil {
		return Bundle{}, fmt.Errorf(doing+"%w", err)
	}
	b, err := NewBundle(certs...)
	if err != nil {
		return Bundle{}, fmt.Errorf(doing+"%w", err)
	}
	return b, nil
}

// AsWritten is ReadBundle for a text that is to stay: the bundle's PEM is that
// text, to the byte.
func AsWritten(text []byte) (Bundle, error) {
	b, err := ReadBundle(text)
	if err == nil {
		b.text = bytes.Clone(text)
	}
	return b, err
}

// PEM is the bundle's canonical text; nil for an empty bundle. Equal sets have
// equal bytes: `linkerd check` compares texts, and each change of a byte makes
// every pod look as if it must be restarted.
func (b Bundle) PEM() []byte {
	if b.text != nil {
		return bytes.Clone(b.text)
	}
	return EncodeCertificates(b.anchors...)
}

// SHA256 is over PEM(), in lower-case hex: what Linkerd puts into pods as
// linkerd.io/trust-root-sha256 (linkerd2, pkg/inject/inject.go).
func (b Bundle) SHA256() string {
	sum := sha256.Sum256(b.PEM())
	return hex.EncodeToString(sum[:])
}

// Anchors returns the anchors, newest first.
func (b Bundle) Anchors() []*x509.Certificate { return slices.Clone(b.anchors) }

// IsZero says whether the bundle is empty.
func (b Bundle) IsZero() bool { return len(b.anchors) == 0 }

// Contains says whether this very certificate is in the bundle.
func (b Bundle) Contains(c *x509.Certificate) bool {
	return slices.ContainsFunc(b.anchors, c.Equal)
}

// Trusts says whether both make a verifier accept the same chains: anchors of
// one key and one subject count as one, whatever their dates, since proxies do
// not look at these (rustls-webpki ignores an anchor's validity).
func (b Bundle) Trusts(o Bundle) bool {
	return !slices.ContainsFunc(b.anchors, func(c *x509.Certificate) bool { return !o.Covers(c) }) &&
		!slices.ContainsFunc(o.anchors, func(c *x509.Certificate) bool { return !b.Covers(c) })
}

// Covers says whether an anchor of this key and subject is in the bundle.
func (b Bundle) Covers(c *x509.Certificate) bool {
	return slices.ContainsFunc(b.anchors, func(d *x509.Certificate) bool {
		return bytes.Equal(c.RawSubject, d.RawSubject) && bytes.Equal(c.RawSubjectPublicKeyInfo, d.RawSubjectPublicKeyInfo)
	})
}

// Equal says whether both hold the same anchors.
func (b Bundle) Equal(o Bundle) bool {
	return slices.EqualFunc(b.anchors, o.anchors, (*x509.Certificate).Equal)
}
