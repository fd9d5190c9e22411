package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"certd.internal/pki"
)

// An Inspection explains certificates, as `inspect -o json` shows it. It never
// holds a private key.
type Inspection struct {
	APIVersion   string        `json:"apiVersion"`
	Kind         string        `json:"kind"` // Inspection
	Source       string        `json:"source"`
	InspectedAt  time.Time     `json:"inspectedAt"`
	Certificates []Inspected   `json:"certificates"`
	PrivateKeys  int           `json:"privateKeys"` // seen, and not shown
	Issuer       *Judgement    `json:"issuer,omitempty"`
	Bundle       *BundleReport `json:"bundle,omitempty"`
	Problems     []string      `json:"problems"` // of the text itself

	Webhooks []WebhookVerdict `json:"webhooks,omitempty"` // of a cluster
}

// Inspected is one certificate.
type Inspected struct {
	From             []string  `json:"from"` // "tls.crt" of a Secret; empty for a file
	Role             string    `json:"role"` // anchor, issuer or leaf
	Subject          string    `json:"subject"`
	Issuer           string    `json:"issuer"`
	KeyType          string    `json:"keyType"`
	CA               bool      `json:"ca"`
	PathLength       *int      `json:"pathLength,omitempty"`
	Names            []string  `json:"names"`
	Serial           string    `json:"serial"`
	SKI              string    `json:"ski"`
	AKI              string    `json:"aki"`
	NotBefore        time.Time `json:"notBefore"`
	NotAfter         time.Time `json:"notAfter"`
	ExpiresInSeconds int64     `json:"expiresInSeconds"` // below 0: ended
	SHA256           string    `json:"sha256"`
	SignedBy         string    `json:"signedBy,omitempty"` // SHA-256 of the signer, if it is among those given
}

// A Judgement is a verdict with its reason.
type Judgement struct {
	Usable bool   `json:"usable"`
	Why    string `json:"why"`
}

// BundleReport is the verdict on a trust bundle.
type BundleReport struct {
	Judgement
	Anchors int    `json:"anchors"`
	SHA256  string `json:"sha256,omitempty"`
}

// A section is one text of the input: a file, or one key of a manifest.
type section struct {
	from string
	data []byte
}

// An object is a Secret or ConfigMap, or a list of them, as a manifest.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Data       map[string]string `json:"data"`
	StringData map[string]string `json:"stringData"`
	BinaryData map[string]string `json:"binaryData"`
	Items      []object          `json:"items"`
}

var errNoCertificate = errors.New("there is no certificate in it: it is neither PEM, DER, nor a Secret or ConfigMap")

// inspect explains what is in the input, whatever form it has. Expired
// certificates and odd ones are explained like others.
func inspect(source string, input []byte, now time.Time) (Inspection, error) {
	doc := Inspection{APIVersion: apiVersion, Kind: "Inspection", Source: source, InspectedAt: now.UTC().Truncate(time.Second), Certificates: []Inspected{}, Problems: []string{}}
	objects := manifests(input)
	var sections []section
	for _, o := range objects {
		s, problems := o.sections(len(objects) > 1)
		sections = append(sections, s...)
		doc.Problems = append(doc.Problems, problems...)
	}
	webhooks := webhooksIn(input)
	if len(objects) == 0 && len(webhooks) == 0 {
		sections = []section{{"", input}}
	}
	mesh := len(sections) // what follows has nothing to do with workloads
	for _, w := range webhooks {
		sections = append(sections, webhookSections(w, len(objects)+len(webhooks) > 1)...)
		doc.Webhooks = append(doc.Webhooks, judgeWebhook(w, now))
	}
	var all, ofMesh []*x509.Certificate
	from := map[string][]string{}
	for i, s := range sections {
		certs, keys, problems := s.read()
		doc.PrivateKeys += keys
		for _, p := range problems {
			doc.Problems = append(doc.Problems, strings.TrimPrefix(s.from+": "+p, ": "))
		}
		for _, c := range certs {
			id := pki.Fingerprint(c)
			if _, seen := from[id]; !seen {
				all, from[id] = append(all, c), []string{}
			}
			if i < mesh && !slices.ContainsFunc(ofMesh, c.Equal) {
				ofMesh = append(ofMesh, c)
			}
			if s.from != "" && !slices.Contains(from[id], s.from) {
				from[id] = append(from[id], s.from)
			}
		}
	}
	if len(all) == 0 && doc.PrivateKeys == 0 && len(webhooks) == 0 {
		return doc, errNoCertificate
	}
	for _, c := range all {
		doc.Certificates = append(doc.Certificates, describe(c, all, from[pki.Fingerprint(c)], now))
	}
	doc.Bundle = judgeBundle(sections[:mesh])
	doc.Issuer = judgeIssuer(objects, ofMesh, now)
	return doc, nil
}

// manifests returns the objects of a Kubernetes manifest; none if it is none.
func manifests(input []byte) []object {
	var all []object
	for _, text := range texts(input) {
		var o object
		if !bytes.Contains(text, []byte("kind")) || yaml.Unmarshal(text, &o) != nil {
			continue
		}
		for _, one := range append([]object{o}, o.Items...) {
			if one.Kind == "Secret" || one.Kind == "ConfigMap" {
				all = append(all, one)
			}
		}
	}
	return all
}

// fields are the data of the object, decoded.
func (o object) fields() (fields map[string][]byte, problems []string) {
	fields = map[string][]byte{}
	decode := func(from map[string]string) {
		for key, value := range from {
			b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(value), ""))
			if err != nil {
				problems = append(problems, key+": is not base64")
				continue
			}
			fields[key] = b
		}
	}
	decode(o.BinaryData)
	if o.Kind == "Secret" {
		decode(o.Data)
	} else {
		for key, value := range o.Data {
			fields[key] = []byte(value)
		}
	}
	for key, value := range o.StringData {
		fields[key] = []byte(value)
	}
	slices.Sort(problems)
	return fields, problems
}

func (o object) sections(named bool) ([]section, []string) {
	fields, problems := o.fields()
	var list []section
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if !bytes.Contains(fields[key], []byte("-----BEGIN ")) {
			continue
		}
		from := key
		if named {
			from = o.Metadata.Name + "/" + key
		}
		list = append(list, section{from, fields[key]})
	}
	return list, problems
}

// read takes the certificates out of a section, and counts the private keys.
func (s section) read() (certs []*x509.Certificate, keys int, problems []string) {
	if !bytes.Contains(s.data, []byte("-----BEGIN ")) {
		if certs, err := x509.ParseCertificates(s.data); err == nil {
			return certs, 0, nil
		}
		_, pkcs8 := x509.ParsePKCS8PrivateKey(s.data)
		_, sec1 := x509.ParseECPrivateKey(s.data)
		if pkcs8 == nil || sec1 == nil {
			return nil, 1, nil
		}
		return nil, 0, nil
	}
	for rest := s.data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			keys++
		}
		clear(block.Bytes)
	}
	certs, problems = pki.ReadCertificates(s.data)
	if keys > 0 && len(certs) == 0 {
		return nil, keys, nil // the file of a key is no odd file of certificates
	}
	return certs, keys, problems
}

func describe(c *x509.Certificate, all []*x509.Certificate, from []string, now time.Time) Inspected {
	d := Inspected{From: from, Role: role(c), Subject: c.Subject.String(), Issuer: c.Issuer.String(), KeyType: keyType(c), CA: c.IsCA && c.BasicConstraintsValid,
		Names: slices.Concat([]string{}, c.DNSNames, c.EmailAddresses), Serial: pki.Serial(c), SKI: pki.SKI(c), AKI: pki.AKI(c), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
		ExpiresInSeconds: int64(c.NotAfter.Sub(now) / time.Second), SHA256: pki.Fingerprint(c)}
	for _, ip := range c.IPAddresses {
		d.Names = append(d.Names, ip.String())
	}
	for _, u := range c.URIs {
		d.Names = append(d.Names, u.String())
	}
	if d.CA && (c.MaxPathLen > 0 || c.MaxPathLenZero) {
		n := c.MaxPathLen
		d.PathLength = &n
	}
	// Two anchors can share a name and a key, so the names alone do not tell.
	for _, p := range all {
		if bytes.Equal(c.RawIssuer, p.RawSubject) && signs(p, c) {
			d.SignedBy = pki.Fingerprint(p)
			if p.Equal(c) {
				break
			}
		}
	}
	return d
}

// signs says whether parent's key made the signature, whatever else is wrong
// with it.
func signs(parent, child *x509.Certificate) bool {
	return parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) == nil
}

func role(c *x509.Certificate) string {
	switch ca := c.IsCA && c.BasicConstraintsValid; {
	case ca && bytes.Equal(c.RawSubject, c.RawIssuer) && signs(c, c):
		return "anchor"
	case ca:
		return "issuer"
	}
	return "leaf"
}

func keyType(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

// judgeBundle judges the first text that holds anchors and nothing else.
func judgeBundle(sections []section) *BundleReport {
	for _, s := range sections {
		certs, keys, _ := s.read()
		if len(certs) == 0 || keys > 0 || slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return role(c) != "anchor" }) {
			continue
		}
		if !bytes.Contains(s.data, []byte("-----BEGIN ")) {
			s.data = pki.EncodeCertificates(certs...) // DER: as what it would be
		}
		b, err := pki.ParseBundle(s.data)
		if err != nil {
			return &BundleReport{Judgement{false, strings.TrimPrefix(err.Error(), "parse trust bundle: ")}, len(certs), ""}
		}
		return &BundleReport{Judgement{true, "every reader of it reads the same anchors"}, len(b.Anchors()), b.SHA256()}
	}
	return nil
}

// judgeIssuer says whether the first chain would serve as a Linkerd issuer:
// with its key as linkerd-identity judges it, without as far as it shows. nil
// where there are only anchors.
func judgeIssuer(objects []object, all []*x509.Certificate, now time.Time) *Judgement {
	for _, o := range objects {
		fields, _ := o.fields()
		if o.Kind == "Secret" && (fields["tls.crt"] != nil || fields["crt.pem"] != nil) && (fields["tls.key"] != nil || fields["key.pem"] != nil) {
			return judgePair(o, fields, now)
		}
	}
	i := slices.IndexFunc(all, func(c *x509.Certificate) bool { return role(c) != "anchor" })
	if i < 0 {
		return nil
	}
	if why := unfit(all[i], now); why != "" {
		return &Judgement{false, why}
	}
	var anchors []*x509.Certificate
	for _, c := range all {
		if role(c) == "anchor" {
			anchors = append(anchors, c)
		}
	}
	if len(anchors) == 0 {
		return &Judgement{true, "as far as it shows: its key and the trust anchor are not given"}
	}
	if err := vouched(all[i], all, anchors, now); err != nil {
		return &Judgement{false, fmt.Sprintf("no anchor given vouches for it: %v", err)}
	}
	return &Judgement{true, "an anchor given vouches for it; its key is not given"}
}

func judgePair(o object, fields map[string][]byte, now time.Time) *Judgement {
	id := pki.Identity{Namespace: o.Metadata.Namespace, TrustDomain: "cluster.local"}
	certs, _ := pki.ReadCertificates(fields["tls.crt"])
	if len(certs) == 0 {
		certs, _ = pki.ReadCertificates(fields["crt.pem"])
	}
	if len(certs) > 0 {
		// The name is identity.<namespace>.<trust domain>.
		if parts := strings.SplitN(certs[0].Subject.CommonName, ".", 3); len(parts) == 3 && parts[0] == "identity" {
			id = pki.Identity{Namespace: parts[1], TrustDomain: parts[2]}
		}
	}
	facts := pki.ReadIssuer(fields, id, now)
	if facts.Problem != "" {
		return &Judgement{false, facts.Problem}
	}
	if len(facts.Chain) > 0 {
		if why := unfit(facts.Chain[0], now); why != "" {
			return &Judgement{false, why}
		}
	}
	roots := fields["ca.crt"]
	if roots == nil {
		return &Judgement{true, "the key is its own; the trust anchor is not given"}
	}
	bundle, err := pki.ParseBundle(roots)
	if err != nil {
		return &Judgement{false, fmt.Sprintf("ca.crt: %v", err)}
	}
	if err := facts.Verify(bundle, now); err != nil {
		return &Judgement{false, fmt.Sprintf("a leaf of it would not verify under ca.crt: %v", err)}
	}
	return &Judgement{true, "the key is its own, and a leaf of it verifies under ca.crt"}
}

// unfit says why a certificate cannot be a Linkerd issuer; "" if it can.
func unfit(c *x509.Certificate, now time.Time) string {
	key, isECDSA := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !c.IsCA || !c.BasicConstraintsValid:
		return "it is not a CA certificate"
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "its key usage does not allow signing certificates"
	case !isECDSA || key.Curve != elliptic.P256():
		return fmt.Sprintf("its key is %s, and Linkerd takes ECDSA P-256", keyType(c))
	case now.Before(c.NotBefore):
		return "it is not valid yet"
	case now.After(c.NotAfter):
		return fmt.Sprintf("it ended %s ago", span(now.Sub(c.NotAfter)))
	}
	return ""
}

// vouched verifies a CA certificate through all given ones.
func vouched(c *x509.Certificate, all, anchors []*x509.Certificate, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, a := range anchors {
		roots.AddCert(a)
	}
	for _, i := range all {
		between.AddCert(i)
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}
