package memory

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// ClusterConfig describes a simulated cluster.
type ClusterConfig struct {
	Name        string
	Namespace   string // of the Linkerd control plane
	TrustDomain string
	Target      string // Observation.Target; Name if empty
	Existing    bool   // the namespace is there from the start

	Replicas int           // of linkerd-identity; 0: it is not installed
	Lag      time.Duration // from a write until a replica's volume shows it
	Scheme   string        // of the issuer, as linkerd-identity is told; "": kubernetes.io/tls
	// Grace is for how long a replica of linkerd-identity that is replaced goes on signing
	// for pods that are connected to it.
	Grace    time.Duration
	OwnRoots bool // linkerd-identity has its anchors from elsewhere than the ConfigMap, as Linkerd 2.10 does

	// Proxies are meshed pods, in Deployments app-0, app-1, … of three each in
	// namespace app, and beside them those of the control plane: Replicas each
	// of linkerd-identity, linkerd-destination and linkerd-proxy-injector. 0:
	// no pod has a proxy. The first ReplicaSets of these apps are ReplicaSets that
	// no Deployment owns.
	Proxies      int
	ReplicaSets  int
	ProxyVersion string        // of their proxies until SetProxyVersion
	LeafLifetime time.Duration // of their certificates; 0: Linkerd's 24 h
	LeafSkew     time.Duration // that these begin and end beyond it; 0: Linkerd's 20 s
	Seed         uint64        // of what is chance: which replica answers, when a proxy refreshes

	// Webhooks are those that Observe looks for, as other backends are told.
	// What is there is another matter: see InstallWebhook.
	Webhooks []rotation.WebhookSpec
	// APILag is from a change of a caBundle, which the first API server goes
	// by at once, until the second does.
	APILag time.Duration

	Revision uint64 // of the first object is the next one: clusters do not share any
	Clock    Clock  // nil: package time's
}

// Cluster is a cluster in memory. It behaves as an API server does where
// certd can tell: revisions, compare-and-set, managed fields, watches. It
// starts no goroutine.
type Cluster struct {
	cfg    ClusterConfig
	issuer payload.Reader

	mu        sync.Mutex
	namespace bool
	revision  uint64
	objects   map[string]*object
	watchers  map[int]func()
	watchID   int
	writes    map[string]int
	calls     map[Call]int
	events    []rotation.Event
	fault     func(Call) ClusterFault
	skew      time.Duration
	linkerd   *linkerd // nil: it is not installed
	hooks     *hooks   // nil: no webhook was ever installed
}

var _ rotation.Cluster = (*Cluster)(nil)

type object struct {
	revision string
	data     map[string][]byte
	marks    rotation.Marks
	writers  []rotation.Writer
	written  time.Time // when certd last changed it
	keeper   *rotation.Keeper
	hook     *hookObject

	// What a revision of a webhook's Secret or caBundle showed: a quiet cluster
	// is looked at for years, and each look would parse the same bytes.
	parsedOf string
	facts    pki.ServingFacts
	cas      pki.CASet
}

// NewCluster makes an empty cluster.
func NewCluster(cfg ClusterConfig) *Cluster {
	if cfg.Clock == nil {
		cfg.Clock = machineClock{}
	}
	c := &Cluster{
		cfg: cfg, namespace: cfg.Existing, revision: cfg.Revision,
		objects: map[string]*object{}, watchers: map[int]func(){}, writes: map[string]int{}, calls: map[Call]int{},
	}
	if cfg.Replicas > 0 {
		c.linkerd = newLinkerd(cfg)
	}
	return c
}

// Call names a method of rotation.Cluster, for faults and counts.
type Call string

// The calls a fault may befall.
const (
	CallObserve   Call = "observe"
	CallNamespace Call = "namespace"
	CallBundle    Call = "bundle"
	CallIssuer    Call = "issuer"
	CallEvent     Call = "event"
	CallWebhook   Call = "webhook"
	CallCABundle  Call = "caBundle"
	CallRestart   Call = "restart"
	CallEvict     Call = "evict"
	CallProbe     Call = "probe"
	CallProxies   Call = "proxies"
)

// ClusterFault is what goes wrong with one call; the zero value is nothing.
type ClusterFault struct {
	// Delay passes before the call takes effect, unless its context ends.
	Delay time.Duration
	// Err is the answer. Without Lost the call has no effect.
	Err error
	// Lost: the call takes effect, then Err is the answer.
	Lost bool
}

// SetFaults has every later call ask fault what goes wrong with it; nil heals.
// fault is called with the cluster's lock held.
func (c *Cluster) SetFaults(fault func(Call) ClusterFault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
}

// do runs effect under the lock unless a fault comes first.
func (c *Cluster) do(ctx context.Context, call Call, effect func() error) error {
	c.mu.Lock()
	c.calls[call]++
	var f ClusterFault
	if c.fault != nil {
		f = c.fault(call)
	}
	c.mu.Unlock()
	if f.Delay > 0 {
		c.cfg.Clock.Sleep(ctx, f.Delay)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s in %s: %w: %w", call, c.cfg.Name, err, rotation.ErrUnavailable)
	}
	if f.Err != nil && !f.Lost {
		return fmt.Errorf("%s in %s: %w", call, c.cfg.Name, f.Err)
	}
	err := c.change(effect)
	if err == nil && f.Lost {
		return fmt.Errorf("%s in %s: the answer was lost: %w", call, c.cfg.Name, f.Err)
	}
	return err
}

// change runs effect under the lock and tells the watchers if it changed
// anything.
func (c *Cluster) change(effect func() error) error {
	c.mu.Lock()
	before := c.revision
	if c.hooks != nil {
		c.hooks.catchUp(c.now()) // what was due before belongs to the world before
	}
	err := effect()
	if c.hooks != nil {
		c.hooks.catchUp(c.now())
	}
	var tell []func()
	if c.revision != before {
		for _, id := range slices.Sorted(maps.Keys(c.watchers)) {
			tell = append(tell, c.watchers[id])
		}
	}
	c.mu.Unlock()
	for _, changed := range tell {
		changed()
	}
	return err
}

// Observe implements rotation.Cluster.
func (c *Cluster) Observe(ctx context.Context) (rotation.Observation, error) {
	var o rotation.Observation
	err := c.do(ctx, CallObserve, func() error {
		now := c.now()
		o = rotation.Observation{At: now, ClockSkew: c.skew, Target: c.cfg.Target, Version: "memory", Namespace: c.namespace}
		if o.Target == "" {
			o.Target = c.cfg.Name
		}
		c.observeObject(&o, rotation.BundleObject)
		c.observeObject(&o, rotation.IssuerObject)
		if c.linkerd != nil {
			o.Identity = c.linkerd.observe(now)
		}
		o.Webhooks = slices.Grow(o.Webhooks, len(c.cfg.Webhooks))
		for _, spec := range c.cfg.Webhooks {
			o.Webhooks = append(o.Webhooks, c.observeWebhook(spec))
		}
		return nil
	})
	return o, err
}

// Reread implements rotation.Cluster.
func (c *Cluster) Reread(ctx context.Context, last rotation.Observation, object string) (rotation.Observation, error) {
	err := c.do(ctx, CallObserve, func() error {
		last.ClockSkew = c.skew
		c.observeObject(&last, object)
		return nil
	})
	return last, err
}

// observeObject has o show the bundle or the issuer as it is.
func (c *Cluster) observeObject(o *rotation.Observation, name string) {
	obj := c.objects[name]
	if name == rotation.BundleObject {
		o.Bundle, o.BundleText, o.BundleWrittenAt = rotation.ObjectState{}, nil, time.Time{}
		if obj != nil {
			o.Bundle, o.BundleText, o.BundleWrittenAt = obj.state(), payload.Text(obj.data, payload.BundleKey), obj.written
		}
		return
	}
	o.Issuer, o.IssuerWrittenAt, o.IssuerReload, o.IssuerFacts = rotation.ObjectState{}, time.Time{}, "", pki.IssuerFacts{}
	if obj != nil {
		o.Issuer, o.IssuerWrittenAt, o.IssuerReload = obj.state(), obj.written, string(obj.data[payload.ReloadKey])
		o.IssuerFacts = c.issuer.Issuer(obj.data, pki.Identity{Namespace: c.cfg.Namespace, TrustDomain: c.cfg.TrustDomain, Scheme: c.cfg.Scheme})
	}
}

func (o *object) state() rotation.ObjectState {
	return rotation.ObjectState{Exists: true, Revision: o.revision, Marks: o.marks, Writers: slices.Clone(o.writers), Keeper: o.keeper}
}

// CreateNamespace implements rotation.Cluster.
func (c *Cluster) CreateNamespace(ctx context.Context) error {
	return c.do(ctx, CallNamespace, func() error {
		if !c.namespace {
			c.namespace = true
			c.revision++
			c.writes["namespace"]++
		}
		return nil
	})
}

// WriteBundle implements rotation.Cluster.
func (c *Cluster) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	var revision string
	err := c.do(ctx, CallBundle, func() (err error) {
		revision, err = c.writeIn(c.cfg.Namespace, rotation.BundleObject, w.Revision, payload.BundleMarks(w), func(map[string][]byte) (map[string][]byte, error) {
			return payload.Bundle(w.Bundle), nil
		})
		return err
	})
	return revision, err
}

// WriteIssuer implements rotation.Cluster.
func (c *Cluster) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	var revision string
	err := c.do(ctx, CallIssuer, func() (err error) {
		c.issuer.Expect(w.Credential)
		revision, err = c.writeIn(c.cfg.Namespace, rotation.IssuerObject, w.Revision, payload.IssuerMarks(w), func(current map[string][]byte) (map[string][]byte, error) {
			return payload.IssuerData(w, current)
		})
		return err
	})
	return revision, err
}

// writeIn is write in a namespace that has to exist.
func (c *Cluster) writeIn(namespace, name, revision string, marks rotation.Marks, data func(current map[string][]byte) (map[string][]byte, error)) (string, error) {
	if !c.hasNamespace(namespace) {
		return "", fmt.Errorf("write %s in %s: namespace %s does not exist", name, c.cfg.Name, namespace)
	}
	return c.write(c.key(namespace, name), name, revision, marks, data)
}

func (c *Cluster) hasNamespace(namespace string) bool {
	if namespace == c.cfg.Namespace {
		return c.namespace
	}
	return c.hooks != nil && c.hooks.namespaces[namespace]
}

// key is where an object of a namespace stands in objects: under its bare name
// if the namespace is Linkerd's. What is in no namespace stands under
// rotation.ObjectRef.String, whose kinds are no namespace's name.
func (c *Cluster) key(namespace, name string) string {
	if namespace == c.cfg.Namespace {
		return name
	}
	return namespace + "/" + name
}

// write is compare-and-set on the object at key, with the lock held; it is
// counted under name.
func (c *Cluster) write(key, name, revision string, marks rotation.Marks, data func(current map[string][]byte) (map[string][]byte, error)) (string, error) {
	o := c.objects[key]
	have := ""
	if o != nil {
		have = o.revision
	}
	if have != revision {
		return "", fmt.Errorf("write %s in %s: it is at revision %q, not %q: %w", name, c.cfg.Name, have, revision, rotation.ErrChanged)
	}
	if o == nil {
		o = &object{data: map[string][]byte{}}
	}
	want, err := data(o.data)
	if err != nil {
		return "", err
	}
	if o.marks == marks && payload.Same(o.data, want) {
		payload.Wipe(want)
		return have, nil
	}
	o.marks = marks
	if len(want) > 0 { // else others own the data as before
		if !payload.Same(o.data, want) { // who wrote the same owns it, too
			o.writers = nil
		}
		maps.Copy(o.data, want)
		o.written = c.now()
	}
	c.objects[key] = o
	c.writes[name]++
	return c.stored(key, ByCertd), nil
}

// stored gives a changed object its new revision and lets identity and
// webhooks see what by has done.
func (c *Cluster) stored(key, by string) string {
	c.revision++
	o := c.objects[key]
	if o != nil {
		o.revision = strconv.FormatUint(c.revision, 10)
	}
	if c.hooks != nil {
		c.hooks.stored(c.now(), key, o, by)
	}
	if c.linkerd != nil && (c.hooks == nil || !c.hooks.concerns(key)) {
		c.linkerd.write(by, c.data(rotation.BundleObject)[payload.BundleKey], c.data(rotation.IssuerObject))
	}
	if o == nil {
		return ""
	}
	return o.revision
}

// data returns a copy of an object's data, nil if it does not exist.
func (c *Cluster) data(name string) map[string][]byte {
	o := c.objects[name]
	if o == nil {
		return nil
	}
	d := make(map[string][]byte, len(o.data))
	for k, v := range o.data {
		d[k] = bytes.Clone(v)
	}
	return d
}

// Event implements rotation.Cluster.
func (c *Cluster) Event(ctx context.Context, e rotation.Event) error {
	return c.do(ctx, CallEvent, func() error {
		c.events = append(c.events, e)
		return nil
	})
}

// Watch implements rotation.Cluster. It reports certd's own writes, too: the
// contract allows that, and the simulation is the harder for it.
func (c *Cluster) Watch(ctx context.Context, changed func()) error {
	c.mu.Lock()
	id := c.watchID
	c.watchID++
	c.watchers[id] = changed
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	delete(c.watchers, id)
	c.mu.Unlock()
	return ctx.Err()
}

// Close implements rotation.Cluster.
func (c *Cluster) Close() error { return nil }
