package pki

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
)

// A constraint with a leading dot leaves out the domain itself; letters' case
// does not count (RFC 5280 §4.2.1.10, and what webpki makes of it).
func TestNamesWithinConstraints(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, constraint string
		within           bool
	}{
		{"a.cluster.local", "cluster.local", true},
		{"cluster.local", "cluster.local", true},
		{"acluster.local", "cluster.local", false},
		{"local", "cluster.local", false},
		{"a.cluster.local", ".cluster.local", true},
		{"cluster.local", ".cluster.local", false},
		{"A.Cluster.Local", "cluster.LOCAL", true},
		{"a.cluster.local", "", true},
	} {
		if withinDomain(row.name, row.constraint) != row.within {
			t.Errorf("%q within %q: want %t", row.name, row.constraint, row.within)
		}
	}
}

// Go takes RSA keys from 1024 bits on, proxies from 2048, and Linkerd's CLI
// nothing between 2048 and 4096.
func TestRSAKeysOfOddSizes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		bits            uint
		proxies, bundle bool
	}{{1024, false, false}, {2048, true, true}, {3072, true, false}, {4096, true, true}, {8192, true, false}, {8200, false, false}} {
		c := &x509.Certificate{
			PublicKey:          &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), row.bits-1), E: 65537},
			SignatureAlgorithm: x509.SHA256WithRSA,
		}
		if got := webpkiAlgorithm(c, c); got != row.proxies {
			t.Errorf("proxies take RSA-%d: %t, want %t", row.bits, got, row.proxies)
		}
		if err := checkAlgorithm(c); (err == nil) != row.bundle {
			t.Errorf("bundles take RSA-%d: %v, want %t", row.bits, err, row.bundle)
		}
	}
}

// Go passes over constraints that it does not know if they are not critical;
// to proxies those of directory names are always violated.
func TestConstraintsThatGoDoesNotSee(t *testing.T) {
	t.Parallel()
	type subtree struct {
		Base asn1.RawValue
	}
	directory := must(asn1.Marshal(struct {
		Permitted []subtree `asn1:"tag:0"`
	}{[]subtree{{asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: must(asn1.Marshal(pkix.Name{CommonName: "mesh"}.ToRDNSequence()))}}}}))
	extra := func(value []byte) with {
		return func(b *blueprint) {
			b.ExtraExtensions = append(b.ExtraExtensions, pkix.Extension{Id: oidNameConstraints, Value: value})
		}
	}
	for name, c := range map[string]struct{ path, anchors []*ca }{
		"an issuer's": under(extra(directory)),
		"an anchor's": below(extra(directory)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			says(t, verifyGo(certs(c.path...), certs(c.anchors...), mesh.leafName(), asServer, noon), "")
			says(t, verifyWebPKI(certs(c.path...), certs(c.anchors...), mesh.leafName(), asServer, noon), "NameConstraintViolation")
		})
	}
}
