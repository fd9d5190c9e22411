package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// oddities are what may be odd about a certificate. Each may befall each of a chain.
// Their keys are newKey's.
func oddities(newKey func(kind string) crypto.Signer) []with {
	kind := func(k string) with { return func(b *blueprint) { b.key = newKey(k) } }
	return []with{
		func(*blueprint) {}, valid(days(-100), days(-1)), valid(days(1), days(100)), pathLen(0), pathLen(1), pathLen(-1),
		usage(x509.KeyUsageDigitalSignature), usage(0), eku(asServer), eku(asClient), eku(x509.ExtKeyUsageCodeSigning), notCA, func(b *blueprint) { b.IsCA = true },
		permits("cluster.local"), permits(".cluster.local"), permits("other.local"), excludes("cluster.local"), permitsURI("example.org"), unknownCritical,
		kind("P-384"), kind("Ed25519"), kind("RSA-2048"), kind("P-521"), signedWith(x509.ECDSAWithSHA384), signedWith(x509.ECDSAWithSHA512),
		serial(new(big.Int)), longSerial, named("root.linkerd.cluster.local 2026-1"), named("identity.linkerd.cluster.local"), named("other"),
		func(b *blueprint) { b.DNSNames = nil }, func(b *blueprint) { b.DNSNames = []string{strings.ToUpper(mesh.leafName())} },
		func(b *blueprint) { b.DNSNames = []string{"*.linkerd.cluster.local"} }, func(b *blueprint) { b.BasicConstraintsValid, b.IsCA, b.MaxPathLen = false, false, 0 },
		func(b *blueprint) { b.NotAfter = noon }, func(b *blueprint) { b.NotBefore = noon },
	}
}

// workshop keeps what chains are made of: most recipes differ in one certificate of a chain,
// and to make one takes longer than to judge them all.
type workshop struct {
	keys map[string]crypto.Signer // of a place in a chain and a kind, so that no two of a chain share one
	made map[order]*ca            // nil: a key cannot sign so
}

// order is all that a certificate is made from.
type order struct {
	place   int
	what    string
	of, by  signer // "of" the key and name of another
	oddness string // which oddities
}

// signer is what a certificate has of the one that signs it.
type signer struct{ key, name, ski string }

func (c *ca) signer() signer {
	return signer{string(c.RawSubjectPublicKeyInfo), string(c.RawSubject), string(c.SubjectKeyId)}
}

// get returns the certificate of an order, made with what is odd about it if it is new.
func (w workshop) get(o order, make func(odd ...with) *ca) *ca {
	if _, known := w.made[o]; !known {
		if len(w.made) == 10_000 { // some 50 MB
			clear(w.made)
		}
		key := func(kind string) crypto.Signer {
			id := fmt.Sprint(o.place, kind)
			if w.keys[id] == nil {
				w.keys[id] = newKey(kind)
			}
			return w.keys[id]
		}
		all := oddities(key)
		odd := []with{func(b *blueprint) { b.key = key("P-256") }}
		for _, n := range []byte(o.oddness) {
			odd = append(odd, all[n])
		}
		w.made[o] = nil
		w.made[o] = make(odd...)
	}
	if w.made[o] == nil {
		panic("no such certificate can be made")
	}
	return w.made[o]
}

// oddChain makes a leaf, up to two issuers above it, and up to three anchors, of which the
// first signed; ok is false where no such certificate can be made.
func (w workshop) oddChain(recipe []byte) (path, anchors []*ca, ok bool) {
	defer func() {
		if recover() != nil { // a key cannot sign so
			ok = false
		}
	}()
	kinds := len(oddities(newKey))
	next := func() int {
		if len(recipe) == 0 {
			return 0
		}
		b := recipe[0]
		recipe = recipe[1:]
		return int(b)
	}
	odd := func() string {
		var which []byte
		for n := next() % 4; n > 1; n-- { // most are as they should be
			which = append(which, byte(next()%kinds))
		}
		return string(which)
	}
	place := 0
	get := func(o order, make func(odd ...with) *ca) *ca {
		place++
		o.place = place
		return w.get(o, make)
	}
	anchor := func(oddness string) *ca { return get(order{what: "anchor", oddness: oddness}, root) }
	shape := next()
	top := anchor(odd())
	anchors = []*ca{top}
	for range shape / 16 % 3 {
		anchors = append(anchors, anchor(odd()))
	}
	by := top
	for range 1 + shape%2 {
		by = get(order{what: "issuer", by: by.signer(), oddness: odd()}, func(odd ...with) *ca { return issuer(by, append([]with{pathLen(-1)}, odd...)...) })
		path = append([]*ca{by}, path...)
	}
	path = append([]*ca{get(order{what: "leaf", by: by.signer(), oddness: odd()}, func(odd ...with) *ca { return leaf(by, odd...) })}, path...)
	switch shape / 2 % 8 {
	case 0:
		path = append(path, top)
	case 1:
		other := anchor("")
		path = append(path, get(order{what: "other issuer", by: other.signer()}, func(odd ...with) *ca { return issuer(other, odd...) }))
	case 2:
		slices.Reverse(path[1:])
	case 3:
		slices.Reverse(anchors)
	case 4:
		path = path[:len(path)-1]
	case 5:
		other := anchor("")
		path = append(path, get(order{what: "cross", of: top.signer(), by: other.signer()}, func(...with) *ca { return cross(top, other) }))
	}
	return path, anchors, true
}

// whyOnlyGo is why proxies may refuse what Go accepts: facts of the certificates, from the
// table in the contract.
func whyOnlyGo(path, anchors []*x509.Certificate) (why []string) {
	is := func(yes bool, fact string) {
		if yes {
			why = append(why, fact)
		}
	}
	for _, c := range slices.Concat(path, anchors) {
		is(slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Critical && e.Id.Equal(extraExtension.Id) }), "an unknown critical extension, anywhere")
		is(c.SerialNumber.Sign() == 0 || len(c.SerialNumber.Bytes()) > 20, "a serial of 0 or beyond 20 octets")
		pub, ec := c.PublicKey.(*ecdsa.PublicKey)
		is(ec && pub.Curve == elliptic.P521(), "a P-521 key")
		is(c.SignatureAlgorithm == x509.ECDSAWithSHA384 || c.SignatureAlgorithm == x509.ECDSAWithSHA512, "SHA-384 or SHA-512 by a curve it does not belong to")
		is(len(c.PermittedURIDomains) > 0, "constraints of other names than DNS names")
	}
	is(path[0].IsCA, "a CA as leaf")
	return why
}

// whyOnlyProxies is why Go may refuse what proxies accept.
func whyOnlyProxies(path, anchors []*x509.Certificate, at time.Time) (why []string) {
	is := func(yes bool, fact string) {
		if yes {
			why = append(why, fact)
		}
	}
	for _, a := range anchors {
		is(at.Before(a.NotBefore) || at.After(a.NotAfter), "an anchor's dates")
		is(a.MaxPathLen > 0 || a.MaxPathLenZero, "an anchor's path length")
		is(a.KeyUsage != 0 && a.KeyUsage&x509.KeyUsageCertSign == 0, "an anchor without keyCertSign")
		is(!a.IsCA || !a.BasicConstraintsValid, "an anchor that is no CA")
		is(len(a.ExtKeyUsage) > 0, "an anchor's extended key usage")
	}
	for _, c := range path[1:] {
		is(c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0, "an issuer without keyCertSign")
	}
	return why
}

// Go and the proxies may judge a chain otherwise than each other only for reasons that are
// known, and certd accepts no issuer unless both accept its leaves.
func FuzzVerdicts(f *testing.F) {
	for i := range oddities(newKey) {
		f.Add([]byte{12, 2, byte(i)}, uint32(0))
		f.Add([]byte{12, 0, 2, byte(i)}, uint32(0))
		f.Add([]byte{12, 0, 0, 2, byte(i)}, uint32(0))
		f.Add([]byte{28, 0, 2, byte(i)}, uint32(3600))
	}
	w := workshop{map[string]crypto.Signer{}, map[order]*ca{}}
	f.Fuzz(func(t *testing.T, recipe []byte, shift uint32) {
		path, anchors, ok := w.oddChain(recipe)
		if !ok {
			return
		}
		at := noon.Add(time.Duration(shift%(8*86400)) * time.Second)
		chain, roots := certs(path...), certs(anchors...)
		byGo := error(nil)
		accepted := verifyLeafAccepts(chain, roots, at)
		for _, u := range []x509.ExtKeyUsage{asServer, asClient} {
			goes := verifyGo(chain, roots, mesh.leafName(), u, at)
			byGo = errors.Join(byGo, goes)
			proxies := verifyWebPKI(chain, roots, mesh.leafName(), u, at)
			if goes == nil && proxies != nil && len(whyOnlyGo(chain, roots)) == 0 {
				t.Errorf("usage %v: Go accepts, and proxies do not (%v); no known reason:\n%s", u, proxies, describe(chain, roots))
			}
			if goes != nil && proxies == nil && len(whyOnlyProxies(chain, roots, at)) == 0 {
				t.Errorf("usage %v: proxies accept, and Go does not (%v); no known reason:\n%s", u, goes, describe(chain, roots))
			}
			if accepted && (goes != nil || proxies != nil) {
				t.Errorf("usage %v: certd accepts, Go says %v and proxies %v", u, goes, proxies)
			}
		}
		if len(chain[0].DNSNames) > 0 && chain[0].DNSNames[0] == mesh.leafName() {
			if err := verifyLeafByGo(chain, roots, at, signatures{}); (err == nil) != (byGo == nil) {
				t.Errorf("certd asks Go both ways at once and hears %v, one by one %v:\n%s", err, byGo, describe(chain, roots))
			}
		}
	})
}

func verifyLeafAccepts(chain, anchors []*x509.Certificate, at time.Time) bool {
	return len(chain[0].DNSNames) > 0 && chain[0].DNSNames[0] == mesh.leafName() && verifyLeaf(chain, anchors, at) == nil
}

func describe(path, anchors []*x509.Certificate) string {
	var b strings.Builder
	for _, c := range slices.Concat(path, anchors) {
		fmt.Fprintf(&b, "%s by %s, %s, CA %v, path length %d, usage %b, %s key, names %q, permits %q, excludes %q, serial %x, %s to %s\n", c.Subject, c.Issuer, c.SignatureAlgorithm,
			c.IsCA, c.MaxPathLen, c.KeyUsage, c.PublicKeyAlgorithm, c.DNSNames, c.PermittedDNSDomains, c.ExcludedDNSDomains, c.SerialNumber, c.NotBefore, c.NotAfter)
	}
	return b.String()
}
