package rotation

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"sync"
	"weak"

	"certd.internal/pki"
)

// readBundle is a bundle that was read, beside its text.
type readBundle struct {
	text   []byte
	bundle pki.Bundle
	err    error
}

// readBundles are those that were read in one cluster. A nil one keeps nothing.
type readBundles struct {
	held   *held[[sha256.Size]byte, *readBundle]
	shared *sharedBundles
}

// mostBundles bounds what is kept for one cluster.
const mostBundles = 16

func newReadBundles(shared *sharedBundles) *readBundles {
	return &readBundles{newHeld[[sha256.Size]byte, *readBundle](mostBundles), shared}
}

func (b *readBundles) read(text []byte) *readBundle {
	if b == nil {
		return newReadBundle(text)
	}
	sum := sha256.Sum256(text)
	return b.held.get(sum, func() *readBundle { return b.shared.read(sum, text) })
}

func newReadBundle(text []byte) *readBundle {
	r := &readBundle{text: text}
	r.bundle, r.err = pki.ReadBundle(text)
	return r
}

// sharedBundles are those of all clusters, by the SHA-256 of their text: most clusters have
// the same. What no cluster keeps is not kept here either.
type sharedBundles struct {
	mu   sync.Mutex
	of   map[[sha256.Size]byte]weak.Pointer[readBundle]
	room int // before those that are gone are looked for
}

func (s *sharedBundles) read(sum [sha256.Size]byte, text []byte) *readBundle {
	if r := s.find(sum); r != nil {
		return r
	}
	// Without the lock: what one cluster has may take long to read.
	r := newReadBundle(bytes.Clone(text))
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.of[sum].Value(); other != nil {
		return other
	}
	if len(s.of) >= s.room {
		maps.DeleteFunc(s.of, func(_ [sha256.Size]byte, p weak.Pointer[readBundle]) bool { return p.Value() == nil })
		s.room = 2*len(s.of) + 16
	}
	if s.of == nil {
		s.of = map[[sha256.Size]byte]weak.Pointer[readBundle]{}
	}
	s.of[sum] = weak.Make(r)
	return r
}

func (s *sharedBundles) find(sum [sha256.Size]byte) *readBundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[sum].Value()
}

// keep has o read bundles where they are kept, and hold the text that is kept there.
func (o *Observation) keep(b *readBundles) {
	o.bundles = b
	if len(o.BundleText) > 0 {
		o.BundleText = b.read(o.BundleText).text
	}
}
