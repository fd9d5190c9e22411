package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

// readAlike returns the certificates of a text that linkerd2's own codec, Go's
// certificate pools and rustls-pemfile all find in it, in their order. The error
// says who would find something else.
func readAlike(text []byte) ([]*x509.Certificate, error) {
	certs, err := linkerdCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("linkerd-identity would not start with it: %w", err)
	}
	if err := sameAs(certs, goCertificates(text)); err != nil {
		return nil, fmt.Errorf("the other Go programs would read it in another way than linkerd-identity: %w", err)
	}
	rust, err := rustCertificates(text)
	if err == nil {
		err = sameAs(certs, rust)
	}
	if err != nil {
		return nil, fmt.Errorf("proxies would read it in another way than linkerd-identity: %w", err)
	}
	return certs, nil
}

func sameAs(certs []*x509.Certificate, others [][]byte) error {
	if len(certs) != len(others) {
		return fmt.Errorf("%d certificates instead of %d", len(others), len(certs))
	}
	for i, c := range certs {
		if !bytes.Equal(c.Raw, others[i]) {
			return fmt.Errorf("another certificate %d", i+1)
		}
	}
	return nil
}

// goCertificates is what x509.CertPool.AppendCertsFromPEM takes from a text, in DER:
// it passes over other blocks, blocks with headers, and what is no certificate.
func goCertificates(text []byte) (found [][]byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock || len(block.Headers) > 0 {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			found = append(found, block.Bytes)
		}
	}
	return found
}

// rustCertificates is what rustls-pemfile 1.0 takes from a text (pemfile.rs: read_one),
// in DER. It goes line by line: a block begins where a line begins with BEGIN, whatever was
// open, and all up to a line that begins with its END is base64, without anything else.
func rustCertificates(text []byte) (found [][]byte, err error) {
	const begin, dashes = "-----BEGIN ", "-----"
	var body, end []byte // end is nil outside of a block
	isCertificate := false
	for len(text) > 0 {
		var line []byte
		if n := bytes.IndexAny(text, "\r\n"); n >= 0 {
			line, text = text[:n+1], text[n+1:]
		} else {
			line, text = text, nil
		}
		bare := bytes.TrimRight(line, "\r\n ")
		if bytes.HasPrefix(line, []byte(begin)) {
			label := bytes.TrimRight(line, "-\r\n ")
			if tail := line[len(label):]; bytes.Count(tail, []byte("-")) != len(dashes) {
				return nil, errors.New("a line that begins a block has no end")
			}
			label = line[len(begin):max(len(begin), bytes.IndexByte(line[len(label):], '-')+len(label))]
			isCertificate = string(label) == certificateBlock
			end = append(append([]byte("-----END "), label...), dashes...)
			continue // what was read of a block before stays: rustls-pemfile does not drop it
		}
		if end == nil {
			continue
		}
		if bytes.HasPrefix(line, end) {
			der, err := base64.StdEncoding.Strict().DecodeString(string(body))
			if err != nil || bytes.ContainsAny(body, "\r\n") {
				return nil, errors.New("a block is not base64 alone")
			}
			if isCertificate {
				found = append(found, der)
			}
			body, end = nil, nil
			continue
		}
		body = append(body, bare...)
	}
	if end != nil {
		return nil, errors.New("a block has no end")
	}
	return found, nil
}
