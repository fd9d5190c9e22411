package vault

import (
	"crypto/aes"
	"encoding/binary"
	"fmt"
)

// wrapKey is AES key wrap with padding (RFC 5649 §4.1) of 9 to 8192 bytes,
// which Vault asks for: more than one block, and no more than a key has.
func wrapKey(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	if len(key) <= 8 || len(key) > 8192 {
		return nil, fmt.Errorf("a key of %d bytes is not wrapped", len(key))
	}
	n := (len(key) + 7) / 8
	out := make([]byte, 8*(n+1)) // A | R[1] | … | R[n], padded with zeros
	copy(out, []byte{0xa6, 0x59, 0x59, 0xa6})
	binary.BigEndian.PutUint32(out[4:], uint32(len(key)))
	copy(out[8:], key)
	// The W process of RFC 3394 §2.2.1, in place.
	var b [aes.BlockSize]byte
	defer clear(b[:])
	copy(b[:8], out)
	for t := uint64(1); t <= uint64(6*n); t++ {
		r := out[8*((t-1)%uint64(n)+1):][:8]
		copy(b[8:], r)
		block.Encrypt(b[:], b[:])
		binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])^t)
		copy(r, b[8:])
	}
	copy(out, b[:8])
	return out, nil
}
