package pki

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// LoadsInIdentity is linkerd-identity's own judgement of an issuer when it
// starts or reloads (linkerd2, pkg/identity/service.go, pkg/tls/cred.go,
// pkg/tls/codec.go): crt, key and roots are the files it reads. What it does
// not ask about (names, algorithms, key usage) is not asked here either, so
// that an issuer that loads can still be useless.
func LoadsInIdentity(crt, key, roots []byte, at time.Time) error {
	anchors, err := linkerdCertificates(roots)
	if err != nil {
		return fmt.Errorf("read trust anchors: %w", err)
	}
	signer, err := parseKey(key)
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	certs, err := linkerdCertificates(crt)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	if !samePublic(signer.Public(), certs[0].PublicKey) {
		return errors.New("the key does not match the first certificate")
	}
	// No usage is named, which means serverAuth; nor is a DNS name.
	_, err = certs[0].Verify(x509.VerifyOptions{Roots: pool(anchors), Intermediates: pool(certs[1:]), CurrentTime: at})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !certs[0].IsCA {
		return errors.New("the first certificate is not a CA's")
	}
	return nil
}

// linkerdCertificates decodes as linkerd2's codec does: anything after the
// last block, beyond the end of its line, is an error, and a block of another
// type silently ends the reading.
func linkerdCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("not a PEM certificate")
		}
		if block.Type != certificateBlock {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
		text = rest
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return certs, nil
}
