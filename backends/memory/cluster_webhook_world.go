package memory

import (
	"bytes"
	"slices"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// WebhookInstall is how a webhook is installed; the zero value of each field
// stands for what is usual.
type WebhookInstall struct {
	Writer   string            // "helm"
	CABundle []byte            // nil: the chart leaves it to somebody else
	Secret   map[string][]byte // nil: the chart makes none, the pods wait for one
	Ignore   bool              // failurePolicy

	// The rest counts only where no pod of it runs.

	Replicas int           // 3
	Lag      time.Duration // the cluster's: until the last replica's volume shows a change
	Reload   Reloading     // ReloadWatch
	// StaleStarts: a pod that starts may find what its Secret was Lag ago.
	StaleStarts bool
}

// InstallWebhook makes a webhook's objects, its Secret and its pods. To do it
// again is what an upgrade of the chart does: caBundle and Secret become what
// the chart says, the pods stay. An empty spec.Namespace is Linkerd's.
func (c *Cluster) InstallWebhook(spec rotation.WebhookSpec, in WebhookInstall) {
	if spec.Namespace == "" {
		spec.Namespace = c.cfg.Namespace
	}
	spec = filledIn(spec)
	if in.Writer == "" {
		in.Writer = "helm"
	}
	c.outside(func() {
		if c.hooks == nil {
			c.hooks = c.newHooks()
		}
		h, now := c.hooks, c.now()
		if spec.Namespace == c.cfg.Namespace {
			c.namespace = true
		} else {
			h.namespaces[spec.Namespace] = true
		}
		w := c.webhook(spec.Name)
		if w == nil {
			w = &webhook{}
			h.installed = append(h.installed, w)
		}
		w.spec, w.secret = spec, c.key(spec.Namespace, spec.Secret)
		h.known[w.secret] = true
		if len(w.replicas) == 0 {
			w.lag, w.reload, w.stale = in.Lag, in.Reload, false // the first pods come after their Secret
			if w.lag == 0 {
				w.lag = c.cfg.Lag
			}
			if w.reload == "" {
				w.reload = ReloadWatch
			}
			if o := c.objects[w.secret]; o != nil { // kept from an earlier installation
				h.project(w, stateOf(now, o, in.Writer))
			}
		}
		c.install(w, in)
		if len(w.replicas) == 0 {
			n := in.Replicas
			if n == 0 {
				n = 3
			}
			for i := range n {
				r := &webhookReplica{index: i, lag: w.lag * time.Duration(i+1) / time.Duration(n)}
				w.replicas = append(w.replicas, r)
				h.start(w, r, now)
			}
			w.stale = in.StaleStarts
		}
		h.touch(in.Writer)
	})
}

// install writes what differs from what the chart says.
func (c *Cluster) install(w *webhook, in WebhookInstall) {
	have := c.objects[w.secret]
	if in.Secret != nil && (have == nil || !payload.Same(have.data, in.Secret)) {
		c.edit(w.secret, in.Writer, func(data map[string][]byte, _ *rotation.Marks) {
			for key, text := range in.Secret {
				data[key] = bytes.Clone(text)
			}
		})
	}
	for _, ref := range w.spec.Objects {
		key := ref.String()
		c.hooks.known[key] = true
		hook := hookObject{ref: ref, namespace: w.spec.Namespace, service: w.spec.Service, ignores: in.Ignore}
		o := c.objects[key]
		if o != nil && o.hook != nil {
			hook.injector = o.hook.injector
			if *o.hook == hook && bytes.Equal(o.data[caBundleKey], in.CABundle) {
				continue
			}
		}
		if o == nil {
			o = &object{data: map[string][]byte{}}
			c.objects[key] = o
		}
		o.hook = &hook
		c.edit(key, in.Writer, func(data map[string][]byte, _ *rotation.Marks) { data[caBundleKey] = bytes.Clone(in.CABundle) })
	}
}

func (c *Cluster) newHooks() *hooks {
	h := &hooks{
		cluster: c.cfg.Name, clock: c.cfg.Clock, apiLag: c.cfg.APILag, skew: c.skew,
		namespaces: map[string]bool{}, known: map[string]bool{}, renewers: map[string]string{}, lives: map[string]int{},
		judge: judge{verdicts: map[verdictKey]verdict{}},
	}
	for i := range h.views {
		h.views[i] = map[string]*caView{}
	}
	return h
}

// RemoveWebhook takes a webhook's objects and pods away and, as Helm does, its
// Secret unless that is marked to be kept.
func (c *Cluster) RemoveWebhook(name string) {
	c.outside(func() {
		w := c.webhook(name)
		if w == nil {
			return
		}
		for _, r := range w.replicas {
			r.starts++ // what was under way to them is lost
		}
		w.rollouts++
		c.hooks.installed = slices.DeleteFunc(slices.Clone(c.hooks.installed), func(other *webhook) bool { return other == w })
		for _, ref := range w.spec.Objects {
			c.remove(ref.String(), ByWorld)
		}
		if o := c.objects[w.secret]; o != nil && !o.marks.Keep {
			c.remove(w.secret, ByWorld)
		}
	})
}

// SetCABundle has writer set the caBundle of an object, if there is one.
func (c *Cluster) SetCABundle(ref rotation.ObjectRef, writer string, text []byte) {
	c.outside(func() {
		if c.objects[ref.String()] != nil {
			c.edit(ref.String(), writer, func(data map[string][]byte, _ *rotation.Marks) { data[caBundleKey] = bytes.Clone(text) })
		}
	})
}

// CABundle is the caBundle of an object as it stands.
func (c *Cluster) CABundle(ref rotation.ObjectRef) []byte { return c.Data(ref.String())[caBundleKey] }

// SetInjector has an object say from what cert-manager's cainjector is to fill
// in the caBundle; "" for not at all.
func (c *Cluster) SetInjector(ref rotation.ObjectRef, from string) {
	c.outside(func() {
		if o := c.objects[ref.String()]; o != nil && o.hook != nil && o.hook.injector != from {
			o.hook.injector = from
			c.stored(ref.String(), ByWorld)
		}
	})
}

// SetRenewer names who else issues into a webhook's Secret ("Certificate
// linkerd/x"); "" for nobody.
func (c *Cluster) SetRenewer(name, renewer string) {
	c.outside(func() {
		if c.hooks == nil {
			c.hooks = c.newHooks()
		}
		c.hooks.renewers[name] = renewer
	})
}

// Deafen has a pod miss every further change of its files; the next pod in its
// place hears again.
func (c *Cluster) Deafen(name string, replica int) {
	c.onReplica(name, replica, func(_ *webhook, r *webhookReplica) { r.deaf = true })
}

// MissNext has a pod miss the next change of its files.
func (c *Cluster) MissNext(name string, replica int) {
	c.onReplica(name, replica, func(_ *webhook, r *webhookReplica) { r.miss++ })
}

// RestartPod replaces a pod at once.
func (c *Cluster) RestartPod(name string, replica int) {
	c.onReplica(name, replica, func(w *webhook, r *webhookReplica) {
		c.hooks.start(w, r, c.now())
		c.hooks.touch(ByWorld)
	})
}

// SetStaleStarts changes what pods find that start from now on.
func (c *Cluster) SetStaleStarts(name string, stale bool) {
	c.onWebhook(name, func(w *webhook) { w.stale = stale })
}

// Unreachable has probes not see what a webhook's pods serve.
func (c *Cluster) Unreachable(name string, unreachable bool) {
	c.onWebhook(name, func(w *webhook) { w.unreachable = unreachable })
}

// SetCheck has the functional check of a webhook come out so; with an empty
// state it is what the calls of the API servers would come to.
func (c *Cluster) SetCheck(name, state, evidence string) {
	c.onWebhook(name, func(w *webhook) { w.check = rotation.WebhookCheck{State: state, Evidence: evidence} })
}

func (c *Cluster) onReplica(name string, replica int, change func(w *webhook, r *webhookReplica)) {
	c.onWebhook(name, func(w *webhook) {
		if replica < len(w.replicas) {
			change(w, w.replicas[replica])
		}
	})
}

func (c *Cluster) onWebhook(name string, change func(w *webhook)) {
	c.outside(func() {
		if w := c.webhook(name); w != nil {
			change(w)
		}
	})
}
