package payload

import (
	"bytes"
	"strings"
	"testing"

	"certd.internal/pki"
	"certd.internal/rotation"
)

func TestMarksRoundTrip(t *testing.T) {
	for _, m := range []rotation.Marks{
		{},
		{Fleet: "acme", Epoch: 1, Keep: true, Label: true},
		{Fleet: "acme", Serial: "0a", Epoch: 1<<64 - 1, Keep: true, Label: true},
		{Serial: "0a"},
	} {
		if got := ReadMarks(Labels(m), Annotations(m)); got != m {
			t.Errorf("%+v came back as %+v", m, got)
		}
	}
	odd := map[string]string{AnnotationEpoch: "-1", AnnotationKeep: "delete"}
	if got := ReadMarks(map[string]string{LabelManagedBy: "Helm"}, odd); got != (rotation.Marks{}) {
		t.Errorf("foreign marks read as %+v", got)
	}
}

func TestTooMuchIsNotParsed(t *testing.T) {
	block := []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	for name, data := range map[string]map[string][]byte{
		"65 certificates":    {TLSCert: bytes.Repeat(block, 65), TLSKey: []byte("x")},
		"more than 1 MiB":    {TLSCert: []byte("x"), KeyPEM: make([]byte, MaxSize)},
		"65 in the CA":       {CACert: bytes.Repeat(block, 65)},
		"a key of 65 blocks": {TLSKey: bytes.Repeat(block, 65)},
	} {
		if f := readIssuer(data, pki.Identity{Namespace: "linkerd", TrustDomain: "cluster.local"}, nil); f.Problem == "" || !strings.Contains(f.Problem, "more than") {
			t.Errorf("%s: problem %q", name, f.Problem)
		}
	}
	if text := Text(map[string][]byte{BundleKey: bytes.Repeat(block, 65)}, BundleKey); len(text) > 100 {
		t.Errorf("a bundle of 65 certificates came through with %d bytes", len(text))
	}
}

// Whatever stands in the Secret, keeping it gives a whole pair or an error.
func FuzzIssuerData(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"), true)
	f.Add([]byte{}, []byte{}, false)
	f.Fuzz(func(t *testing.T, crt, key []byte, tls bool) {
		data := map[string][]byte{TLSCert: crt, TLSKey: key}
		if !tls {
			data = map[string][]byte{CrtPEM: crt, KeyPEM: key}
		}
		want, err := IssuerData(rotation.IssuerWrite{}, data)
		if err != nil {
			if want != nil {
				t.Error("data beside an error")
			}
			return
		}
		if facts := readIssuer(want, pki.Identity{Namespace: "linkerd", TrustDomain: "cluster.local"}, nil); !bytes.Equal(want[TLSKey], want[KeyPEM]) || len(facts.Chain) == 0 {
			t.Error("what was kept is no pair")
		}
	})
}
