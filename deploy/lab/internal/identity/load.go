// Package identity is a stand-in for one replica of Linkerd's identity
// controller: it loads an issuer by the controller's rules, reloads it when the
// controller would, and tells what it has loaded. It issues no leaves.
package identity

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"certd.internal/deploy/lab/internal/codec"
)

// loadRoots reads the trust roots as the controller does when it starts
// (linkerd2 pkg/tls/codec.go, DecodePEMCertPool).
func loadRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("failed to read trust anchors: %w", err)
	}
	certs, err := codec.Certificates(text)
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
	key, err := codec.Key(keyText)
	if err != nil {
		return nil, fmt.Errorf("failed to read CA from disk: %w", err)
	}
	certs, err := codec.Certificates(certText)
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
