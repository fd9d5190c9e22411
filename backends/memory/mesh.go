package memory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Mesh is clusters whose proxies talk to each other. It keeps watch over
// whether each could at any time: it looks whenever a pod starts or presents a
// certificate of another issuer, and when any certificate begins or ends to be
// valid.
type Mesh struct {
	mu         sync.Mutex
	members    []*linkerd
	verdicts   map[handshake]verdict
	dirty      bool                 // something was changed and not looked at yet
	recheck    time.Time            // when time alone may change a verdict; zero: never
	broken     map[brokenPairs]bool // at the last look
	violations []Violation
	classes    []class // of the last look; kept for their memory
	entitled   bool
	clockError time.Duration // by which clocks in the mesh may be wrong; counts where it is entitled
	starts     map[handshake]verdict
	unstarted  map[handshake]bool // at the last look
	met        func(at time.Time, all []Proxy)
}

func newMesh() *Mesh {
	return &Mesh{verdicts: map[handshake]verdict{}, starts: map[handshake]verdict{}}
}

// NewMesh links clusters, which until then each were a mesh of their own: their
// violations until then are forgotten.
func NewMesh(clusters ...*Cluster) *Mesh {
	m := newMesh()
	for _, c := range clusters {
		c.mu.Lock()
		if c.linkerd != nil {
			m.join(c.linkerd)
		}
		c.mu.Unlock()
	}
	return m
}

// Entitle has the mesh judge by what may be there, too, from now on: leaves that a replica of
// linkerd-identity could have issued under what it had loaded, each until its end, whether
// or not a pod has one; bundles that a kubelet may still show to a pod that is created; and
// bundle and issuer, each as it may still be shown, to a replica of linkerd-identity that
// starts. clockError is by how much the clock of whoever signs or verifies may be wrong.
// What really happens is one life of many: a drain that is too short breaks few of them.
func (m *Mesh) Entitle(clockError time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entitled, m.clockError, m.dirty = true, clockError, true
}

// mayLive is an issuer that no replica signs with any more, and leaves of it may be in use.
type mayLive struct {
	issuer *issuerFile
	until  time.Time
}

// retire is told that a replica signs no more with an issuer.
func (l *linkerd) retire(f *issuerFile, at time.Time) {
	if f == nil {
		return
	}
	until := at.Add(l.cfg.leafLifetime() + 2*l.cfg.leafSkew() + 2*l.mesh.clockError)
	for _, c := range f.facts().Chain {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	l.former = slices.DeleteFunc(l.former, func(o mayLive) bool {
		if o.issuer == f && o.until.After(until) {
			until = o.until
		}
		return o.issuer == f || o.until.Before(at)
	})
	l.former = append(l.former, mayLive{f, until})
	l.mesh.dirty = true
}

// may are the classes of what may be there.
func (l *linkerd) may(at time.Time) (all []class) {
	if len(l.places) == 0 {
		return nil
	}
	add := func(roots *rootsFile, issuer *issuerFile, what string) {
		all = append(all, class{l, roots, issuer, 1, &place{namespace: "any", owner: what}})
	}
	for _, s := range l.window(at) {
		if s.roots != nil {
			add(s.roots, nil, "pod-created-meanwhile")
		}
	}
	for _, r := range slices.Concat(l.replicas, l.leaving) {
		if r.issuer != nil {
			add(nil, r.issuer, "pod-with-a-new-leaf")
		}
	}
	for _, f := range l.former {
		if end := f.until.Add(1); end.After(at) {
			l.mesh.lookAgain(end)
			add(nil, f.issuer, "pod-with-an-old-leaf")
		}
	}
	return all
}

func (m *Mesh) join(l *linkerd) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.mesh = m
	m.members = append(m.members, l)
	m.dirty = true
}

// Refusal is what would come of connections made now: a pod refuses what
// another presents. The two are examples where Pairs are alike. It does not
// matter which of them is the client: each verifies the other.
type Refusal struct {
	Verifier, Peer string // "app/app-0-1 in east"
	Pairs          int
	Err            error

	roots   *rootsFile
	issuer  *issuerFile
	pod     *pod // whose own certificate has expired; nil: it is about the chain
	between bool // of two clusters
}

func (r Refusal) String() string {
	return fmt.Sprintf("%s refuses %s (such pairs: %d): %v", r.Verifier, r.Peer, r.Pairs, r.Err)
}

// brokenPairs tells refusals apart.
type brokenPairs struct {
	roots  *rootsFile
	issuer *issuerFile
	pod    *pod
}

// handshake is one half of one: an issuer's leaf, held against a bundle.
type handshake struct {
	issuer *issuerFile
	roots  *rootsFile
}

// class is pods of a cluster that trust and present the same.
type class struct {
	of     *linkerd
	roots  *rootsFile
	issuer *issuerFile
	pods   int
	first  *place
}

func (c class) name() string { return c.first.String() + " in " + c.of.cfg.Name }

var errExpired = errors.New("its certificate has expired")

// catchUp lets all happen that is due, in the order of time, and judges after
// each.
func (m *Mesh) catchUp(now time.Time) {
	for {
		var next *linkerd
		for _, l := range m.members {
			if len(l.pending) > 0 && (next == nil || l.pending[0].at.Before(next.pending[0].at)) {
				next = l
			}
		}
		due := next != nil && !next.pending[0].at.After(now)
		if !m.recheck.IsZero() && !m.recheck.After(now) && (!due || m.recheck.Before(next.pending[0].at)) {
			m.look(m.recheck)
			continue
		}
		if !due {
			return
		}
		h := next.pending.pop()
		h.do(h.at)
		if m.dirty {
			m.look(h.at)
		}
	}
}

// settle judges a change made now, and what comes of it at once.
func (m *Mesh) settle(now time.Time) {
	if m.dirty {
		m.look(now)
	}
	m.catchUp(now)
}

// look judges all pairs at a moment.
func (m *Mesh) look(at time.Time) {
	m.dirty, m.recheck = false, time.Time{}
	var broken map[brokenPairs]bool
	for _, r := range m.refusals(at) {
		k := brokenPairs{r.roots, r.issuer, r.pod}
		if broken == nil {
			broken = map[brokenPairs]bool{}
		}
		broken[k] = true
		if !m.broken[k] {
			var by string
			if r.pod != nil {
				by = cmp.Or(r.pod.by, ByTime) // who has kept it from getting another
			} else {
				by = m.blame(r.issuer, r.roots)
			}
			m.tell(at, by, "%s", r)
			m.violations[len(m.violations)-1].Between = r.between
		}
	}
	m.broken = broken
	if m.entitled {
		m.lookAtStarts(at)
	}
	if m.met != nil {
		m.met(at, m.proxies())
	}
}

// lookAtStarts judges whether a replica of linkerd-identity that is created at a moment would
// start, whichever bundle and whichever issuer its kubelet may show.
func (m *Mesh) lookAtStarts(at time.Time) {
	var unstarted map[handshake]bool
	for _, l := range m.members {
		if len(l.replicas) == 0 {
			continue
		}
		window := l.window(at)
		for i, r := range window {
			for j, s := range window {
				k := handshake{s.issuer, r.roots}
				if k.roots == nil || k.issuer == nil || unstarted[k] {
					continue
				}
				err := m.startable(l, k, at)
				if err == nil {
					continue
				}
				if unstarted == nil {
					unstarted = map[handshake]bool{}
				}
				if unstarted[k] = true; !m.unstarted[k] {
					by := newer(k.roots.written, k.issuer.written)
					if l.loads(k.issuer, k.roots, by.at) == nil {
						by.by = ByTime
					}
					m.tell(at, by.by, "a replica of linkerd-identity in %s that started now could be in a crash loop, with the bundle of %s and the issuer of %s: %v",
						l.cfg.Name, window[i].at.UTC().Format(time.TimeOnly), window[j].at.UTC().Format(time.TimeOnly), err)
				}
			}
		}
	}
	m.unstarted = unstarted
}

// startable says what linkerd-identity has against starting with an issuer and a bundle.
func (m *Mesh) startable(l *linkerd, k handshake, at time.Time) error {
	return m.remembered(m.starts, k, at, func() error { return l.loads(k.issuer, k.roots, at) })
}

// refusals judges every class of pods by every other, so that their number
// costs little.
func (m *Mesh) refusals(at time.Time) (all []Refusal) {
	type dead struct {
		class
		pod *pod
	}
	var (
		classes = m.classes[:0]
		expired []dead
		total   int
	)
	for _, l := range m.members {
		from := len(classes)
		for _, pl := range l.places {
			if pl.pod == nil || pl.pod.leaf == nil {
				continue
			}
			total++
			c := class{l, pl.pod.roots, pl.pod.leaf.issuer, 1, pl}
			end := pl.pod.leaf.notAfter.Add(1) // it still belongs to the validity
			if !end.After(at) {
				expired = append(expired, dead{c, pl.pod})
				continue
			}
			m.lookAgain(end)
			i := slices.IndexFunc(classes[from:], func(o class) bool { return o.roots == c.roots && o.issuer == c.issuer })
			if i < 0 {
				classes = append(classes, c)
			} else {
				classes[from+i].pods++
			}
		}
	}
	if m.entitled {
		for _, l := range m.members {
			classes = append(classes, l.may(at)...)
		}
	}
	m.classes = classes
	for _, e := range expired {
		r := Refusal{Verifier: "everybody", Peer: e.name(), Pairs: total - 1, Err: errExpired, pod: e.pod}
		if len(classes) > 0 {
			r.Verifier = classes[0].name()
		}
		all = append(all, r)
	}
	for _, v := range classes {
		for _, p := range classes {
			pairs := v.pods * p.pods
			if v == p {
				pairs -= v.pods
			}
			if v.roots == nil || p.issuer == nil {
				continue
			}
			err := m.verify(p.issuer, v.roots, at)
			if err == nil || pairs == 0 {
				continue
			}
			all = append(all, Refusal{Verifier: v.name(), Peer: p.name(), Pairs: pairs, Err: err, roots: v.roots, issuer: p.issuer, between: v.of != p.of})
		}
	}
	return all
}

// verify says what those who trust a bundle have against leaves of an issuer.
func (m *Mesh) verify(f *issuerFile, roots *rootsFile, at time.Time) error {
	return m.remembered(m.verdicts, handshake{f, roots}, at, func() error {
		set, err := roots.set()
		if err == nil {
			err = f.facts().VerifyByProxies(set, at)
		}
		return err
	})
}

// remembered judges what has not been judged yet: between the ends of validity of all that
// takes part, time changes nothing.
func (m *Mesh) remembered(verdicts map[handshake]verdict, k handshake, at time.Time, judge func() error) error {
	v, ok := verdicts[k]
	if !ok || at.Before(v.from) || !v.until.IsZero() && !at.Before(v.until) {
		v = verdict{err: judge()}
		certs := slices.Clone(k.issuer.facts().Chain)
		if set, err := k.roots.set(); err == nil {
			certs = append(certs, set.Anchors()...)
		}
		for _, c := range certs {
			v.narrow(at, c.NotBefore)
			v.narrow(at, c.NotAfter.Add(1)) // both ends belong to the validity
		}
		if len(verdicts) >= 1024 {
			clear(verdicts)
		}
		verdicts[k] = v
	}
	if !v.until.IsZero() {
		m.lookAgain(v.until)
	}
	return v.err
}

func (m *Mesh) lookAgain(at time.Time) {
	if m.recheck.IsZero() || at.Before(m.recheck) {
		m.recheck = at
	}
}

// blame names who has published what does not go with what was there before;
// time, where it went together then.
func (m *Mesh) blame(f *issuerFile, roots *rootsFile) string {
	by := newer(roots.written, f.written)
	set, err := roots.set()
	if err == nil && f.facts().VerifyByProxies(set, by.at) == nil {
		return ByTime
	}
	return by.by
}

func (m *Mesh) tell(at time.Time, by, format string, args ...any) {
	m.violations = append(m.violations, Violation{At: at, By: by, Text: fmt.Sprintf(format, args...)})
}

// now is the time of the clusters' world.
func (m *Mesh) now() time.Time {
	if len(m.members) == 0 {
		return machineClock{}.Now()
	}
	return m.members[0].cfg.Clock.Now()
}

// asked brings the clusters up to now and runs ask.
func (m *Mesh) asked(ask func(now time.Time)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.catchUp(now)
	m.settle(now)
	ask(now)
}

// Broken are the handshakes that would fail now.
func (m *Mesh) Broken() (all []Refusal) {
	m.asked(func(now time.Time) { all = m.refusals(now) })
	return all
}

// Violations are those so far, oldest first: handshakes that would have failed
// from a moment on and not before, certificates that proxies did not get or did
// not want, and replicas of linkerd-identity that could not start.
func (m *Mesh) Violations() (all []Violation) {
	m.asked(func(time.Time) { all = slices.Clone(m.violations) })
	return all
}

// ForgetViolations returns the violations so far and starts anew. What is
// broken and stays so is not told of again; to see it, ask Broken.
func (m *Mesh) ForgetViolations() (all []Violation) {
	m.asked(func(time.Time) { all, m.violations = m.violations, nil })
	return all
}
