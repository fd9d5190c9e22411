package rotation

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"certd.internal/pki"
)

// signTries bounds how often one signature is asked for when the backend says
// that an immediate repeat is sensible. Each try is an intent of its own.
const signTries = 3

// recordedSigner is a crypto.Signer that has each use of a CA key on disk
// before it happens and its outcome after (I7). It serves one certificate.
type recordedSigner struct {
	ctx     context.Context
	journal Journal
	key     DigestSigner
	intent  Intent
	// signed is the inventory record of what the signature is for; it enters
	// the journal together with the signature's success.
	signed *CertificateRecord
}

func (s *recordedSigner) Public() crypto.PublicKey { return s.key.Info().Public }

// Sign implements crypto.Signer for SHA-256 digests.
func (s *recordedSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("sign with %s: only SHA-256 digests are signed, got %v of %d bytes", s.intent.Key, opts.HashFunc(), len(digest))
	}
	in := s.intent
	in.Digest = hex.EncodeToString(digest)
	for try := 1; ; try++ {
		id, err := s.journal.Begin(in)
		if err != nil {
			return nil, fmt.Errorf("record the intent to sign with %s: %w", in.Key, err)
		}
		sig, err := s.key.SignDigest(s.ctx, digest)
		out := outcome(err)
		out.SignRequest = sig.Request
		if err == nil {
			out.Certificate = s.signed
		}
		if ferr := s.journal.Finish(id, out); ferr != nil {
			// A signature whose outcome is not on disk is not used.
			return nil, errors.Join(err, fmt.Errorf("record the outcome of signing with %s: %w", in.Key, ferr))
		}
		if errors.Is(err, ErrTryAgain) && try < signTries {
			continue
		}
		return sig.ASN1, err
	}
}

// outcome turns an error into what the journal records.
func outcome(err error) Outcome {
	switch {
	case err == nil:
		return Outcome{Result: OK}
	case errors.Is(err, ErrOutcomeUnknown):
		return Outcome{Result: Unknown, Detail: err.Error()}
	}
	return Outcome{Result: Failed, Detail: err.Error()}
}

// unasked is an error before any signature was asked for.
type unasked struct{ error }

func (e unasked) Unwrap() error { return e.error }

// caller names whom and what for a signature is made.
type caller struct{ cluster, actor, reason string }

// signer records what it does and refuses keys it does not know.
type signer struct {
	journal Journal
	keys    Keys
}

// open opens an anchor's key, its flags freshly read, and remembers what they
// were.
func (s signer) open(ctx context.Context, a *Anchor, now time.Time) (Key, error) {
	var pinned crypto.PublicKey
	if a.Certificate != nil {
		pinned = a.Certificate.PublicKey
	}
	key, err := s.keys.OpenKey(ctx, a.Key, pinned)
	if err != nil {
		return nil, fmt.Errorf("open CA key %s of anchor %s: %w", a.Key, a.ID, err)
	}
	a.Backend, a.Exportable, a.CheckedAt = key.Info().Backend, key.Info().Exportable, now
	return key, nil
}

// issuer makes a new issuer for one cluster, proves that leaves of it will verify
// under bundle, and returns it with its key. The caller wipes the credential.
// With two anchors there are two certificates, which differ in who signed them
// and in their ends: one key and one name, so that leaves verify under either.
func (s signer) issuer(ctx context.Context, anchors []Anchor, bundle pki.Bundle, p pki.IssuerProfile, who caller, now time.Time) (pki.Credential, CertificateRecord, error) {
	var rec CertificateRecord
	keys := make([]Key, len(anchors))
	var err error
	for i := range anchors {
		if keys[i], err = s.open(ctx, &anchors[i], now); err != nil {
			return pki.Credential{}, rec, err
		}
	}
	priv, err := pki.GenerateKey()
	if err != nil {
		return pki.Credential{}, rec, fmt.Errorf("generate an issuer key for %s: %w", who.cluster, err)
	}
	chain := make([]*x509.Certificate, len(anchors))
	for i := range anchors {
		a, p := &anchors[i], p
		if i > 0 {
			p.NotAfterTaken = nil // linkerd-identity shows the end of the first alone
		}
		switch k := keys[i].(type) {
		case DigestSigner:
			chain[i], err = s.signIssuer(ctx, a, k, p, priv, who, now)
		case IssuerSigner:
			chain[i], err = s.askIssuer(ctx, a, k, p, priv, who, now)
		default:
			err = fmt.Errorf("CA key %s can sign neither digests nor issuers", a.Key)
		}
		if err != nil {
			priv.Wipe()
			return pki.Credential{}, rec, fmt.Errorf("sign an issuer for %s under anchor %s: %w", who.cluster, a.ID, err)
		}
	}
	cred, err := pki.NewCredential(priv, chain...)
	if err == nil {
		err = proveUnder(cred, anchors, bundle, pki.Identity{Namespace: p.Namespace, TrustDomain: p.TrustDomain}, now)
	}
	if err != nil {
		priv.Wipe()
		return pki.Credential{}, rec, fmt.Errorf("prove the new issuer of %s: %w; it was thrown away", who.cluster, err)
	}
	rec = certificateRecord(who.cluster, "issuer", anchors[0].ID, chain[0], now)
	if len(anchors) > 1 {
		rec.Second = anchors[1].ID
	}
	return cred, rec, nil
}

// second makes a further certificate for an issuer whose key nobody has here, under
// one of the fleet's anchors: of the same key and name, so that leaves of the one
// verify through the other.
func (s signer) second(ctx context.Context, a *Anchor, existing *x509.Certificate, taken []time.Time, who caller, now time.Time) (*x509.Certificate, error) {
	key, err := s.open(ctx, a, now)
	if err != nil {
		return nil, err
	}
	k, ok := key.(DigestSigner)
	if !ok {
		return nil, fmt.Errorf("the CA of %s signs certificates of its own making only, and one under a given key and name is needed: %w", a.Key, ErrUnsupported)
	}
	template, err := newSecond(existing, a.Certificate, taken, now)
	if err != nil {
		return nil, err
	}
	rec := certificateRecord(who.cluster, "issuer", a.ID, template, now)
	rec.AKI = pki.SKI(a.Certificate)
	c, err := signSecond(template, existing, a.Certificate, &recordedSigner{
		ctx: ctx, journal: s.journal, key: k, signed: &rec,
		intent: Intent{Step: StepSign, Cluster: who.cluster, Actor: who.actor, Reason: "issuer, for the key that is there: " + who.reason, Anchor: a.ID, Serial: rec.Serial, Key: a.Key},
	})
	if err != nil {
		return nil, fmt.Errorf("sign a second certificate for the issuer of %s under anchor %s: %w", who.cluster, a.ID, err)
	}
	return c, nil
}

// secondBackdate is how far in the past such certificates begin.
const secondBackdate = 10 * time.Minute

func newSecond(existing, anchor *x509.Certificate, taken []time.Time, now time.Time) (*x509.Certificate, error) {
	return pki.NewSecondTemplate(now, pki.IssuerProfile{Backdate: secondBackdate, NotAfterTaken: append(slices.Clone(taken), existing.NotAfter)}, existing, anchor)
}

func signSecond(template, existing, anchor *x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	pub, ok := existing.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the issuer's key is %s; Linkerd takes ECDSA P-256", existing.PublicKeyAlgorithm)
	}
	c, err := pki.SignIssuer(template, anchor, pub, key)
	if err == nil && !bytes.Equal(c.RawSubject, existing.RawSubject) {
		err = errors.New("its subject is not the issuer's to the byte")
	}
	return c, err
}

func secondCertificate(existing, anchor *x509.Certificate, taken []time.Time, now time.Time, key crypto.Signer) (*x509.Certificate, error) {
	template, err := newSecond(existing, anchor, taken, now)
	if err != nil {
		return nil, err
	}
	return signSecond(template, existing, anchor, key)
}

// proveUnder proves an issuer under the bundle it is for, and under each of its
// anchors alone, since there are pods that hold no other.
func proveUnder(cred pki.Credential, anchors []Anchor, bundle pki.Bundle, id pki.Identity, now time.Time) error {
	if err := cred.Prove(bundle, id, now); err != nil || len(anchors) < 2 {
		return err
	}
	for _, a := range anchors {
		alone, err := pki.NewBundle(a.Certificate)
		if err == nil {
			err = cred.Prove(alone, id, now)
		}
		if err != nil {
			return fmt.Errorf("under anchor %s alone: %w", a.ID, err)
		}
	}
	return nil
}

func (s signer) signIssuer(ctx context.Context, a *Anchor, k DigestSigner, p pki.IssuerProfile, priv pki.PrivateKey, who caller, now time.Time) (*x509.Certificate, error) {
	template, err := pki.NewIssuerTemplate(now, p, a.Certificate)
	if err != nil {
		return nil, unasked{err}
	}
	rec := certificateRecord(who.cluster, "issuer", a.ID, template, now)
	rec.AKI = pki.SKI(a.Certificate)
	return pki.SignIssuer(template, a.Certificate, priv.PublicKey(), &recordedSigner{
		ctx: ctx, journal: s.journal, key: k, signed: &rec,
		intent: Intent{Step: StepSign, Cluster: who.cluster, Actor: who.actor, Reason: "issuer: " + who.reason, Anchor: a.ID, Serial: rec.Serial, Key: a.Key},
	})
}

// askIssuer is for backends that build the certificate themselves: certd sees
// neither digest nor serial beforehand and judges what comes back.
func (s signer) askIssuer(ctx context.Context, a *Anchor, k IssuerSigner, p pki.IssuerProfile, priv pki.PrivateKey, who caller, now time.Time) (*x509.Certificate, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "identity." + p.Namespace + "." + p.TrustDomain}}, priv)
	if err != nil {
		return nil, fmt.Errorf("build a certificate request: %w", err)
	}
	in := Intent{Step: StepSign, Cluster: who.cluster, Actor: who.actor, Reason: "issuer: " + who.reason, Anchor: a.ID, Key: a.Key}
	for try := 1; ; try++ {
		id, err := s.journal.Begin(in)
		if err != nil {
			return nil, fmt.Errorf("record the intent to sign with %s: %w", a.Key, err)
		}
		cert, request, err := k.SignIssuer(ctx, p, csr)
		out := outcome(err)
		out.SignRequest = request
		if err == nil {
			rec := certificateRecord(who.cluster, "issuer", a.ID, cert, now)
			out.Certificate, out.Serial = &rec, rec.Serial
			if err = pki.CheckIssuer(cert, a.Certificate, p, priv.PublicKey(), now); err != nil {
				err = fmt.Errorf("%s returned a certificate that cannot serve: %w", a.Key, err)
				out.Result, out.Detail = Failed, err.Error()
			}
		}
		if ferr := s.journal.Finish(id, out); ferr != nil {
			return nil, errors.Join(err, fmt.Errorf("record the outcome of signing with %s: %w", a.Key, ferr))
		}
		if errors.Is(err, ErrTryAgain) && try < signTries {
			continue
		}
		return cert, err
	}
}

const canaryWhy = "no signature by this key in the last day"

// canary signs a digest that stands for no certificate, so that a signing path
// that broke is noticed long before it is needed.
func (s signer) canary(ctx context.Context, fleet string, a *Anchor, now time.Time) error {
	key, err := s.open(ctx, a, now)
	if err != nil {
		return err
	}
	k, ok := key.(DigestSigner)
	if !ok {
		return nil // such a backend signs certificates only, and none is needed
	}
	digest := sha256.Sum256(fmt.Appendf(nil, "certd canary v1\x00%s\x00%s\x00%s", fleet, a.Key, now.UTC().Format(time.RFC3339)))
	rs := &recordedSigner{ctx: ctx, journal: s.journal, key: k, intent: Intent{
		Step: StepCanary, Actor: "certd", Reason: canaryWhy, Anchor: a.ID, Key: a.Key}}
	sig, err := rs.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return fmt.Errorf("canary signature with %s: %w", a.Key, err)
	}
	if pub, ok := k.Info().Public.(*ecdsa.PublicKey); !ok || !ecdsa.VerifyASN1(pub, digest[:], sig) {
		return fmt.Errorf("canary signature with %s does not verify under its public key: %w", a.Key, ErrKeyUnfit)
	}
	return nil
}

func certificateRecord(cluster, kind, anchor string, c *x509.Certificate, now time.Time) CertificateRecord {
	r := CertificateRecord{Cluster: cluster, Kind: kind, Serial: pki.Serial(c), SKI: pki.SKI(c), AKI: pki.AKI(c), Subject: c.Subject.String(),
		Anchor: anchor, NotBefore: c.NotBefore, NotAfter: c.NotAfter, SignedAt: now}
	if len(c.Raw) > 0 {
		r.SHA256 = pki.Fingerprint(c)
	}
	return r
}
