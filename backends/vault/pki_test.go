package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
	"certd.internal/rotation"
)

var issuerProfile = pki.IssuerProfile{Namespace: "linkerd", TrustDomain: "cluster.local", Lifetime: 168 * time.Hour, Backdate: 10 * time.Minute}

// pkiRoot makes a root as docs tell an operator to.
func (l *lab) pkiRoot(t *testing.T, extra map[string]any) (mount string) {
	t.Helper()
	mount = l.mount(t, "pki")
	body := map[string]any{"common_name": "root.linkerd.cluster.local", "key_type": "ec", "key_bits": 256,
		"ttl": "87600h", "issuer_name": "a1", "exclude_cn_from_sans": true, "not_before_duration": "1h"}
	for k, v := range extra {
		body[k] = v
	}
	l.must(t, "POST", mount+"/issuers/generate/root/internal", body)
	return mount
}

func request(t *testing.T) (pki.PrivateKey, []byte) {
	t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "whatever"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

// What the engine builds under the shipped policy is exactly certd's profile.
func TestPKI(t *testing.T) {
	l := openLab(t)
	root := l.pkiRoot(t, nil)
	keys := l.open(t, Auth{Token: fixed(l.token(t, nil, l.policy(t, "certd-pki.hcl", "pki-root", root)))}).PKI(root, "")
	opened, err := keys.OpenKey(t.Context(), "acme-mesh-anchor-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	signer := opened.(rotation.IssuerSigner)
	if err := pki.CheckAnchor(signer.Anchor()); err != nil {
		t.Errorf("the root as an anchor: %v", err)
	}
	if info := signer.Info(); info.Backend != "vault-pki" || info.Name != "acme-mesh-anchor-1" || info.Public == nil {
		t.Errorf("info is %+v", info)
	}
	if _, err := keys.OpenKey(t.Context(), "acme-mesh-anchor-1", signer.Anchor().PublicKey); err != nil {
		t.Errorf("with its own key pinned: %v", err)
	}
	seen := map[string]bool{}
	for range 2 {
		key, csr := request(t)
		cert, id, err := signer.SignIssuer(t.Context(), issuerProfile, csr)
		if err != nil {
			t.Fatal(err)
		}
		if err := pki.CheckIssuer(cert, signer.Anchor(), issuerProfile, key.Public().(*ecdsa.PublicKey), time.Now()); err != nil {
			t.Error(err)
		}
		if id == "" || seen[id] {
			t.Errorf("request id %q", id)
		}
		seen[id] = true
		if got := cert.NotAfter.Sub(cert.NotBefore); got != issuerProfile.Lifetime+issuerProfile.Backdate {
			t.Errorf("it lives %s", got)
		}
	}
}

func TestPKIRefusals(t *testing.T) {
	l := openLab(t)
	root := l.pkiRoot(t, nil)
	shipped := l.open(t, Auth{Token: fixed(l.token(t, nil, l.policy(t, "certd-pki.hcl", "pki-root", root)))}).PKI(root, "a1")
	if _, err := shipped.CreateKey(t.Context(), "a"); !errors.Is(err, rotation.ErrUnsupported) {
		t.Errorf("making a CA: %v", err)
	}
	foreign, err := l.asRoot(t).PKI(l.pkiRoot(t, nil), "").OpenKey(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shipped.OpenKey(t.Context(), "a", foreign.Info().Public); !errors.Is(err, rotation.ErrKeyUnfit) {
		t.Errorf("with another root pinned: %v", err)
	}
	if _, err := l.asRoot(t).PKI(root, "a2").OpenKey(t.Context(), "a", nil); !errors.Is(err, rotation.ErrKeyNotFound) {
		t.Errorf("an issuer that is not there: %v", err)
	}
	if _, err := l.asRoot(t).PKI(unique("nothing"), "").OpenKey(t.Context(), "a", nil); err == nil || !strings.Contains(err.Error(), "nothing is mounted") {
		t.Errorf("a mount that is not there: %v", err)
	}
	opened, err := shipped.OpenKey(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, csr := request(t)
	for name, change := range map[string]func(*pki.IssuerProfile){
		"another trust domain": func(p *pki.IssuerProfile) { p.TrustDomain = "example.org" },
		"another lifetime":     func(p *pki.IssuerProfile) { p.Lifetime = 200 * time.Hour },
	} {
		p := issuerProfile
		change(&p)
		_, _, err := opened.(rotation.IssuerSigner).SignIssuer(t.Context(), p, csr)
		if !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), "not with these parameters") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := opened.(rotation.IssuerSigner).SignIssuer(ctx, issuerProfile, csr); !errors.Is(err, rotation.ErrUnavailable) && !errors.Is(err, rotation.ErrOutcomeUnknown) {
		t.Errorf("a call whose context has ended: %v", err)
	}
}

// An issuer never outlives its CA, nor starts before it.
func TestPKIRootThatIsYoungAndEndsSoon(t *testing.T) {
	l := openLab(t)
	root := l.pkiRoot(t, map[string]any{"ttl": "24h", "not_before_duration": "30s"})
	opened, err := l.asRoot(t).PKI(root, "").OpenKey(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	signer := opened.(rotation.IssuerSigner)
	_, csr := request(t)
	cert, _, err := signer.SignIssuer(t.Context(), issuerProfile, csr)
	if err != nil {
		t.Fatal(err)
	}
	if ca := signer.Anchor(); cert.NotAfter.After(ca.NotAfter) || cert.NotBefore.Before(ca.NotBefore) {
		t.Errorf("issuer from %s to %s, CA from %s to %s", cert.NotBefore, cert.NotAfter, ca.NotBefore, ca.NotAfter)
	}
}

func TestIssuerTTL(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	far := now.AddDate(10, 0, 0)
	day := 24 * time.Hour
	for _, c := range []struct {
		name  string
		taken []time.Time
		caEnd time.Time
		want  string
	}{
		{"the lifetime asked for", nil, far, "168h"},
		{"the CA ends sooner", nil, now.Add(day), "86395s"},
		{"another issuer ends in the same minute", []time.Time{now.Add(7*day + 20*time.Second)}, far, "604755s"},
		{"two others end around then", []time.Time{now.Add(7 * day), now.Add(7*day - 65*time.Second)}, far, "604670s"},
		{"another issuer ends a day before", []time.Time{now.Add(6 * day)}, far, "168h"},
		{"the CA has all but ended", nil, now.Add(30 * time.Second), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := issuerProfile
			p.NotAfterTaken = c.taken
			got, err := issuerTTL(now, p, c.caEnd)
			switch {
			case c.want == "" && err == nil:
				t.Errorf("got %s, want an error", seconds(got))
			case c.want != "" && (err != nil || seconds(got) != c.want):
				t.Errorf("got %s %v, want %s", seconds(got), err, c.want)
			}
		})
	}
}
