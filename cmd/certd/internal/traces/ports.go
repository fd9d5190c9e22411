package traces

import (
	"context"
	"crypto"
	"crypto/x509"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// Keys are the same keys; what steps ask of them is seen. system begins the names
// of the spans: "vault", "file" or "kms".
func (t *Traces) Keys(k rotation.Keys, system string) rotation.Keys {
	if t == nil || k == nil {
		return k
	}
	return &keys{k, t, system}
}

type keys struct {
	rotation.Keys
	traces *Traces
	system string
}

func (k *keys) CreateKey(ctx context.Context, name string) (rotation.Key, error) {
	ctx, span := k.traces.part(ctx, k.system+".create-key", "certd.key", name)
	key, err := k.Keys.CreateKey(ctx, name)
	k.traces.end(span, err)
	return k.seen(key), err
}

func (k *keys) OpenKey(ctx context.Context, name string, pinned crypto.PublicKey) (rotation.Key, error) {
	ctx, span := k.traces.part(ctx, k.system+".read-key", "certd.key", name)
	key, err := k.Keys.OpenKey(ctx, name, pinned)
	k.traces.end(span, err)
	return k.seen(key), err
}

// seen is the key with its signatures seen. It can do what the key can, and no more.
func (k *keys) seen(key rotation.Key) rotation.Key {
	switch key := key.(type) {
	case rotation.DigestSigner:
		return digestSigner{key, k}
	case rotation.IssuerSigner:
		return issuerSigner{key, k}
	}
	return key
}

// sign begins the span of one signature. What the backend calls its request is
// what its audit log is searched by.
func (k *keys) sign(ctx context.Context, info rotation.KeyInfo) (context.Context, func(request string, err error)) {
	ctx, span := k.traces.part(ctx, k.system+".sign", "certd.key", info.Name, "certd.key.backend", info.Backend)
	return ctx, func(request string, err error) {
		if request != "" {
			span.SetAttributes(attribute.String(k.system+".request_id", request))
		}
		k.traces.end(span, err)
	}
}

type digestSigner struct {
	rotation.DigestSigner
	keys *keys
}

func (s digestSigner) SignDigest(ctx context.Context, digest []byte) (rotation.Signature, error) {
	ctx, ended := s.keys.sign(ctx, s.Info())
	sig, err := s.DigestSigner.SignDigest(ctx, digest)
	ended(sig.Request, err)
	return sig, err
}

type issuerSigner struct {
	rotation.IssuerSigner
	keys *keys
}

func (s issuerSigner) SignIssuer(ctx context.Context, p pki.IssuerProfile, csr []byte) (*x509.Certificate, string, error) {
	ctx, ended := s.keys.sign(ctx, s.Info())
	cert, request, err := s.IssuerSigner.SignIssuer(ctx, p, csr)
	ended(request, err)
	return cert, request, err
}

// Cluster is the same cluster; what steps ask of it is seen. system begins the
// names of the spans: "k8s" or "directory".
func (t *Traces) Cluster(c rotation.Cluster, name, system string) rotation.Cluster {
	if t == nil {
		return c
	}
	return &cluster{Cluster: c, traces: t, name: name, system: system}
}

type cluster struct {
	rotation.Cluster
	traces       *Traces
	name, system string
	// delivered is the issuer that is yet to be seen in use. Calls on one cluster
	// come one at a time.
	delivered *delivered
}

// delivered is an issuer that a step wrote.
type delivered struct {
	step   trace.SpanContext // of its write
	at     time.Time
	serial string
	ends   time.Time
}

func (c *cluster) part(ctx context.Context, what string, pairs ...string) (context.Context, trace.Span) {
	return c.traces.part(ctx, c.system+"."+what, append(pairs, "certd.cluster", c.name)...)
}

// wrote ends the span of a write.
func (c *cluster) wrote(span trace.Span, revision string, err error) {
	span.SetAttributes(c.traces.attributes("certd.revision", revision)...)
	c.traces.end(span, err)
}

func (c *cluster) Observe(ctx context.Context) (rotation.Observation, error) {
	ctx, span := c.part(ctx, "observe")
	o, err := c.Cluster.Observe(ctx)
	c.traces.end(span, err)
	if err == nil {
		c.follow(&o)
	}
	return o, err
}

func (c *cluster) Reread(ctx context.Context, last rotation.Observation, object string) (rotation.Observation, error) {
	ctx, span := c.part(ctx, "reread", "certd.object", object)
	o, err := c.Cluster.Reread(ctx, last, object)
	c.traces.end(span, err)
	return o, err
}

// follow ends the wait for a delivered issuer: with a span below the write, as
// long as that took, once each replica of linkerd-identity is seen
// to use it.
func (c *cluster) follow(o *rotation.Observation) {
	d := c.delivered
	if d == nil {
		return
	}
	if len(o.IssuerFacts.Chain) == 0 || pki.Serial(o.IssuerFacts.Chain[0]) != d.serial || o.Identity == nil {
		c.delivered = nil // it is not there any more, or nobody is there to load it
		return
	}
	if len(o.Identity.Replicas) == 0 || slices.ContainsFunc(o.Identity.Replicas, func(r rotation.Replica) bool { return !r.NotAfter.Equal(d.ends) }) {
		return
	}
	c.delivered = nil
	pods := make([]string, len(o.Identity.Replicas))
	for i, r := range o.Identity.Replicas {
		pods[i] = r.Pod
	}
	_, span := c.traces.tracer.Start(trace.ContextWithSpanContext(context.Background(), d.step), "verify.loaded", trace.WithTimestamp(d.at),
		c.traces.texts("certd.cluster", c.name, "certd.serial", d.serial), trace.WithAttributes(attribute.StringSlice("certd.pods", pods)))
	c.traces.end(span, nil)
}

func (c *cluster) CreateNamespace(ctx context.Context) error {
	ctx, span := c.part(ctx, "apply", "certd.object", "namespace")
	err := c.Cluster.CreateNamespace(ctx)
	c.traces.end(span, err)
	return err
}

func (c *cluster) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	ctx, span := c.part(ctx, "apply", "certd.object", rotation.BundleObject)
	revision, err := c.Cluster.WriteBundle(ctx, w)
	c.wrote(span, revision, err)
	return revision, err
}

func (c *cluster) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	var issuer *x509.Certificate // a new one: of others linkerd-identity does not show which it uses
	if w.Credential != nil {
		issuer = w.Credential.Chain()[0]
	}
	ctx, span := c.part(ctx, "apply", "certd.object", rotation.IssuerObject, "certd.serial", w.Serial)
	revision, err := c.Cluster.WriteIssuer(ctx, w)
	c.wrote(span, revision, err)
	if step := span.SpanContext(); err == nil && issuer != nil && step.IsValid() {
		c.delivered = &delivered{step: step, at: time.Now(), serial: pki.Serial(issuer), ends: issuer.NotAfter}
	}
	return revision, err
}

func (c *cluster) WriteWebhook(ctx context.Context, w rotation.WebhookWrite) (string, error) {
	ctx, span := c.part(ctx, "apply", "certd.object", w.Spec.Namespace+"/"+w.Spec.Secret, "certd.webhook", w.Spec.Name, "certd.serial", w.Serial)
	revision, err := c.Cluster.WriteWebhook(ctx, w)
	c.wrote(span, revision, err)
	return revision, err
}

func (c *cluster) WriteCABundle(ctx context.Context, w rotation.CABundleWrite) (string, error) {
	ctx, span := c.part(ctx, "apply", "certd.object", w.Object.String(), "certd.webhook", w.Spec.Name)
	revision, err := c.Cluster.WriteCABundle(ctx, w)
	c.wrote(span, revision, err)
	return revision, err
}

func (c *cluster) Restart(ctx context.Context, namespace string, owner rotation.ObjectRef) error {
	ctx, span := c.part(ctx, "restart", "certd.object", owner.String(), "certd.namespace", namespace)
	err := c.Cluster.Restart(ctx, namespace, owner)
	c.traces.end(span, err)
	return err
}

func (c *cluster) RestartSince(ctx context.Context, namespace string, owner rotation.ObjectRef, since time.Time, whole bool) (bool, error) {
	ctx, span := c.part(ctx, "restart", "certd.object", owner.String(), "certd.namespace", namespace)
	certd, err := c.Cluster.RestartSince(ctx, namespace, owner, since, whole)
	span.SetAttributes(attribute.Bool("certd.by_others", err == nil && !certd))
	c.traces.end(span, err)
	return certd, err
}

func (c *cluster) Evict(ctx context.Context, namespace string, owner rotation.ObjectRef, e rotation.Eviction) ([]string, error) {
	ctx, span := c.part(ctx, "evict", "certd.object", owner.String(), "certd.namespace", namespace)
	pods, err := c.Cluster.Evict(ctx, namespace, owner, e)
	span.SetAttributes(attribute.Int("certd.pods.evicted", len(pods)))
	c.traces.end(span, err)
	return pods, err
}

func (c *cluster) Event(ctx context.Context, e rotation.Event) error {
	ctx, span := c.part(ctx, "event", "certd.object", e.Object)
	err := c.Cluster.Event(ctx, e)
	c.traces.end(span, err)
	return err
}
