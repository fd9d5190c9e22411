package payload

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"certd.internal/pki"
)

// Reader reads an issuer's data like pki.ReadIssuer, with a bound on what is parsed, and remembers what the last
// data showed: proving an issuer takes signatures, and in a quiet cluster each
// look finds the same bytes. It keeps their digest, nothing of the key. The
// zero Reader is ready.
type Reader struct {
	mu     sync.Mutex
	of     [sha256.Size]byte
	facts  pki.IssuerFacts
	proved *pki.Proof // of what was written last
}

// Expect is told of an issuer that is about to be written: where it is read back, it is
// not proved once more. A nil credential is none.
func (r *Reader) Expect(c *pki.Credential) {
	if c == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proved = c.Proof()
}

// Issuer returns the facts of the issuer's data.
func (r *Reader) Issuer(data map[string][]byte, id pki.Identity) pki.IssuerFacts {
	of := digest(data, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	// A problem may be one of the moment.
	if r.of != of || r.facts.Problem != "" {
		r.of, r.facts = of, readIssuer(data, id, r.proved)
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
