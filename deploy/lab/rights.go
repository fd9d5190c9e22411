package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// linkerdNamespace is where certd's shipped Roles stand.
const linkerdNamespace = "linkerd"

// extensionFiles are the manifests for Linkerd's extensions, by the namespace
// that their Roles stand in.
var extensionFiles = map[string]string{"linkerd-viz": "certd-viz.yaml", "linkerd-jaeger": "certd-jaeger.yaml"}

// rights are certd's shipped manifests, given to it as their comments tell an
// administrator to: bootstrap while there is no Linkerd namespace, after that
// only narrow, and those of each extension once its namespace is there.
type rights struct {
	bootstrap  manifest            // certd-bootstrap.yaml
	narrow     manifest            // certd.yaml
	extensions map[string]manifest // by namespace
}

func readRights(dir string) (rights, error) {
	bootstrap, err := readManifest(filepath.Join(dir, "certd-bootstrap.yaml"))
	if err != nil {
		return rights{}, fmt.Errorf("read certd's RBAC: %w", err)
	}
	narrow, err := readManifest(filepath.Join(dir, "certd.yaml"))
	if err != nil {
		return rights{}, fmt.Errorf("read certd's RBAC: %w", err)
	}
	r := rights{bootstrap, narrow, map[string]manifest{}}
	for namespace, name := range extensionFiles {
		m, err := readManifest(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a certd that knows nothing of the extension
		}
		if err != nil {
			return rights{}, fmt.Errorf("read certd's RBAC: %w", err)
		}
		r.extensions[namespace] = m
	}
	return r, nil
}

// follow gives certd its rights and goes on doing so as the namespaces come and
// go, until ctx ends. It returns once they are given for the first time.
func (r rights) follow(ctx context.Context, c *cluster) error {
	config := c.config("lab-rights")
	a, err := newApplier(config)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	// By namespace, so that none waits for another's.
	give := map[string]func() error{linkerdNamespace: func() error { return r.give(ctx, a, client) }}
	for namespace, m := range r.extensions {
		give[namespace] = func() error { return giveExtension(ctx, a, client, namespace, m) }
	}
	changed := map[string]chan struct{}{}
	for namespace, f := range give {
		if err := f(); err != nil {
			return err
		}
		changed[namespace] = make(chan struct{}, 1)
	}
	notify := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil && changed[key] != nil {
			select {
			case changed[key] <- struct{}{}:
			default:
			}
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	// Only coming and going: a namespace that terminates still has its Roles.
	if _, err := factory.Core().V1().Namespaces().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: notify, DeleteFunc: notify}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	for namespace, f := range give {
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-changed[namespace]:
				}
				if err := f(); err != nil && ctx.Err() == nil {
					c.log.Warn("certd's rights are given again", "namespace", namespace, "err", err)
					time.AfterFunc(time.Second, func() { notify(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}) })
				}
			}
		}()
	}
	return nil
}

// giveExtension gives the rights in an extension's namespace. They go with it.
func giveExtension(ctx context.Context, a *applier, client kubernetes.Interface, namespace string, m manifest) error {
	_, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.apply(ctx, m)
}

func (r rights) give(ctx context.Context, a *applier, client kubernetes.Interface) error {
	_, err := client.CoreV1().Namespaces().Get(ctx, linkerdNamespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return a.apply(ctx, r.bootstrap)
	}
	if err != nil {
		return err
	}
	if err := a.apply(ctx, r.narrow); err != nil {
		return err
	}
	// Authorization learns of RBAC objects with a delay, of each kind with one
	// of its own. Nothing may be taken away before the new rights count: that
	// would look like a fault of certd's.
	if err := waitAllowed(ctx, client); err != nil {
		return err
	}
	return ignoreNotFound(a.delete(ctx, r.bootstrap.of(func(o *unstructured.Unstructured) bool {
		return strings.HasPrefix(o.GetKind(), "ClusterRole")
	})))
}

// waitAllowed returns when certd may list pods, which only the narrow rights
// say, and a second after.
func waitAllowed(ctx context.Context, client kubernetes.Interface) error {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:certd:certd", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:certd", "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: linkerdNamespace, Verb: "list", Version: "v1", Resource: "pods"}}}
	pause := 50 * time.Millisecond
	for deadline := time.Now().Add(10 * time.Second); ; {
		got, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if got.Status.Allowed {
			pause, deadline = time.Second, time.Time{}
		} else if time.Now().After(deadline) {
			return errors.New("certd's RBAC does not let it list pods")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if deadline.IsZero() {
			return nil
		}
	}
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
