package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"testing"
	"time"
)

// countingSigner counts what it is asked; spoil changes what it answers.
type countingSigner struct {
	crypto.Signer
	asked int
	spoil func([]byte) ([]byte, error)
}

func (s *countingSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.asked++
	sig, err := s.Signer.Sign(r, digest, opts)
	if err == nil && s.spoil != nil {
		return s.spoil(sig)
	}
	return sig, err
}

func anchorProfile() AnchorProfile {
	return AnchorProfile{CommonName: AnchorCommonName("cluster.local", 2026, 1), Lifetime: 3650 * 24 * time.Hour, Backdate: 10 * time.Minute}
}

func issuerProfile() IssuerProfile {
	return IssuerProfile{Namespace: "linkerd", TrustDomain: "cluster.local", Lifetime: 7 * 24 * time.Hour, Backdate: 10 * time.Minute}
}

func TestSelfSignAnchor(t *testing.T) {
	t.Parallel()
	key := &countingSigner{Signer: newKey("P-256")}
	now := noon.Add(123456789 * time.Nanosecond).In(time.FixedZone("elsewhere", 3600))
	a, err := SelfSignAnchor(now, anchorProfile(), key)
	if err != nil {
		t.Fatal(err)
	}
	if key.asked != 1 {
		t.Errorf("the key was asked %d times, want once", key.asked)
	}
	if err := CheckAnchor(a); err != nil {
		t.Error(err)
	}
	from, to := noon.Add(-10*time.Minute), noon.Add(-10*time.Minute+3650*24*time.Hour-time.Second)
	if !a.NotBefore.Equal(from) || !a.NotAfter.Equal(to) {
		t.Errorf("valid from %s to %s, want %s to %s", a.NotBefore, a.NotAfter, from, to)
	}
	if a.Subject.String() != "CN=root.linkerd.cluster.local 2026-1" || a.Issuer.String() != a.Subject.String() {
		t.Errorf("subject %q, issuer %q", a.Subject, a.Issuer)
	}
	if a.MaxPathLen != -1 || a.KeyUsage != caKeyUsage || len(a.ExtKeyUsage) != 0 || len(a.DNSNames) != 0 {
		t.Errorf("path length %d, key usage %b, extended %v, names %v", a.MaxPathLen, a.KeyUsage, a.ExtKeyUsage, a.DNSNames)
	}
	if SKI(a) == "" || AKI(a) != SKI(a) || len(a.SerialNumber.Bytes()) != 16 {
		t.Errorf("SKI %q, AKI %q, serial %s", SKI(a), AKI(a), Serial(a))
	}
	wantExtensions(t, a, map[string]bool{"2.5.29.15": true, "2.5.29.19": true, "2.5.29.14": false, "2.5.29.35": false})
}

func TestSignIssuer(t *testing.T) {
	t.Parallel()
	a := root()
	signer := &countingSigner{Signer: a.key}
	key := must(GenerateKey())
	template := must(NewIssuerTemplate(noon, issuerProfile(), a.Certificate))
	i, err := SignIssuer(template, a.Certificate, key.PublicKey(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if signer.asked != 1 {
		t.Errorf("the anchor's key was asked %d times, want once", signer.asked)
	}
	if err := CheckIssuer(i, a.Certificate, issuerProfile(), key.PublicKey(), noon); err != nil {
		t.Error(err)
	}
	if i.MaxPathLen != 0 || !i.MaxPathLenZero || i.KeyUsage != caKeyUsage || len(i.ExtKeyUsage) != 0 {
		t.Errorf("path length %d, key usage %b, extended %v", i.MaxPathLen, i.KeyUsage, i.ExtKeyUsage)
	}
	if i.Subject.CommonName != "identity.linkerd.cluster.local" || len(i.DNSNames) != 1 || i.DNSNames[0] != i.Subject.CommonName {
		t.Errorf("common name %q, DNS names %q", i.Subject.CommonName, i.DNSNames)
	}
	if Serial(i) != Serial(template) || AKI(i) != SKI(a.Certificate) || SKI(i) == SKI(a.Certificate) {
		t.Errorf("serial %s, AKI %s, SKI %s", Serial(i), AKI(i), SKI(i))
	}
	wantExtensions(t, i, map[string]bool{"2.5.29.15": true, "2.5.29.19": true, "2.5.29.14": false, "2.5.29.35": false, "2.5.29.17": false})

	cred := must(NewCredential(key, i))
	bundle := must(NewBundle(a.Certificate))
	if err := cred.Prove(bundle, mesh, noon); err != nil {
		t.Error(err)
	}
	if err := LoadsInIdentity(cred.ChainPEM(), cred.KeyPEM(), bundle.PEM(), noon); err != nil {
		t.Error(err)
	}
}

func wantExtensions(t *testing.T, c *x509.Certificate, want map[string]bool) {
	t.Helper()
	for _, e := range c.Extensions {
		critical, ok := want[e.Id.String()]
		if !ok || critical != e.Critical {
			t.Errorf("extension %s (critical: %v) was not asked for", e.Id, e.Critical)
		}
		delete(want, e.Id.String())
	}
	for id := range want {
		t.Errorf("extension %s is missing", id)
	}
}

var errSealed = errors.New("sealed")

func TestNothingWrongIsSignedOrUsed(t *testing.T) {
	t.Parallel()
	a := root()
	for _, row := range []struct {
		name   string
		change func(template *x509.Certificate)
		signer countingSigner
		err    string
		asked  int
	}{
		{"nothing is wrong", nil, countingSigner{Signer: a.key}, "", 1},
		{"a path length of 1", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }, countingSigner{Signer: a.key}, "was not asked: its path length", 0},
		{"no CA", func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }, countingSigner{Signer: a.key}, "was not asked", 0},
		{"another key usage", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }, countingSigner{Signer: a.key}, "was not asked: its key usage", 0},
		{"an extended key usage", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{asServer} }, countingSigner{Signer: a.key}, "was not asked: it has an extension", 0},
		{"a second name", func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "other") }, countingSigner{Signer: a.key}, "was not asked: its subject alternative names", 0},
		{"a name constraint", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"cluster.local"} }, countingSigner{Signer: a.key}, "was not asked: it has an extension", 0},
		{"times with fractions", func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Millisecond) }, countingSigner{Signer: a.key}, "was not asked: it is valid from", 0},
		{"an end past the anchor's", func(c *x509.Certificate) { c.NotAfter = a.NotAfter.Add(time.Second) }, countingSigner{Signer: a.key}, "was not asked: its validity is not within", 0},
		{"a start before the anchor's", func(c *x509.Certificate) { c.NotBefore = a.NotBefore.Add(-time.Second) }, countingSigner{Signer: a.key}, "was not asked: its validity is not within", 0},
		{"a small serial", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }, countingSigner{Signer: a.key}, "was not asked: its serial", 0},
		{"a serial of 17 octets", func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 127) }, countingSigner{Signer: a.key}, "was not asked: its serial", 0},
		{"SHA-384", func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 }, countingSigner{Signer: a.key}, "was not asked: it is signed with", 0},
		{"an unknown extension", func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, extraExtension) }, countingSigner{Signer: a.key}, "was not asked: it has an extension", 0},
		{"another anchor's key", nil, countingSigner{Signer: newKey("P-256")}, "not that of anchor", 0},
		{"a key of another kind", nil, countingSigner{Signer: newKey("P-384")}, "not ECDSA P-256", 0},
		{"a signer that fails", nil, countingSigner{Signer: a.key, spoil: func([]byte) ([]byte, error) { return nil, errSealed }}, "sealed", 1},
		{"a signer that answers nonsense", nil, countingSigner{Signer: a.key, spoil: func(s []byte) ([]byte, error) { s[len(s)-1] ^= 1; return s, nil }}, "verification failure", 1},
		{"a signer that answers nothing", nil, countingSigner{Signer: a.key, spoil: func([]byte) ([]byte, error) { return nil, nil }}, "verification failure", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			template := must(NewIssuerTemplate(noon, issuerProfile(), a.Certificate))
			if row.change != nil {
				row.change(template)
			}
			signer := row.signer
			c, err := SignIssuer(template, a.Certificate, must(GenerateKey()).PublicKey(), &signer)
			says(t, err, row.err)
			if signer.asked != row.asked {
				t.Errorf("the anchor's key was asked %d times, want %d", signer.asked, row.asked)
			}
			if (c == nil) != (err != nil) {
				t.Errorf("certificate %v beside error %v", c, err)
			}
			if row.err == "sealed" && !errors.Is(err, errSealed) {
				t.Error("the signer's error is not wrapped")
			}
		})
	}
	t.Run("an anchor's signer that fails", func(t *testing.T) {
		t.Parallel()
		signer := countingSigner{Signer: a.key, spoil: func([]byte) ([]byte, error) { return nil, errSealed }}
		if _, err := SelfSignAnchor(noon, anchorProfile(), &signer); !errors.Is(err, errSealed) || signer.asked != 1 {
			t.Errorf("got %v after %d requests", err, signer.asked)
		}
	})
	t.Run("an anchor of a key of another kind", func(t *testing.T) {
		t.Parallel()
		for _, kind := range []string{"P-384", "RSA-2048", "Ed25519"} {
			_, err := SelfSignAnchor(noon, anchorProfile(), newKey(kind))
			says(t, err, "not ECDSA P-256")
		}
	})
}

func TestIssuerTemplatesStayWithinAnchorAndApart(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	end := noon.Add(-10*time.Minute + week - time.Second)
	for _, row := range []struct {
		name     string
		anchor   *ca
		change   func(*IssuerProfile)
		from, to time.Time
		err      string
	}{
		{"a week, backdated", root(), func(*IssuerProfile) {}, noon.Add(-10 * time.Minute), end, ""},
		{"no backdating", root(), func(p *IssuerProfile) { p.Backdate = 0 }, noon, noon.Add(week - time.Second), ""},
		{"an anchor made a minute ago", root(valid(noon.Add(-time.Minute), days(100))), func(*IssuerProfile) {}, noon.Add(-time.Minute), end, ""},
		{"an anchor that ends in two days", root(valid(days(-9), days(2))), func(*IssuerProfile) {}, noon.Add(-10 * time.Minute), days(2), ""},
		{"an earlier issuer ends far away", root(), func(p *IssuerProfile) { p.NotAfterTaken = []time.Time{end.Add(-time.Minute), end.Add(time.Minute)} }, noon.Add(-10 * time.Minute), end, ""},
		{"an earlier issuer ends at that second", root(), func(p *IssuerProfile) { p.NotAfterTaken = []time.Time{end} }, noon.Add(-10 * time.Minute), end.Add(-time.Minute), ""},
		{"an earlier issuer ends a little later", root(), func(p *IssuerProfile) { p.NotAfterTaken = []time.Time{end.Add(20 * time.Second)} }, noon.Add(-10 * time.Minute), end.Add(-40 * time.Second), ""},
		{"one earlier issuer after the other is in the way", root(), func(p *IssuerProfile) {
			p.NotAfterTaken = []time.Time{end.Add(-90 * time.Second), end.Add(30 * time.Second), end.Add(-40 * time.Second)}
		}, noon.Add(-10 * time.Minute), end.Add(-150 * time.Second), ""},
		{"many issuers under an anchor that ends", root(valid(days(-9), days(2))), func(p *IssuerProfile) {
			p.NotAfterTaken = []time.Time{days(2), days(2).Add(-time.Minute), days(2).Add(-2 * time.Minute)}
		}, noon.Add(-10 * time.Minute), days(2).Add(-3 * time.Minute), ""},
		{"an anchor that has ended", root(valid(days(-9), days(-2))), func(*IssuerProfile) {}, time.Time{}, time.Time{}, "its anchor"},
		{"an anchor that ends within the minute, and a taken end", root(valid(days(-9), noon.Add(30*time.Second))), func(p *IssuerProfile) { p.NotAfterTaken = []time.Time{noon} }, time.Time{}, time.Time{}, "would end at"},
		{"an anchor of the future", root(valid(days(1), days(100))), func(*IssuerProfile) {}, time.Time{}, time.Time{}, "is this clock right"},
		{"no namespace", root(), func(p *IssuerProfile) { p.Namespace = "" }, time.Time{}, time.Time{}, "want both names"},
		{"no trust domain", root(), func(p *IssuerProfile) { p.TrustDomain = "" }, time.Time{}, time.Time{}, "want both names"},
		{"all of its life in the past", root(), func(p *IssuerProfile) { p.Lifetime = p.Backdate }, time.Time{}, time.Time{}, "backdate < lifetime"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := issuerProfile()
			row.change(&p)
			c, err := NewIssuerTemplate(noon, p, row.anchor.Certificate)
			says(t, err, row.err)
			if err != nil || row.err != "" {
				return
			}
			if !c.NotBefore.Equal(row.from) || !c.NotAfter.Equal(row.to) {
				t.Errorf("valid from %s to %s, want %s to %s", stamp(c.NotBefore), stamp(c.NotAfter), stamp(row.from), stamp(row.to))
			}
			key := must(GenerateKey())
			signed, err := SignIssuer(c, row.anchor.Certificate, key.PublicKey(), row.anchor.key)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckIssuer(signed, row.anchor.Certificate, p, key.PublicKey(), noon); err != nil {
				t.Error(err)
			}
		})
	}
	for _, p := range []AnchorProfile{{"", time.Hour, 0}, {"x", time.Hour, time.Hour}, {"x", 0, 0}, {"x", time.Hour, -1}} {
		if _, err := NewAnchorTemplate(noon, p); err == nil {
			t.Errorf("an anchor of profile %+v is accepted", p)
		}
	}
}

func TestCheckAnchor(t *testing.T) {
	t.Parallel()
	a := root()
	for _, row := range []struct {
		name   string
		anchor *ca
		err    string
	}{
		{"certd's own", a, ""},
		{"one of an RSA key", root(kind("RSA-2048")), ""},
		{"one with room for an intermediate", root(pathLen(1)), ""},
		{"one that has ended", root(valid(days(-9), days(-1))), ""},
		{"one that may sign other things too", root(usage(caKeyUsage | x509.KeyUsageDigitalSignature)), ""},
		{"path length 0", root(pathLen(0)), "path length is 0"},
		{"no keyCertSign", root(usage(x509.KeyUsageCRLSign)), "does not let it sign"},
		{"no key usage at all", root(usage(0)), "lacks keyCertSign"},
		{"for servers only", root(eku(asServer)), "extended key usages"},
		{"name constraints", root(permits("cluster.local")), "name constraints"},
		{"P-384", root(kind("P-384")), "P-384"},
		{"an unknown critical extension", root(unknownCritical), "UnsupportedCriticalExtension"},
		{"no common name", root(named("")), "common name"},
		{"an end before its start", root(valid(days(1), days(-1))), "before it begins"},
		{"a leaf", leaf(a), "not a CA"},
		{"an intermediate", cross(a, root(named("older"))), "not by itself"},
		{"basic constraints that are not critical", root(extended(oidBasicConstraints, 0x30, 3, 1, 1, 0xff)), "critical basic constraints"},
		{"a key usage that is not critical", root(extended(oidKeyUsage, 3, 2, 1, 6)), "is not critical"},
		{"an empty key identifier", root(extended(oidSubjectKeyID, 4, 0)), "no subject key identifier"},
		{"another's authority key identifier", root(func(b *blueprint) { b.AuthorityKeyId = []byte{1} }), "not its own"},
		{"another key's signature", &ca{resign(a.Certificate, newKey("P-256"), func(b []byte) []byte { return b }), nil}, "not signed by its own key"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			says(t, CheckAnchor(row.anchor.Certificate), row.err)
		})
	}
}

func TestCheckIssuer(t *testing.T) {
	t.Parallel()
	a := root()
	week := valid(noon.Add(-10*time.Minute), days(7)) // Vault counts the lifetime from now
	for _, row := range []struct {
		name   string
		issuer *ca
		change func(*IssuerProfile)
		err    string
	}{
		{"what Vault makes", issuer(a, week), nil, ""},
		{"a serial of 20 octets", issuer(a, week, serial(new(big.Int).Rsh(new(big.Int).Lsh(big.NewInt(1), 160), 1))), nil, ""},
		{"another anchor's", issuer(root(), week), nil, "authority key identifier"},
		{"another name's", issuer(root(named("other")), week), nil, `names "other" as its issuer`},
		{"no CA", issuer(a, week, notCA), nil, "path length"},
		{"path length 1", issuer(a, week, pathLen(1)), nil, "path length"},
		{"no path length", issuer(a, week, pathLen(-1)), nil, "path length"},
		{"no keyCertSign", issuer(a, week, usage(x509.KeyUsageDigitalSignature)), nil, "keyCertSign"},
		{"an extended key usage", issuer(a, week, eku(asServer, asClient)), nil, "extended key usages"},
		{"a P-384 key", issuer(a, week, kind("P-384")), nil, "not ECDSA P-256"},
		{"signed with SHA-384", issuer(a, week, signedWith(x509.ECDSAWithSHA384)), nil, "SHA384"},
		{"another common name", issuer(a, week, named("other")), nil, "common name"},
		{"another DNS name", issuer(a, week, func(b *blueprint) { b.DNSNames = []string{"other"} }), nil, "alternative name"},
		{"no DNS name", issuer(a, week, func(b *blueprint) { b.DNSNames = nil }), nil, "alternative names"},
		{"a mail address", issuer(a, week, func(b *blueprint) { b.EmailAddresses = []string{"a@b.c"} }), nil, "alternative names"},
		{"an unknown critical extension", issuer(a, week, unknownCritical), nil, "UnsupportedCriticalExtension"},
		{"serial 0", issuer(a, week, serial(new(big.Int))), nil, "InvalidSerialNumber"},
		{"an end past the anchor's", issuer(a, valid(noon.Add(-10*time.Minute), days(3551))), nil, "not within the anchor's"},
		{"a start that is hardly in the past", issuer(a, valid(noon.Add(-30*time.Second), days(7))), nil, "not 10m0s in the past"},
		{"a start in the future", issuer(a, valid(noon.Add(time.Second), days(7))), func(p *IssuerProfile) { p.Backdate = 0 }, "in the past"},
		{"a past life", issuer(a, valid(days(-8), days(-1))), nil, "ended already"},
		{"longer than asked", issuer(a, valid(noon.Add(-10*time.Minute), days(8))), nil, "longer than"},
		{"cut by the CA", issuer(a, valid(noon.Add(-10*time.Minute), days(6))), nil, "max_ttl"},
		{"the end of an earlier one", issuer(a, week), func(p *IssuerProfile) { p.NotAfterTaken = []time.Time{days(7).Add(30 * time.Second)} }, "within a minute of an earlier one"},
		{"moved away from an earlier one", issuer(a, valid(noon.Add(-10*time.Minute), days(7).Add(-65*time.Second))), func(p *IssuerProfile) { p.NotAfterTaken = []time.Time{days(7)} }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := issuerProfile()
			if row.change != nil {
				row.change(&p)
			}
			pub, _ := row.issuer.key.Public().(*ecdsa.PublicKey)
			says(t, CheckIssuer(row.issuer.Certificate, a.Certificate, p, pub, noon), row.err)
		})
	}
	t.Run("another key's", func(t *testing.T) {
		says(t, CheckIssuer(issuer(a, week).Certificate, a.Certificate, issuerProfile(), must(GenerateKey()).PublicKey(), noon), "another key")
	})
	t.Run("another signature", func(t *testing.T) {
		i := issuer(a, week)
		forged := resign(i.Certificate, newKey("P-256"), func(b []byte) []byte { return b })
		says(t, CheckIssuer(forged, a.Certificate, issuerProfile(), i.key.Public().(*ecdsa.PublicKey), noon), "not signed by anchor")
	})
	t.Run("under an anchor of the future", func(t *testing.T) {
		later := root(valid(days(1), days(100)))
		i := issuer(later, valid(days(1), days(8)))
		says(t, CheckIssuer(i.Certificate, later.Certificate, issuerProfile(), i.key.Public().(*ecdsa.PublicKey), noon), "in the past")
	})
	t.Run("under an anchor without key identifier", func(t *testing.T) {
		bare := *a.Certificate
		bare.SubjectKeyId = nil
		i := issuer(&ca{&bare, a.key}, week)
		says(t, CheckIssuer(i.Certificate, &bare, issuerProfile(), i.key.Public().(*ecdsa.PublicKey), noon), "authority key identifier")
	})
	t.Run("under an RSA anchor", func(t *testing.T) {
		rsa := root(kind("RSA-2048"))
		i := issuer(rsa, week)
		says(t, CheckIssuer(i.Certificate, rsa.Certificate, issuerProfile(), i.key.Public().(*ecdsa.PublicKey), noon), "")
	})
	t.Run("under an anchor that ends", func(t *testing.T) {
		short := root(valid(days(-9), days(2)))
		i := issuer(short, valid(noon.Add(-10*time.Minute), days(2)))
		says(t, CheckIssuer(i.Certificate, short.Certificate, issuerProfile(), i.key.Public().(*ecdsa.PublicKey), noon), "")
	})
}

// An anchor's renewal is accepted by whoever trusts the one before, and the
// other way round: issuers made under either verify under both.
func TestRenewAnchor(t *testing.T) {
	t.Parallel()
	utf8 := root(named("root.linkerd.ünïcode"))
	for name, old := range map[string]*ca{"certd's own": root(), "another encoding of the subject": utf8} {
		signer := &countingSigner{Signer: old.key}
		c, err := RenewAnchor(days(300), old.Certificate, 3650*24*time.Hour, time.Hour, signer)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if signer.asked != 1 || Serial(c) == Serial(old.Certificate) || SKI(c) != SKI(old.Certificate) || string(c.RawSubject) != string(old.RawSubject) || !c.NotAfter.After(old.NotAfter) {
			t.Errorf("%s: asked %d times, serial %s, SKI %s", name, signer.asked, Serial(c), SKI(c))
		}
		before, after := must(NewBundle(old.Certificate)), must(NewBundle(c))
		if !before.Trusts(after) || !after.Trusts(before) || before.Equal(after) {
			t.Errorf("%s: the bundles are not of one trust", name)
		}
		for _, anchor := range []*x509.Certificate{old.Certificate, c} {
			key := must(GenerateKey())
			i, err := SignIssuer(must(NewIssuerTemplate(days(301), issuerProfile(), anchor)), anchor, key.PublicKey(), old.key)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, b := range []Bundle{before, after} {
				if err := must(NewCredential(key, i)).Prove(b, mesh, days(302)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	_, err := RenewAnchor(noon, root().Certificate, time.Hour, 0, newKey("P-256"))
	says(t, err, "not its own")
	if a, b := must(NewBundle(root().Certificate)), must(NewBundle(root().Certificate)); a.Trusts(b) || a.Trusts(Bundle{}) {
		t.Error("two keys are one trust")
	}
}
