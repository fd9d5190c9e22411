package memory

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// linkerd simulates what becomes of a cluster's bundle and issuer: kubelets
// show changed files to the pods, one after another; the replicas of
// linkerd-identity read the trust roots when they start and never again, and
// take an issuer up when their volume shows a new one, unless that one does not
// load (linkerd2, controller/cmd/identity/main.go, pkg/tls/creds_watcher.go);
// proxies get their anchors when they are created and their leaves from a
// replica (cluster_proxies.go). What is due happens when somebody asks, in the
// order of time over all clusters of the mesh, whose lock guards all of this.
type linkerd struct {
	cfg       ClusterConfig
	mesh      *Mesh
	files     files      // as the API server has them
	history   []snapshot // the last that every volume shows, and what came after
	replicas  []*replica
	leaving   []*replica // replaced, and not gone yet
	former    []mayLive  // issuers that leaves may be left of
	injectors []*injector
	places    []*place // of pods with a proxy, those of linkerd-identity first; none without ClusterConfig.Proxies
	rollouts  map[string]int
	rolledOut map[string]written // who began the last rollout, and when
	never     map[string]bool    // owners with the label certd.io/restart: never
	budgets   map[string]int     // how many of an owner's pods its PodDisruptionBudget wants available
	version   string             // of the proxies that are injected
	outside   rotation.Outside   // whom the mesh talks to beyond its pods
	pending   agenda
}

// files are what a volume shows; nil where there is nothing.
type files struct {
	roots  *rootsFile
	issuer *issuerFile
}

// snapshot is what volumes are to show of what was written at a time. A volume
// keeps what it had when its object goes.
type snapshot struct {
	at time.Time
	files
}

// written is who wrote something, and when.
type written struct {
	at time.Time
	by string
}

// rootsFile is a text of the bundle from a time until it was changed.
type rootsFile struct {
	written
	text   []byte
	parsed bool
	bundle pki.Bundle
	err    error
}

// issuerFile is a pair of the issuer from a time until it was changed.
type issuerFile struct {
	written
	of       pki.Identity
	crt, key []byte
	reload   []byte // no replica reads it, but a change of it swaps the files
	read     bool
	issuer   pki.IssuerFacts
	signer   *tls.Certificate // nil: nobody has asked for it
}

func (f *issuerFile) facts() pki.IssuerFacts {
	if !f.read {
		f.read = true
		f.issuer = pki.ReadIssuer(map[string][]byte{payload.TLSCert: f.crt, payload.TLSKey: f.key}, f.of, f.at)
	}
	return f.issuer
}

type replica struct {
	index    int
	lag      time.Duration
	restarts int
	place    *place    // of its pod's proxy; nil without proxies
	volume   files     // as it shows them
	started  time.Time // zero: it waits for its volumes, or is in a crash loop
	roots    *rootsFile
	issuer   *issuerFile // loaded
	tries    int         // at starting, so far in vain
	deaf     bool
	misses   int // how many changes it is yet to miss
	skipped  int
	goneBy   time.Time // of one that is leaving
}

func (r *replica) pod() string {
	if r.restarts == 0 {
		return fmt.Sprintf("linkerd-identity-%d", r.index)
	}
	return fmt.Sprintf("linkerd-identity-%d-%d", r.index, r.restarts)
}

func newLinkerd(cfg ClusterConfig) *linkerd {
	l := &linkerd{cfg: cfg, rollouts: map[string]int{}, rolledOut: map[string]written{}, never: map[string]bool{}, budgets: map[string]int{}, version: cfg.ProxyVersion}
	for i := range cfg.Replicas {
		lag := cfg.Lag * time.Duration(i+1) / time.Duration(cfg.Replicas)
		l.replicas = append(l.replicas, &replica{index: i, lag: lag})
		l.injectors = append(l.injectors, &injector{lag: lag})
	}
	l.place()
	newMesh().join(l)
	return l
}

// act lets all happen that is due, makes a change, and lets that be judged.
func (l *linkerd) act(change func(now time.Time)) {
	l.mesh.mu.Lock()
	defer l.mesh.mu.Unlock()
	now := l.cfg.Clock.Now()
	l.mesh.catchUp(now)
	change(now)
	l.mesh.settle(now)
}

// write is told of each write; one that leaves the data alone changes no file.
func (l *linkerd) write(by string, roots []byte, issuer map[string][]byte) {
	l.act(func(now time.Time) {
		next, shown := l.files, files{}
		if len(l.history) > 0 {
			shown = l.history[len(l.history)-1].files
		}
		crt, key, reload := issuer[payload.TLSCert], issuer[payload.TLSKey], issuer[payload.ReloadKey]
		if l.cfg.Scheme == pki.SchemeLinkerd {
			crt, key = issuer[payload.CrtPEM], issuer[payload.KeyPEM]
		}
		switch {
		case len(roots) == 0:
			next.roots = nil
		case next.roots == nil || !bytes.Equal(next.roots.text, roots):
			next.roots = &rootsFile{written: written{now, by}, text: roots}
		}
		switch {
		case len(crt) == 0:
			next.issuer = nil
		case next.issuer == nil || !bytes.Equal(next.issuer.crt, crt) || !bytes.Equal(next.issuer.key, key):
			next.issuer = &issuerFile{written: written{now, by}, of: pki.Identity{Namespace: l.cfg.Namespace, TrustDomain: l.cfg.TrustDomain}, crt: crt, key: key, reload: reload}
		case !bytes.Equal(next.issuer.reload, reload):
			again := *next.issuer // whoever wrote the pair is still to blame for it
			again.reload = reload
			next.issuer = &again
		}
		l.files = next
		if next.roots != nil {
			shown.roots = next.roots
		}
		if next.issuer != nil {
			shown.issuer = next.issuer
		}
		if len(l.history) > 0 && shown == l.history[len(l.history)-1].files {
			return
		}
		l.history = append(l.window(now), snapshot{now, shown})
		l.mesh.dirty = l.mesh.dirty || l.mesh.entitled // what may be shown has changed
		for _, r := range l.replicas {
			l.show(r, l.history[len(l.history)-1])
		}
	})
}

func (l *linkerd) later(at time.Time, do func(at time.Time)) {
	l.pending.add(happening{at: at, do: do})
}

// window forgets what no volume shows any more.
func (l *linkerd) window(at time.Time) []snapshot {
	for len(l.history) > 1 && !l.history[1].at.Add(l.cfg.Lag).After(at) {
		l.history = l.history[1:]
	}
	return l.history
}

// show has a pod see its files at the time its kubelet takes, if the pod is
// still there by then.
func (l *linkerd) show(r *replica, s snapshot) {
	restarts := r.restarts
	l.later(s.at.Add(r.lag), func(at time.Time) {
		if r.restarts != restarts {
			return
		}
		before := r.volume.issuer
		if r.volume.roots == nil || s.roots != nil && !s.roots.at.Before(r.volume.roots.at) {
			r.volume.roots = s.roots
		}
		if r.volume.issuer == nil || s.issuer != nil && !s.issuer.at.Before(r.volume.issuer.at) {
			r.volume.issuer = s.issuer
		}
		switch {
		case r.started.IsZero():
			l.start(r, at)
		case r.deaf || r.volume.issuer == before:
		case r.misses > 0:
			r.misses--
		case l.loads(r.volume.issuer, r.roots, at) != nil:
			r.skipped++
		default:
			l.retire(r.issuer, at)
			r.issuer = r.volume.issuer
		}
		l.wake(at)
	})
}

// loads says what linkerd-identity has against an issuer.
func (l *linkerd) loads(f *issuerFile, roots *rootsFile, at time.Time) error {
	err := pki.LoadsInIdentity(f.crt, f.key, roots.text, at)
	if err == nil && len(f.facts().Chain) == 0 {
		err = errors.New("there is no certificate")
	}
	return err
}

// start has a replica read its files. One that cannot use them is in a crash
// loop: it tries again after a while, and when its volume shows others.
func (l *linkerd) start(r *replica, at time.Time) {
	v := r.volume
	if v.roots == nil || v.issuer == nil {
		return // its volumes cannot be mounted
	}
	if err := l.loads(v.issuer, v.roots, at); err != nil {
		if r.tries == 0 {
			l.crashes(r.pod(), v, at, err)
		}
		r.tries++
		restarts, tries := r.restarts, r.tries
		l.later(at.Add(backOff(tries)), func(at time.Time) {
			if r.restarts == restarts && r.tries == tries && r.started.IsZero() {
				l.start(r, at)
				l.wake(at)
			}
		})
		return
	}
	r.started, r.roots, r.issuer, r.tries = at, v.roots, v.issuer, 0
}

func (l *linkerd) crashes(pod string, v files, at time.Time, err error) {
	by := newer(v.roots.written, v.issuer.written)
	if l.loads(v.issuer, v.roots, by.at) == nil {
		by.by = ByTime
	}
	l.mesh.tell(at, by.by, "%s in %s is in a crash loop: %v", pod, l.cfg.Name, err)
}

func newer(a, b written) written {
	if a.at.After(b.at) {
		return a
	}
	return b
}

// backOff is how long Kubernetes waits before it starts a container that has
// ended so often in a row.
func backOff(tries int) time.Duration {
	return min(5*time.Minute, 10*time.Second<<min(tries-1, 5))
}

// renew replaces the pod of a replica. Its volume shows v, and what it is yet
// to see as it comes.
func (l *linkerd) renew(r *replica, v files, missing []snapshot, at time.Time) {
	if l.cfg.Grace > 0 && !r.started.IsZero() {
		l.leave(r, at)
	} else {
		l.retire(r.issuer, at)
	}
	r.restarts++
	r.volume, r.started, r.roots, r.issuer, r.tries, r.deaf, r.misses = v, time.Time{}, nil, nil, 0, false, 0
	l.remove(r.place)
	l.start(r, at)
	for _, s := range missing {
		l.show(r, s)
	}
	l.wake(at)
}

// leave has the pod of a replica be there for a while longer, with what it has.
func (l *linkerd) leave(r *replica, at time.Time) {
	old := *r
	old.goneBy = at.Add(l.cfg.Grace)
	if r.place != nil {
		old.place = &place{namespace: r.place.namespace, owner: r.place.owner, kind: r.place.kind, index: r.place.index, pod: r.place.pod}
	}
	l.leaving = append(l.leaving, &old)
	l.later(old.goneBy, func(at time.Time) {
		l.retire(old.issuer, at)
		l.leaving = slices.DeleteFunc(l.leaving, func(r *replica) bool { return r == &old })
	})
}

// stale is the worst that the volumes of a new pod may show, each as it was at
// some time within Lag: what does not load, or else what is oldest.
func (l *linkerd) stale(at time.Time) (v files, missing []snapshot) {
	window := l.window(at)
	if len(window) == 0 {
		return files{}, nil
	}
	for _, r := range window {
		for _, i := range window {
			if r.roots != nil && i.issuer != nil && l.loads(i.issuer, r.roots, at) != nil {
				return files{r.roots, i.issuer}, window[1:]
			}
		}
	}
	return window[0].files, window[1:]
}

func (l *linkerd) observe(now time.Time) *rotation.Identity {
	o := &rotation.Identity{Deployed: true, Scheme: l.cfg.Scheme, OwnRoots: l.cfg.OwnRoots}
	if l.cfg.leafLifetime() != usualLeafLifetime {
		o.LeafLifetime = l.cfg.LeafLifetime
	}
	if l.cfg.leafSkew() != usualLeafSkew {
		o.ClockSkew = l.cfg.LeafSkew
	}
	l.act(func(time.Time) {
		for _, r := range slices.Concat(l.replicas, l.leaving) {
			if r.started.IsZero() {
				continue
			}
			o.Replicas = append(o.Replicas, rotation.Replica{Pod: r.pod(), Started: r.started, NotAfter: r.issuer.facts().Chain[0].NotAfter, Evidence: "metric", At: now, GoneBy: r.goneBy})
		}
	})
	return o
}

// RestartIdentity replaces all pods of linkerd-identity at once.
func (c *Cluster) RestartIdentity() {
	c.onLinkerd(func(l *linkerd, now time.Time) {
		for _, r := range l.replicas {
			l.renew(r, l.files, nil, now)
		}
	})
}

// RestartIdentityReplica replaces a pod of linkerd-identity. A stale one comes
// to the slowest kubelet and finds the worst that this may show: bundle and
// issuer each as they were at some time within Lag. One that cannot use its
// files is in a crash loop until its volume shows others.
func (c *Cluster) RestartIdentityReplica(replica int, stale bool) {
	c.onLinkerd(func(l *linkerd, now time.Time) {
		if replica >= len(l.replicas) {
			return
		}
		r, v, missing := l.replicas[replica], l.files, []snapshot(nil)
		if stale {
			v, missing = l.stale(now)
			r.lag = l.cfg.Lag
		}
		l.renew(r, v, missing, now)
	})
}

// SetLeaves has linkerd-identity told how long leaves live, as an upgrade of Linkerd does: all
// its pods are replaced. Those that were signed before live on as they are.
func (c *Cluster) SetLeaves(lifetime time.Duration) {
	c.onLinkerd(func(l *linkerd, now time.Time) {
		for _, r := range l.replicas {
			l.retire(r.issuer, now)
		}
		l.cfg.LeafLifetime = lifetime
		for _, r := range l.replicas {
			l.renew(r, l.files, nil, now)
		}
	})
}

// DeafIdentity has a replica miss every further change of its files; the next
// pod in its place hears again.
func (c *Cluster) DeafIdentity(replica int) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		if replica < len(l.replicas) {
			l.replicas[replica].deaf = true
		}
	})
}

// MissIdentity has a replica miss the next change of its issuer, and hear those
// that follow.
func (c *Cluster) MissIdentity(replica int) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		if replica < len(l.replicas) {
			l.replicas[replica].misses++
		}
	})
}

// Skipped counts the issuers that replicas did not take up because they do
// not load under the roots those started with (event IssuerUpdateSkipped).
func (c *Cluster) Skipped() (n int) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, r := range l.replicas {
			n += r.skipped
		}
	})
	return n
}

// onLinkerd runs change on the world by now, if there is one.
func (c *Cluster) onLinkerd(change func(l *linkerd, now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.linkerd != nil {
		c.linkerd.act(func(now time.Time) { change(c.linkerd, now) })
	}
}
