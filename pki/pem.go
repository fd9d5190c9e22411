package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	certificateBlock = "CERTIFICATE"
	beginLine        = "-----BEGIN CERTIFICATE-----\n"
	endLine          = "-----END CERTIFICATE-----\n"
	lineBytes        = 48 // of DER in a line of 64 characters
)

// EncodeCertificates is the canonical PEM text of certificates in their order:
// blocks only, LF, one newline after each; nil without any. It is asked for at every
// look at every cluster, so that it takes one allocation, where package pem takes many.
func EncodeCertificates(certs ...*x509.Certificate) []byte {
	size := 0
	for _, c := range certs {
		size += len(beginLine) + base64.StdEncoding.EncodedLen(len(c.Raw)) + (len(c.Raw)+lineBytes-1)/lineBytes + len(endLine)
	}
	if size == 0 {
		return nil
	}
	text := make([]byte, 0, size)
	for _, c := range certs {
		text = append(text, beginLine...)
		for line := range slices.Chunk(c.Raw, lineBytes) {
			text = append(base64.StdEncoding.AppendEncode(text, line), '\n')
		}
		text = append(text, endLine...)
	}
	return text
}

// parseStrict reads certificates from PEM in its plainest form: blocks of type
// CERTIFICATE, LF line ends, 64 characters a line, nothing before, between or
// after them. One missing newline at the very end is accepted, since Helm
// trims it.
//
// Most looser forms are harmless to one parser and fatal to another. Of those
// that all of them read, CR LF and text between blocks, a reader still has to
// ask which he sees; so they are refused too.
func parseStrict(text []byte) ([]*x509.Certificate, error) {
	if len(text) == 0 {
		return nil, errors.New("it is empty")
	}
	if bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		return nil, errors.New("it begins with a byte order mark, behind which parsers lose the first certificate")
	}
	if bytes.ContainsRune(text, '\r') {
		return nil, errors.New("its lines end in CR LF")
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(bytes.Clone(text), '\n')
	}
	var certs []*x509.Certificate
	for n := 1; len(text) > 0; n++ {
		if !bytes.HasPrefix(text, []byte(beginLine)) {
			return nil, fmt.Errorf("block %d: %s; linkerd-identity would refuse all of it or stop there", n, describeJunk(text, n))
		}
		end := bytes.Index(text, []byte("\n"+endLine))
		if end < 0 {
			return nil, fmt.Errorf("block %d has no end line of its own", n)
		}
		end += 1 + len(endLine)
		block, _ := pem.Decode(text[:end])
		if block == nil {
			return nil, fmt.Errorf("block %d is not one plain PEM block", n)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d is not a certificate: %w", n, err)
		}
		// Headers, indentation, odd line lengths and a second block that began
		// inside this one all show here.
		if !bytes.Equal(EncodeCertificates(c), text[:end]) {
			return nil, fmt.Errorf("block %d is not in canonical form (headers, line length or spaces)", n)
		}
		certs = append(certs, c)
		text = text[end:]
	}
	return certs, nil
}

func describeJunk(text []byte, n int) string {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	switch {
	case len(bytes.TrimSpace(line)) == 0:
		return "there is a blank line"
	case bytes.HasPrefix(line, []byte("-----BEGIN ")) && bytes.HasSuffix(line, []byte("-----")):
		return "a " + blockType(string(line[len("-----BEGIN "):len(line)-len("-----")])) + " is not a certificate, and what follows it would be left out"
	case n == 1:
		return "it is not PEM"
	}
	return "there is other text"
}

// blockType quotes the type of a PEM block, unless it might be what should have
// stood inside the block: types are short and in capitals (RFC 7468 §4).
func blockType(t string) string {
	odd := func(r rune) bool { return r != ' ' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') }
	if len(t) > 32 || strings.ContainsFunc(t, odd) {
		return "block of unknown type"
	}
	return fmt.Sprintf("%q block", t)
}

// ReadCertificates reads what can be read of a PEM text, for people to look
// at, and says what is odd about it: what linkerd-identity or a proxy would
// choke on. It never returns key material. Without problems the text is
// canonical but for a missing last newline.
func ReadCertificates(text []byte) (certs []*x509.Certificate, problems []string) {
	certs, problems = readBlocks(text)
	if _, err := parseStrict(text); err != nil {
		problems = append(problems, err.Error())
	}
	return certs, problems
}

// readBlocks is ReadCertificates but for the form of the text.
func readBlocks(text []byte) (certs []*x509.Certificate, problems []string) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock {
			problems = append(problems, "there is a "+blockType(block.Type))
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			problems = append(problems, fmt.Sprintf("a certificate cannot be parsed: %v", err))
			continue
		}
		certs = append(certs, c)
	}
	return certs, problems
}
