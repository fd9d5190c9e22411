package memory

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// What linkerd-identity issues unless it is told otherwise (linkerd2,
// charts/linkerd-control-plane/values.yaml).
const (
	usualLeafLifetime = 24 * time.Hour
	usualLeafSkew     = 20 * time.Second
)

func (cfg ClusterConfig) leafLifetime() time.Duration {
	return cmp.Or(cfg.LeafLifetime, usualLeafLifetime)
}

func (cfg ClusterConfig) leafSkew() time.Duration { return cmp.Or(cfg.LeafSkew, usualLeafSkew) }

// appNamespace is where the meshed pods are that are not Linkerd's own;
// podsPerApp is how many a Deployment of them has.
const (
	appNamespace = "app"
	podsPerApp   = 3
)

// place is where one pod with a proxy follows another.
type place struct {
	namespace, owner string
	kind             string // of the owner
	index            int
	replica          *replica  // of linkerd-identity, in the same pod
	injector         *injector // in the same pod
	restarts         int
	pod              *pod // nil: there is none yet
	next             *pod // what a rollout has made and is not ready yet
	hidden           bool
	unwell           bool // its pod does not become ready, whatever it presents
	chance           *rand.Rand
}

func (pl *place) String() string {
	return fmt.Sprintf("%s/%s-%d", pl.namespace, pl.owner, pl.index)
}

// pod is a proxy in its pod: what it was told to trust when it was created,
// and what it presents.
type pod struct {
	created time.Time
	version string // of the proxy
	roots   *rootsFile
	leaf    *leaf             // nil: it is not ready
	key     *ecdsa.PrivateKey // nil: nobody has met it yet
	tries   int               // at getting a leaf, in vain, since the last one

	// What trouble it has had since, by the issuer that was in the way (nil:
	// none was), and who brought about the last.
	told []*issuerFile
	by   string
}

// leaf is a certificate as linkerd-identity would make it. It is not signed until somebody
// meets it (Proxy.Presents): whether one verifies is asked of the issuer's probe, and its own
// end is held against the clock.
type leaf struct {
	issuer   *issuerFile
	issued   time.Time
	notAfter time.Time
	made     *tls.Certificate
}

// injector is a replica of linkerd-proxy-injector, which reads the bundle from
// its volume for each pod that is created (linkerd2,
// controller/proxy-injector/webhook.go).
type injector struct {
	lag     time.Duration
	started time.Time // zero: before there was anything
}

// place makes the places of all pods with proxies: the control plane's, and
// ClusterConfig.Proxies injected ones.
func (l *linkerd) place() {
	if l.cfg.Proxies == 0 {
		return
	}
	add := func(namespace, owner string, index int) *place {
		return l.addPlace(namespace, owner, "Deployment", index)
	}
	for i, r := range l.replicas {
		r.place = add(l.cfg.Namespace, "linkerd-identity", i)
		r.place.replica = r
	}
	for i := range l.replicas {
		add(l.cfg.Namespace, "linkerd-destination", i)
	}
	for i, in := range l.injectors {
		add(l.cfg.Namespace, "linkerd-proxy-injector", i).injector = in
	}
	for i := range l.cfg.Proxies {
		pl := add(appNamespace, fmt.Sprintf("app-%d", i/podsPerApp), i%podsPerApp)
		if i/podsPerApp < l.cfg.ReplicaSets {
			pl.kind = "ReplicaSet"
		}
	}
}

// environment is the bundle that a pod created now is told to trust; nil where
// none can be created. The control plane's pods refer to the ConfigMap, the
// others get what the volume of one injector shows.
func (l *linkerd) environment(pl *place, at time.Time) *rootsFile {
	if pl.replica != nil {
		return pl.replica.volume.roots
	}
	if pl.namespace != appNamespace {
		return l.files.roots
	}
	var shown []*rootsFile
	for _, in := range l.injectors {
		for _, s := range slices.Backward(l.history) {
			if s.roots != nil && (!s.at.After(in.started) || !s.at.Add(in.lag).After(at)) {
				shown = append(shown, s.roots)
				break
			}
		}
	}
	if len(shown) == 0 {
		return nil
	}
	return shown[pl.chance.IntN(len(shown))]
}

// wake has every pod that is not ready try at once.
func (l *linkerd) wake(at time.Time) {
	for _, pl := range l.places {
		if pl.pod == nil || pl.pod.leaf == nil {
			l.attempt(pl, at)
		}
	}
}

// remove takes a pod away.
func (l *linkerd) remove(pl *place) {
	if pl == nil {
		return
	}
	pl.restarts++
	pl.pod, pl.next = nil, nil
	l.mesh.dirty = true
}

// attempt creates a pod where there is none, and gets it a certificate or
// tries again later. A pod that does not get one keeps what it trusts.
func (l *linkerd) attempt(pl *place, at time.Time) {
	if pl.pod == nil {
		roots := l.environment(pl, at)
		if roots == nil {
			return
		}
		pl.pod = &pod{created: at, version: l.version, roots: roots}
	}
	p := pl.pod
	if l.obtain(pl, p, at) == nil {
		l.ready(pl, at)
		return
	}
	p.tries++
	tries := p.tries
	l.later(at.Add(backOff(tries)), func(at time.Time) {
		if pl.pod == p && p.leaf == nil && p.tries == tries {
			l.attempt(pl, at)
		}
	})
}

// ready is told of a pod that has got its first certificate.
func (l *linkerd) ready(pl *place, at time.Time) {
	l.mesh.dirty = true
	l.refreshLater(pl, at)
}

var errNoIdentity = errors.New("no replica of linkerd-identity is ready")

// obtain gets a pod a certificate. It must trust the replica that it asks, and
// verifies what it gets before it uses it (linkerd2-proxy,
// linkerd/meshtls/src/creds/store.rs).
func (l *linkerd) obtain(pl *place, p *pod, at time.Time) error {
	if _, err := p.roots.set(); err != nil {
		l.trouble(pl, p, at, p.roots, nil, fmt.Errorf("does not start: %w", err))
		return err
	}
	r := l.identityFor(pl)
	if r == nil {
		return errNoIdentity
	}
	if r != pl.replica {
		server := r.place.pod.leaf
		err := l.mesh.verify(server.issuer, p.roots, at)
		if err == nil && at.After(server.notAfter) {
			err = errExpired
		}
		if err != nil {
			l.trouble(pl, p, at, p.roots, server.issuer, fmt.Errorf("gets no certificate, for it refuses that of linkerd-identity: %w", err))
			return err
		}
	}
	next, err := l.sign(r, at)
	if err != nil {
		l.trouble(pl, p, at, r.roots, r.issuer, fmt.Errorf("gets no certificate: %w", err))
		return err
	}
	if err := l.mesh.verify(next.issuer, p.roots, at); err != nil {
		l.trouble(pl, p, at, p.roots, next.issuer, fmt.Errorf("refuses its own new certificate: %w", err))
		return err
	}
	p.leaf, p.tries, p.told, p.by = next, 0, nil, ""
	return nil
}

// trouble records why a pod gets no certificate, once.
func (l *linkerd) trouble(pl *place, p *pod, at time.Time, roots *rootsFile, issuer *issuerFile, err error) {
	if slices.Contains(p.told, issuer) {
		return
	}
	p.told, p.by = append(p.told, issuer), roots.by
	if issuer != nil {
		p.by = l.mesh.blame(issuer, roots)
	}
	l.mesh.tell(at, p.by, "%s in %s %v", pl, l.cfg.Name, err)
}

// identityFor is the replica that a pod's request comes to.
func (l *linkerd) identityFor(pl *place) *replica {
	if pl.replica != nil {
		if pl.replica.started.IsZero() {
			return nil
		}
		return pl.replica
	}
	var ready []*replica
	for _, r := range l.replicas {
		if !r.started.IsZero() && r.place.pod != nil && r.place.pod.leaf != nil {
			ready = append(ready, r)
		}
	}
	for _, r := range l.leaving { // those that are connected to it go on asking it
		if pl.pod != nil && pl.pod.leaf != nil && r.place.pod != nil && r.place.pod.leaf != nil {
			ready = append(ready, r)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	return ready[pl.chance.IntN(len(ready))]
}

// sign makes a leaf as linkerd-identity does (linkerd2, pkg/tls/ca.go): it ends
// no later than anything in the issuer's file.
func (l *linkerd) sign(r *replica, at time.Time) (*leaf, error) {
	f := r.issuer.facts()
	if f.Problem != "" {
		return nil, errors.New("linkerd-identity cannot sign: " + f.Problem)
	}
	notAfter := at.Add(l.cfg.leafLifetime() + l.cfg.leafSkew()).Truncate(time.Second)
	for _, c := range f.Chain {
		if c.NotAfter.Before(notAfter) {
			notAfter = c.NotAfter
		}
	}
	if !notAfter.After(at) {
		return nil, errors.New("the issuer of linkerd-identity has expired")
	}
	return &leaf{issuer: r.issuer, issued: at, notAfter: notAfter}, nil
}

// refreshLater plans the next certificate as proxies do: when 70 % of what is
// left have passed, not before 10 s and not after a day (linkerd2-proxy,
// linkerd/proxy/identity-client/src/certify.rs). Some are a little earlier, so
// that not all come at once.
func (l *linkerd) refreshLater(pl *place, at time.Time) {
	p := pl.pod
	left := p.leaf.notAfter.Sub(at)
	wait := time.Duration(float64(left) * (0.70 - 0.03*pl.chance.Float64()))
	wait = min(max(wait, 10*time.Second), 24*time.Hour)
	if left <= 0 {
		wait = backOff(p.tries)
	}
	l.later(at.Add(wait), func(at time.Time) {
		if pl.pod != p {
			return
		}
		before := p.leaf
		if l.obtain(pl, p, at) != nil {
			p.tries++
		} else if p.leaf.issuer != before.issuer || !before.notAfter.After(at) || l.mesh.met != nil {
			l.mesh.dirty = true
		}
		l.refreshLater(pl, at)
	})
}

// set is the bundle as a proxy reads it.
func (f *rootsFile) set() (pki.Bundle, error) {
	if !f.parsed {
		f.parsed = true
		certs, _ := pki.ReadCertificates(f.text)
		f.bundle, f.err = pki.NewBundle(certs...)
		if f.err == nil && f.bundle.IsZero() {
			f.err = errors.New("there are no trust anchors in its environment")
		}
	}
	return f.bundle, f.err
}

// CountProxies implements rotation.Cluster.
func (c *Cluster) CountProxies(ctx context.Context) rotation.Proxies {
	if c.cfg.Proxies == 0 {
		return rotation.Proxies{}
	}
	all := rotation.Proxies{At: c.now()}
	all.Err = c.do(ctx, CallProxies, func() error {
		if c.linkerd != nil {
			c.linkerd.act(func(time.Time) { c.linkerd.count(&all) })
			all.Outside = c.linkerd.outside
		}
		return nil
	})
	return all
}

// countVersion counts a pod by its proxy's version.
func (l *linkerd) countVersion(all *rotation.Proxies, pl *place, p *pod) {
	i := slices.IndexFunc(all.Versions, func(v rotation.ProxyVersion) bool { return v.Version == p.version })
	if i < 0 {
		i = len(all.Versions)
		all.Versions = append(all.Versions, rotation.ProxyVersion{Version: p.version})
	}
	v := &all.Versions[i]
	v.Pods++
	for j := range v.Owners {
		if o := &v.Owners[j]; o.Namespace == pl.namespace && o.Kind == pl.kind && o.Name == pl.owner {
			o.Pods++
			return
		}
	}
	if len(v.Owners) < rotation.MaxVersionOwners {
		v.Owners = append(v.Owners, rotation.ProxyOwner{Namespace: pl.namespace, Kind: pl.kind, Name: pl.owner, Pods: 1})
	}
}

// SetOutside has the mesh talk to others than its own pods.
func (c *Cluster) SetOutside(o rotation.Outside) {
	c.onLinkerd(func(l *linkerd, _ time.Time) { l.outside = o })
}

// SetProxyVersion has pods that are created from now on have a proxy of another version.
func (c *Cluster) SetProxyVersion(version string) {
	c.onLinkerd(func(l *linkerd, _ time.Time) { l.version = version })
}

// maxOdd is how many pods a census names that it could not read.
const maxOdd = 5

func (l *linkerd) count(all *rotation.Proxies) {
	owners, unready := map[int]map[rotation.ProxyOwner]int{}, map[int]map[rotation.ProxyOwner]int{} // pods, by the index of their set
	earlier := map[rotation.ProxyOwner]int{}
	defer func() {
		for o, n := range earlier {
			o.Pods = n
			all.Earlier = append(all.Earlier, o)
		}
		slices.SortFunc(all.Earlier, func(a, b rotation.ProxyOwner) int { return cmp.Compare(a.Name, b.Name) })
	}()
	for _, pl := range l.places {
		for _, p := range []*pod{pl.pod, pl.next} {
			if p == nil || pl.hidden {
				continue
			}
			l.countVersion(all, pl, p)
			if pl.namespace == l.cfg.Namespace && p.roots != l.files.roots { // as where they only refer to the ConfigMap
				all.Unread++
				earlier[rotation.ProxyOwner{Namespace: pl.namespace, Kind: "Deployment", Name: pl.owner}]++
				continue
			}
			set, err := p.roots.set()
			if err != nil {
				all.Unread++
				if len(all.Odd) < maxOdd {
					all.Odd = append(all.Odd, fmt.Sprintf("%s: %v", pl, err))
				}
				continue
			}
			i := slices.IndexFunc(all.Sets, func(s rotation.ProxySet) bool { return s.Anchors.Equal(set) })
			if i < 0 {
				i = len(all.Sets)
				all.Sets = append(all.Sets, rotation.ProxySet{Anchors: set})
				owners[i], unready[i] = map[rotation.ProxyOwner]int{}, map[rotation.ProxyOwner]int{}
			}
			all.Sets[i].Pods++
			o := rotation.ProxyOwner{Namespace: pl.namespace, Kind: pl.kind, Name: pl.owner}
			owners[i][o]++
			if o.Evicted() && !pl.available() {
				unready[i][o]++
			}
		}
	}
	for i := range all.Sets {
		s := &all.Sets[i]
		for o, n := range owners[i] {
			o.Pods, o.Unready = n, unready[i][o]
			s.Owners = append(s.Owners, o)
		}
		slices.SortFunc(s.Owners, func(a, b rotation.ProxyOwner) int {
			return cmp.Or(b.Pods-a.Pods, cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
		for len(s.Owners) > rotation.MaxOwners {
			s.Others += s.Owners[len(s.Owners)-1].Pods
			s.Owners = s.Owners[:len(s.Owners)-1]
		}
	}
	slices.SortStableFunc(all.Sets, func(a, b rotation.ProxySet) int { return b.Pods - a.Pods })
}
