package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is a CA of the tests: an anchor, or an issuer under one.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a CA certificate valid for a day, changed by change, under parent;
// nil parent makes an anchor.
func sign(t *testing.T, parent *authority, change func(*x509.Certificate)) authority {
	t.Helper()
	key := newKey(t)
	return signKey(t, parent, key, key.Public(), change)
}

func signKey(t *testing.T, parent *authority, key *ecdsa.PrivateKey, public any, change func(*x509.Certificate)) authority {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "identity.linkerd.cluster.local"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if parent == nil {
		template.Subject.CommonName = "root.linkerd.cluster.local"
		parent = &authority{cert: template, key: key}
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, public, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func encode(t *testing.T, blockType string, marshal func() ([]byte, error)) []byte {
	t.Helper()
	der, err := marshal()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

func (a authority) keyPEM(t *testing.T) []byte {
	return encode(t, "PRIVATE KEY", func() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(a.key) })
}

func write(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The rows are the verdicts of the real controller.
func TestTheControllerTakesAnIssuer(t *testing.T) {
	old, renewed := sign(t, nil, nil), sign(t, nil, nil)
	issuer := sign(t, &old, nil)
	underNew := sign(t, &renewed, nil)
	cross := signKey(t, &old, renewed.key, renewed.key.Public(), func(c *x509.Certificate) { c.Subject = renewed.cert.Subject })
	with := func(change func(*x509.Certificate)) authority { return sign(t, &old, change) }
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaIssuer := signKey(t, &old, nil, rsaKey.Public(), nil)
	rsaKeyPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

	for _, test := range []struct {
		name      string
		cert, key []byte
		refused   string // "" if it loads
	}{
		{"a normal issuer", issuer.pem, issuer.keyPEM(t), ""},
		{"a key in SEC 1 encoding", issuer.pem, encode(t, "EC PRIVATE KEY", func() ([]byte, error) { return x509.MarshalECPrivateKey(issuer.key) }), ""},
		{"a chain across to the old anchor", join(underNew.pem, cross.pem), underNew.keyPEM(t), ""},
		{"a chain with its root", join(issuer.pem, old.pem), issuer.keyPEM(t), ""},
		{"an RSA key, though it cannot sign a leaf", rsaIssuer.pem, rsaKeyPEM, ""},
		{"an anchor that was not there at the start", underNew.pem, underNew.keyPEM(t), "signed by unknown authority"},
		{"another certificate's key", issuer.pem, underNew.keyPEM(t), "do not match"},
		{"no certificate at all", nil, issuer.keyPEM(t), "no certificates found"},
		{"a key that is none", issuer.pem, []byte("secret"), "not PEM-encoded"},
		{"a key of another block type", issuer.pem, pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY"}), "unsupported block type"},
		{"a blank line at the end", append(bytes.Clone(issuer.pem), '\n'), issuer.keyPEM(t), "not a PEM certificate"},
		{"a comment at the end", append(bytes.Clone(issuer.pem), "# end\n"...), issuer.keyPEM(t), "not a PEM certificate"},
		{"a comment before", join([]byte("# issuer\n"), issuer.pem), issuer.keyPEM(t), ""},
		{"no newline at the end", bytes.TrimSpace(issuer.pem), issuer.keyPEM(t), ""},
		{"Windows line ends", bytes.ReplaceAll(issuer.pem, []byte("\n"), []byte("\r\n")), issuer.keyPEM(t), ""},
		{"a key before the certificate", join(issuer.keyPEM(t), issuer.pem), issuer.keyPEM(t), "no certificates found"},
		{"a key inside a chain, which ends it", join(underNew.pem, issuer.keyPEM(t), cross.pem), underNew.keyPEM(t), "signed by unknown authority"},
	} {
		t.Run(test.name, func(t *testing.T) { judge(t, old, test.cert, test.key, test.refused) })
	}
	for _, test := range []struct {
		name    string
		change  func(*x509.Certificate)
		refused string
	}{
		{"both extended key usages", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}, ""},
		{"clientAuth alone", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "incompatible key usage"},
		{"no CA", func(c *x509.Certificate) { c.IsCA = false }, "must be an intermediate-CA"},
		{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "expired or is not yet valid"},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, "expired or is not yet valid"},
		{"without keyCertSign, though no leaf verifies", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }, ""},
		{"any name", func(c *x509.Certificate) { c.Subject.CommonName = "whatever" }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := with(test.change)
			judge(t, old, a.pem, a.keyPEM(t), test.refused)
		})
	}
}

func judge(t *testing.T, anchor authority, cert, key []byte, refused string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string][]byte{"tls.crt": cert, "tls.key": key})
	roots := x509.NewCertPool()
	roots.AddCert(anchor.cert)
	_, err := loadIssuer(dir, "kubernetes.io/tls", roots, time.Now())
	switch {
	case refused == "" && err != nil:
		t.Fatalf("refused: %v", err)
	case refused != "" && (err == nil || !strings.Contains(err.Error(), refused)):
		t.Fatalf("got %v, want an error with %q", err, refused)
	}
}

func TestTheSchemeNamesTheFiles(t *testing.T) {
	anchor := sign(t, nil, nil)
	issuer := sign(t, &anchor, nil)
	roots := x509.NewCertPool()
	roots.AddCert(anchor.cert)
	for scheme, names := range map[string][2]string{
		"linkerd.io/tls": {"crt.pem", "key.pem"}, "kubernetes.io/tls": {"tls.crt", "tls.key"}, "anything": {"tls.crt", "tls.key"}} {
		dir := t.TempDir()
		write(t, dir, map[string][]byte{names[0]: issuer.pem, names[1]: issuer.keyPEM(t)})
		if _, err := loadIssuer(dir, scheme, roots, time.Now()); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestTrustRootsThatEndTheController(t *testing.T) {
	anchor := sign(t, nil, nil)
	for _, test := range []struct {
		name, text, refused string
	}{
		{"one anchor", string(anchor.pem), ""},
		{"two with a blank line between", string(anchor.pem) + "\n" + string(anchor.pem), ""},
		{"a blank line at the end", string(anchor.pem) + "\n", "not a PEM certificate"},
		{"nothing", "", "no certificates found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string][]byte{"ca-bundle.crt": []byte(test.text)})
			_, err := loadRoots(filepath.Join(dir, "ca-bundle.crt"))
			if test.refused == "" && err != nil || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Fatalf("got %v, want %q", err, test.refused)
			}
		})
	}
}
