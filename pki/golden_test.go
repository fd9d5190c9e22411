package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/cryptotest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// With the same chance on every run certd makes the same certificates, byte
// for byte. A change of these files is a change of what fleets are given.
func TestGoldenCertificates(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	anchorKey, issuerKey := must(GenerateKey()), must(GenerateKey())
	anchor, err := SelfSignAnchor(noon, anchorProfile(), anchorKey)
	if err != nil {
		t.Fatal(err)
	}
	template, err := NewIssuerTemplate(days(1), issuerProfile(), anchor)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := SignIssuer(template, anchor, issuerKey.PublicKey(), anchorKey)
	if err != nil {
		t.Fatal(err)
	}
	second := anchorProfile()
	second.CommonName = AnchorCommonName("cluster.local", 2035, 2)
	next, err := SelfSignAnchor(days(3300), second, must(GenerateKey()))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "anchor.der.hex", hexLines(anchor))
	golden(t, "issuer.der.hex", hexLines(issuer))
	golden(t, "bundle.pem", must(NewBundle(anchor, next)).PEM())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has changed; if that is meant, run the test with -update and read the difference", path)
	}
}

// hexLines is a certificate in lines of 32 octets, for differences that can be read.
func hexLines(c *x509.Certificate) []byte {
	var b bytes.Buffer
	for chunk := c.Raw; len(chunk) > 0; {
		n := min(32, len(chunk))
		b.WriteString(hex.EncodeToString(chunk[:n]) + "\n")
		chunk = chunk[n:]
	}
	return b.Bytes()
}
