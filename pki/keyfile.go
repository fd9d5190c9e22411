package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"go.step.sm/crypto/pemutil"
)

// ReadPrivateKey reads the one private key of a file as openssl, step and
// cert-manager write it: SEC 1, PKCS#8, and either of them encrypted. Only
// P-256 is taken. passphrase is asked where it is needed, and its answer wiped;
// nil: there is none. Errors quote nothing of what was read.
func ReadPrivateKey(text []byte, passphrase func() ([]byte, error)) (PrivateKey, error) {
	block, err := onlyKey(text)
	if err != nil {
		return PrivateKey{}, err
	}
	defer clear(block.Bytes)
	der := block.Bytes
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["Proc-Type"] != "" {
		if passphrase == nil {
			return PrivateKey{}, errors.New("the private key is encrypted, and there is no passphrase for it")
		}
		secret, err := passphrase()
		if err != nil {
			return PrivateKey{}, fmt.Errorf("the passphrase of the private key: %w", err)
		}
		defer clear(secret)
		if der, err = pemutil.DecryptPEMBlock(block, secret); err != nil {
			return PrivateKey{}, errors.New("the passphrase does not open the private key, or its encryption is not one of PBES2 with PBKDF2 and AES (openssl pkcs8 -topk8 -v2 aes256 makes it that)")
		}
		defer clear(der)
	}
	// PKCS#8 and SEC 1 are told apart by content: what was encrypted as PKCS#8
	// is PKCS#8, while RFC 1423 keeps the form that the type names.
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		parsed, err = x509.ParseECPrivateKey(der)
	}
	if err != nil && block.Type == "RSA PRIVATE KEY" {
		parsed, err = x509.ParsePKCS1PrivateKey(der)
	}
	if err != nil {
		return PrivateKey{}, fmt.Errorf("the %s does not hold a private key, or the passphrase is wrong", blockType(block.Type))
	}
	k, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		if ok {
			wipe(k)
		}
		return PrivateKey{}, fmt.Errorf("the private key is %s; certd signs with ECDSA P-256 alone: begin with an anchor of its own (certd init)", keyKind(parsed))
	}
	return PrivateKey{k}, nil
}

// onlyKey finds the one private key among the blocks of a PEM text. openssl puts
// the curve before it, and some put the certificate beside it.
func onlyKey(text []byte) (key *pem.Block, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "EC PARAMETERS", certificateBlock:
			continue
		case "EC PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY":
		default:
			clear(block.Bytes)
			return nil, fmt.Errorf("a %s is not a private key; want EC PRIVATE KEY, PRIVATE KEY or ENCRYPTED PRIVATE KEY", blockType(block.Type))
		}
		if key != nil {
			clear(key.Bytes)
			clear(block.Bytes)
			return nil, errors.New("there is more than one private key")
		}
		key = block
	}
	if key == nil {
		return nil, errors.New("there is no private key (PEM) in it")
	}
	return key, nil
}

func keyKind(key any) string {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PrivateKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	}
	return "neither ECDSA nor RSA"
}

// PKCS8 is the key in DER (RFC 5958), for the caller to wipe. Like PKCS8PEM it
// panics where there is no key.
func (k PrivateKey) PKCS8() []byte {
	text := k.PKCS8PEM()
	defer clear(text)
	block, _ := pem.Decode(text)
	return block.Bytes
}
