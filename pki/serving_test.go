package pki

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

const injectorName = "linkerd-proxy-injector.linkerd.svc"

func servingProfile() ServingProfile {
	return ServingProfile{DNSNames: []string{injectorName}, Lifetime: 30 * 24 * time.Hour, Backdate: 10 * time.Minute}
}

// serving makes a key and a serving certificate under a.
func serving(t *testing.T, a *ca) (PrivateKey, *x509.Certificate) {
	t.Helper()
	key := must(GenerateKey())
	c, err := SignServing(must(NewServingTemplate(noon, servingProfile(), a.Certificate)), a.Certificate, key.PublicKey(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return key, c
}

func TestSignServing(t *testing.T) {
	t.Parallel()
	a := root()
	key, c := serving(t, a)
	if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) || !slices.Equal(c.DNSNames, []string{injectorName}) {
		t.Errorf("CA %t, key usage %b, extended %v, names %q", c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.DNSNames)
	}
	wantExtensions(t, c, map[string]bool{"2.5.29.15": true, "2.5.29.19": true, "2.5.29.14": false, "2.5.29.35": false, "2.5.29.17": false, "2.5.29.37": false})
	set := NewCASet(a.Certificate)
	if err := set.Verify([]*x509.Certificate{c}, injectorName, noon); err != nil {
		t.Error(err)
	}
	if err := set.Verify([]*x509.Certificate{c}, "linkerd-sp-validator.linkerd.svc", noon); err == nil {
		t.Error("it serves another webhook, too")
	}
	if err := set.Verify([]*x509.Certificate{c}, injectorName, days(31)); err == nil {
		t.Error("it serves after its end")
	}
	f := ReadServing(map[string][]byte{"tls.crt": EncodeCertificates(c), "tls.key": key.PKCS8PEM(), "ca.crt": set.PEM()})
	if f.Problem != "" || !f.Complete || !f.Chain[0].Equal(c) || !f.CAs.Equal(set) {
		t.Errorf("read back: problem %q, complete %t", f.Problem, f.Complete)
	}
}

func TestNothingWrongIsServed(t *testing.T) {
	t.Parallel()
	a := root()
	for _, row := range []struct {
		name   string
		change func(c *x509.Certificate)
		err    string
	}{
		{"nothing is wrong", nil, ""},
		{"a CA", func(c *x509.Certificate) { c.IsCA = true }, "was not asked"},
		{"a client, too", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) }, "serverAuth alone"},
		{"no name", func(c *x509.Certificate) { c.DNSNames = nil }, "subject alternative names"},
		{"an end past the CA's", func(c *x509.Certificate) { c.NotAfter = a.NotAfter.Add(time.Second) }, "its validity is not within"},
		{"an unknown extension", func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, extraExtension) }, "it has an extension"},
		{"may sign certificates", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "was not asked: its key usage"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			template := must(NewServingTemplate(noon, servingProfile(), a.Certificate))
			if row.change != nil {
				row.change(template)
			}
			_, err := SignServing(template, a.Certificate, must(GenerateKey()).PublicKey(), a.key)
			says(t, err, row.err)
		})
	}
	if _, err := NewServingTemplate(noon, ServingProfile{Lifetime: time.Hour}, a.Certificate); err == nil {
		t.Error("a serving certificate without a name")
	}
	_, err := NewServingTemplate(a.NotAfter.Add(time.Hour), servingProfile(), a.Certificate)
	says(t, err, "its CA")
}

// What Linkerd's chart makes, a self-signed certificate that is no CA, is a
// caBundle like any other; and what a caBundle holds besides does no harm.
func TestACASetIsWhatAnAPIServerSees(t *testing.T) {
	t.Parallel()
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: injectorName}, DNSNames: []string{injectorName},
		NotBefore: noon, NotAfter: days(365), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	helm := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, rsaKey.Public(), rsaKey))))
	a, b := root(), root()
	_, leaf := serving(t, a)

	text := slices.Concat([]byte("# ours\n"), EncodeCertificates(helm), []byte("\n\n"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}}), EncodeCertificates(a.Certificate, a.Certificate))
	set := ParseCASet(text)
	if !set.Equal(NewCASet(a.Certificate, helm)) || !set.Equal(ParseCASet(set.PEM())) || set.SHA256() != NewCASet(a.Certificate, helm).SHA256() {
		t.Errorf("%d certificates", len(set.Certificates()))
	}
	for name, chain := range map[string][]*x509.Certificate{"the self-signed one": {helm}, "the one under the CA": {leaf}} {
		if err := set.Verify(chain, injectorName, days(1)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := NewCASet(b.Certificate).Verify([]*x509.Certificate{leaf}, injectorName, days(1)); err == nil {
		t.Error("accepted under another CA")
	}
	union := NewCASet(a.Certificate).Union(NewCASet(b.Certificate))
	if !union.Holds(NewCASet(b.Certificate)) || NewCASet(b.Certificate).Holds(union) || union.Holds(set) {
		t.Error("Holds is not what a set holds")
	}
	if got := union.Where(func(c *x509.Certificate) bool { return !c.Equal(a.Certificate) }); !got.Equal(NewCASet(b.Certificate)) {
		t.Errorf("%d are left", len(got.Certificates()))
	}
	if !ParseCASet(nil).IsZero() || len(ParseCASet([]byte("garbage")).PEM()) != 0 {
		t.Error("nothing is not an empty set")
	}
}

func TestReadServing(t *testing.T) {
	t.Parallel()
	a := root()
	key, c := serving(t, a)
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(key.key))})
	other := must(GenerateKey())
	for _, row := range []struct {
		name     string
		crt, key []byte
		problem  string
		complete bool
	}{
		{"as certd writes it", EncodeCertificates(c), key.PKCS8PEM(), "", true},
		{"a key in the form that kubert refuses", EncodeCertificates(c), sec1, "", false},
		{"another form of PEM", append([]byte("# hi\n"), EncodeCertificates(c)...), key.PKCS8PEM(), "", false},
		{"no certificate", nil, key.PKCS8PEM(), "no certificate", false},
		{"no key", EncodeCertificates(c), nil, "no key", false},
		{"another key", EncodeCertificates(c), other.PKCS8PEM(), "not that of the first", false},
		{"garbage for a key", EncodeCertificates(c), []byte("garbage"), "not PEM", false},
	} {
		f := ReadServing(map[string][]byte{"tls.crt": row.crt, "tls.key": row.key, "ca.crt": key.PKCS8PEM()})
		if row.problem == "" && f.Problem != "" || row.problem != "" && !strings.Contains(f.Problem, row.problem) || f.Complete != row.complete {
			t.Errorf("%s: problem %q, complete %t", row.name, f.Problem, f.Complete)
		}
		if f.CAText != nil || !f.CAs.IsZero() {
			t.Errorf("%s: a key in ca.crt is kept", row.name)
		}
	}
}
