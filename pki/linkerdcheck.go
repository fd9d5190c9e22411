package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"
)

// ReadAsLinkerd decodes certificates as Linkerd's own programs do, `linkerd check`
// among them (linkerd2, pkg/tls/codec.go): a blank line or a comment after the last
// block is an error, and a block of another type silently ends the reading.
func ReadAsLinkerd(text []byte) ([]*x509.Certificate, error) { return linkerdCertificates(text) }

// CheckAnchorAlgorithm is the algorithms that `linkerd check` takes for trust
// anchors (linkerd2, pkg/issuercerts/issuercerts.go): ECDSA P-256 with SHA-256, and
// RSA of exactly 2048 or 4096 bits with SHA-256.
func CheckAnchorAlgorithm(c *x509.Certificate) error { return checkAlgorithm(c) }

// CheckIssuerAlgorithm is the same for issuers, which must be ECDSA P-256.
func CheckIssuerAlgorithm(c *x509.Certificate) error {
	if _, ok := c.PublicKey.(*ecdsa.PublicKey); !ok {
		return fmt.Errorf("its key is %s; Linkerd takes ECDSA P-256 for issuers", c.PublicKeyAlgorithm)
	}
	return checkAlgorithm(c)
}

// VerifyIssuer says whether an issuer, first in its chain, verifies under anchors at
// a time, as linkerd-identity and `linkerd check` ask it: of Go, without a name, and
// for serverAuth if it has any extended key usage (linkerd2, pkg/tls/cred.go).
func VerifyIssuer(chain, anchors []*x509.Certificate, at time.Time) error {
	return verifyGo(chain, anchors, "", x509.ExtKeyUsageServerAuth, at)
}

// TextSHA256 tells texts of anchors apart as `linkerd check --proxy` does, which takes
// white space away from both ends and compares the rest byte by byte (linkerd2,
// pkg/healthcheck/healthcheck.go). It is in lower-case hex.
func TextSHA256(text []byte) string {
	sum := sha256.Sum256(bytes.TrimSpace(text))
	return hex.EncodeToString(sum[:])
}
