package memory

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"certd.internal/rotation"
)

// Who brings things about, beside the writers that world functions are told.
const (
	ByCertd = "certd"
	ByWorld = "world" // deletions, restarts, clocks
	ByTime  = "time"  // a certificate begins or ends to be valid
)

// judge keeps watch over whether each API server could call each webhook at
// any time. It looks after each change of an object, each time a volume shows
// another Secret, each time an API server learns a caBundle, and when a
// certificate becomes valid or expires.
type judge struct {
	dirty      bool   // something was changed and not looked at yet
	by         string // who changed it
	verdicts   map[verdictKey]verdict
	recheck    time.Time // when time alone may change a verdict; zero: never
	broken     map[brokenKey]bool
	violations []Violation
	entitled   bool
}

// Entitle has the webhooks be judged by what may be there, too, from now on: a pod that starts
// finds its Secret as it is, or as its kubelet may still show it, whether or not one does.
func (c *Cluster) Entitle() {
	c.asked(func(h *hooks, _ time.Time) { h.entitled = true })
}

// Violation is a call that an API server would have made in vain from a moment
// on, and not before, or what Mesh.Violations says. One that goes on is not told
// again.
type Violation struct {
	At      time.Time
	Webhook string // "" of a Mesh
	By      string // whose change has come through: ByCertd, ByWorld, ByTime or a writer
	Between bool   // of a Mesh: a pod of one cluster refuses those of another
	Text    string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s: %s (by %s)", v.At.UTC().Format(time.RFC3339), v.Text, v.By)
}

// Admission is a call that an API server would make now.
type Admission struct {
	Webhook string
	Object  rotation.ObjectRef
	Server  int    // of the API servers, from 0 on
	Pod     string // "" where none is ready
	Err     error  // why it fails

	replica int
}

func (a Admission) String() string {
	return fmt.Sprintf("API server %d calls %s (%s) for %s: %v", a.Server, a.Webhook, a.Pod, a.Object, a.Err)
}

type brokenKey struct {
	webhook, object string
	server, replica int
}

type verdictKey struct {
	served *served
	view   *caView
	name   string
}

// verdict holds from one time until before another; zero: without an end.
type verdict struct {
	err         error
	from, until time.Time
}

// touch has catchUp look at a change.
func (j *judge) touch(by string) { j.dirty, j.by = true, by }

// look judges all webhooks at a moment.
func (h *hooks) look(at time.Time, by string) {
	h.recheck = time.Time{}
	var broken map[brokenKey]bool
	for _, w := range h.installed {
		all := h.admissions(w, at)
		if h.entitled {
			all = append(all, h.may(w, at)...)
		}
		for _, a := range all {
			if a.Err == nil {
				continue
			}
			k := brokenKey{a.Webhook, a.Object.String(), a.Server, a.replica}
			if broken == nil {
				broken = map[brokenKey]bool{}
			}
			broken[k] = true
			if !h.broken[k] {
				h.violations = append(h.violations, Violation{At: at, Webhook: a.Webhook, By: by, Text: h.cluster + ": " + a.String()})
			}
		}
	}
	h.broken = broken
	if h.called != nil {
		h.called(at, h.calls())
	}
}

// admissions are all calls that could be made to a webhook at a moment. Which
// replica a connection goes to is chance, so that each must do.
func (h *hooks) admissions(w *webhook, at time.Time) []Admission {
	var all []Admission
	for _, ref := range w.spec.Objects {
		for server, views := range h.views {
			view := views[ref.String()]
			if view == nil {
				continue // it does not know of the webhook
			}
			ready := false
			for _, r := range w.replicas {
				if r.started.IsZero() {
					continue
				}
				ready = true
				all = append(all, Admission{w.spec.Name, ref, server, r.pod, h.verify(r.served, view, w.spec.DNSNames[0], at), r.index})
			}
			if !ready {
				all = append(all, Admission{w.spec.Name, ref, server, "", errNoEndpoints, -1})
			}
		}
	}
	return all
}

// may are the calls to a pod that starts at a moment, where one could.
func (h *hooks) may(w *webhook, at time.Time) (all []Admission) {
	for i, s := range w.history {
		if i+1 < len(w.history) && !w.history[i+1].at.Add(w.lag).After(at) || !w.loads(s) {
			continue // no volume shows it any more, or nobody starts with it
		}
		for _, ref := range w.spec.Objects {
			for server, views := range h.views {
				if view := views[ref.String()]; view != nil {
					all = append(all, Admission{w.spec.Name, ref, server, "a pod that started now", h.verify(s.served, view, w.spec.DNSNames[0], at), -2})
				}
			}
		}
	}
	return all
}

var errNoEndpoints = errors.New("no endpoints available for service")

// verify remembers: between the ends of validity of all that takes part, time
// changes nothing.
func (h *hooks) verify(s *served, view *caView, name string, at time.Time) error {
	clock := at.Add(h.skew)
	k := verdictKey{s, view, name}
	v, ok := h.verdicts[k]
	if !ok || clock.Before(v.from) || !v.until.IsZero() && !clock.Before(v.until) {
		v = verdict{}
		if s.problem != "" {
			v.err = errors.New("tls: handshake failure: " + s.problem)
		} else {
			v.err = view.set.Verify(s.chain, name, clock)
			for _, c := range slices.Concat(s.chain, view.set.Certificates()) {
				v.narrow(clock, c.NotBefore)
				v.narrow(clock, c.NotAfter.Add(1)) // both ends belong to the validity
			}
		}
		if len(h.verdicts) >= 1024 {
			clear(h.verdicts)
		}
		h.verdicts[k] = v
	}
	if end := v.until.Add(-h.skew); !v.until.IsZero() && (h.recheck.IsZero() || end.Before(h.recheck)) {
		h.recheck = end
	}
	return v.err
}

func (v *verdict) narrow(clock, edge time.Time) {
	switch {
	case !edge.After(clock):
		if edge.After(v.from) {
			v.from = edge
		}
	case v.until.IsZero() || edge.Before(v.until):
		v.until = edge
	}
}

// asked brings the webhooks up to now and runs ask, if there are any.
func (c *Cluster) asked(ask func(h *hooks, now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hooks != nil {
		now := c.now()
		c.hooks.catchUp(now)
		ask(c.hooks, now)
	}
}

// Admissions are the calls that the API servers would make to a webhook now,
// to all of them for "".
func (c *Cluster) Admissions(webhook string) (all []Admission) {
	c.asked(func(h *hooks, now time.Time) {
		for _, w := range h.installed {
			if webhook == "" || w.spec.Name == webhook {
				all = append(all, h.admissions(w, now)...)
			}
		}
	})
	return all
}

// Broken are those of Admissions("") that fail.
func (c *Cluster) Broken() []Admission {
	return slices.DeleteFunc(c.Admissions(""), func(a Admission) bool { return a.Err == nil })
}

// Violations are those so far, oldest first.
func (c *Cluster) Violations() (all []Violation) {
	c.asked(func(h *hooks, _ time.Time) { all = slices.Clone(h.violations) })
	return all
}

// ForgetViolations returns the violations so far and starts anew. A call that
// fails now and goes on failing is not told of again; to see it, ask Broken.
func (c *Cluster) ForgetViolations() (all []Violation) {
	c.asked(func(h *hooks, _ time.Time) { all, h.violations = h.violations, nil })
	return all
}
