package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// However a key is damaged, no error and no fact repeats a part of it.
func TestDamagedKeysAreNotQuoted(t *testing.T) {
	t.Parallel()
	a := root()
	i := issuer(a)
	for _, row := range []struct {
		name     string
		text     []byte
		from, to int // where the secret stands in the base64
	}{
		{"PKCS#8", keyPEM(i.key), 48, 90},
		{"SEC 1", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(i.key.(*ecdsa.PrivateKey)))}), 10, 51},
		{"RSA", keyPEM(rsaKey()), 400, 1500},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			text := row.text
			body := strings.Split(strings.TrimSpace(string(text)), "\n")
			inner := strings.Join(body[1:len(body)-1], "")
			oneLine := body[0] + inner + body[len(body)-1]
			damaged := []string{
				string(text), inner, oneLine, oneLine + "\n", strings.ReplaceAll(string(text), "\n", ""),
				strings.ReplaceAll(string(text), "PRIVATE", "PUBLIC"), string(text[:len(text)/2]), string(text[len(text)/2:]),
				"-----BEGIN " + inner[row.from:row.from+20] + "-----\n" + inner + "\n-----END " + inner[row.from:row.from+20] + "-----\n",
				"-----BEGIN " + inner + "-----\n" + inner + "\n-----END " + inner + "-----\n",
				strings.Replace(string(text), "KEY-----\n", "KEY-----\nProc-Type: "+inner[row.from:row.from+40]+"\n\n", 1),
			}
			random := rand.New(rand.NewPCG(5, 6))
			for range 60 {
				d := bytes.Clone(text)
				switch at := random.IntN(len(d)); random.IntN(3) {
				case 0:
					d[at] = byte(random.IntN(256))
				case 1:
					d = append(d[:at], d[min(len(d), at+1+random.IntN(80)):]...)
				case 2:
					d = append(d[:at:at], append([]byte("\n"), d[at:]...)...)
				}
				damaged = append(damaged, string(d))
			}
			for _, d := range damaged {
				var said []string
				if _, err := ParsePrivateKey([]byte(d)); err != nil {
					said = append(said, err.Error())
				}
				if _, err := ParseBundle([]byte(d)); err != nil {
					said = append(said, err.Error())
				}
				_, problems := ReadCertificates([]byte(d))
				said = append(said, problems...)
				for _, data := range []map[string][]byte{
					{"tls.crt": pemOf(i), "tls.key": []byte(d)},
					{"crt.pem": pemOf(i), "key.pem": []byte(d)},
					{"tls.crt": []byte(d), "tls.key": []byte(d)},
					{"tls.crt": append(pemOf(i), d...), "tls.key": text},
					{"tls.crt": pemOf(i), "tls.key": text, "ca.crt": append(pemOf(a), text...)},
				} {
					f := ReadIssuer(data, mesh, noon)
					said = append(said, f.Problem, fmt.Sprintf("%+v", f), string(f.CABundle), string(must(json.Marshal(f))))
				}
				if err := LoadsInIdentity(pemOf(i), []byte(d), pemOf(a), noon); err != nil {
					said = append(said, err.Error())
				}
				for _, s := range said {
					for n := row.from; n+16 <= row.to; n++ {
						if strings.Contains(s, inner[n:n+16]) {
							t.Fatalf("%q of the key is repeated in %.300q", inner[n:n+16], s)
						}
					}
				}
			}
		})
	}
}

func TestPrivateKeyInTheAnchorsPlaceIsNotKept(t *testing.T) {
	t.Parallel()
	a := root()
	i := issuer(a)
	f := ReadIssuer(map[string][]byte{"tls.crt": pemOf(i), "tls.key": keyPEM(i.key), "ca.crt": append(pemOf(a), keyPEM(i.key)...)}, mesh, noon)
	if f.CABundle != nil || f.Problem != "" {
		t.Errorf("ca.crt %d octets, problem %q; want none of both", len(f.CABundle), f.Problem)
	}
}

// A key that serves is not yet in the form that certd writes, whichever of its
// two names holds the other form.
func TestEitherKeyInTheOlderFormIsNotComplete(t *testing.T) {
	t.Parallel()
	i := issuer(root())
	crt, key := pemOf(i), keyPEM(i.key)
	older := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(i.key.(*ecdsa.PrivateKey)))})
	for _, row := range []struct {
		name          string
		first, second []byte
		complete      bool
	}{{"neither", key, key, true}, {"tls.key", older, key, false}, {"key.pem", key, older, false}, {"both", older, older, false}} {
		f := ReadIssuer(map[string][]byte{"tls.crt": crt, "tls.key": row.first, "crt.pem": crt, "key.pem": row.second}, mesh, noon)
		if f.Complete != row.complete || f.Problem != "" {
			t.Errorf("%s: complete %t, problem %q", row.name, f.Complete, f.Problem)
		}
	}
}

// What is far too much is answered in good time and without a panic.
func TestHugeSecretsAreRead(t *testing.T) {
	t.Parallel()
	a := root()
	i := issuer(a)
	const mega = 1 << 20
	for _, row := range []struct {
		name    string
		crt     []byte
		problem string
	}{
		{"a thousand copies of the certificate", bytes.Repeat(pemOf(i), 1000), ""},
		{"a thousand other issuers of the name", append(pemOf(i), bytes.Repeat(pemOf(issuer(a)), 1000)...), ""},
		{"lines that begin and never end", bytes.Repeat([]byte("-----BEGIN CERTIFICATE-----\n"), mega/28), "not a PEM certificate"},
		{"a megabyte of hyphens", bytes.Repeat([]byte("-"), mega), "not a PEM certificate"},
		{"a megabyte of base64", append(append([]byte("-----BEGIN CERTIFICATE-----\n"), bytes.Repeat([]byte("A"), mega)...), "\n-----END CERTIFICATE-----\n"...), "linkerd-identity cannot use tls.crt"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := ReadIssuer(map[string][]byte{"tls.crt": row.crt, "tls.key": keyPEM(i.key)}, mesh, noon)
			if f.Problem == "" != (row.problem == "") || !strings.Contains(f.Problem, row.problem) {
				t.Errorf("problem %.200q, want %q", f.Problem, row.problem)
			}
			if len(f.Problem) > 1000 {
				t.Errorf("a problem of %d characters", len(f.Problem))
			}
			_ = f.Verify(must(NewBundle(a.Certificate)), noon)
			_, _ = ParseBundle(row.crt)
		})
	}
}
