package pki

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// A verdict that is kept is the one that would be given anew: before, at and
// after the ends of everything on the path, in whatever order it is asked.
func TestHeldVerdictsAreThoseOfAFreshLook(t *testing.T) {
	t.Parallel()
	old, next := root(valid(days(-30), days(30))), root(named("root.linkerd.cluster.local 2026-2"), valid(days(-2), days(60)))
	expired := root(named("root.linkerd.cluster.local 2025-1"), valid(days(-400), days(-10)))
	plain := issuer(old)
	late := issuer(next, valid(days(-1), days(90)))
	dual := issuer(old, valid(days(-1), days(10)))
	second := issuer(next, sameKeyAs(dual), valid(days(-0.5), days(20)))
	bridge := cross(next, old, valid(days(-0.25), days(3)))
	for _, row := range []struct {
		name    string
		chain   []*ca
		bundles [][]*ca
	}{
		{"one certificate", []*ca{plain}, [][]*ca{{old}, {old, next}, {next}, {old, expired}}},
		{"an issuer that outlives its anchor", []*ca{late}, [][]*ca{{next}, {old, next}, {old}}},
		{"one key with two certificates", []*ca{dual, second}, [][]*ca{{old}, {next}, {old, next, expired}}},
		{"a chain over a cross-signed anchor that ends first", []*ca{late, bridge}, [][]*ca{{old}, {next}, {old, next}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := ReadIssuer(map[string][]byte{"tls.crt": pemOf(row.chain...), "tls.key": keyPEM(row.chain[0].key)}, mesh, noon)
			if f.Problem != "" {
				t.Fatal(f.Problem)
			}
			fresh := f
			fresh.held = nil
			var times []time.Time
			for _, c := range append([]*ca{old, next, expired}, row.chain...) {
				for _, end := range []time.Time{c.NotBefore, c.NotAfter} {
					for _, d := range []time.Duration{-time.Hour, -time.Second, -1, 0, 1, time.Second, time.Hour} {
						times = append(times, end.Add(d))
					}
				}
			}
			random := rand.New(rand.NewPCG(1, 2))
			accepted := 0
			for range 400 {
				at := times[random.IntN(len(times))]
				b := must(NewBundle(certs(row.bundles[random.IntN(len(row.bundles))]...)...))
				held, anew := f.Verify(b, at), fresh.Verify(b, at)
				if fmt.Sprint(held) != fmt.Sprint(anew) {
					t.Fatalf("at %s under %d anchors: held %v, anew %v", at.Format(time.RFC3339Nano), len(b.Anchors()), held, anew)
				}
				if held == nil {
					accepted++
				}
			}
			if accepted == 0 || accepted == 400 {
				t.Errorf("%d of 400 verdicts were good: the rows do not try the ends", accepted)
			}
		})
	}
}

// A verdict that held is looked up, not worked out: what would now be refused
// shows that nothing was verified again. And it is per bundle.
func TestHeldVerdictsSpareTheSignatures(t *testing.T) {
	t.Parallel()
	a, other := root(), root() // of one name
	i := issuer(a)
	f := ReadIssuer(map[string][]byte{"tls.crt": pemOf(i), "tls.key": keyPEM(i.key)}, mesh, noon)
	b, foreign := must(NewBundle(a.Certificate)), must(NewBundle(other.Certificate))
	if err := f.Verify(b, noon); err != nil {
		t.Fatal(err)
	}
	broken := *f.Probe
	broken.Signature = []byte("none")
	f.Probe = &broken
	if err := f.Verify(b, noon.Add(time.Hour)); err != nil {
		t.Errorf("a verdict that held is worked out again: %v", err)
	}
	if err := f.Verify(foreign, noon); err == nil {
		t.Error("a verdict under one bundle is taken for another")
	}
	if err := f.Verify(b, i.NotAfter.Add(time.Second)); err == nil {
		t.Error("a verdict is kept beyond the issuer's end")
	}
	var none IssuerFacts
	says(t, none.Verify(b, noon), "no issuer")
	says(t, IssuerFacts{Chain: []*x509.Certificate{i.Certificate}, Problem: "torn"}.Verify(b, noon), "torn")
}

func TestFactsMayBeVerifiedAtOnce(t *testing.T) {
	t.Parallel()
	a := root()
	i := issuer(a)
	f := ReadIssuer(map[string][]byte{"tls.crt": pemOf(i), "tls.key": keyPEM(i.key)}, mesh, noon)
	b := must(NewBundle(a.Certificate))
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			if err := f.Verify(b, days(float64(n)/2)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// What a slow chain costs once it is known; a fleet asks this every minute.
func BenchmarkVerifyHeld(b *testing.B) {
	a := root()
	i := issuer(a)
	f := ReadIssuer(map[string][]byte{"tls.crt": pemOf(i), "tls.key": keyPEM(i.key)}, mesh, noon)
	bundle := must(NewBundle(a.Certificate))
	for b.Loop() {
		if err := f.Verify(bundle, noon); err != nil {
			b.Fatal(err)
		}
	}
}

// An issuer that was proved before it was written is not proved once more where it is read
// back. One of another key, another control plane or with another certificate beside it is
// judged for itself.
func TestWhatWasProvedIsReadBack(t *testing.T) {
	t.Parallel()
	a, other := root(), root(named("root.linkerd.cluster.local 2026-2"))
	i := issuer(a)
	cred := must(NewCredential(must(ParsePrivateKey(keyPEM(i.key))), i.Certificate))
	both := must(NewBundle(a.Certificate, other.Certificate))
	if err := cred.Prove(both, mesh, noon); err != nil {
		t.Fatal(err)
	}
	secret := func(key []byte, chain ...*ca) map[string][]byte {
		return map[string][]byte{"tls.crt": pemOf(chain...), "tls.key": key, "crt.pem": pemOf(chain...), "key.pem": key, "ca.crt": pemOf(a)}
	}
	twin := issuer(a, sameKeyAs(i)) // another certificate of the key
	elsewhere := Identity{Namespace: "linkerd-2", TrustDomain: mesh.TrustDomain}
	for _, row := range []struct {
		name   string
		data   map[string][]byte
		id     Identity
		leaf   bool // the one that was made to prove it
		held   bool
		reason string
	}{
		{"itself", secret(keyPEM(i.key), i), mesh, true, true, ""},
		{"with a certificate more", secret(keyPEM(i.key), i, issuer(other, sameKeyAs(i))), mesh, true, false, ""},
		{"another certificate of the key", secret(keyPEM(i.key), twin), mesh, false, false, ""},
		{"for another control plane", secret(keyPEM(i.key), i), elsewhere, false, false, ""},
		{"with another key", secret(keyPEM(issuer(a).key), i), mesh, false, false, "tls.crt and tls.key: the key is not that of the first certificate"},
		{"another issuer", secret(keyPEM(other.key), other), mesh, false, false, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			proof := cred.Proof()
			f, anew := ReadProved(row.data, row.id, proof), ReadIssuer(row.data, row.id, noon)
			if f.Problem != row.reason {
				t.Errorf("its problem is %q, want %q", f.Problem, row.reason)
			}
			if f.Problem != anew.Problem || f.Complete != anew.Complete || f.Readable != anew.Readable || len(f.Chain) != len(anew.Chain) {
				t.Errorf("it is read as %+v, anew as %+v", f, anew)
			}
			if leaf := f.Probe != nil && f.Probe == proof.facts.Probe; leaf != row.leaf {
				t.Errorf("its leaf is the one that proved it: %v", leaf)
			}
			if held := f.held == proof.facts.held; held != row.held {
				t.Errorf("its verdicts are those of the proof: %v", held)
			}
			for _, b := range []Bundle{both, must(NewBundle(other.Certificate)), must(NewBundle(a.Certificate))} {
				if was, is := anew.Verify(b, noon), f.Verify(b, noon); fmt.Sprint(was) != fmt.Sprint(is) {
					t.Errorf("it is judged %v, anew %v", is, was)
				}
			}
		})
	}
}
