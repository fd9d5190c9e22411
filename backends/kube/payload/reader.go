package payload

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"certd.internal/pki"
)

// Reader reads an issuer's data like ReadIssuer, and remembers what the last
// data showed: proving an issuer takes signatures, and in a quiet cluster each
// look finds the same bytes. It keeps their digest, nothing of the key. The
// zero Reader is ready.
type Reader struct {
	mu    sync.Mutex
	of    [sha256.Size]byte
	facts pki.IssuerFacts
}

// Issuer returns the facts of the issuer's data.
func (r *Reader) Issuer(data map[string][]byte, id pki.Identity, now time.Time) pki.IssuerFacts {
	of := digest(data, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	// A problem may be one of the moment.
	if r.of != of || r.facts.Problem != "" {
		r.of, r.facts = of, ReadIssuer(data, id, now)
	}
	return r.facts
}

func digest(data map[string][]byte, id pki.Identity) (sum [sha256.Size]byte) {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	field([]byte(id.Namespace))
	field([]byte(id.TrustDomain))
	field([]byte(id.Scheme))
	for _, key := range IssuerKeys() {
		field(data[key])
	}
	h.Sum(sum[:0])
	return sum
}
