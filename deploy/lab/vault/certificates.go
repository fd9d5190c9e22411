package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

type certificateFiles struct{ ca, clientCert, clientKey string }

// makeCertificates makes a CA, the server's certificate under it, and a client
// certificate for Vault's cert login, and writes what clients need to dir.
func makeCertificates(dir string) (server tls.Certificate, files certificateFiles, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return server, files, err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return server, files, err
	}
	caTemplate := certificate(1, "lab Vault CA")
	caTemplate.IsCA, caTemplate.BasicConstraintsValid, caTemplate.KeyUsage = true, true, x509.KeyUsageCertSign
	ca, err := x509.CreateCertificate(rand.Reader, caTemplate, caTemplate, caKey.Public(), caKey)
	if err != nil {
		return server, files, err
	}
	issue := func(serial int64, name string) (cert, key []byte, err error) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		t := certificate(serial, name)
		t.KeyUsage = x509.KeyUsageDigitalSignature
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		t.DNSNames, t.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
		der, err := x509.CreateCertificate(rand.Reader, t, caTemplate, k.Public(), caKey)
		if err != nil {
			return nil, nil, err
		}
		p8, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}), nil
	}
	serverCert, serverKey, err := issue(2, "lab Vault")
	if err != nil {
		return server, files, err
	}
	if server, err = tls.X509KeyPair(serverCert, serverKey); err != nil {
		return server, files, err
	}
	clientCert, clientKey, err := issue(3, "certd")
	if err != nil {
		return server, files, err
	}
	files = certificateFiles{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem")}
	for file, content := range map[string][]byte{
		files.ca:         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca}),
		files.clientCert: clientCert,
		files.clientKey:  clientKey,
	} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return server, files, err
		}
	}
	return server, files, nil
}

func certificate(serial int64, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0)}
}
