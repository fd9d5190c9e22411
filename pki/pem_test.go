package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// The text is what package pem writes, whatever the length of the last line.
func TestEncodedAsByPackagePEM(t *testing.T) {
	var all []*x509.Certificate
	var want []byte
	for n := range 200 {
		c := &x509.Certificate{Raw: bytes.Repeat([]byte{byte(n)}, n+1)}
		all = append(all, c)
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		if got := EncodeCertificates(c); !bytes.Equal(got, text) || cap(got) != len(got) {
			t.Errorf("%d bytes: %q, of %d, not %q", n+1, got, cap(got), text)
		}
		want = append(want, text...)
	}
	if !bytes.Equal(EncodeCertificates(all...), want) {
		t.Error("several are not one after the other")
	}
	if EncodeCertificates() != nil {
		t.Error("none has a text")
	}
}
