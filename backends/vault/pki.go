package vault

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// PKI signs issuers with a CA that Vault's PKI engine has already. Vault then
// builds the certificate: it picks the serial and adds what it likes, so what
// comes back has to be judged (pki.CheckIssuer). In return a policy can
// confine a stolen token to issuers of one name and lifetime.
type PKI struct {
	vault  *Vault
	issuer string // MOUNT/issuer/REF
}

var _ rotation.Keys = (*PKI)(nil)

// PKI returns the CA that the PKI engine at mount calls issuer, by name or id;
// empty is "default", which somebody may point elsewhere: the pinned public
// key tells.
func (v *Vault) PKI(mount, issuer string) *PKI {
	if issuer == "" {
		issuer = "default"
	}
	return &PKI{vault: v, issuer: strings.Trim(mount, "/") + "/issuer/" + issuer}
}

// Close closes the Vault that p was made from.
func (p *PKI) Close() error { return p.vault.Close() }

// Issuer is MOUNT/issuer/REF.
func (p *PKI) Issuer() string { return p.issuer }

// CreateKey always returns an error wrapping ErrUnsupported.
func (p *PKI) CreateKey(_ context.Context, name string) (rotation.Key, error) {
	return nil, fmt.Errorf("create key %s: certd makes no CA in Vault's PKI engine; make one there "+
		"(vault write MOUNT/issuers/generate/root/internal key_type=ec key_bits=256 exclude_cn_from_sans=true …) and name it in keys.vault.pki: %w", name, rotation.ErrUnsupported)
}

// OpenKey implements rotation.Keys. Whatever the name, there is one CA.
func (p *PKI) OpenKey(ctx context.Context, name string, pinned crypto.PublicKey) (rotation.Key, error) {
	q := call{op: "read-ca", doing: "read CA " + p.issuer, path: p.issuer + "/json", capability: "read", policy: "certd-pki.hcl", absent: rotation.ErrKeyNotFound}
	r, err := p.vault.do(ctx, q)
	if err != nil {
		return nil, err
	}
	var data struct {
		Certificate string `json:"certificate"`
		ID          string `json:"issuer_id"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		return nil, fmt.Errorf("%s: the answer is not a CA's record: %w", q.doing, rotation.ErrUnavailable)
	}
	ca, err := parseCertificate(data.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", q.doing, err, rotation.ErrKeyUnfit)
	}
	if public, ok := ca.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); pinned != nil && (!ok || !public.Equal(pinned)) {
		return nil, fmt.Errorf("%s: its public key is not the trust anchor's; the engine's default issuer was changed, or this is another Vault: %w", q.doing, rotation.ErrKeyUnfit)
	}
	return &pkiKey{p: p, name: name, ca: ca}, nil
}

type pkiKey struct {
	p    *PKI
	name string
	ca   *x509.Certificate
}

var _ rotation.IssuerSigner = (*pkiKey)(nil)

// Info implements rotation.Key. Whether the key was made exportable, the
// engine does not tell; keys of issuers/generate/root/internal are not.
func (k *pkiKey) Info() rotation.KeyInfo {
	return rotation.KeyInfo{Backend: "vault-pki", Name: k.name, Public: k.ca.PublicKey}
}

// Anchor implements rotation.IssuerSigner.
func (k *pkiKey) Anchor() *x509.Certificate { return k.ca }

// SignIssuer implements rotation.IssuerSigner. Vault counts ttl from now and
// not_before_duration back from now, so the certificate lives p.Backdate
// longer than p.Lifetime.
func (k *pkiKey) SignIssuer(ctx context.Context, p pki.IssuerProfile, csr []byte) (*x509.Certificate, string, error) {
	q := call{op: "sign-issuer", doing: "sign an issuer with " + k.p.issuer, path: k.p.issuer + "/sign-intermediate", capability: "update", policy: "certd-pki.hcl", once: true}
	now := time.Now()
	ttl, err := issuerTTL(now, p, k.ca.NotAfter)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", q.doing, err)
	}
	q.body = map[string]any{
		"csr":         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		"common_name": p.Name(), // becomes the DNS name too, unless exclude_cn_from_sans
		"ttl":         seconds(ttl),
		// As text: a policy compares values with their types, and no number
		// ever equals one of its allowed values.
		"max_path_length":     "0",
		"not_before_duration": seconds(max(0, min(p.Backdate, now.Sub(k.ca.NotBefore)))),
		"format":              "pem",
	}
	r, err := k.p.vault.do(ctx, q)
	if err != nil {
		return nil, r.RequestID, err
	}
	var data struct {
		Certificate string `json:"certificate"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		return nil, r.RequestID, fmt.Errorf("%s: the answer has no certificate: %w", q.doing, rotation.ErrOutcomeUnknown)
	}
	cert, err := parseCertificate(data.Certificate)
	if err != nil {
		return nil, r.RequestID, fmt.Errorf("%s: %w", q.doing, err)
	}
	return cert, r.RequestID, nil
}

// issuerTTL is the profile's lifetime, cut to the CA's and kept a minute away
// from the ends in p.NotAfterTaken.
func issuerTTL(now time.Time, p pki.IssuerProfile, caEnd time.Time) (time.Duration, error) {
	const apart = time.Minute + 5*time.Second // the request takes its time
	end := now.Add(p.Lifetime)
	if last := caEnd.Add(-5 * time.Second); end.After(last) {
		end = last
	}
	for range p.NotAfterTaken {
		for _, taken := range p.NotAfterTaken {
			if taken.Sub(end).Abs() < apart {
				end = taken.Add(-apart)
			}
		}
	}
	ttl := end.Sub(now).Truncate(time.Second)
	if ttl < time.Minute {
		return 0, fmt.Errorf("an issuer made now would end at %s: the CA ends at %s", end.UTC().Format(time.RFC3339), caEnd.UTC().Format(time.RFC3339))
	}
	return ttl, nil
}

// seconds writes d as policies are likely to: 168h, 30m, 20s.
func seconds(d time.Duration) string {
	switch {
	case d > 0 && d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d > 0 && d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// parseCertificate reads exactly one certificate.
func parseCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("the answer is not one certificate (PEM)")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the certificate in the answer: %w", err)
	}
	return c, nil
}
