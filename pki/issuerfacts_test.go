package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"
	"testing"
)

func TestReadIssuer(t *testing.T) {
	t.Parallel()
	a := root()
	i := issuer(a)
	bundle := must(NewBundle(a.Certificate))
	crt, key := pemOf(i), keyPEM(i.key)
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(i.key.(*ecdsa.PrivateKey)))})
	other := keyPEM(newKey("P-256"))
	const whole, part = true, false
	for _, row := range []struct {
		name     string
		data     map[string][]byte
		complete bool
		chain    int
		problem  string // part of it, "" = none
	}{
		{"as certd writes it", map[string][]byte{"tls.crt": crt, "tls.key": key, "crt.pem": crt, "key.pem": key, "ca.crt": bundle.PEM()}, whole, 1, ""},
		{"as cert-manager writes it", map[string][]byte{"tls.crt": crt, "tls.key": key, "ca.crt": bundle.PEM()}, part, 1, ""},
		{"as Helm writes it", map[string][]byte{"crt.pem": crt, "key.pem": sec1}, part, 1, ""},
		{"one key in the older form", map[string][]byte{"tls.crt": crt, "tls.key": key, "crt.pem": crt, "key.pem": sec1}, part, 1, ""},
		{"both keys in the older form", map[string][]byte{"tls.crt": crt, "tls.key": sec1, "crt.pem": crt, "key.pem": sec1}, part, 1, ""},
		{"no newline at the end", map[string][]byte{"tls.crt": bytes.TrimSpace(crt), "tls.key": key, "crt.pem": bytes.TrimSpace(crt), "key.pem": key}, part, 1, ""},
		{"the second pair is another", map[string][]byte{"tls.crt": crt, "tls.key": key, "crt.pem": pemOf(issuer(a)), "key.pem": key}, part, 1, ""},
		{"the second key is another", map[string][]byte{"tls.crt": crt, "tls.key": key, "crt.pem": crt, "key.pem": other}, part, 1, ""},
		{"a comment first", map[string][]byte{"tls.crt": append([]byte("# issuer\n"), crt...), "tls.key": key}, part, 1, ""},
		{"the anchor is in the chain", map[string][]byte{"tls.crt": pemOf(i, a), "tls.key": key}, part, 2, ""},
		{"nothing", nil, part, 0, "holds no certificate (tls.crt)"},
		{"no key", map[string][]byte{"tls.crt": crt}, part, 1, "holds no key (tls.key)"},
		{"no certificate", map[string][]byte{"tls.key": key}, part, 0, "holds no certificate (tls.crt)"},
		{"no key under Helm's names", map[string][]byte{"crt.pem": crt}, part, 1, "holds no key (key.pem)"},
		{"another certificate's key", map[string][]byte{"tls.crt": crt, "tls.key": other}, part, 1, "not that of the first certificate"},
		{"another order", map[string][]byte{"tls.crt": pemOf(a, i), "tls.key": key}, part, 2, "not that of the first certificate"},
		{"a key that is no key", map[string][]byte{"tls.crt": crt, "tls.key": []byte("hunter2")}, part, 1, "tls.crt and tls.key: not PEM"},
		{"a certificate that is none", map[string][]byte{"tls.crt": []byte("garbage"), "tls.key": key}, part, 0, "linkerd-identity cannot use tls.crt: not a PEM certificate"},
		{"the key in the certificate's place", map[string][]byte{"tls.crt": key, "tls.key": key}, part, 0, "linkerd-identity cannot use tls.crt: there is no certificate"},
		{"a key inside the chain", map[string][]byte{"tls.crt": append(append(pemOf(i), key...), pemOf(a)...), "tls.key": key}, part, 2, "ends the reading after 1 of 2"},
		{"a blank line at the end", map[string][]byte{"tls.crt": append(pemOf(i), '\n'), "tls.key": key}, part, 1, "not a PEM certificate"},
		{"no CA", map[string][]byte{"tls.crt": pemOf(issuer(a, sameKeyAs(i), notCA)), "tls.key": key}, part, 1, "not a CA"},
		{"no keyCertSign", map[string][]byte{"tls.crt": pemOf(issuer(a, sameKeyAs(i), usage(x509.KeyUsageCRLSign))), "tls.key": key}, part, 1, "lacks keyCertSign"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			before := maps.Clone(row.data)
			for k, v := range before {
				before[k] = bytes.Clone(v)
			}
			f := ReadIssuer(row.data, mesh, noon)
			if f.Complete != row.complete || len(f.Chain) != row.chain {
				t.Errorf("complete %v, %d certificates, want %v and %d", f.Complete, len(f.Chain), row.complete, row.chain)
			}
			if (f.Problem == "") != (row.problem == "") || !strings.Contains(f.Problem, row.problem) {
				t.Errorf("problem %q, want %q", f.Problem, row.problem)
			}
			if (f.Probe == nil) != (row.problem != "") {
				t.Errorf("probe %v beside problem %q", f.Probe, f.Problem)
			}
			says(t, f.Verify(bundle, noon), f.Problem)
			if !bytes.Equal(f.CABundle, row.data["ca.crt"]) {
				t.Error("ca.crt is not as it stands")
			}
			for k, v := range before {
				if !bytes.Equal(v, row.data[k]) {
					t.Errorf("%s was changed by reading it", k)
				}
			}
			hidesKeys(t, f)
		})
	}
}

func TestIssuerFactsVerifyUnderAnyBundleAtAnyTime(t *testing.T) {
	t.Parallel()
	a, b := root(), root(named("root.linkerd.cluster.local 2026-2"))
	i := issuer(a)
	f := ReadIssuer(map[string][]byte{"tls.crt": pemOf(i), "tls.key": keyPEM(i.key)}, mesh, noon)
	of := func(anchors ...*ca) Bundle { return must(NewBundle(certs(anchors...)...)) }
	for _, row := range []struct {
		name   string
		bundle Bundle
		at     float64 // days from noon
		err    string
	}{
		{"under its anchor", of(a), 0, ""},
		{"under both anchors", of(a, b), 0, ""},
		{"under another anchor", of(b), 0, "unknown authority"},
		{"under none", Bundle{}, 0, "unknown authority"},
		{"at its end", of(a), 6, ""},
		{"after its end", of(a), 6.01, "expired"},
		{"before its start", of(a), -1.01, "not yet valid"},
	} {
		t.Run(row.name, func(t *testing.T) { says(t, f.Verify(row.bundle, days(row.at)), row.err) })
	}
	says(t, IssuerFacts{}.Verify(of(a), noon), "there is no issuer")
}

func TestNewCredential(t *testing.T) {
	t.Parallel()
	a, b := root(), root(named("root.linkerd.cluster.local 2026-2"))
	i := issuer(a)
	key := must(ParsePrivateKey(keyPEM(i.key)))
	for _, row := range []struct {
		name  string
		key   PrivateKey
		chain []*ca
		err   string
	}{
		{"an issuer", key, []*ca{i}, ""},
		{"a second certificate of the key under another anchor", key, []*ca{i, issuer(b, sameKeyAs(i))}, ""},
		{"a cross-signed anchor", key, []*ca{i, cross(a, b)}, ""},
		{"no certificate", key, nil, "no certificate"},
		{"no key", PrivateKey{}, []*ca{i}, "no private key"},
		{"another key's issuer", key, []*ca{issuer(a)}, "certificate 1"},
		{"a second certificate of the name, of another key", key, []*ca{i, issuer(b)}, "certificate 2"},
		{"the wrong order", key, []*ca{a, i}, "certificate 1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			cred, err := NewCredential(row.key, certs(row.chain...)...)
			says(t, err, row.err)
			if err == nil && !bytes.Equal(cred.ChainPEM(), pemOf(row.chain...)) {
				t.Error("its text is not its chain")
			}
		})
	}
	says(t, must(NewCredential(key, i.Certificate)).Prove(must(NewBundle(b.Certificate)), mesh, noon), "refused as a server by Go's rules")
	serversOnly := must(NewCredential(key, issuer(a, sameKeyAs(i), eku(asServer)).Certificate))
	says(t, serversOnly.Prove(must(NewBundle(a.Certificate)), mesh, noon), "refused as a client")
	odd := must(NewCredential(key, issuer(a, sameKeyAs(i), serial(longSerialNumber)).Certificate))
	says(t, odd.Prove(must(NewBundle(a.Certificate)), mesh, noon), "by the proxies' rules")
	says(t, Credential{}.Prove(Bundle{}, mesh, noon), "there is no issuer")
}

// hidesKeys fails if anything in f looks like key material.
func hidesKeys(t *testing.T, f IssuerFacts) {
	t.Helper()
	for _, text := range []string{f.Problem, fmt.Sprintf("%+v", f.Chain), string(EncodeCertificates(f.Chain...))} {
		if strings.Contains(text, "PRIVATE KEY-----") || strings.Contains(text, "hunter2") {
			t.Fatalf("key material in %q", text)
		}
	}
}

// The probe's key is another on each run, and so is what it covers: run this
// with -fuzzminimizetime=1x, or minimizing is all it does.
func FuzzReadIssuer(f *testing.F) {
	a := root()
	i := issuer(a)
	f.Add(pemOf(i), keyPEM(i.key), pemOf(a))
	f.Add(pemOf(i, a), keyPEM(i.key), []byte{})
	f.Add(keyPEM(i.key), pemOf(i), pemOf(a))
	f.Add(append(pemOf(i), keyPEM(i.key)...), keyPEM(i.key), pemOf(a))
	f.Add(pemOf(a), keyPEM(rsaKey()), []byte("x"))
	f.Add(pemOf(issuer(a, kind("P-384"))), []byte("-----BEGIN hunter2-----\n"), pemOf(a))
	f.Fuzz(func(t *testing.T, crt, key, ca []byte) {
		for _, data := range []map[string][]byte{
			{"tls.crt": crt, "tls.key": key, "ca.crt": ca},
			{"crt.pem": crt, "key.pem": key},
			{"tls.crt": crt, "tls.key": key, "crt.pem": crt, "key.pem": key},
		} {
			f := ReadIssuer(data, mesh, noon)
			if (f.Probe == nil) != (f.Problem != "") {
				t.Fatalf("probe %v beside problem %q", f.Probe, f.Problem)
			}
			if f.Complete && (f.Problem != "" || len(data) < 4) {
				t.Fatalf("complete, and yet %q", f.Problem)
			}
			_ = f.Verify(Bundle{}, noon)
			// No run of the key's text may be repeated.
			for n := 0; n+24 <= len(key); n += 12 {
				if piece := string(key[n : n+24]); strings.Contains(f.Problem, piece) && !strings.Contains(string(crt), piece) {
					t.Fatalf("the problem %q quotes the key", f.Problem)
				}
			}
		}
	})
}
