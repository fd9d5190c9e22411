package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"
)

// What comes back from a signer is compared with what was asked for.
func TestCheckBuiltComparesWithTheTemplate(t *testing.T) {
	t.Parallel()
	a := root()
	key := must(GenerateKey())
	template := must(NewIssuerTemplate(noon, issuerProfile(), a.Certificate))
	c := must(SignIssuer(template, a.Certificate, key.PublicKey(), a.key))
	for _, row := range []struct {
		name   string
		change func(asked *x509.Certificate)
		err    string
	}{
		{"all as asked", func(*x509.Certificate) {}, ""},
		{"another serial", func(x *x509.Certificate) { x.SerialNumber = new(big.Int).Add(x.SerialNumber, big.NewInt(1)) }, "serial"},
		{"another subject", func(x *x509.Certificate) { x.Subject.CommonName = "other" }, "subject"},
		{"another name", func(x *x509.Certificate) { x.DNSNames = []string{"other"} }, "DNS names"},
		{"another start", func(x *x509.Certificate) { x.NotBefore = x.NotBefore.Add(time.Second) }, "valid from"},
		{"one second longer", func(x *x509.Certificate) { x.NotAfter = x.NotAfter.Add(-time.Second) }, "valid from"},
		{"another path length", func(x *x509.Certificate) { x.MaxPathLen = 1 }, "path length"},
	} {
		t.Run(row.name, func(t *testing.T) {
			asked := *template
			row.change(&asked)
			says(t, checkBuilt(c, &asked, key.PublicKey()), row.err)
		})
	}
	t.Run("another key", func(t *testing.T) {
		says(t, checkBuilt(c, template, must(GenerateKey()).PublicKey()), "another key")
	})
	t.Run("a signer that changes its mind while it signs", func(t *testing.T) {
		template := *template
		signer := countingSigner{Signer: a.key, spoil: func(s []byte) ([]byte, error) {
			template.NotAfter = template.NotAfter.Add(-time.Second)
			return s, nil
		}}
		_, err := SignIssuer(&template, a.Certificate, key.PublicKey(), &signer)
		says(t, err, "came back wrong from the signer, and is not used")
	})
}

func TestVerifiersTakeBundles(t *testing.T) {
	t.Parallel()
	a := root()
	i := issuer(a)
	chain := certs(leaf(i), i)
	good, foreign := must(NewBundle(a.Certificate)), must(NewBundle(root(named("foreign")).Certificate))
	for name, verify := range map[string]func([]*x509.Certificate, Bundle, string, x509.ExtKeyUsage, time.Time) error{"Go": VerifyGo, "webpki": VerifyWebPKI} {
		t.Run(name, func(t *testing.T) {
			says(t, verify(chain, good, mesh.leafName(), asServer, noon), "")
			if verify(chain, foreign, mesh.leafName(), asServer, noon) == nil || verify(chain, Bundle{}, mesh.leafName(), asServer, noon) == nil {
				t.Error("a leaf verifies under anchors that are not its own")
			}
			says(t, verify(nil, good, mesh.leafName(), asServer, noon), "no certificate")
		})
	}
}

func TestCredentialsShowTheirSerialAndNoMore(t *testing.T) {
	t.Parallel()
	i := issuer(root())
	cred := must(NewCredential(must(ParsePrivateKey(keyPEM(i.key))), i.Certificate))
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("issued", "credential", cred, "none", Credential{})
	var line struct{ Credential, None string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line.Credential != "certificate "+Serial(i.Certificate) || line.None != "[no credential]" {
		t.Errorf("logged as %+v", line)
	}
	if chain := cred.Chain(); len(chain) != 1 || !chain[0].Equal(i.Certificate) {
		t.Error("its chain is another")
	}
	if !strings.HasPrefix(string(cred.KeyPEM()), "-----BEGIN PRIVATE KEY-----\n") {
		t.Error("its key is not PKCS#8")
	}
	cred.Wipe()
	says(t, cred.Prove(must(NewBundle(root().Certificate)), mesh, noon), "wiped")
}

func TestNames(t *testing.T) {
	t.Parallel()
	a := root()
	for _, row := range []struct{ name, got, want string }{
		{"anchors are told apart by generation", AnchorCommonName("cluster.local", 2026, 3), "root.linkerd.cluster.local 2026-3"},
		{"issuers are named as Linkerd's documentation asks", issuerProfile().Name(), "identity.linkerd.cluster.local"},
		{"leaves are named as identity names them", mesh.leafName(), "certd-proof.linkerd.serviceaccount.identity.linkerd.cluster.local"},
		{"nobody signed this", AKI(&x509.Certificate{}), ""},
		{"key identifiers are hex", SKI(&x509.Certificate{SubjectKeyId: []byte{0, 0xab}}), "00ab"},
		{"fingerprints are SHA-256 over the DER", Fingerprint(&x509.Certificate{Raw: []byte("abc")}), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"an anchor's text is one block", string(must(NewBundle(a.Certificate)).PEM()), string(pemOf(a))},
	} {
		if row.got != row.want {
			t.Errorf("%s: %q, want %q", row.name, row.got, row.want)
		}
	}
}
