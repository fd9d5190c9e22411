package backendtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"certd.internal/rotation"
)

// KeysOptions says what a key backend is like, where backends may differ.
type KeysOptions struct {
	Backend    string // KeyInfo.Backend
	Exportable bool   // KeyInfo.Exportable
	RequestIDs bool   // Signature.Request is set
	// Name makes names that nothing in the backend has, where the backend
	// outlives the test; nil gives plain ones.
	Name func(string) string
}

// TestKeys checks what rotation.Keys promises of a backend that signs digests.
// open returns the backend as a fresh certd would see it; calls within one
// test see the same keys.
func TestKeys(t *testing.T, open func(t *testing.T) rotation.Keys, opts KeysOptions) {
	if opts.Name == nil {
		opts.Name = func(s string) string { return s }
	}
	s := keysSuite{open, opts}
	t.Run("a new key signs what verifies under its public key", s.signs)
	t.Run("a key is the same to a certd that starts anew", s.reopens)
	t.Run("a taken name is refused and its key left alone", s.takenName)
	t.Run("a missing key is told", s.missing)
	t.Run("a key other than the pinned one is refused", s.pinned)
	t.Run("a digest of another length is refused", s.digestLength)
	t.Run("a name that is a path is refused", s.names)
	t.Run("many sign at the same time", s.concurrent)
	t.Run("a call whose context has ended ends at once", s.cancelled)
	t.Run("closing twice is no error", s.closing)
}

type keysSuite struct {
	open func(t *testing.T) rotation.Keys
	opts KeysOptions
}

// keys opens the backend for the length of one test.
func (s keysSuite) keys(t *testing.T) rotation.Keys {
	t.Helper()
	k := s.open(t)
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return k
}

func (s keysSuite) create(t *testing.T, k rotation.Keys, name string) rotation.DigestSigner {
	t.Helper()
	made, err := k.CreateKey(t.Context(), s.opts.Name(name))
	if err != nil {
		t.Fatal(err)
	}
	return digestSigner(t, made)
}

func digestSigner(t *testing.T, k rotation.Key) rotation.DigestSigner {
	t.Helper()
	d, ok := k.(rotation.DigestSigner)
	if !ok {
		t.Fatalf("%T signs no digests", k)
	}
	return d
}

func (s keysSuite) signs(t *testing.T) {
	k := s.create(t, s.keys(t), "signs")
	info := k.Info()
	if info.Backend != s.opts.Backend || info.Name != s.opts.Name("signs") || info.Exportable != s.opts.Exportable {
		t.Errorf("info is %+v", info)
	}
	pub, ok := info.Public.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		t.Fatalf("public key is %T", info.Public)
	}
	digest := sha256.Sum256([]byte("tbs"))
	seen := map[string]bool{}
	for range 3 {
		sig, err := k.SignDigest(t.Context(), digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if !ecdsa.VerifyASN1(pub, digest[:], sig.ASN1) {
			t.Error("the signature does not verify")
		}
		if s.opts.RequestIDs == (sig.Request == "") || s.opts.RequestIDs && seen[sig.Request] {
			t.Errorf("request id %q (seen before: %t)", sig.Request, seen[sig.Request])
		}
		seen[sig.Request] = true
	}
}

func (s keysSuite) reopens(t *testing.T) {
	made := s.create(t, s.keys(t), "reopens")
	again, err := s.keys(t).OpenKey(t.Context(), s.opts.Name("reopens"), made.Info().Public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("tbs"))
	sig, err := digestSigner(t, again).SignDigest(t.Context(), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(made.Info().Public.(*ecdsa.PublicKey), digest[:], sig.ASN1) {
		t.Error("the signature does not verify under the key's public key of when it was made")
	}
	if again.Info().Exportable != made.Info().Exportable || again.Info().Name != made.Info().Name || again.Info().Backend != made.Info().Backend {
		t.Errorf("made as %+v, opened as %+v", made.Info(), again.Info())
	}
}

func (s keysSuite) takenName(t *testing.T) {
	k := s.keys(t)
	made := s.create(t, k, "taken")
	if _, err := k.CreateKey(t.Context(), s.opts.Name("taken")); !errors.Is(err, rotation.ErrKeyExists) {
		t.Errorf("creating it again: %v", err)
	}
	if _, err := k.OpenKey(t.Context(), s.opts.Name("taken"), made.Info().Public); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func (s keysSuite) missing(t *testing.T) {
	k := s.keys(t)
	if _, err := k.OpenKey(t.Context(), s.opts.Name("missing"), nil); !errors.Is(err, rotation.ErrKeyNotFound) {
		t.Errorf("without a pinned key: %v", err)
	}
	if _, err := k.OpenKey(t.Context(), s.opts.Name("missing"), other(t)); !errors.Is(err, rotation.ErrKeyNotFound) {
		t.Errorf("with a pinned key: %v", err)
	}
}

func other(t *testing.T) *ecdsa.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &k.PublicKey
}

func (s keysSuite) pinned(t *testing.T) {
	k := s.keys(t)
	s.create(t, k, "pinned")
	if _, err := k.OpenKey(t.Context(), s.opts.Name("pinned"), other(t)); !errors.Is(err, rotation.ErrKeyUnfit) {
		t.Errorf("with another key pinned: %v", err)
	}
}

func (s keysSuite) digestLength(t *testing.T) {
	k := s.create(t, s.keys(t), "length")
	for _, n := range []int{0, 3, 31, 33, 64} {
		if sig, err := k.SignDigest(t.Context(), bytes.Repeat([]byte{1}, n)); err == nil || sig.ASN1 != nil {
			t.Errorf("%d bytes were signed", n)
		}
	}
	if _, err := k.SignDigest(t.Context(), nil); err == nil {
		t.Error("nothing was signed")
	}
}

func (s keysSuite) names(t *testing.T) {
	k := s.keys(t)
	for _, name := range []string{"", ".", "..", "a/b", "../a", "a/../b", "a b", "a%2fb", "a?b", "a#b", "ä"} {
		if _, err := k.CreateKey(t.Context(), name); err == nil {
			t.Errorf("a key called %q was made", name)
		}
		if _, err := k.OpenKey(t.Context(), name, nil); err == nil {
			t.Errorf("a key called %q was opened", name)
		}
	}
}

func (s keysSuite) concurrent(t *testing.T) {
	k := s.keys(t)
	shared := s.create(t, k, "busy")
	pinned := shared.Info().Public.(*ecdsa.PublicKey)
	const many = 16
	var wg sync.WaitGroup
	requests := make([]string, many)
	for i := range many {
		wg.Go(func() {
			signer := shared
			if i%8 == 0 { // opening may be slow by design
				opened, err := k.OpenKey(t.Context(), s.opts.Name("busy"), pinned)
				if err != nil {
					t.Error(err)
					return
				}
				signer = opened.(rotation.DigestSigner)
			}
			digest := sha256.Sum256(fmt.Append(nil, i))
			sig, err := signer.SignDigest(t.Context(), digest[:])
			if err != nil {
				t.Error(err)
				return
			}
			if !ecdsa.VerifyASN1(pinned, digest[:], sig.ASN1) {
				t.Error("a signature does not verify")
			}
			requests[i] = sig.Request
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, r := range requests {
		if s.opts.RequestIDs && (r == "" || seen[r]) {
			t.Errorf("request id %q is empty or not unique", r)
		}
		seen[r] = true
	}
}

func (s keysSuite) cancelled(t *testing.T) {
	k := s.keys(t)
	made := s.create(t, k, "cancelled")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	digest := sha256.Sum256([]byte("tbs"))
	_, signed := made.SignDigest(ctx, digest[:])
	_, opened := k.OpenKey(ctx, s.opts.Name("cancelled"), nil)
	_, created := k.CreateKey(ctx, s.opts.Name("cancelled-2"))
	for what, err := range map[string]error{"sign": signed, "open": opened, "create": created} {
		if !errors.Is(err, rotation.ErrUnavailable) && !errors.Is(err, rotation.ErrOutcomeUnknown) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
	if _, err := k.OpenKey(t.Context(), s.opts.Name("cancelled-2"), nil); !errors.Is(err, rotation.ErrKeyNotFound) {
		t.Errorf("the key of the cancelled call: %v", err)
	}
}

func (s keysSuite) closing(t *testing.T) {
	k := s.open(t)
	if _, err := k.OpenKey(t.Context(), s.opts.Name("closing"), nil); !errors.Is(err, rotation.ErrKeyNotFound) {
		t.Error(err)
	}
	for range 2 {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
}
