package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// What cert-manager leaves on a Secret it issues into, and where its Certificate
// is (cert-manager: pkg/apis/certmanager/v1/types.go).
const annotationCertificate = "cert-manager.io/certificate-name"

var certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}

// sight is what a look at a webhook told that later calls go by.
type sight struct {
	namespace string   // of the Secret; "": not installed
	port      int32    // of the Service, that the API server calls
	entries   []string // the webhooks' names in their configurations: errors of the API server name them
	url       string   // where it is called by URL
	leaf      string   // fingerprint of what is in the Secret, "" if nothing
}

// webhooks looks at all of them side by side. It always answers: what went wrong
// with one is said in its entry. It takes half of the operation's time at most.
func (c *Cluster) webhooks(ctx context.Context) []rotation.Webhook {
	if len(c.cfg.Webhooks) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout/2)
	defer cancel()
	found := make([]rotation.Webhook, len(c.cfg.Webhooks))
	var wg sync.WaitGroup
	for i, spec := range c.cfg.Webhooks {
		wg.Go(func() {
			var err error
			if found[i], err = c.webhook(ctx, spec); err != nil {
				found[i] = rotation.Webhook{Spec: found[i].Spec, Err: err}
			}
		})
	}
	wg.Wait()
	return found
}

// webhook looks at one. Beside an error, the answer has what of the Spec could
// be filled in.
func (c *Cluster) webhook(ctx context.Context, spec rotation.WebhookSpec) (rotation.Webhook, error) {
	objects, spec, err := c.registrations(ctx, spec)
	w := rotation.Webhook{Spec: spec}
	if err != nil {
		return w, err
	}
	if len(objects) == 0 {
		c.see(spec.Name, sight{})
		return w, nil
	}
	seen := sight{namespace: spec.Namespace, port: servicePort}
	for _, o := range objects {
		w.Objects = append(w.Objects, o.observed(spec))
		for _, e := range o.calling(spec) {
			seen.entries = append(seen.entries, e.Name)
			if seen.url = e.ClientConfig.url(); seen.url == "" {
				seen.port = e.ClientConfig.port()
			}
		}
		c.remember(o.ref(), object{string(o.Metadata.UID), o.Metadata.ResourceVersion})
	}
	if spec.Namespace == "" {
		return w, fmt.Errorf("webhook %s: its objects call it by URL, which tells no namespace; name the one of Secret %s in the configuration", spec.Name, spec.Secret)
	}
	err = c.webhookSecret(ctx, &w)
	if err == nil && len(w.Facts.Chain) > 0 {
		seen.leaf = pki.Fingerprint(w.Facts.Chain[0])
	}
	c.see(spec.Name, seen)
	return w, err
}

// webhookSecret fills in what the Secret tells. Nothing of its key is kept.
func (c *Cluster) webhookSecret(ctx context.Context, w *rotation.Webhook) error {
	at := ref{"secrets", w.Spec.Namespace, w.Spec.Secret}
	secret, err := c.core.Secrets(at.in).Get(ctx, at.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		c.remember(at, object{})
		return nil
	}
	if err != nil {
		return c.fail(at.call("get"), err)
	}
	defer payload.Wipe(secret.Data)
	w.Secret = c.state(at, secret.ObjectMeta, payload.WebhookKeys())
	w.WrittenAt = writtenAt(secret.ManagedFields, dataFields([]string{payload.TLSCert}))
	w.Facts = payload.ReadServing(secret.Data)
	w.Reload = string(secret.Data[payload.ReloadKey])
	w.Renewer = c.renewer(ctx, secret)
	return nil
}

// renewer finds out whether cert-manager issues into a Secret. The annotation
// outlives the Certificate, hence the second look; where that is refused, it is
// taken to exist: two who write the same Secret never come to rest.
func (c *Cluster) renewer(ctx context.Context, s *corev1.Secret) string {
	name := s.Annotations[annotationCertificate]
	if name == "" {
		return ""
	}
	who := quoteText(fmt.Sprintf("Certificate %s/%s", s.Namespace, name))
	_, err := c.meta.Resource(certificates).Namespace(s.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		return who
	case apierrors.IsNotFound(err): // or there is no cert-manager at all
		return ""
	}
	return fmt.Sprintf("%s (whether it exists could not be seen: %v)", who, c.fail(ref{"certificates", s.Namespace, name}.call("get"), err))
}

// registrations reads the objects of a webhook that exist and call it, and fills
// in what they tell of where it is.
func (c *Cluster) registrations(ctx context.Context, spec rotation.WebhookSpec) ([]registered, rotation.WebhookSpec, error) {
	read := make([]registered, len(spec.Objects))
	errs := make([]error, len(spec.Objects))
	var wg sync.WaitGroup
	for i, object := range spec.Objects {
		wg.Go(func() { read[i], errs[i] = c.registered(ctx, object) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, spec, err
	}
	var calling []registered
	for _, o := range read {
		entries := o.calling(spec)
		if len(entries) == 0 {
			continue
		}
		calling = append(calling, o)
		// The first one settles which Service it is; the next ones are asked for
		// just that.
		if s := entries[0].ClientConfig.Service; s != nil && (spec.Service == "" || spec.Namespace == "") {
			spec.Service, spec.Namespace = s.Name, s.Namespace
		}
	}
	if len(calling) > 0 && len(spec.DNSNames) == 0 && spec.Service != "" {
		spec.DNSNames = []string{spec.Service + "." + spec.Namespace + ".svc"}
	}
	return calling, spec, nil
}

// see keeps what a look told, and tells Watch where the Secret is.
func (c *Cluster) see(webhook string, s sight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	moved := c.sights[webhook].namespace != s.namespace
	c.sights[webhook] = s
	if moved {
		c.watchAnew()
	}
}

func (c *Cluster) sight(webhook string) sight {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sights[webhook]
	s.entries = slices.Clone(s.entries)
	return s
}
