package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.step.sm/crypto/pemutil"
)

// The forms in which openssl, step and cert-manager leave a key.
func TestReadPrivateKey(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	sec1 := func(k *ecdsa.PrivateKey) []byte { return must(x509.MarshalECPrivateKey(k)) }
	pkcs8 := func(k any) []byte { return must(x509.MarshalPKCS8PrivateKey(k)) }
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	curve := block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7})
	modern := string(pem.EncodeToMemory(must(pemutil.Serialize(key, pemutil.WithPKCS8(true), pemutil.WithPassword([]byte("open sesame"))))))
	step := string(pem.EncodeToMemory(must(pemutil.Serialize(key, pemutil.WithPassword([]byte("open sesame"))))))
	other := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	big := must(rsa.GenerateKey(rand.Reader, 2048))
	certificate := string(pemOf(root()))
	right := func() ([]byte, error) { return []byte("open sesame"), nil }
	for _, row := range []struct {
		name, text string
		passphrase func() ([]byte, error)
		err        string // "": it is read
	}{
		{"PKCS#8", block("PRIVATE KEY", pkcs8(key)), nil, ""},
		{"SEC 1", block("EC PRIVATE KEY", sec1(key)), nil, ""},
		{"SEC 1 with the curve before it, as openssl writes it", curve + block("EC PRIVATE KEY", sec1(key)), nil, ""},
		{"beside its certificate", certificate + block("PRIVATE KEY", pkcs8(key)), nil, ""},
		{"encrypted PKCS#8", modern, right, ""},
		{"encrypted SEC 1, as step writes it", step, right, ""},
		{"encrypted, and no passphrase", modern, nil, "is encrypted"},
		{"encrypted, and another passphrase", modern, func() ([]byte, error) { return []byte("guess"), nil }, "does not open"},
		{"encrypted by step, and another passphrase", step, func() ([]byte, error) { return []byte("guess"), nil }, "does not"},
		{"encrypted, and the passphrase cannot be had", modern, func() ([]byte, error) { return nil, errors.New("no terminal") }, "no terminal"},
		{"P-384", block("PRIVATE KEY", pkcs8(other)), nil, "is ECDSA P-384"},
		{"RSA", block("PRIVATE KEY", pkcs8(big)), nil, "is RSA 2048"},
		{"RSA, PKCS#1", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(big)), nil, "is RSA 2048"},
		{"two keys", block("PRIVATE KEY", pkcs8(key)) + block("PRIVATE KEY", pkcs8(key)), nil, "more than one"},
		{"a certificate", certificate, nil, "no private key"},
		{"a public key", block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(key.Public()))), nil, `"PUBLIC KEY" block is not a private key`},
		{"no PEM", "hunter2", nil, "no private key"},
		{"nonsense", block("PRIVATE KEY", []byte("hunter2")), nil, "does not hold"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := ReadPrivateKey([]byte(row.text), row.passphrase)
			switch {
			case row.err != "":
				if err == nil || !strings.Contains(err.Error(), row.err) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%v, want %q in it", err, row.err)
				}
			case err != nil:
				t.Error(err)
			case !got.PublicKey().Equal(key.Public()):
				t.Error("it is another key")
			}
		})
	}
	k := must(ReadPrivateKey([]byte(modern), right))
	if back := must(x509.ParsePKCS8PrivateKey(k.PKCS8())); !key.Equal(back) {
		t.Error("PKCS8 gives another key")
	}
	if shown := fmt.Sprintf("%v %+v %s", k, k, k); shown != "[private key] [private key] [private key]" {
		t.Error("it shows itself")
	}
}

func TestCheckImported(t *testing.T) {
	now := days(10)
	leaves := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, row := range []struct {
		name, err string
		warnings  int
		cert      *x509.Certificate
	}{
		{"one of certd's form", "", 0, root(valid(days(0), days(3650))).Certificate},
		{"one of step's, with a path length of 1", "", 0, root(valid(days(0), days(3650)), pathLen(1)).Certificate},
		{"one of linkerd install's, with the usages of leaves", "", 0, root(valid(days(0), days(365)), eku(leaves...)).Certificate},
		{"59 days left", "", 1, root(valid(days(0), days(69))).Certificate},
		{"61 days left", "", 0, root(valid(days(0), days(71))).Certificate},
		{"ended", "it ended at", 0, root(valid(days(0), days(9))).Certificate},
		{"not begun", "it begins at", 0, root(valid(days(11), days(3650))).Certificate},
		{"with one usage alone", "extended key usages", 0, root(valid(days(0), days(365)), eku(x509.ExtKeyUsageClientAuth)).Certificate},
		{"not a CA", "not a CA", 0, root(notCA).Certificate},
		{"without keyCertSign", "does not let it sign", 0, root(usage(x509.KeyUsageDigitalSignature)).Certificate},
		{"with a path length of 0", "path length is 0", 0, root(pathLen(0)).Certificate},
		{"an issuer", "not by itself", 0, issuer(root(), pathLen(1)).Certificate},
		{"RSA", "P-256 alone", 0, root(valid(days(0), days(3650)), kind("RSA-2048")).Certificate},
		{"P-384", "Linkerd takes P-256", 0, root(kind("P-384")).Certificate},
	} {
		t.Run(row.name, func(t *testing.T) {
			warnings, err := CheckImported(row.cert, now)
			if len(warnings) != row.warnings {
				t.Errorf("warnings %q", warnings)
			}
			if row.err == "" && err != nil {
				t.Error(err)
			}
			if row.err != "" {
				says(t, err, row.err)
			}
		})
	}
}
