package main

import (
	"context"
	"errors"
	"fmt"
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

// rights are certd's shipped manifests, given to it as their comments tell an
// administrator to: bootstrap while there is no Linkerd namespace, after that
// only narrow.
type rights struct {
	bootstrap manifest // certd-bootstrap.yaml
	narrow    manifest // certd.yaml
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
	return rights{bootstrap, narrow}, nil
}

// follow gives certd its rights and goes on doing so as the namespace comes and
// goes, until ctx ends. It returns once they are given for the first time.
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
	if err := r.give(ctx, a, client); err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	notify := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil && key == linkerdNamespace {
			select {
			case changed <- struct{}{}:
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
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			if err := r.give(ctx, a, client); err != nil && ctx.Err() == nil {
				c.log.Warn("certd's rights are given again", "err", err)
				time.AfterFunc(time.Second, func() { notify(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: linkerdNamespace}}) })
			}
		}
	}()
	return nil
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
