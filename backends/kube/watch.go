package kube

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"

	"certd.internal/rotation"
)

// How long a watch waits before it connects again: at once after the server
// ended it in good order, then ever longer.
const (
	retryMin = 250 * time.Millisecond
	retryMax = 30 * time.Second
	// goodFor is how long a watch must have stood to start over at retryMin.
	goodFor = 5 * time.Second
)

// Watch implements rotation.Cluster: one watch per managed object and one on
// the namespace, each by name, which is what the shipped RBAC allows. They ask
// for metadata alone, so that no private key travels for them.
func (c *Cluster) Watch(ctx context.Context, changed func()) error {
	in := func(resource string) metadata.ResourceInterface {
		return c.meta.Resource(schema.GroupVersionResource{Version: "v1", Resource: resource}).Namespace(c.cfg.Namespace)
	}
	ctx = quiet(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.follow(ctx, in("secrets"), "secrets", rotation.IssuerObject, changed) })
	wg.Go(func() { c.follow(ctx, in("configmaps"), "configmaps", rotation.BundleObject, changed) })
	wg.Go(func() {
		c.follow(ctx, c.meta.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}), "namespaces", c.cfg.Namespace, changed)
	})
	wg.Wait()
	return ctx.Err()
}

// follow keeps one watch going until ctx ends.
func (c *Cluster) follow(ctx context.Context, api metadata.ResourceInterface, resource, name string, changed func()) {
	wait, last := retryMin, ""
	for ctx.Err() == nil {
		begun := time.Now()
		err := c.watchOnce(ctx, api, name, changed)
		if ctx.Err() != nil {
			return
		}
		if text := c.watchProblem(resource, name, err); text != last {
			last = text
			if text != "" {
				c.log.Warn("watch does not stand; changes are found by looking", "object", name, "err", text)
			}
		}
		if time.Since(begun) > goodFor {
			wait = retryMin
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMax)
	}
}

func (c *Cluster) watchProblem(resource, name string, err error) string {
	if err == nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return ""
	}
	a := call{verb: "watch", resource: resource, name: name}
	if resource != "namespaces" {
		a.in = c.cfg.Namespace
	}
	return c.fail(a, err).Error()
}

// watchOnce runs one watch to its end. It starts at whatever is there by then:
// no resourceVersion is carried over, so none can be too old. What changed
// while no watch stood is not told by the server, hence the one call of
// changed when the watch begins.
func (c *Cluster) watchOnce(ctx context.Context, api metadata.ResourceInterface, name string, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The answer's header must come in time; the stream may then last.
	late := time.AfterFunc(c.cfg.RequestTimeout, cancel)
	w, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()})
	late.Stop()
	if err != nil {
		return err
	}
	defer w.Stop()
	changed()
	for e := range w.ResultChan() {
		switch e.Type {
		case watch.Bookmark:
		case watch.Error:
			return apierrors.FromObject(e.Object)
		case watch.Deleted:
			changed()
		default:
			m, ok := e.Object.(*metav1.PartialObjectMetadata)
			if !ok || m.ResourceVersion != c.recall(name).revision {
				changed()
			}
		}
	}
	return nil
}
