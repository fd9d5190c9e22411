package memory

import (
	"bytes"
	"fmt"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// identity simulates the replicas of linkerd-identity: each reads the trust
// roots when it starts and never again, and takes an issuer up when its volume
// shows a new one, unless that one does not load (linkerd2,
// controller/cmd/identity/main.go, pkg/tls/creds_watcher.go). Replicas see a
// write one after another, the last after Lag.
type identity struct {
	namespace string
	lag       time.Duration
	replicas  []*replica
	swaps     []swap // what some volume has yet to show, oldest first
	seq       int
}

// swap is a payload as it was written at a time.
type swap struct {
	seq             int
	at              time.Time
	roots, crt, key []byte
}

type replica struct {
	name    string
	lag     time.Duration
	seen    int       // seq of the last swap its volume showed
	started time.Time // zero: it waits for its volumes
	roots   []byte
	loaded  time.Time // notAfter
	skipped int
}

func newIdentity(cfg ClusterConfig) *identity {
	id := &identity{namespace: cfg.Namespace, lag: cfg.Lag}
	for i := range cfg.Replicas {
		id.replicas = append(id.replicas, &replica{
			name: fmt.Sprintf("linkerd-identity-%d", i),
			lag:  cfg.Lag * time.Duration(i+1) / time.Duration(cfg.Replicas),
		})
	}
	return id
}

// project remembers what was written.
func (id *identity) project(now time.Time, roots []byte, issuer map[string][]byte) {
	id.catchUp(now)
	id.seq++
	id.swaps = append(id.swaps, swap{id.seq, now, bytes.Clone(roots), bytes.Clone(issuer[payload.TLSCert]), bytes.Clone(issuer[payload.TLSKey])})
}

// catchUp lets every replica see what its volume shows by now.
func (id *identity) catchUp(now time.Time) {
	for _, r := range id.replicas {
		for _, s := range id.swaps {
			if at := s.at.Add(r.lag); s.seq > r.seen && !at.After(now) {
				r.see(s, at)
				r.seen = s.seq
			}
		}
	}
	for len(id.swaps) > 0 && !id.swaps[0].at.Add(id.lag).After(now) {
		id.swaps = id.swaps[1:]
	}
}

func (r *replica) see(s swap, at time.Time) {
	if len(s.crt) == 0 || len(s.roots) == 0 {
		return // a volume keeps what it had when its object goes
	}
	roots := r.roots
	if r.started.IsZero() {
		roots = s.roots
	}
	if err := pki.LoadsInIdentity(s.crt, s.key, roots, at); err != nil {
		r.skipped++
		return
	}
	chain := pki.ReadIssuer(map[string][]byte{payload.TLSCert: s.crt, payload.TLSKey: s.key}, pki.Identity{}, at).Chain
	if len(chain) == 0 {
		r.skipped++
		return
	}
	if r.started.IsZero() {
		r.started, r.roots = at, s.roots
	}
	r.loaded = chain[0].NotAfter
}

func (id *identity) observe(now time.Time) *rotation.Identity {
	o := &rotation.Identity{Deployed: true}
	for _, r := range id.replicas {
		if r.started.IsZero() {
			continue
		}
		o.Replicas = append(o.Replicas, rotation.Replica{Pod: r.name, Started: r.started, NotAfter: r.loaded, Evidence: "metric", At: now})
	}
	return o
}

// RestartIdentity starts every replica anew, with the trust roots of now.
func (c *Cluster) RestartIdentity() {
	c.outside(func() {
		if c.identity == nil {
			return
		}
		now := time.Now()
		c.identity.catchUp(now)
		for _, r := range c.identity.replicas {
			r.started, r.loaded, r.roots, r.seen = time.Time{}, time.Time{}, nil, c.identity.seq
		}
		issuer := c.data(rotation.IssuerObject)
		s := swap{c.identity.seq, now, c.data(rotation.BundleObject)[payload.BundleKey], issuer[payload.TLSCert], issuer[payload.TLSKey]}
		for _, r := range c.identity.replicas {
			r.see(s, now)
		}
	})
}

// Skipped counts the issuers that replicas did not take up because they do
// not load under the roots those started with (event IssuerUpdateSkipped).
func (c *Cluster) Skipped() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	if c.identity != nil {
		c.identity.catchUp(time.Now())
		for _, r := range c.identity.replicas {
			n += r.skipped
		}
	}
	return n
}
