package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// CheckImported judges a trust anchor that was made elsewhere and that certd is
// to sign with from now on: what CheckAnchor demands, P-256, and valid now.
// warnings are what `linkerd check` would only warn of.
//
// The anchor that `linkerd install` makes has both extended key usages that
// leaves have. They bind nothing, and so do not matter.
func CheckImported(c *x509.Certificate, now time.Time) (warnings []string, err error) {
	judged := *c
	if slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		judged.ExtKeyUsage, judged.UnknownExtKeyUsage = nil, nil
	}
	if err := CheckAnchor(&judged); err != nil {
		return nil, err
	}
	if pub, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("trust anchor %q: its key is %s; certd signs with ECDSA P-256 alone", c.Subject.CommonName, c.PublicKeyAlgorithm)
	}
	switch {
	case now.Before(c.NotBefore):
		return nil, fmt.Errorf("trust anchor %q: it begins at %s, which has not come yet", c.Subject.CommonName, stamp(c.NotBefore))
	case now.After(c.NotAfter):
		return nil, fmt.Errorf("trust anchor %q: it ended at %s", c.Subject.CommonName, stamp(c.NotAfter))
	case now.Add(60 * 24 * time.Hour).After(c.NotAfter):
		warnings = append(warnings, fmt.Sprintf("the anchor ends at %s: linkerd check warns below 60 days", stamp(c.NotAfter)))
	}
	return warnings, nil
}

// CanSign says whether a private key is the one of a certificate.
func CanSign(k PrivateKey, c *x509.Certificate) bool {
	return !k.gone() && c != nil && samePublic(c.PublicKey, k.PublicKey())
}
