package cli

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"certd.internal/pki"
)

// spiffeRefresh is the seconds after which who holds a bundle looks for a
// newer one: an anchor is in every bundle long before it signs.
const spiffeRefresh = 3600

// spiffeKeys is a SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4.1).
type spiffeKeys struct {
	Keys     []spiffeKey `json:"keys"`
	Sequence int64       `json:"spiffe_sequence"`
	Refresh  int         `json:"spiffe_refresh_hint"`
}

// spiffeKey is one anchor (X.509-SVID, section 6.1): exactly one certificate,
// and no key id.
type spiffeKey struct {
	Type         string   `json:"kty"`
	Use          string   `json:"use"`
	Curve        string   `json:"crv,omitempty"`
	X            string   `json:"x,omitempty"`
	Y            string   `json:"y,omitempty"`
	Modulus      string   `json:"n,omitempty"`
	Exponent     string   `json:"e,omitempty"`
	Certificates []string `json:"x5c"`
}

// spiffeBundle is the text of a bundle as SPIFFE has it. Its sequence number
// is when the newest anchor's validity begins or, where that is later, the last
// one was retired, in Unix time: it grows with every change of the bundle and is
// the same on every host.
func spiffeBundle(b pki.Bundle, retired time.Time) (string, error) {
	doc := spiffeKeys{Keys: []spiffeKey{}, Refresh: spiffeRefresh}
	for i, c := range b.Anchors() { // newest first
		if i == 0 {
			doc.Sequence = max(c.NotBefore.Unix(), retired.Unix())
		}
		key, err := spiffeKeyOf(c)
		if err != nil {
			return "", err
		}
		doc.Keys = append(doc.Keys, key)
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode the SPIFFE bundle: %w", err)
	}
	return string(text), nil
}

// spiffeKeyOf has the members that RFC 7518 sections 6.2.1 and 6.3.1 demand.
func spiffeKeyOf(c *x509.Certificate) (spiffeKey, error) {
	url := base64.RawURLEncoding.EncodeToString
	key := spiffeKey{Use: "x509-svid", Certificates: []string{base64.StdEncoding.EncodeToString(c.Raw)}}
	switch pub := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil {
			return key, fmt.Errorf("write the key of trust anchor %q: %w", c.Subject.CommonName, err)
		}
		x, y := point[1:1+len(point)/2], point[1+len(point)/2:] // after the byte that says uncompressed
		key.Type, key.Curve, key.X, key.Y = "EC", pub.Curve.Params().Name, url(x), url(y)
	case *rsa.PublicKey:
		key.Type, key.Modulus, key.Exponent = "RSA", url(pub.N.Bytes()), url(big.NewInt(int64(pub.E)).Bytes())
	default:
		return key, fmt.Errorf("the key of trust anchor %q is %s, which a SPIFFE bundle has no place for", c.Subject.CommonName, c.PublicKeyAlgorithm)
	}
	return key, nil
}
