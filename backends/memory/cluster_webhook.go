package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// caBundleKey is where the caBundle stands in the data of an object that holds
// one.
const caBundleKey = "caBundle"

// hookObject is what an object says beside its caBundle.
type hookObject struct {
	ref                rotation.ObjectRef
	namespace, service string // that it calls
	ignores            bool
	injector           string
}

func (h *hookObject) calls(w rotation.WebhookSpec) bool {
	return h.service == w.Service && (w.Namespace == "" || h.namespace == w.Namespace)
}

// observeWebhook looks at one webhook, with the lock held.
func (c *Cluster) observeWebhook(spec rotation.WebhookSpec) rotation.Webhook {
	w := rotation.Webhook{Spec: spec}
	for _, ref := range spec.Objects {
		o := c.objects[ref.String()]
		if o == nil || o.hook == nil || !o.hook.calls(w.Spec) {
			continue
		}
		w.Spec.Namespace = o.hook.namespace
		_, cas := o.parsed()
		w.Objects = append(w.Objects, rotation.WebhookObject{
			Ref: ref, ObjectState: o.state(), CABundle: cas, CAText: payload.Text(o.data, caBundleKey),
			WrittenAt: o.written, Ignores: o.hook.ignores, Injector: o.hook.injector,
		})
	}
	if len(w.Objects) == 0 {
		return w
	}
	w.Spec = filledIn(w.Spec)
	w.Renewer = c.hooks.renewers[spec.Name]
	if o := c.objects[c.key(w.Spec.Namespace, spec.Secret)]; o != nil {
		w.Secret, w.WrittenAt = o.state(), o.written
		w.Facts, _ = o.parsed()
		w.Reload = string(o.data[payload.ReloadKey])
	}
	return w
}

// filledIn is spec with the name that the API server goes by.
func filledIn(spec rotation.WebhookSpec) rotation.WebhookSpec {
	if len(spec.DNSNames) == 0 {
		spec.DNSNames = []string{spec.Service + "." + spec.Namespace + ".svc"}
	}
	return spec
}

// parsed returns what stands in a webhook's Secret or object.
func (o *object) parsed() (pki.ServingFacts, pki.CASet) {
	if o.parsedOf != o.revision {
		o.parsedOf = o.revision
		if o.hook != nil {
			o.cas = payload.CASet(o.data[caBundleKey])
		} else {
			o.facts = payload.ReadServing(o.data)
		}
	}
	return o.facts, o.cas
}

// WriteWebhook implements rotation.Cluster.
func (c *Cluster) WriteWebhook(ctx context.Context, w rotation.WebhookWrite) (string, error) {
	var revision string
	err := c.do(ctx, CallWebhook, func() (err error) {
		revision, err = c.writeIn(w.Spec.Namespace, w.Spec.Secret, w.Revision, payload.WebhookMarks(w), func(current map[string][]byte) (map[string][]byte, error) {
			return payload.Webhook(w, current)
		})
		return err
	})
	return revision, err
}

// WriteCABundle implements rotation.Cluster.
func (c *Cluster) WriteCABundle(ctx context.Context, w rotation.CABundleWrite) (string, error) {
	var revision string
	err := c.do(ctx, CallCABundle, func() (err error) {
		key := w.Object.String()
		// Without this, an empty revision would make an object that calls nothing.
		if o := c.objects[key]; o == nil || o.hook == nil || !o.hook.calls(w.Spec) {
			return fmt.Errorf("write the caBundle of %s in %s: nothing there calls %s: %w", key, c.cfg.Name, w.Spec.Service, rotation.ErrChanged)
		}
		if w.CAs.IsZero() {
			return fmt.Errorf("write the caBundle of %s in %s: there is no CA to write", key, c.cfg.Name)
		}
		revision, err = c.write(key, key, w.Revision, payload.CABundleMarks(w), func(map[string][]byte) (map[string][]byte, error) {
			return map[string][]byte{caBundleKey: w.CAs.PEM()}, nil
		})
		return err
	})
	return revision, err
}

// Restart implements rotation.Cluster. The pods go one after another,
// each once its successor could start.
func (c *Cluster) Restart(ctx context.Context, namespace string, owner rotation.ObjectRef) error {
	return c.do(ctx, CallRestart, func() error {
		known := c.linkerd != nil && owner.Kind == "Deployment" && c.linkerd.restart(namespace, owner.Name)
		if c.hooks != nil {
			for _, w := range c.hooks.installed {
				if w.spec.Namespace == namespace && owner == w.owner() {
					c.hooks.rollOut(w, c.now())
					known = true
				}
			}
		}
		if known {
			return nil
		}
		return fmt.Errorf("restart %s in namespace %s of %s: there is none: %w", owner, namespace, c.cfg.Name, rotation.ErrChanged)
	})
}

// RestartSince implements rotation.Cluster.
func (c *Cluster) RestartSince(ctx context.Context, namespace string, owner rotation.ObjectRef, since time.Time, _ bool) (certd bool, err error) {
	c.mu.Lock()
	last := c.linkerd.lastRollOut(namespace, owner.Name)
	never := c.linkerd != nil && c.linkerd.never[namespace+"/"+owner.Name]
	c.mu.Unlock()
	if never {
		return false, fmt.Errorf("restart %s in namespace %s of %s: %w", owner, namespace, c.cfg.Name, errNever)
	}
	if !last.at.IsZero() && !last.at.Before(since) {
		return last.by == ByCertd, nil
	}
	return true, c.Restart(ctx, namespace, owner)
}

// ProbeWebhooks implements rotation.Cluster.
func (c *Cluster) ProbeWebhooks(ctx context.Context, webhooks []rotation.WebhookSpec) map[string]rotation.WebhookEvidence {
	begun := c.now()
	found := make(map[string]rotation.WebhookEvidence, len(webhooks))
	err := c.do(ctx, CallProbe, func() error {
		for _, spec := range webhooks {
			found[spec.Name] = c.probe(spec, begun, c.now())
		}
		return nil
	})
	if err != nil {
		for _, spec := range webhooks {
			found[spec.Name] = unseen(spec, begun, err.Error())
		}
	}
	return found
}

// unseen is the evidence where nothing could be seen. It has one replica, of
// which nothing is known: none at all would say that nothing runs.
func unseen(spec rotation.WebhookSpec, at time.Time, why string) rotation.WebhookEvidence {
	e := rotation.WebhookEvidence{At: at, Replicas: []rotation.WebhookReplica{{Pod: spec.Service, Evidence: why, At: at}}}
	if spec.Check != rotation.CheckNone {
		e.Check = rotation.WebhookCheck{State: "unknown", Evidence: why, At: at}
	}
	return e
}

func (c *Cluster) probe(spec rotation.WebhookSpec, begun, now time.Time) rotation.WebhookEvidence {
	w := c.webhook(spec.Name)
	if w == nil {
		return unseen(spec, begun, "it is not installed")
	}
	e := rotation.WebhookEvidence{At: begun}
	for _, r := range w.replicas {
		seen := rotation.WebhookReplica{Pod: r.pod, Ready: !r.started.IsZero(), Started: r.started, Evidence: "tls", At: now, Owner: w.owner()}
		switch {
		case w.unreachable:
			seen.Evidence = "unreachable"
		case r.served == nil:
			seen.Evidence = "it is not running"
		case r.served.problem != "":
			seen.Evidence = "the handshake ends with: " + r.served.problem
		default:
			seen.Served = slices.Clone(r.served.chain)
		}
		e.Replicas = append(e.Replicas, seen)
	}
	if spec.Check == rotation.CheckNone {
		return e
	}
	e.Check = rotation.WebhookCheck{State: "yes", Evidence: "dry run", At: now}
	if w.check.State != "" {
		e.Check.State, e.Check.Evidence = w.check.State, w.check.Evidence
		return e
	}
	for _, a := range c.hooks.admissions(w, now) {
		if a.Err != nil {
			e.Check.State = "no"
			e.Check.Evidence = fmt.Sprintf("failed calling webhook %q: https://%s:443: %v", spec.Name, w.spec.DNSNames[0], a.Err)
			break
		}
	}
	return e
}
