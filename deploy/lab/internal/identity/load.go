// Package identity is a stand-in for one replica of Linkerd's identity
// controller: it loads an issuer by the controller's rules, reloads it when the
// controller would, and tells what it has loaded. It issues no leaves.
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// loadRoots reads the trust roots as the controller does when it starts
// (linkerd2 pkg/tls/codec.go, DecodePEMCertPool).
func loadRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("failed to read trust anchors: %w", err)
	}
	certs, err := decodeCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("failed to read trust anchors: %w", err)
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

// issuerFiles names certificate and key inside the issuer's folder
// (linkerd2 controller/cmd/identity/main.go): anything but linkerd.io/tls has
// the names of kubernetes.io/tls.
func issuerFiles(scheme string) (cert, key string) {
	if scheme == "linkerd.io/tls" {
		return "crt.pem", "key.pem"
	}
	return "tls.crt", "tls.key"
}

// loadIssuer reads the issuer in dir and returns its certificate if the
// controller would take it (linkerd2 pkg/identity/service.go,
// loadCredentials). Like the controller it asks neither for a name nor for
// P-256 nor for the certificate signing usage; certd must. The texts of the
// errors are the controller's.
func loadIssuer(dir, scheme string, roots *x509.CertPool, now time.Time) (*x509.Certificate, error) {
	certName, keyName := issuerFiles(scheme)
	keyText, err := os.ReadFile(filepath.Join(dir, keyName))
	if err != nil {
		return nil, fmt.Errorf("failed to read CA from disk: %w", err)
	}
	certText, err := os.ReadFile(filepath.Join(dir, certName))
	if err != nil {
		return nil, fmt.Errorf("failed to read CA from disk: %w", err)
	}
	key, err := decodeKey(keyText)
	if err != nil {
		return nil, fmt.Errorf("failed to read CA from disk: %w", err)
	}
	certs, err := decodeCertificates(certText)
	if err != nil {
		return nil, fmt.Errorf("failed to read CA from disk: %w", err)
	}
	issuer := certs[0]
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(issuer.PublicKey) {
		return nil, errors.New("failed to read CA from disk: tls: Public and private key do not match")
	}
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	// No DNSName: the name is not checked. No KeyUsages: serverAuth is asked
	// for as soon as the certificate has any extended key usage.
	if _, err := issuer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now}); err != nil {
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			err = fmt.Errorf("%w - Current Time : %s - Invalid before %s - Invalid After %s", err, now, issuer.NotBefore, issuer.NotAfter)
		}
		return nil, fmt.Errorf("failed to verify issuer credentials with trust anchors: %w", err)
	}
	if !issuer.IsCA {
		return nil, errors.New("failed to verify issuer certificate: it must be an intermediate-CA, but is not")
	}
	return issuer, nil
}

// decodeCertificates reads certificates until the text ends. Rest that is not
// PEM is an error, a second newline at the end included, and a block of another
// type ends the list without one (linkerd2 pkg/tls/codec.go).
func decodeCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(text) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("not a PEM certificate")
		}
		if block.Type != "CERTIFICATE" {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificates found")
	}
	return certs, nil
}

// decodeKey reads the first PEM block of text (linkerd2 pkg/tls/codec.go).
func decodeKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM-encoded")
	}
	switch block.Type {
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		switch key := key.(type) {
		case *ecdsa.PrivateKey:
			return key, nil
		case *rsa.PrivateKey:
			return key, nil
		}
		return nil, fmt.Errorf("unsupported PKCS#8 encoded private key type %T", key)
	}
	return nil, fmt.Errorf("unsupported block type: %q", block.Type)
}
