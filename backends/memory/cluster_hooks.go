package memory

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// hooks simulates what becomes of a webhook's certificates: kubelets show a
// changed Secret to the pods, one after another; pods take up what loads; the
// API servers learn of a changed caBundle, one after another. Nothing runs by
// itself: what is due happens, in order, when somebody asks.
type hooks struct {
	cluster    string
	clock      Clock
	apiLag     time.Duration
	skew       time.Duration
	namespaces map[string]bool // that exist, beside Linkerd's
	known      map[string]bool // keys of all objects and Secrets of webhooks
	installed  []*webhook      // in the order of their installation
	renewers   map[string]string

	views   [apiServers]map[string]*caView // by key of the object
	lives   map[string]int                 // how often an object was deleted, by key
	pending agenda
	called  func(at time.Time, all []WebhookCall)

	judge
}

// apiServers is how many there are: with two, one of them is the last to know.
const apiServers = 2

// happening is what is yet to come.
type happening struct {
	at time.Time
	by string // who has brought it about
	do func(at time.Time)
}

// agenda is what is yet to come, by time; of one time in the order in which it
// was planned.
type agenda []happening

func (a *agenda) add(h happening) {
	i := len(*a)
	for i > 0 && (*a)[i-1].at.After(h.at) {
		i--
	}
	*a = slices.Insert(*a, i, h)
}

func (a *agenda) pop() happening {
	next := (*a)[0]
	*a = (*a)[1:]
	return next
}

// caView is a caBundle as API servers know it.
type caView struct {
	written
	text []byte
	set  pki.CASet
}

// served is what a server presents after it has read a pair of files.
type served struct {
	written
	chain    []*x509.Certificate
	problem  string
	sec1     bool
	crt, key []byte
	pair     *tls.Certificate // nil: nobody has called it
}

// secretState is what a Secret has been like since a time.
type secretState struct {
	at     time.Time
	by     string
	sum    [sha256.Size]byte
	gone   bool
	served *served
}

// Reloading is how a webhook's server takes up changed files.
type Reloading string

const (
	// ReloadWatch is how Linkerd's Go servers do it: they read the files when
	// told that these have changed, and keep what they have if the new pair
	// does not load (linkerd2: pkg/tls/creds_watcher.go).
	ReloadWatch Reloading = "watch"
	// ReloadReread is how kubert's servers do it: they read the files for each
	// connection, and fail it if these do not load; a key in SEC 1 does not.
	ReloadReread Reloading = "reread"
)

type webhook struct {
	spec        rotation.WebhookSpec // filled in
	secret      string               // key of its Secret
	lag         time.Duration
	reload      Reloading
	stale       bool
	unreachable bool
	check       rotation.WebhookCheck // State "": what a dry run would show
	replicas    []*webhookReplica
	history     []secretState // the last that every volume shows, and what came after
	rollouts    int
}

type webhookReplica struct {
	index   int
	pod     string
	starts  int // of pods in this place
	lag     time.Duration
	started time.Time // zero: it waits for files it can start with
	served  *served
	deaf    bool
	miss    int // changes it has yet to miss
}

// rolloutPace is from one pod's turn in a rollout to the next, and to another
// try where the new pod does not become ready.
const rolloutPace = 10 * time.Second

func (w *webhook) owner() rotation.ObjectRef {
	return rotation.ObjectRef{Kind: "Deployment", Name: w.spec.Service}
}

func (c *Cluster) webhook(name string) *webhook {
	if c.hooks != nil {
		for _, w := range c.hooks.installed {
			if w.spec.Name == name {
				return w
			}
		}
	}
	return nil
}

// concerns says whether key is that of an object or Secret of a webhook.
func (h *hooks) concerns(key string) bool { return h.known[key] }

// later queues what is to happen.
func (h *hooks) later(at time.Time, by string, do func(at time.Time)) {
	h.pending.add(happening{at, by, do})
}

// catchUp judges what was changed, then lets all happen that is due, and judges
// after each.
func (h *hooks) catchUp(now time.Time) {
	if h.dirty {
		h.dirty = false
		h.look(now, h.by)
	}
	for {
		due := len(h.pending) > 0 && !h.pending[0].at.After(now)
		if !h.recheck.IsZero() && !h.recheck.After(now) && (!due || h.recheck.Before(h.pending[0].at)) {
			h.look(h.recheck, ByTime)
			continue
		}
		if !due {
			return
		}
		next := h.pending.pop()
		next.do(next.at)
		h.look(next.at, next.by)
	}
}

// stored is told of each object that changed, nil if it is gone.
func (h *hooks) stored(now time.Time, key string, o *object, by string) {
	switch {
	case o != nil && o.hook != nil:
		h.learn(now, key, o.data[caBundleKey], by)
	case o == nil && h.views[0][key] != nil:
		h.lives[key]++
		for _, views := range h.views {
			delete(views, key)
		}
		h.touch(by)
	default:
		for _, w := range h.installed {
			if w.secret == key {
				h.project(w, stateOf(now, o, by))
			}
		}
	}
}

// learn has the first API server go by a caBundle, and the others later.
func (h *hooks) learn(now time.Time, key string, text []byte, by string) {
	if v := h.views[0][key]; v != nil && bytes.Equal(v.text, text) {
		return
	}
	v, life := &caView{written{now, by}, bytes.Clone(text), pki.ParseCASet(text)}, h.lives[key]
	for i := range h.views {
		lag := h.apiLag * time.Duration(i) / max(apiServers-1, 1)
		if lag == 0 {
			h.views[i][key] = v
			continue
		}
		h.later(now.Add(lag), by, func(time.Time) {
			if h.lives[key] == life {
				h.views[i][key] = v
			}
		})
	}
	h.touch(by)
}

// stateOf is the state of a Secret from now on.
func stateOf(now time.Time, o *object, by string) secretState {
	if o == nil {
		return secretState{at: now, by: by, gone: true}
	}
	s := secretState{at: now, by: by}
	sum := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(o.data)) {
		fmt.Fprintf(sum, "%q %d\n", key, len(o.data[key]))
		sum.Write(o.data[key])
	}
	sum.Sum(s.sum[:0])
	f, _ := o.parsed()
	s.served = &served{written: written{now, by}, chain: f.Chain, problem: f.Problem, crt: bytes.Clone(o.data[payload.TLSCert]), key: bytes.Clone(o.data[payload.TLSKey])}
	if block, _ := pem.Decode(o.data[payload.TLSKey]); block != nil {
		s.served.sec1 = block.Type == "EC PRIVATE KEY"
		clear(block.Bytes)
	}
	return s
}

// project has every kubelet show a changed Secret in time. A change that
// leaves the data alone changes no file, and a volume keeps what it has when
// its Secret goes.
func (h *hooks) project(w *webhook, s secretState) {
	if last := w.current(); last.gone == s.gone && last.sum == s.sum {
		return
	}
	w.history = append(w.history, s)
	if h.entitled {
		h.touch(s.by)
	}
	for len(w.history) > 1 && !w.history[1].at.Add(w.lag).After(s.at) {
		w.history = w.history[1:]
	}
	if s.gone {
		return
	}
	for _, r := range w.replicas {
		h.show(w, r, s, s.at.Add(r.lag))
	}
}

// current is what the API server has of the Secret.
func (w *webhook) current() secretState {
	if len(w.history) == 0 {
		return secretState{gone: true}
	}
	return w.history[len(w.history)-1]
}

// show has a pod see a state of the Secret at a time, if the pod is still there.
func (h *hooks) show(w *webhook, r *webhookReplica, s secretState, at time.Time) {
	starts := r.starts
	h.later(at, s.by, func(at time.Time) {
		switch {
		case r.starts != starts || s.gone:
		case r.started.IsZero():
			if w.loads(s) {
				r.started, r.served = at, s.served
			}
		case r.deaf:
		case r.miss > 0:
			r.miss--
		case w.loads(s):
			r.served = s.served
		case w.reload == ReloadReread:
			r.served = &served{written: s.served.written, problem: s.served.why()}
		}
	})
}

func (w *webhook) loads(s secretState) bool {
	return !s.gone && s.served.problem == "" && !(s.served.sec1 && w.reload == ReloadReread)
}

func (s *served) why() string {
	if s.problem == "" {
		return "could not load private key" // kubert: tls_rustls.rs
	}
	return s.problem
}

// fresh is what a new pod finds in its volume: the Secret as it is or, where
// starts are stale, as the slowest kubelet still has it.
func (w *webhook) fresh(at time.Time) (s secretState, missing []secretState) {
	if !w.stale {
		return w.current(), nil
	}
	s = secretState{gone: true}
	for i, past := range w.history {
		if past.at.Add(w.lag).After(at) {
			return s, w.history[i:]
		}
		s = past
	}
	return s, nil
}

// start replaces the pod in a place. A pod that finds no files it can start
// with waits for better ones.
func (h *hooks) start(w *webhook, r *webhookReplica, at time.Time) {
	r.pod = fmt.Sprintf("%s-%d", w.spec.Service, r.index)
	if r.starts > 0 {
		r.pod += fmt.Sprintf("-%d", r.starts)
	}
	r.starts++
	r.started, r.served, r.deaf, r.miss = time.Time{}, nil, false, 0
	s, missing := w.fresh(at)
	if w.loads(s) {
		r.started, r.served = at, s.served
	}
	if w.stale {
		r.lag = w.lag // it has come to the slowest kubelet
	}
	for _, s := range missing {
		h.show(w, r, s, s.at.Add(r.lag))
	}
}

// rollOut replaces the pods one after another. As with maxUnavailable: 0, what
// a Deployment of less than four replicas comes to, the old pod goes once the
// new one is ready: a Secret that nobody can start with stops the rollout.
func (h *hooks) rollOut(w *webhook, now time.Time) {
	w.rollouts++
	rollout := w.rollouts
	var turn func(i int) func(at time.Time)
	turn = func(i int) func(at time.Time) {
		return func(at time.Time) {
			if w.rollouts != rollout || i >= len(w.replicas) {
				return
			}
			if s, _ := w.fresh(at); w.loads(s) {
				h.start(w, w.replicas[i], at)
				i++
			}
			h.later(at.Add(rolloutPace), ByCertd, turn(i))
		}
	}
	h.later(now, ByCertd, turn(0))
}

// evict takes the pods in a namespace away.
func (h *hooks) evict(namespace string) {
	for _, w := range h.installed {
		if w.spec.Namespace == namespace {
			h.project(w, stateOf(h.clock.Now(), nil, ByWorld))
			for _, r := range w.replicas {
				r.starts++ // what was under way to them is lost
			}
			w.replicas = nil
			w.rollouts++
		}
	}
	h.touch(ByWorld)
}
