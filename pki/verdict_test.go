package pki

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

const (
	asServer = x509.ExtKeyUsageServerAuth
	asClient = x509.ExtKeyUsageClientAuth
)

// Every row of what Go and rustls-webpki were seen to say of the same chain.
func TestGoAndProxiesJudgeChains(t *testing.T) {
	t.Parallel()
	type chain struct{ path, anchors []*ca }
	const ok = ""
	for _, row := range []struct {
		name      string
		chain     func() chain
		usage     x509.ExtKeyUsage
		inGo      string // part of the error, "" = accepted
		inProxies string
	}{
		{"a leaf of an issuer of an anchor", func() chain {
			a := root()
			i := issuer(a)
			return chain{[]*ca{leaf(i), i}, []*ca{a}}
		}, asServer, ok, ok},
		{"a cross-signed anchor leads to the old one", func() chain { c, o, _ := crossed(); return chain{c, []*ca{o}} }, asServer, ok, ok},
		{"a cross-signed anchor is not in the way under the new one", func() chain { c, _, n := crossed(); return chain{c, []*ca{n}} }, asServer, ok, ok},
		{"a cross-signed anchor is not in the way under both", func() chain { c, o, n := crossed(); return chain{c, []*ca{o, n}} }, asServer, ok, ok},
		{"without the cross-signed anchor the old one knows nothing of it", func() chain { c, o, _ := crossed(); return chain{c[:2], []*ca{o}} }, asServer, "unknown authority", "UnknownIssuer"},
		{"a cross-signed anchor has path length 0", func() chain { c, o, _ := crossed(pathLen(0)); return chain{c, []*ca{o}} }, asServer, "too many intermediates", "PathLenConstraintViolated"},
		{"a cross-signed anchor has path length 1", func() chain { c, o, _ := crossed(pathLen(1)); return chain{c, []*ca{o}} }, asServer, ok, ok},
		{"two anchors share a name", func() chain {
			a, b := root(), root()
			i := issuer(a)
			return chain{[]*ca{leaf(i), i}, []*ca{b, a}}
		}, asServer, ok, ok},
		{"anchor and issuer share a name", func() chain {
			a := root()
			i := issuer(a, named(a.Subject.CommonName))
			return chain{[]*ca{leaf(i), i}, []*ca{a}}
		}, asServer, ok, ok},
		{"an issuer for clients only, asked as server", func() chain { return under(eku(asClient)) }, asServer, "incompatible key usage", "RequiredEkuNotFound"},
		{"an issuer for clients only, asked as client", func() chain { return under(eku(asClient)) }, asClient, ok, ok},
		{"an issuer for servers only, asked as server", func() chain { return under(eku(asServer)) }, asServer, ok, ok},
		{"an issuer for servers only, asked as client", func() chain { return under(eku(asServer)) }, asClient, "incompatible key usage", "RequiredEkuNotFound"},
		{"an issuer without keyCertSign", func() chain { return under(usage(x509.KeyUsageDigitalSignature)) }, asServer, "parent certificate cannot sign", ok},
		{"an expired anchor", func() chain { return below(valid(days(-100), days(-1))) }, asServer, "expired", ok},
		{"an anchor that is not valid yet", func() chain { return below(valid(days(1), days(100))) }, asServer, "not yet valid", ok},
		{"an anchor with path length 0", func() chain { return below(pathLen(0)) }, asServer, "too many intermediates", ok},
		{"an issuer constrained to the mesh", func() chain { return under(permits("cluster.local")) }, asServer, ok, ok},
		{"an issuer constrained to the mesh, with a leading dot", func() chain { return under(permits(".cluster.local")) }, asServer, ok, ok},
		{"an issuer constrained to another mesh", func() chain { return under(permits("other.local")) }, asServer, "not permitted", "NameConstraintViolation"},
		{"an issuer from which the mesh is excluded", func() chain { return under(excludes("cluster.local")) }, asServer, "excluded", "NameConstraintViolation"},
		{"an anchor constrained to names that the issuer lacks", func() chain {
			return below(permits("serviceaccount.identity.linkerd.cluster.local"))
		}, asServer, "not permitted", "NameConstraintViolation"},
		{"an issuer constrained to some URIs", func() chain { return under(permitsURI("example.org")) }, asServer, ok, "NameConstraintViolation"},
		{"an anchor with a P-384 key", func() chain { return below(kind("P-384")) }, asServer, ok, ok},
		{"an anchor with an RSA-2048 key", func() chain { return below(kind("RSA-2048")) }, asServer, ok, ok},
		{"an anchor with an Ed25519 key", func() chain { return below(kind("Ed25519")) }, asServer, ok, ok},
		{"an anchor with a P-521 key", func() chain { return below(kind("P-521"), signedWith(x509.ECDSAWithSHA512)) }, asServer, ok, "UnsupportedSignatureAlgorithm"},
		{"a P-256 anchor that signs with SHA-384", func() chain { return under(signedWith(x509.ECDSAWithSHA384)) }, asServer, ok, "UnsupportedSignatureAlgorithm"},
		{"an issuer that begins tomorrow", func() chain { return under(valid(days(1), days(6))) }, asServer, "not yet valid", "CertNotValidYet"},
		{"an issuer that ended yesterday", func() chain { return under(valid(days(-8), days(-1))) }, asServer, "expired", "CertExpired"},
		{"an issuer that ends this second", func() chain { return under(valid(days(-8), noon)) }, asServer, ok, ok},
		{"an anchor issued again for the same key and name", func() chain {
			a := root()
			i := issuer(a)
			return chain{[]*ca{leaf(i), i}, []*ca{root(sameKeyAs(a), valid(days(-1), days(4000)))}}
		}, asServer, ok, ok},
		{"the anchor is sent along", func() chain {
			a := root()
			i := issuer(a)
			return chain{[]*ca{leaf(i), i, a}, []*ca{a}}
		}, asServer, ok, ok},
		{"the intermediates come in the wrong order", func() chain {
			c, o, _ := crossed()
			return chain{[]*ca{c[0], c[2], c[1]}, []*ca{o}}
		}, asServer, ok, ok},
		{"an unrelated anchor has an unknown critical extension", func() chain {
			c := below()
			c.anchors = append(c.anchors, root(unknownCritical, named("foreign")))
			return c
		}, asServer, ok, "the whole bundle is refused"},
		{"an issuer with an unknown critical extension", func() chain { return under(unknownCritical) }, asServer, "unhandled critical extension", "UnsupportedCriticalExtension"},
		{"a self-signed CA certificate serves as leaf", func() chain {
			a := root(func(b *blueprint) { b.DNSNames = []string{mesh.leafName()} })
			return chain{[]*ca{a}, []*ca{a}}
		}, asServer, ok, "CaUsedAsEndEntity"},
		{"an issuer's serial is 0", func() chain { return under(serial(new(big.Int))) }, asServer, ok, "InvalidSerialNumber"},
		{"an issuer's serial has 21 octets", func() chain { return under(longSerial) }, asServer, ok, "InvalidSerialNumber"},
		{"a leaf has a common name only", func() chain {
			a := root()
			i := issuer(a)
			return chain{[]*ca{leaf(i, func(b *blueprint) { b.DNSNames = nil }), i}, []*ca{a}}
		}, asServer, "legacy Common Name", "CertNotValidForName"},
		{"a leaf is for another name", func() chain {
			a := root()
			i := issuer(a)
			return chain{[]*ca{leaf(i, func(b *blueprint) { b.DNSNames = []string{"other." + mesh.leafName()} }), i}, []*ca{a}}
		}, asServer, "certificate is valid for other.", "CertNotValidForName"},
		{"an issuer of path length 0 has another below it", func() chain {
			a := root()
			i := issuer(a)
			j := issuer(i, named("below"))
			return chain{[]*ca{leaf(j), j, i}, []*ca{a}}
		}, asServer, "too many intermediates", "PathLenConstraintViolated"},
		{"the issuer is not sent along", func() chain {
			a := root()
			return chain{[]*ca{leaf(issuer(a))}, []*ca{a}}
		}, asServer, "unknown authority", "UnknownIssuer"},
		{"an anchor that nobody trusts", func() chain { c := below(); return chain{c.path, []*ca{root(named("foreign"))}} }, asServer, "unknown authority", "UnknownIssuer"},
		{"an anchor of the same name that did not sign it", func() chain { c := below(); return chain{c.path, []*ca{root()}} }, asServer, "unknown authority", "InvalidSignatureForPublicKey"},
		{"the issuer is no CA", func() chain { return under(notCA) }, asServer, "cannot sign this kind of certificate", "EndEntityUsedAsCa"},
		{"six intermediates", func() chain { p, a := ladder(6); return chain{p, []*ca{a}} }, asServer, ok, ok},
		{"seven intermediates", func() chain { p, a := ladder(7); return chain{p, []*ca{a}} }, asServer, ok, "MaximumPathDepthExceeded"},
		{"a hundred issuers of the same name with other keys", func() chain {
			a := root()
			i := issuer(a)
			path := []*ca{leaf(i)}
			other := root(named("foreign"))
			for range 100 {
				path = append(path, issuer(other))
			}
			return chain{append(path, i), []*ca{a}}
		}, asServer, ok, "InvalidSignatureForPublicKey"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := row.chain()
			t.Run("Go", func(t *testing.T) {
				says(t, verifyGo(certs(c.path...), certs(c.anchors...), mesh.leafName(), row.usage, noon), row.inGo)
			})
			t.Run("proxies", func(t *testing.T) {
				says(t, verifyWebPKI(certs(c.path...), certs(c.anchors...), mesh.leafName(), row.usage, noon), row.inProxies)
			})
		})
	}
}

// under is a chain whose issuer is changed; below one whose anchor is.
func under(changes ...with) (c struct{ path, anchors []*ca }) {
	a := root()
	i := issuer(a, changes...)
	c.path, c.anchors = []*ca{leaf(i), i}, []*ca{a}
	return c
}

func below(changes ...with) (c struct{ path, anchors []*ca }) {
	a := root(changes...)
	i := issuer(a)
	c.path, c.anchors = []*ca{leaf(i), i}, []*ca{a}
	return c
}

// crossed is leaf, issuer, and the new anchor as the old one signed it.
func crossed(changes ...with) (path []*ca, older, newer *ca) {
	older, newer = root(), root(named("root.linkerd.cluster.local 2026-2"))
	i := issuer(newer)
	return []*ca{leaf(i), i, cross(newer, older, changes...)}, older, newer
}

func ladder(n int) (path []*ca, anchor *ca) {
	anchor = root()
	by := anchor
	for i := range n {
		by = issuer(by, named(fmt.Sprintf("step %d", i)), pathLen(-1))
		path = append([]*ca{by}, path...)
	}
	return append([]*ca{leaf(by)}, path...), anchor
}

var longSerialNumber = new(big.Int).Lsh(big.NewInt(1), 160)

func longSerial(b *blueprint) { b.SerialNumber = longSerialNumber }

// An issuer whose one key has a certificate under each of two anchors serves
// those who trust either; linkerd-identity loads it if the first one chains.
func TestDualSignedIssuers(t *testing.T) {
	t.Parallel()
	for _, names := range []struct {
		name   string
		second string
	}{{"anchors of two names", "root.linkerd.cluster.local 2026-2"}, {"anchors of one name", "root.linkerd.cluster.local 2026-1"}} {
		a, b := root(), root(named(names.second))
		ia := issuer(a)
		ib := issuer(b, sameKeyAs(ia))
		for _, row := range []struct {
			name  string
			crt   []*ca
			roots []*ca
			loads bool
		}{
			{"A first, trusting A", []*ca{ia, ib}, []*ca{a}, true},
			{"A first, trusting both", []*ca{ia, ib}, []*ca{a, b}, true},
			{"A first, trusting B", []*ca{ia, ib}, []*ca{b}, false},
			{"B first, trusting A", []*ca{ib, ia}, []*ca{a}, false},
			{"B first, trusting both", []*ca{ib, ia}, []*ca{a, b}, true},
			{"B first, trusting B", []*ca{ib, ia}, []*ca{b}, true},
		} {
			t.Run(names.name+": "+row.name, func(t *testing.T) {
				key, err := ParsePrivateKey(keyPEM(ia.key))
				if err != nil {
					t.Fatal(err)
				}
				cred, err := NewCredential(key, certs(row.crt...)...)
				if err != nil {
					t.Fatal(err)
				}
				bundle := must(NewBundle(certs(row.roots...)...))
				if err := cred.Prove(bundle, mesh, noon); err != nil {
					t.Errorf("leaves do not verify: %v", err)
				}
				if err := LoadsInIdentity(cred.ChainPEM(), cred.KeyPEM(), bundle.PEM(), noon); (err == nil) != row.loads {
					t.Errorf("loads in linkerd-identity: %v, want %v", err, row.loads)
				}
			})
		}
	}
}

// Every row of what linkerd-identity was seen to do with an issuer, and of
// what its leaves were then worth.
func TestIdentityLoadsIssuers(t *testing.T) {
	t.Parallel()
	const (
		ok   = ""
		none = "no leaf" // linkerd-identity cannot sign one
	)
	type candidate struct {
		crt   []*ca
		key   crypto.Signer // defaults to that of the first certificate
		roots []*ca         // as read when linkerd-identity started
		text  []byte        // of roots, if not canonical
		trust []*ca         // what proxies trust, if not roots
	}
	for _, row := range []struct {
		name      string
		candidate func() candidate
		loads     string // part of the error, "" = loads
		inGo      string // what becomes of its leaves
		inProxies string
		problem   string // what ReadIssuer says
	}{
		{"a plain issuer", func() candidate { a := root(); return candidate{crt: []*ca{issuer(a)}, roots: []*ca{a}} }, ok, ok, ok, ok},
		{"a chain over a cross-signed anchor, trusting the old one only", func() candidate {
			c, o, _ := crossed()
			return candidate{crt: c[1:], roots: []*ca{o}}
		}, ok, ok, ok, ok},
		{"the same, for proxies that trust the new one only", func() candidate {
			c, o, n := crossed()
			return candidate{crt: c[1:], roots: []*ca{o}, trust: []*ca{n}}
		}, ok, ok, ok, ok},
		{"a chain that ends in the anchor", func() candidate { a := root(); return candidate{crt: []*ca{issuer(a), a}, roots: []*ca{a}} }, ok, ok, ok, ok},
		{"an issuer of an anchor that was not there at start", func() candidate {
			return candidate{crt: []*ca{issuer(root(named("new")))}, roots: []*ca{root()}}
		}, "unknown authority", "unknown authority", "UnknownIssuer", ok},
		{"the same, when the anchor is in the mounted bundle by now", func() candidate {
			n, o := root(named("new")), root()
			return candidate{crt: []*ca{issuer(n)}, roots: []*ca{o}, trust: []*ca{o, n}}
		}, "unknown authority", ok, ok, ok},
		{"an issuer that begins in a minute", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, valid(noon.Add(time.Minute), days(7)))}, roots: []*ca{a}}
		}, "not yet valid", "not yet valid", "CertNotValidYet", ok},
		{"a certificate that is no CA", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, notCA)}, roots: []*ca{a}}
		}, "not a CA", none, none, "not a CA"},
		{"a key of another certificate", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a)}, key: newKey("P-256"), roots: []*ca{a}}
		}, "does not match", none, none, "not that of the first certificate"},
		{"an issuer for clients only", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, eku(asClient))}, roots: []*ca{a}}
		}, "incompatible key usage", "incompatible key usage", "RequiredEkuNotFound", ok},
		{"an issuer for servers and clients", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, eku(asServer, asClient))}, roots: []*ca{a}}
		}, ok, ok, ok, ok},
		{"an issuer without keyCertSign", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, usage(x509.KeyUsageDigitalSignature))}, roots: []*ca{a}}
		}, ok, "parent certificate cannot sign", ok, "lacks keyCertSign"},
		{"an issuer from which the trust domain is excluded", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, excludes("cluster.local"), func(b *blueprint) { b.DNSNames = nil })}, roots: []*ca{a}}
		}, ok, "excluded", "NameConstraintViolation", ok},
		{"an RSA issuer", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, kind("RSA-2048"))}, roots: []*ca{a}}
		}, ok, none, none, "RSA"},
		{"a P-384 issuer", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, kind("P-384"))}, roots: []*ca{a}}
		}, ok, ok, ok, ok},
		{"an anchor of path length 0", func() candidate {
			a := root(pathLen(0))
			return candidate{crt: []*ca{issuer(a)}, roots: []*ca{a}}
		}, ok, "too many intermediates", ok, ok},
		{"the anchor itself as issuer", func() candidate { a := root(); return candidate{crt: []*ca{a}, roots: []*ca{a}} }, ok, ok, ok, ok},
		{"an expired anchor beside the good one", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a)}, roots: []*ca{root(named("old"), valid(days(-400), days(-1))), a}}
		}, ok, ok, ok, ok},
		{"two anchors of one name", func() candidate { a := root(); return candidate{crt: []*ca{issuer(a)}, roots: []*ca{root(), a}} }, ok, ok, ok, ok},
		{"an expired issuer", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a, valid(days(-8), days(-1)))}, roots: []*ca{a}}
		}, "expired", "expired", "CertExpired", ok},
		{"trust roots that end in a blank line", func() candidate {
			a := root()
			return candidate{crt: []*ca{issuer(a)}, roots: []*ca{a}, text: append(pemOf(a), '\n')}
		}, "read trust anchors: not a PEM certificate", ok, ok, ok},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := row.candidate()
			if c.key == nil {
				c.key = c.crt[0].key
			}
			if c.text == nil {
				c.text = pemOf(c.roots...)
			}
			if c.trust == nil {
				c.trust = c.roots
			}
			key := keyPEM(c.key)
			t.Run("load", func(t *testing.T) { says(t, LoadsInIdentity(pemOf(c.crt...), key, c.text, noon), row.loads) })

			t.Run("facts", func(t *testing.T) {
				f := ReadIssuer(map[string][]byte{"tls.crt": pemOf(c.crt...), "tls.key": key}, mesh, noon)
				if row.problem == "" && f.Problem != "" || !strings.Contains(f.Problem, row.problem) {
					t.Errorf("problem %q, want %q", f.Problem, row.problem)
				}
				if row.problem != "" && f.Verify(must(NewBundle(certs(c.trust...)...)), noon) == nil {
					t.Error("an issuer with a problem verifies")
				}
			})
			if row.inGo == none {
				return
			}
			l, err := probe(c.crt[0].key, c.crt[0].Certificate, mesh)
			if err != nil {
				t.Fatal(err)
			}
			chain := append([]*x509.Certificate{l}, certs(c.crt...)...)
			t.Run("leaf in Go", func(t *testing.T) {
				says(t, verifyGo(chain, certs(c.trust...), mesh.leafName(), asServer, noon), row.inGo)
			})
			t.Run("leaf in proxies", func(t *testing.T) {
				says(t, verifyWebPKI(chain, certs(c.trust...), mesh.leafName(), asServer, noon), row.inProxies)
			})
		})
	}
}

func TestRSAIssuersCannotSignLeaves(t *testing.T) {
	t.Parallel()
	i := issuer(root(), kind("RSA-2048"))
	_, err := probe(i.key, i.Certificate, mesh)
	says(t, err, "requested SignatureAlgorithm does not match")
}
