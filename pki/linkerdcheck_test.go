package pki

import (
	"crypto/x509"
	"testing"
)

// What `linkerd check` says of anchors and issuers (contract of linkerd2,
// pkg/issuercerts, pkg/tls).
func TestLinkerdCheck(t *testing.T) {
	t.Parallel()
	a := root()
	for _, row := range []struct {
		name           string
		c              *ca
		anchor, issuer string // what is wrong with it as one
	}{
		{"P-256", a, "", ""},
		{"P-384", root(kind("P-384")), "Linkerd takes P-256", "Linkerd takes P-256"},
		{"RSA 2048", root(kind("RSA-2048")), "", "Linkerd takes ECDSA P-256 for issuers"},
		{"P-256 under RSA", issuer(root(kind("RSA-2048"))), "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			says(t, CheckAnchorAlgorithm(row.c.Certificate), row.anchor)
			says(t, CheckIssuerAlgorithm(row.c.Certificate), row.issuer)
		})
	}

	i := issuer(a)
	says(t, VerifyIssuer(certs(i), certs(a), noon), "")
	says(t, VerifyIssuer(certs(i), certs(root()), noon), "unknown authority")
	says(t, VerifyIssuer(certs(i), certs(a), days(4000)), "expired")
	says(t, VerifyIssuer(certs(issuer(a, eku(x509.ExtKeyUsageClientAuth))), certs(a), noon), "incompatible key usage")
	// Another anchor that has ended beside it is no matter here.
	says(t, VerifyIssuer(certs(i), certs(root(valid(days(-20), days(-10))), a), noon), "")

	// As linkerd2's codec reads them: what stands behind the last block is an error.
	if read, err := ReadAsLinkerd(pemOf(a, i)); err != nil || len(read) != 2 {
		t.Errorf("%d certificates, %v", len(read), err)
	}
	_, err := ReadAsLinkerd(append(pemOf(a), '\n'))
	says(t, err, "not a PEM certificate")
	if read, err := ReadAsLinkerd(append(append(pemOf(a), keyPEM(a.key)...), pemOf(i)...)); err != nil || len(read) != 1 {
		t.Errorf("a key in between: %d certificates, %v", len(read), err)
	}

	if sum := TextSHA256([]byte("a\n")); sum != TextSHA256([]byte("\n a")) || sum == TextSHA256([]byte("b")) {
		t.Errorf("white space around a text counts, or its letters do not: %s", sum)
	}
}
