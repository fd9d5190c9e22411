// Package pki has certificates, keys and trust bundles as values: it makes,
// parses, checks and compares them. It reads no file, asks no server, and is
// given the time.
package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
)

// Fingerprint is SHA-256 over the certificate's DER, in lower-case hex.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Serial is the serial number in lower-case hex, 32 digits at least.
func Serial(c *x509.Certificate) string {
	if n := c.SerialNumber; n.Sign() >= 0 && n.BitLen() <= 128 { // as nearly all are, and fmt takes its time
		var octets [16]byte
		return hex.EncodeToString(n.FillBytes(octets[:]))
	}
	return fmt.Sprintf("%032x", c.SerialNumber)
}

// SKI is the subject key identifier (RFC 5280 §4.2.1.2) in lower-case hex.
func SKI(c *x509.Certificate) string { return hex.EncodeToString(c.SubjectKeyId) }

// AKI is the key id of the authority key identifier (RFC 5280 §4.2.1.1) in
// lower-case hex.
func AKI(c *x509.Certificate) string { return hex.EncodeToString(c.AuthorityKeyId) }
