package kube

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// CreateNamespace implements rotation.Cluster.
func (c *Cluster) CreateNamespace(ctx context.Context) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	a := call{verb: "create", resource: "namespaces", name: c.cfg.Namespace, write: true}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w: %w", a, err, rotation.ErrUnavailable)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.cfg.Namespace}}
	if _, err := c.core.Namespaces().Create(ctx, ns, metav1.CreateOptions{FieldManager: FieldManager}); err != nil && !apierrors.IsAlreadyExists(err) {
		return c.fail(a, err)
	}
	return nil
}

// A write looks at the object first, even where the caller just did: to leave
// one alone that already is as asked (the first server-side apply after a
// create would change managedFields), to keep a Secret's type, which cannot
// change, and to find the key pair that is to stay. The resourceVersion that
// goes along makes it one compare-and-set all the same.
//
// An object is made with create, not with apply: an apply would take over what
// another certd made a moment before. Later applies own the same fields.

// WriteBundle implements rotation.Cluster.
func (c *Cluster) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	const name = rotation.BundleObject
	api := c.core.ConfigMaps(c.cfg.Namespace)
	marks := payload.BundleMarks(w)
	text := make(map[string]string)
	want := payload.Bundle(w.Bundle)
	for key, value := range want {
		text[key] = string(value)
	}

	have, err := api.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && w.Revision == "":
		made, err := api.Create(ctx, &corev1.ConfigMap{ObjectMeta: c.metadata(name, marks), Data: text}, metav1.CreateOptions{FieldManager: FieldManager})
		if err != nil {
			return "", c.fail(c.on("create", name), err)
		}
		return c.wrote(name, made.ObjectMeta), nil
	case apierrors.IsNotFound(err):
		return "", c.changed(name, w.Revision, "")
	case err != nil:
		return "", c.fail(c.on("get", name), err)
	case have.ResourceVersion != w.Revision:
		return "", c.changed(name, w.Revision, have.ResourceVersion)
	case payload.Same(configMapData(have), want) && marked(have.ObjectMeta, marks):
		return have.ResourceVersion, nil
	case have.Immutable != nil && *have.Immutable:
		return "", c.immutable(name)
	}
	apply := applycorev1.ConfigMap(name, c.cfg.Namespace).WithResourceVersion(w.Revision).
		WithLabels(payload.Labels(marks)).WithAnnotations(payload.Annotations(marks)).WithData(text)
	got, err := api.Apply(ctx, apply, metav1.ApplyOptions{FieldManager: FieldManager, Force: true})
	if err != nil {
		return "", c.fail(c.on("patch", name), err)
	}
	return c.wrote(name, got.ObjectMeta), nil
}

// WriteIssuer implements rotation.Cluster.
func (c *Cluster) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	const name = rotation.IssuerObject
	api := c.core.Secrets(c.cfg.Namespace)
	marks := payload.IssuerMarks(w)

	have, err := api.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && w.Revision == "" && w.Credential != nil:
		want := payload.Issuer(*w.Credential, w.Bundle)
		defer payload.Wipe(want)
		made, err := api.Create(ctx, &corev1.Secret{ObjectMeta: c.metadata(name, marks), Type: corev1.SecretTypeTLS, Data: want}, metav1.CreateOptions{FieldManager: FieldManager})
		if err != nil {
			return "", c.fail(c.on("create", name), err)
		}
		defer payload.Wipe(made.Data)
		return c.wrote(name, made.ObjectMeta), nil
	case apierrors.IsNotFound(err):
		return "", c.changed(name, w.Revision, "")
	case err != nil:
		return "", c.fail(c.on("get", name), err)
	}
	defer payload.Wipe(have.Data)
	if have.ResourceVersion != w.Revision {
		return "", c.changed(name, w.Revision, have.ResourceVersion)
	}
	want, err := payload.IssuerData(w, have.Data)
	if err != nil {
		return "", err
	}
	defer payload.Wipe(want)
	switch {
	case payload.Same(have.Data, want) && marked(have.ObjectMeta, marks):
		return have.ResourceVersion, nil
	case have.Immutable != nil && *have.Immutable:
		return "", c.immutable(name)
	}
	apply := applycorev1.Secret(name, c.cfg.Namespace).WithResourceVersion(w.Revision).
		WithLabels(payload.Labels(marks)).WithAnnotations(payload.Annotations(marks)).WithData(want)
	got, err := api.Apply(ctx, apply, metav1.ApplyOptions{FieldManager: FieldManager, Force: true})
	if err != nil {
		return "", c.fail(c.on("patch", name), err)
	}
	defer payload.Wipe(got.Data)
	return c.wrote(name, got.ObjectMeta), nil
}

func (c *Cluster) metadata(name string, m rotation.Marks) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: c.cfg.Namespace, Labels: payload.Labels(m), Annotations: payload.Annotations(m)}
}

// marked says whether the marks stand there as certd spells them.
func marked(m metav1.ObjectMeta, want rotation.Marks) bool {
	have := maps.Clone(m.Annotations)
	maps.DeleteFunc(have, func(k, _ string) bool {
		switch k {
		case payload.AnnotationFleet, payload.AnnotationSerial, payload.AnnotationEpoch, payload.AnnotationKeep:
			return false
		}
		return true
	})
	return maps.Equal(have, payload.Annotations(want)) && payload.ReadMarks(m.Labels, m.Annotations) == want
}

func (c *Cluster) wrote(name string, m metav1.ObjectMeta) string {
	c.remember(name, object{string(m.UID), m.ResourceVersion})
	return m.ResourceVersion
}

func (c *Cluster) changed(name, want, have string) error {
	switch {
	case have == "":
		return fmt.Errorf("write %s %s in namespace %s: it is gone: %w", resource(name), name, c.cfg.Namespace, rotation.ErrChanged)
	case want == "":
		return fmt.Errorf("create %s %s in namespace %s: it exists: %w", resource(name), name, c.cfg.Namespace, rotation.ErrChanged)
	}
	return fmt.Errorf("write %s %s in namespace %s: it is at resourceVersion %s, not %s: %w", resource(name), name, c.cfg.Namespace, have, want, rotation.ErrChanged)
}

func (c *Cluster) immutable(name string) error {
	return fmt.Errorf("write %s %s in namespace %s: it is marked immutable; delete it, certd makes it anew: %w", resource(name), name, c.cfg.Namespace, rotation.ErrDenied)
}
