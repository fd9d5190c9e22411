package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"

	"certd.internal/rotation"
)

// key signs with a crypto.Signer of go.step.sm/crypto.
type key struct {
	signer crypto.Signer
	public *ecdsa.PublicKey
	info   rotation.KeyInfo
	// use runs a call that knows no context; nil runs it as it is.
	use func(ctx context.Context, doing string, lost error, call func() error) error
}

var _ rotation.DigestSigner = (*key)(nil)

// Info implements rotation.Key.
func (k *key) Info() rotation.KeyInfo { return k.info }

// SignDigest implements rotation.DigestSigner.
func (k *key) SignDigest(ctx context.Context, digest []byte) (rotation.Signature, error) {
	doing := "sign with key " + k.info.Name
	if len(digest) != crypto.SHA256.Size() {
		return rotation.Signature{}, fmt.Errorf("%s: a SHA-256 digest has %d bytes, not %d", doing, crypto.SHA256.Size(), len(digest))
	}
	if err := alive(ctx, doing); err != nil {
		return rotation.Signature{}, err
	}
	var made []byte
	sign := func() (err error) {
		made, err = k.signer.Sign(rand.Reader, digest, crypto.SHA256)
		return err
	}
	var err error
	if k.use == nil {
		err = sign()
	} else {
		err = k.use(ctx, doing, rotation.ErrOutcomeUnknown, sign)
	}
	if err != nil {
		return rotation.Signature{}, fmt.Errorf("%s: %w", doing, err)
	}
	if !ecdsa.VerifyASN1(k.public, digest, made) {
		return rotation.Signature{}, fmt.Errorf("%s: the signature does not verify under its public key: %w", doing, rotation.ErrKeyUnfit)
	}
	return rotation.Signature{ASN1: made}, nil
}
