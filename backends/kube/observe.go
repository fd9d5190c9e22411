package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// versionFor is how long the server's version is taken to hold.
const versionFor = time.Hour

// Observe implements rotation.Cluster. The reads run side by side, each under
// its own error: what linkerd-identity does not show is unknown, while the
// objects certd manages and the cluster's identity have to be seen. A cluster that could not be
// seen the last time is asked for its identity before anything else: one that answers
// nothing, or too much, costs one request.
func (c *Cluster) Observe(ctx context.Context) (rotation.Observation, error) {
	c.looking.RLock()
	defer c.looking.RUnlock()
	o, err := c.observe(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unseen = err != nil
	if err != nil {
		return o, err
	}
	around := object{}
	if o.Namespace {
		around.revision = present
	}
	if last, seen := c.known[c.around()]; !seen || last != around {
		c.known[c.around()] = around
		c.watchAnew()
	}
	return o, nil
}

func (c *Cluster) observe(ctx context.Context) (rotation.Observation, error) {
	o := rotation.Observation{At: time.Now(), Credential: c.access()}
	ctx, cancel := c.bound(ctx)
	defer cancel()

	var (
		clocked, clock            = withClock(ctx)
		system                    *corev1.Namespace
		cm                        *corev1.ConfigMap
		secret                    *corev1.Secret
		systemErr, cmErr, issuErr error
		wg                        sync.WaitGroup
	)
	wg.Go(func() { system, systemErr = c.core.Namespaces().Get(clocked, "kube-system", metav1.GetOptions{}) })
	c.mu.Lock()
	unseen := c.unseen
	c.mu.Unlock()
	if unseen {
		if wg.Wait(); systemErr != nil {
			return o, c.fail(call{verb: "get", resource: "namespaces", name: "kube-system"}, systemErr)
		}
	}
	wg.Go(func() {
		cm, cmErr = c.core.ConfigMaps(c.cfg.Namespace).Get(ctx, rotation.BundleObject, metav1.GetOptions{})
	})
	wg.Go(func() {
		secret, issuErr = c.core.Secrets(c.cfg.Namespace).Get(ctx, rotation.IssuerObject, metav1.GetOptions{})
	})
	wg.Go(func() { o.Version = c.serverVersion(ctx) })
	wg.Go(func() { o.Identity = c.identity(ctx) })
	wg.Go(func() { o.Webhooks = c.webhooks(ctx) })
	wg.Wait()
	if secret != nil {
		defer payload.Wipe(secret.Data)
	}
	c.mu.Lock()
	c.answered, c.scheme = nil, o.Identity.Scheme
	c.mu.Unlock()

	if systemErr != nil {
		return o, c.fail(call{verb: "get", resource: "namespaces", name: "kube-system"}, systemErr)
	}
	o.Target, o.ClockSkew = string(system.UID), clock.skew
	if o.Namespace = cmErr == nil || issuErr == nil; !o.Namespace { // what has something in it is there
		_, err := c.core.Namespaces().Get(ctx, c.cfg.Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			c.remember(c.managed(rotation.BundleObject), object{})
			c.remember(c.managed(rotation.IssuerObject), object{})
			return o, nil
		}
		if err != nil {
			return o, c.fail(call{verb: "get", resource: "namespaces", name: c.cfg.Namespace}, err)
		}
		o.Namespace = true
	}
	if err := c.readBundle(&o, cm, cmErr); err != nil {
		return o, err
	}
	if err := c.readIssuer(&o, secret, issuErr); err != nil {
		return o, err
	}
	c.keepers(ctx, &o)
	return o, nil
}

// Reread implements rotation.Cluster with one request, or none where the answer to the
// last write tells.
func (c *Cluster) Reread(ctx context.Context, o rotation.Observation, object string) (rotation.Observation, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	err := c.reread(ctx, &o, object)
	if err == nil {
		c.keepers(ctx, &o)
	}
	return o, err
}

func (c *Cluster) reread(ctx context.Context, o *rotation.Observation, object string) error {
	if object == rotation.IssuerObject {
		if w := c.takeAnswer(); w != nil {
			o.Issuer, o.IssuerWrittenAt, o.IssuerReload, o.IssuerFacts = w.Issuer, w.IssuerWrittenAt, w.IssuerReload, w.IssuerFacts
			return nil
		}
	}
	ctx, clock := withClock(ctx)
	defer func() { o.ClockSkew = clock.skew }()
	if object == rotation.BundleObject {
		cm, err := c.core.ConfigMaps(c.cfg.Namespace).Get(ctx, rotation.BundleObject, metav1.GetOptions{})
		return c.readBundle(o, cm, err)
	}
	secret, err := c.core.Secrets(c.cfg.Namespace).Get(ctx, rotation.IssuerObject, metav1.GetOptions{})
	if err == nil {
		defer payload.Wipe(secret.Data)
	}
	return c.readIssuer(o, secret, err)
}

// takeAnswer is what the last write of the issuer was answered, if nobody has asked since.
func (c *Cluster) takeAnswer() *rotation.Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.answered
	c.answered = nil
	return w
}

// answer keeps what the API server has made of a write of the issuer, but for the key.
func (c *Cluster) answer(secret *corev1.Secret) {
	c.mu.Lock()
	scheme := c.scheme
	c.mu.Unlock()
	o := &rotation.Observation{At: time.Now(), Identity: &rotation.Identity{Scheme: scheme}}
	if c.readIssuer(o, secret, nil) == nil {
		c.mu.Lock()
		c.answered = o
		c.mu.Unlock()
	}
}

// readBundle has o show the bundle that was got.
func (c *Cluster) readBundle(o *rotation.Observation, cm *corev1.ConfigMap, err error) error {
	at := c.managed(rotation.BundleObject)
	o.Bundle, o.BundleText, o.BundleWrittenAt = rotation.ObjectState{}, nil, time.Time{}
	switch {
	case err == nil:
		o.Bundle = c.state(at, cm.ObjectMeta, payload.BundleKeys())
		o.BundleText = bundleText(cm)
		o.BundleWrittenAt = writtenAt(cm.ManagedFields, dataFields(payload.BundleKeys()))
	case apierrors.IsNotFound(err):
		c.remember(at, object{})
	default:
		return c.fail(at.call("get"), err)
	}
	return nil
}

// readIssuer has o show the issuer that was got.
func (c *Cluster) readIssuer(o *rotation.Observation, secret *corev1.Secret, err error) error {
	at := c.managed(rotation.IssuerObject)
	o.Issuer, o.IssuerWrittenAt, o.IssuerReload, o.IssuerFacts = rotation.ObjectState{}, time.Time{}, "", pki.IssuerFacts{}
	switch {
	case err == nil:
		id := pki.Identity{Namespace: c.cfg.Namespace, TrustDomain: c.cfg.TrustDomain, Scheme: o.Identity.Scheme}
		o.Issuer = c.state(at, secret.ObjectMeta, payload.IssuerKeys())
		o.IssuerWrittenAt = writtenAt(secret.ManagedFields, dataFields(payload.IssuerKeys()))
		o.IssuerReload = string(secret.Data[payload.ReloadKey])
		o.IssuerFacts = c.issuer.Issuer(secret.Data, id)
	case apierrors.IsNotFound(err):
		c.remember(at, object{})
	default:
		return c.fail(at.call("get"), err)
	}
	return nil
}

// state reads the metadata of a managed object and remembers which it was; keys
// are the data keys that certd owns in it.
func (c *Cluster) state(r ref, m metav1.ObjectMeta, keys []string) rotation.ObjectState {
	c.remember(r, object{string(m.UID), m.ResourceVersion})
	return rotation.ObjectState{
		Exists:   true,
		Revision: m.ResourceVersion,
		Marks:    payload.ReadMarks(m.Labels, m.Annotations),
		Writers:  writers(m.ManagedFields, orMarks(dataFields(keys))),
		Keeper:   keeper(m),
	}
}

// bundleText reads the bundle's one key, also where somebody put it among the
// binary data.
func bundleText(cm *corev1.ConfigMap) []byte {
	return payload.Text(configMapData(cm), payload.BundleKey)
}

func configMapData(cm *corev1.ConfigMap) map[string][]byte {
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	return data
}

// serverVersion reads /version once an hour; "" where it cannot be read.
func (c *Cluster) serverVersion(ctx context.Context) string {
	c.mu.Lock()
	version, fresh := c.version, c.versionAt.After(time.Now().Add(-versionFor))
	c.mu.Unlock()
	if fresh {
		return version
	}
	var info struct{ GitVersion string }
	text, err := c.core.RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	if err == nil {
		err = json.Unmarshal(text, &info)
	}
	if err != nil {
		return version
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version, c.versionAt = fmt.Sprintf("%.40s", info.GitVersion), time.Now()
	return c.version
}
