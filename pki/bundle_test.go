package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// Two anchors as text in every form that somebody's tool has made of them, and
// how many each reader finds: linkerd2's codec, Go, and rustls-pemfile 1.0
// (-1: it refuses all of it). ParseBundle takes what all read alike, and of
// that only the plain form.
func TestParseBundleTakesWhatAllReadAlike(t *testing.T) {
	t.Parallel()
	a, b := root(), root(named("root.linkerd.cluster.local 2026-2"))
	one, two := string(pemOf(a)), string(pemOf(b))
	both := one + two
	headers := func(c *ca) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Origin": "here"}, Bytes: c.Raw}))
	}
	const fatal = -1
	for _, row := range []struct {
		name                string
		text                string
		linkerd, goes, rust int
		err                 string // of ParseBundle, "" = accepted
	}{
		{"plain", both, 2, 2, 2, ""},
		{"plain, in another order", two + one, 2, 2, 2, ""},
		{"no newline at the end", strings.TrimSuffix(both, "\n"), 2, 2, 2, ""},
		{"CR LF", strings.ReplaceAll(both, "\n", "\r\n"), 2, 2, 2, "CR LF"},
		{"a comment first", "# anchors\n" + both, 2, 2, 2, "block 1: it is not PEM"},
		{"a comment between", one + "# next\n" + two, 2, 2, 2, "block 2: there is other text"},
		{"a blank line between", one + "\n" + two, 2, 2, 2, "block 2: there is a blank line"},
		{"a blank line first", "\n" + both, 2, 2, 2, "block 1: there is a blank line"},
		{"a blank line after the last block", both + "\n", fatal, 2, 2, "block 3: there is a blank line"},
		{"a space after the last block", both + " ", fatal, 2, 2, "block 3: there is a blank line"},
		{"a comment after the last block", both + "# end\n", fatal, 2, 2, "block 3: there is other text"},
		{"CR LF and a blank line at the end", strings.ReplaceAll(both, "\n", "\r\n") + "\r\n", fatal, 2, 2, "CR LF"},
		{"a byte order mark", "\ufeff" + both, 1, 1, 1, "byte order mark"},
		{"another block between", one + string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}})) + two, 1, 2, 2, `block 2: a "X509 CRL" block`},
		{"a private key first", string(keyPEM(a.key)) + both, fatal, 2, 2, `block 1: a "PRIVATE KEY" block`},
		{"glued lines", strings.TrimSuffix(one, "\n") + two, fatal, 0, 1, "not one plain PEM block"},
		{"headers in the first", headers(a) + two, 2, 1, fatal, "block 1 is not in canonical form"},
		{"cut off", both[:len(both)-100], fatal, 1, fatal, "block 2 has no end line"},
		{"indented", "  " + strings.ReplaceAll(both, "\n", "\n  "), fatal, 0, 0, "block 1: it is not PEM"},
		{"twice the same", both + one, 3, 2, 3, "block 3 repeats block 1"},
		{"one long line each", longLines(a) + longLines(b), 2, 2, 2, "block 1 is not in canonical form"},
		{"spaces at the ends of lines", strings.ReplaceAll(both, "\n", " \n"), 2, 2, 2, "block 1: it is not PEM"},
		{"nothing", "", fatal, 0, 0, "it is empty"},
		{"another language", "trust me", fatal, 0, 0, "block 1: it is not PEM"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			linkerd, goes := countLinkerd(row.text), countGo(row.text)
			if linkerd != row.linkerd || goes != row.goes {
				t.Errorf("linkerd2 reads %d and Go %d, want %d and %d", linkerd, goes, row.linkerd, row.goes)
			}
			if rust := countRust(row.text); rust != row.rust {
				t.Errorf("the model of rustls-pemfile reads %d, it reads %d", rust, row.rust)
			}
			bundle, err := ParseBundle([]byte(row.text))
			says(t, err, row.err)
			if err == nil {
				if linkerd != 2 || goes != 2 || row.rust != 2 {
					t.Error("accepted, though readers differ")
				}
				if want := must(NewBundle(a.Certificate, b.Certificate)); !bundle.Equal(want) {
					t.Error("other anchors were read")
				}
			}
			found, problems := ReadCertificates([]byte(row.text))
			if quiet := len(problems) == 0; quiet != (row.err == "" || strings.Contains(row.err, "repeats")) {
				t.Errorf("for people it has the problems %q", problems)
			}
			if row.linkerd > 0 && len(found) < row.linkerd {
				t.Errorf("for people it shows %d certificates, linkerd2 reads %d", len(found), row.linkerd)
			}
		})
	}
}

func longLines(c *ca) string {
	lines := strings.Split(strings.TrimSpace(string(pemOf(c))), "\n")
	last := len(lines) - 1
	return lines[0] + "\n" + strings.Join(lines[1:last], "") + "\n" + lines[last] + "\n"
}

func countLinkerd(text string) int {
	certs, err := linkerdCertificates([]byte(text))
	if err != nil {
		return -1
	}
	return len(certs)
}

func countGo(text string) int {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(text))
	//lint:ignore SA1019 it is not the system's pool
	return len(pool.Subjects())
}

func TestNewBundleRefuses(t *testing.T) {
	t.Parallel()
	many := make([]*ca, 0, MaxAnchors+1)
	for range MaxAnchors + 1 {
		many = append(many, root())
	}
	for _, row := range []struct {
		name    string
		anchors []*ca
		err     string
	}{
		{"nothing in an empty one", nil, ""},
		{"no plain anchor", []*ca{root()}, ""},
		{"no RSA-2048 anchor", []*ca{root(kind("RSA-2048"))}, ""},
		{"no expired anchor", []*ca{root(valid(days(-20), days(-10)))}, ""},
		{"not eight", many[:MaxAnchors], ""},
		{"nine", many, "8 anchors at most"},
		{"a leaf", []*ca{leaf(root())}, "not a CA"},
		{"a CA that may not sign", []*ca{root(usage(x509.KeyUsageDigitalSignature))}, "does not let it sign"},
		{"P-384", []*ca{root(kind("P-384"))}, "P-384"},
		{"SHA-384", []*ca{root(signedWith(x509.ECDSAWithSHA384))}, "ECDSA-SHA384"},
		{"Ed25519", []*ca{root(kind("Ed25519"))}, "Ed25519"},
		{"RSA with SHA-512", []*ca{root(kind("RSA-2048"), signedWith(x509.SHA512WithRSA))}, "RSA"},
		{"an unknown critical extension", []*ca{root(), root(unknownCritical)}, "refuse a whole bundle"},
		{"serial 0", []*ca{root(serial(new(big.Int)))}, "InvalidSerialNumber"},
		{"a serial of 21 octets", []*ca{root(longSerial)}, "InvalidSerialNumber"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, err := NewBundle(certs(row.anchors...)...)
			says(t, err, row.err)
		})
	}
}

func TestBundlesAreSetsWithOneText(t *testing.T) {
	t.Parallel()
	older, newer, same := root(valid(days(-9), days(9))), root(valid(days(-3), days(9))), root(valid(days(-9), days(9)))
	all := certs(older, newer, same)
	want := must(NewBundle(all...))
	for range 6 { // orders
		all[0], all[1], all[2] = all[1], all[2], all[0]
		all[0], all[1] = all[1], all[0]
		got := must(NewBundle(append(all, all[1])...))
		if !got.Equal(want) || !bytes.Equal(got.PEM(), want.PEM()) || got.SHA256() != want.SHA256() {
			t.Fatal("another order or a repetition makes another bundle")
		}
	}
	if !want.Anchors()[0].Equal(newer.Certificate) {
		t.Error("the newest anchor is not first")
	}
	if got := must(ParseBundle(want.PEM())); !got.Equal(want) {
		t.Error("its own text is read as something else")
	}
	sum := sha256.Sum256(want.PEM())
	if want.SHA256() != hex.EncodeToString(sum[:]) {
		t.Error("its digest is not over its text")
	}
	if less := must(NewBundle(older.Certificate)); less.Equal(want) || less.Contains(newer.Certificate) || !want.Contains(newer.Certificate) {
		t.Error("sets are compared wrongly")
	}
	if clear := want.Anchors(); len(clear) == 3 {
		clear[0] = nil
	}
	if slices.Contains(want.Anchors(), nil) {
		t.Error("a bundle can be changed from outside")
	}
	if zero := (Bundle{}); !zero.IsZero() || want.IsZero() || zero.PEM() != nil || zero.Contains(older.Certificate) || !zero.Equal(must(NewBundle())) {
		t.Error("the zero bundle is not the empty one")
	}
}

func FuzzParseBundle(f *testing.F) {
	a, b := root(), root(named("root.linkerd.cluster.local 2026-2"))
	for _, text := range []string{
		"", string(pemOf(a)), string(pemOf(a, b)), string(pemOf(b, a, a)), strings.TrimSpace(string(pemOf(a, b))), string(pemOf(a)) + "\n" + string(pemOf(b)),
		longLines(a), string(keyPEM(a.key)) + string(pemOf(a)), string(pemOf(leaf(a))), "\ufeff" + string(pemOf(a)),
		strings.ReplaceAll(string(pemOf(a)), "\n", "\r\n"), string(pemOf(a))[:200], "-----BEGIN -----\n-----END -----\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		ReadCertificates(text)
		got, err := ParseBundle(text)
		if err != nil {
			return
		}
		again, err := ParseBundle(got.PEM())
		if err != nil || !again.Equal(got) || !bytes.Equal(again.PEM(), got.PEM()) {
			t.Fatalf("its own text is not read back: %v", err)
		}
		n := len(got.Anchors())
		for _, form := range []string{string(text), string(got.PEM())} {
			if countLinkerd(form) != n || countGo(form) != n {
				t.Fatalf("linkerd2 reads %d anchors, Go %d, certd %d", countLinkerd(form), countGo(form), n)
			}
		}
	})
}
