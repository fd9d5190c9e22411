package pki

import (
	"bytes"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
)

// countRust is how many certificates rustls-pemfile finds, -1 if it refuses all of it.
func countRust(text string) int {
	certs, err := rustCertificates([]byte(text))
	if err != nil {
		return -1
	}
	return len(certs)
}

// bundleText makes a text of two certificates from a list of what people and tools do to
// such texts.
func bundleText(a, b *ca, deeds, raw []byte) []byte {
	pieces := []string{
		string(pemOf(a)), string(pemOf(b)), string(pemOf(b, a)), longLines(a),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Origin": "here"}, Bytes: a.Raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}})),
		string(pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: b.Raw})),
		"\n", " ", "\r\n", "# anchors\n", "\ufeff", "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n", "-----", "\t", "=", string(raw),
	}
	var text []byte
	for _, d := range deeds {
		if n := int(d); n < 4*len(pieces) {
			text = append(text, pieces[n%len(pieces)]...)
			continue
		}
		switch d % 8 {
		case 0:
			text = bytes.TrimRight(text, "\n")
		case 1:
			text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
		case 2:
			text = bytes.ReplaceAll(text, []byte("\n"), []byte(" \n"))
		case 3:
			text = bytes.ReplaceAll(text, []byte("\n"), []byte("\n "))
		case 4:
			text = text[:len(text)*int(d)/256]
		case 5:
			text = bytes.Replace(text, []byte("\n"), []byte("\r"), 1)
		case 6:
			if at := len(text) * int(d) / 256; len(text) > 0 {
				text = slices.Insert(text, at, raw...)
			}
		case 7:
			text = bytes.ReplaceAll(text, []byte("CERTIFICATE-----"), []byte("CERTIFICATE----- "))
		}
		if len(text) > 1<<16 {
			break
		}
	}
	return text
}

// Whatever linkerd2, Go and rustls do not find alike in a text is refused for a bundle, with
// a reason; what is accepted all three find alike.
func FuzzBundleReaders(f *testing.F) {
	a, b := root(), root(named("root.linkerd.cluster.local 2026-2"))
	for _, deeds := range []string{"\x00", "\x00\x01", "\x0b\x00\x01", "\x00\x05\x01", "\x04\x01", "\x00\x07\x01\x07", "\x03\x01", "\x00\x01\x58", "\x00\x01\x59", "\x00\x01\x5c", "\x00\x0a\x01", "\x00\x06\x01", "\x00\x0c\x01", "\x00\x0d\x01", "\x00\x5f\x01"} {
		f.Add([]byte(deeds), []byte("x"))
	}
	f.Add([]byte{17}, pemOf(a))
	f.Fuzz(func(t *testing.T, deeds, raw []byte) {
		text := bundleText(a, b, deeds, raw)
		got, err := ReadBundle(text)
		linkerd, refused := linkerdCertificates(text)
		goes := goCertificates(text)
		rust, rustRefuses := rustCertificates(text)
		alike := refused == nil && rustRefuses == nil && sameAs(linkerd, goes) == nil && sameAs(linkerd, rust) == nil
		switch {
		case err == nil && !alike:
			t.Fatalf("accepted, and linkerd2 reads %d (%v), Go %d, rustls %d (%v):\n%q", len(linkerd), refused, len(goes), len(rust), rustRefuses, text)
		case err == nil && len(got.Anchors()) == 0:
			t.Fatal("an empty bundle is accepted")
		}
		if strict, err := ParseBundle(text); err == nil && (!alike || len(strict.Anchors()) != len(linkerd)) {
			t.Fatalf("accepted as it stands, and linkerd2 reads %d, Go %d, rustls %d:\n%q", len(linkerd), len(goes), len(rust), text)
		}
		// People are told of what is odd.
		shown, problems := ReadCertificates(text)
		if len(problems) == 0 && (!alike || len(shown) != len(linkerd)) {
			t.Fatalf("nothing is said of what linkerd2 reads as %d, Go as %d, rustls as %d:\n%q", len(linkerd), len(goes), len(rust), text)
		}
		if err == nil && !got.IsZero() {
			again, err := ParseBundle(got.PEM())
			if err != nil || !again.Equal(got) {
				t.Fatalf("its own text is read as something else: %v", err)
			}
		}
		// AppendCertsFromPEM is what goCertificates says, but for what is there twice.
		slices.SortFunc(goes, bytes.Compare)
		if n := countGo(string(text)); n != len(slices.CompactFunc(goes, bytes.Equal)) {
			t.Fatalf("Go's pool takes %d, the model %d:\n%q", n, len(goes), text)
		}
	})
}

func TestReadBundleNamesWhoReadsOtherwise(t *testing.T) {
	t.Parallel()
	a, b := root(), root(named("root.linkerd.cluster.local 2026-2"))
	headers := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Origin": "here"}, Bytes: a.Raw}))
	for _, row := range []struct{ name, text, err string }{
		{"plain", string(pemOf(a, b)), ""},
		{"a comment between", string(pemOf(a)) + "# next\n" + string(pemOf(b)), ""},
		{"CR LF", strings.ReplaceAll(string(pemOf(a, b)), "\n", "\r\n"), ""},
		{"twice the same", string(pemOf(a, b, a)), ""},
		{"headers", headers + string(pemOf(b)), "other Go programs would read it in another way"},
		{"a blank line at the end", string(pemOf(a, b)) + "\n", "linkerd-identity would not start with it"},
		{"another block between", string(pemOf(a)) + string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}})) + string(pemOf(b)), "other Go programs would read it in another way"},
		{"a tab in a line", strings.Replace(string(pemOf(a)), "MII", "MII\t", 1), "proxies would read it in another way"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := ReadBundle([]byte(row.text))
			says(t, err, row.err)
		})
	}
}
