package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// IssuerFacts is what the data of a Secret linkerd-identity-issuer shows,
// without its key.
type IssuerFacts struct {
	// Problem says why it cannot serve as an issuer at all; "" if it can.
	Problem string
	// Chain is what can be read of tls.crt, or of crt.pem where that is
	// absent; the issuer is first.
	Chain []*x509.Certificate
	// Probe is a leaf signed by the key that was there, so that the chain can
	// be judged under any bundle later; nil where there is a Problem.
	Probe *x509.Certificate
	// Complete: both pairs of names (tls.crt and tls.key, crt.pem and key.pem)
	// are there, equal byte for byte, and in canonical form.
	Complete bool
	// Readable: under either of Linkerd's schemes that has its names there the same
	// is read; tls.crt, tls.key and ca.crt are there, in whatever form.
	Readable bool
	// CABundle is ca.crt as it stands; nil where it holds a private key.
	CABundle []byte

	// held is shared by copies; nil keeps nothing.
	held *heldVerdicts
}

// heldVerdicts are what has verified, by a digest, each with the time span for which
// that goes on. Signatures do not change, and verifying them is most of what a quiet
// fleet costs. What is refused is not kept.
type heldVerdicts struct {
	mu    sync.Mutex
	spans map[[sha256.Size]byte]span
}

// mostVerdicts bounds what is kept for one object.
const mostVerdicts = 64

func newHeldVerdicts() *heldVerdicts {
	return &heldVerdicts{spans: map[[sha256.Size]byte]span{}}
}

// verdict is what verify says at a time, or is known to say: all that takes part are certs.
func (h *heldVerdicts) verdict(of [sha256.Size]byte, at time.Time, certs []*x509.Certificate, verify func() error) error {
	if h == nil {
		return verify()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s, ok := h.spans[of]; ok && !at.Before(s.from) && !at.After(s.to) {
		return nil
	}
	if err := verify(); err != nil {
		return err
	}
	if len(h.spans) >= mostVerdicts {
		clear(h.spans)
	}
	h.spans[of] = steady(at, certs)
	return nil
}

// digestOf stands for certificates, in this order, and what is asked of them.
func digestOf(what string, certs []*x509.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte(what))
	for _, c := range certs {
		h.Write(c.Raw)
	}
	h.Sum(sum[:0])
	return sum
}

// span is a time with both its ends.
type span struct{ from, to time.Time }

// steady is the span around at in which no certificate begins or ends.
func steady(at time.Time, certs []*x509.Certificate) span {
	s := span{to: at.AddDate(1000, 0, 0)}
	for _, c := range certs {
		for _, change := range []time.Time{c.NotBefore, c.NotAfter.Add(1)} {
			switch {
			case change.After(at) && change.Before(s.to):
				s.to = change.Add(-1)
			case !change.After(at) && change.After(s.from):
				s.from = change
			}
		}
	}
	return s
}

// ReadIssuer reads the data of the Secret by the names that linkerd-identity uses,
// and where that is not known by those of kubernetes.io/tls, if they are there
// (linkerd2, pkg/k8s/labels.go). It keeps nothing of the key.
// Whether the issuer is valid is not asked here, at any time, but in Verify.
func ReadIssuer(data map[string][]byte, id Identity, _ time.Time) IssuerFacts {
	return ReadProved(data, id, nil)
}

// ReadProved is ReadIssuer where an issuer may be found that was proved before it was
// written: then neither its key is tried once more nor its signatures.
func ReadProved(data map[string][]byte, id Identity, before *Proof) IssuerFacts {
	f := IssuerFacts{held: newHeldVerdicts()}
	if text := data["ca.crt"]; !bytes.Contains(text, []byte("PRIVATE KEY")) {
		f.CABundle = bytes.Clone(text)
	}
	crtName, keyName := IssuerNames(data, id.Scheme)
	crt, key := data[crtName], data[keyName]
	switch f.Chain, _ = readBlocks(crt); {
	case len(crt) == 0:
		f.Problem = "it holds no certificate (" + crtName + ")"
		return f
	case len(key) == 0:
		f.Problem = "it holds no key (" + keyName + ")"
		return f
	}
	certs, err := linkerdCertificates(crt)
	if err == nil && len(certs) < len(f.Chain) {
		err = fmt.Errorf("a block that is not a certificate ends the reading after %d of %d certificates", len(certs), len(f.Chain))
	}
	if err != nil {
		f.Problem = fmt.Sprintf("linkerd-identity cannot use %s: %v", crtName, err)
		return f
	}
	f.Chain = certs
	was, proved := before.about(certs[0], id)
	probe, canonical, err := probeWith(key, certs[0], id, was.Probe)
	if err != nil {
		f.Problem = fmt.Sprintf("%s and %s: %v", crtName, keyName, err)
		return f
	}
	defer clear(canonical)
	f.Probe = probe
	if proved && slices.EqualFunc(certs, was.Chain, (*x509.Certificate).Equal) {
		f.Chain, f.held = was.Chain, was.held // the same chain, under the same leaf
	}
	f.Complete = completeIssuer(data, certs, canonical)
	same := func(a, b string) bool { return len(data[b]) == 0 || bytes.Equal(data[a], data[b]) }
	f.Readable = len(data["tls.crt"]) > 0 && len(data["tls.key"]) > 0 && len(data["ca.crt"]) > 0 && same("tls.crt", "crt.pem") && same("tls.key", "key.pem")
	return f
}

// IssuerNames are the names of certificate and key that count in the data of an
// issuer's Secret.
func IssuerNames(data map[string][]byte, scheme string) (crt, key string) {
	has := func(names ...string) bool { return len(data[names[0]])+len(data[names[1]]) > 0 }
	if has("crt.pem", "key.pem") && (scheme == SchemeLinkerd || !has("tls.crt", "tls.key")) {
		return "crt.pem", "key.pem"
	}
	return "tls.crt", "tls.key"
}

// With is what the facts would be with other certificates for the same key and
// subject.
func (f IssuerFacts) With(chain ...*x509.Certificate) IssuerFacts {
	f.Chain, f.held = chain, nil
	return f
}

// probeWith tries the key on a leaf and forgets it. Where it is known to have signed one,
// since it is the issuer's, that is the leaf. canonical is the key as certd writes it, nil
// where certd would write none of its kind; whoever asks wipes it.
func probeWith(text []byte, issuer *x509.Certificate, id Identity, known *x509.Certificate) (leaf *x509.Certificate, canonical []byte, err error) {
	key, err := parseKey(text)
	if err != nil {
		return nil, nil, err
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if ok {
		defer wipe(k)
	}
	switch {
	case !samePublic(issuer.PublicKey, key.Public()):
		return nil, nil, errors.New("the key is not that of the first certificate")
	case !ok:
		return nil, nil, errors.New("an RSA key: linkerd-identity would load it and then fail to sign every leaf")
	case !issuer.IsCA:
		return nil, nil, errors.New("the first certificate is not a CA's")
	case issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, nil, errors.New("the certificate may not sign others (its key usage lacks keyCertSign): linkerd-identity would load it, and its leaves be refused")
	}
	if leaf = known; leaf == nil {
		if leaf, err = probe(k, issuer, id); err != nil {
			return nil, nil, err
		}
	}
	if k.Curve == elliptic.P256() {
		canonical = PrivateKey{k}.PKCS8PEM()
	}
	return leaf, canonical, nil
}

// completeIssuer says whether the Secret is as certd writes it: chain and key, which were
// read of one pair of names, under both in their canonical form.
func completeIssuer(data map[string][]byte, chain []*x509.Certificate, key []byte) bool {
	crt := EncodeCertificates(chain...)
	return len(key) > 0 && bytes.Equal(data["tls.crt"], crt) && bytes.Equal(data["crt.pem"], crt) &&
		bytes.Equal(data["tls.key"], key) && bytes.Equal(data["key.pem"], key)
}

// Verify says whether leaves of this issuer verify under b at a time, by Go's
// rules and by the proxies'.
func (f IssuerFacts) Verify(b Bundle, at time.Time) error {
	return f.verify("", verifyLeaf, b, at)
}

// VerifyByProxies is Verify by the proxies' rules alone: what one proxy has of another. They
// ask for no dates of an anchor.
func (f IssuerFacts) VerifyByProxies(b Bundle, at time.Time) error {
	return f.verify("by proxies", verifyLeafByProxies, b, at)
}

func (f IssuerFacts) verify(by string, rules func(chain, anchors []*x509.Certificate, at time.Time) error, b Bundle, at time.Time) error {
	switch {
	case f.Problem != "":
		return errors.New(f.Problem)
	case f.Probe == nil || len(f.Chain) == 0:
		return errors.New("there is no issuer")
	}
	chain := append([]*x509.Certificate{f.Probe}, f.Chain...)
	return f.held.verdict(digestOf(by, b.anchors), at, slices.Concat(chain, b.anchors), func() error { return rules(chain, b.anchors, at) })
}
