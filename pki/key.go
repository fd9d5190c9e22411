package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// PrivateKey is an ECDSA P-256 key that shows itself to nothing: not to fmt,
// log/slog or encoding. It is a crypto.Signer. The zero PrivateKey is none.
type PrivateKey struct{ key *ecdsa.PrivateKey }

var _ crypto.Signer = PrivateKey{}

// GenerateKey makes a P-256 key.
func GenerateKey() (PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("generate a P-256 key: %w", err)
	}
	return PrivateKey{k}, nil
}

// ParsePrivateKey reads the first block of a PEM text: "EC PRIVATE KEY"
// (SEC 1, RFC 5915) or "PRIVATE KEY" (PKCS#8, RFC 5958), P-256 only.
func ParsePrivateKey(text []byte) (PrivateKey, error) {
	signer, err := parseKey(text)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("parse private key: %w", err)
	}
	k, ok := signer.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return PrivateKey{}, errors.New("parse private key: not an ECDSA P-256 key")
	}
	return PrivateKey{k}, nil
}

// parseKey takes the block types and keys that linkerd2 takes (pkg/tls/codec.go):
// ECDSA of any curve and RSA. Its errors quote nothing of what was read.
func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	defer clear(block.Bytes)
	var parsed any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a %s is not a private key; want EC PRIVATE KEY or PRIVATE KEY", blockType(block.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("the %s does not hold one", blockType(block.Type))
	}
	switch k := parsed.(type) {
	case *ecdsa.PrivateKey:
		return k, nil
	case *rsa.PrivateKey:
		return k, nil
	}
	return nil, errors.New("neither an ECDSA nor an RSA key")
}

// Public implements crypto.Signer; it is what PublicKey returns.
func (k PrivateKey) Public() crypto.PublicKey { return k.PublicKey() }

// PublicKey returns the public key, also after Wipe; nil for the zero
// PrivateKey.
func (k PrivateKey) PublicKey() *ecdsa.PublicKey {
	if k.key == nil {
		return nil
	}
	return &k.key.PublicKey
}

// Sign implements crypto.Signer: an ECDSA signature in ASN.1 DER
// (RFC 3279 §2.2.3).
func (k PrivateKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.gone() {
		return nil, errors.New("sign: there is no private key, or it was wiped")
	}
	return k.key.Sign(rand, digest, opts)
}

// PKCS8PEM is the key as all of Linkerd's servers read it: PKCS#8 in PEM.
// Whoever asks for it wipes it. Asking for a key that was wiped is a mistake
// in the program, and panics: nothing may be written in its place.
func (k PrivateKey) PKCS8PEM() []byte {
	if k.gone() {
		panic("pki: PKCS8PEM of a private key that is not there, or was wiped")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		panic("pki: a P-256 key cannot be marshalled: " + err.Error())
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Wipe overwrites the scalar, for all copies of k. What the runtime or
// crypto/ecdsa copied before is out of reach.
func (k PrivateKey) Wipe() {
	if k.key != nil {
		wipe(k.key)
	}
}

func wipe(k *ecdsa.PrivateKey) {
	//lint:ignore SA1019 there is no other way to the memory
	if d := k.D; d != nil {
		bits := d.Bits()
		clear(bits[:cap(bits)])
		d.SetInt64(0)
	}
}

func (k PrivateKey) gone() bool {
	//lint:ignore SA1019 a scalar of 0 is what Wipe leaves, and no key
	return k.key == nil || k.key.D == nil || k.key.D.Sign() == 0
}

const hidden = "[private key]"

// Format, String, GoString, MarshalText, MarshalJSON and LogValue hide the key
// from everything that prints values.
func (PrivateKey) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, hidden) }
func (PrivateKey) String() string               { return hidden }
func (PrivateKey) GoString() string             { return hidden }
func (PrivateKey) MarshalText() ([]byte, error) { return []byte(hidden), nil }
func (PrivateKey) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }
func (PrivateKey) LogValue() slog.Value         { return slog.StringValue(hidden) }
