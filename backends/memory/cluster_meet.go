package memory

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
)

// Proxy is that of a meshed pod, as others meet it in a handshake.
type Proxy struct {
	Pod      string // "app/app-0-1 in east"
	Cluster  string
	Identity string // the DNS name in its certificate
	Created  time.Time
	Issued   time.Time // when it got its certificate; zero: it waits for its first

	Identifies bool // it is linkerd-identity's, which all others connect to for their certificates

	cluster *linkerd
	pod     *pod
}

// OnChange has met called at each instant at which anything in the mesh has changed, a
// renewed leaf included, or a certificate has begun or ended to be valid: with all pods.
// They are what they are until met returns, which must ask nothing of the mesh or its
// clusters. nil: nobody is told.
func (m *Mesh) OnChange(met func(at time.Time, all []Proxy)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.met, m.dirty = met, true
}

// proxies are all pods, those of linkerd-identity that are about to go included.
func (m *Mesh) proxies() (all []Proxy) {
	for _, l := range m.members {
		add := func(pl *place) {
			if pl == nil || pl.pod == nil {
				return
			}
			p := Proxy{Pod: pl.String() + " in " + l.cfg.Name, Cluster: l.cfg.Name, Identity: l.identityOf(pl), Created: pl.pod.created, Identifies: pl.replica != nil, cluster: l, pod: pl.pod}
			if pl.pod.leaf != nil {
				p.Issued = pl.pod.leaf.issued
			}
			all = append(all, p)
		}
		for _, pl := range l.places {
			add(pl)
		}
		for _, r := range l.leaving {
			add(r.place)
		}
	}
	return all
}

// identityOf is the name that a pod's certificate is for: its ServiceAccount's (linkerd2,
// controller/identity/domain.go).
func (l *linkerd) identityOf(pl *place) string {
	return fmt.Sprintf("%s.%s.serviceaccount.identity.%s.%s", pl.owner, pl.namespace, l.cfg.Namespace, l.cfg.TrustDomain)
}

// Trusts is the bundle that the pod was created with.
func (p Proxy) Trusts() (pki.Bundle, error) { return p.pod.roots.set() }

// Alike says whether two pods, neither of which waits for its certificate, trust and present
// the same but for their names.
func (p Proxy) Alike(o Proxy) bool {
	return p.pod.roots == o.pod.roots && p.pod.leaf.issuer == o.pod.leaf.issuer
}

// Presents is what the proxy sends in a handshake, with the key that it proves to have. It is
// made when it is first asked for, as linkerd-identity made it when the pod got it: of
// the issuer that the replica which answered had loaded then.
func (p Proxy) Presents() (*tls.Certificate, error) {
	held := p.pod.leaf
	switch {
	case held == nil:
		return nil, fmt.Errorf("%s has no certificate yet", p.Pod)
	case held.made != nil:
		return held.made, nil
	}
	issuer, err := held.issuer.pair()
	if err != nil {
		return nil, fmt.Errorf("issuer of %s: %w", p.Pod, err)
	}
	if p.pod.key == nil { // it stays for as long as the pod is there
		p.pod.key = generate()
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: serial, DNSNames: []string{p.Identity}, Subject: pkix.Name{CommonName: p.Identity},
		NotBefore: held.issued.Add(-p.cluster.cfg.leafSkew()).Truncate(time.Second), NotAfter: held.notAfter, SignatureAlgorithm: x509.ECDSAWithSHA256,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Leaf, p.pod.key.Public(), issuer.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", p.Pod, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	held.made = &tls.Certificate{Certificate: append([][]byte{der}, issuer.Certificate...), PrivateKey: p.pod.key, Leaf: leaf}
	return held.made, nil
}

// pair is the issuer with its key, as linkerd-identity loads it.
func (f *issuerFile) pair() (*tls.Certificate, error) {
	if f.signer == nil {
		pair, err := tls.X509KeyPair(f.crt, f.key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", payload.TLSCert, payload.TLSKey, err)
		}
		f.signer = &pair
	}
	return f.signer, nil
}
