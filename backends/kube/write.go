package kube

import (
	"bytes"
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
	c.writing.Lock()
	defer c.writing.Unlock()
	at := c.managed(rotation.BundleObject)
	api := c.core.ConfigMaps(at.in)
	marks := payload.BundleMarks(w)
	text := make(map[string]string)
	want := payload.Bundle(w.Bundle)
	have, err := api.Get(ctx, at.name, metav1.GetOptions{})
	if w.Bundle.IsZero() && err == nil && !writtenAt(have.ManagedFields, dataFields(payload.BundleKeys())).IsZero() {
		want[payload.BundleKey] = bundleText(have) // an apply that no longer names what certd once applied removes it
	}
	for key, value := range want {
		text[key] = string(value)
	}
	switch {
	case apierrors.IsNotFound(err) && w.Revision == "":
		made, err := api.Create(ctx, &corev1.ConfigMap{ObjectMeta: meta(at, payload.Labels(marks), payload.Annotations(marks)), Data: text}, metav1.CreateOptions{FieldManager: FieldManager})
		if err != nil {
			return "", c.fail(at.call("create"), err)
		}
		return c.wrote(at, made.ObjectMeta), nil
	case apierrors.IsNotFound(err):
		return "", changed(at, w.Revision, "")
	case err != nil:
		return "", c.fail(at.call("get"), err)
	case have.ResourceVersion != w.Revision:
		return "", changed(at, w.Revision, have.ResourceVersion)
	case payload.Same(configMapData(have), want) && marked(have.ObjectMeta, marks):
		return have.ResourceVersion, nil
	case have.Immutable != nil && *have.Immutable && !payload.Same(configMapData(have), want): // its marks may be written
		return "", immutable(at)
	}
	apply := applycorev1.ConfigMap(at.name, at.in).WithResourceVersion(w.Revision).
		WithLabels(payload.Labels(marks)).WithAnnotations(payload.Annotations(marks))
	if len(text) > 0 {
		apply = apply.WithData(text)
	}
	got, err := api.Apply(ctx, apply, metav1.ApplyOptions{FieldManager: FieldManager, Force: true})
	if err != nil {
		return "", c.fail(at.call("patch"), err)
	}
	return c.wrote(at, got.ObjectMeta), nil
}

// WriteIssuer implements rotation.Cluster.
func (c *Cluster) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	c.takeAnswer() // that of an earlier write says nothing any more
	c.issuer.Expect(w.Credential)
	return c.writeSecret(ctx, secretWrite{
		at: c.managed(rotation.IssuerObject), revision: w.Revision, marks: payload.IssuerMarks(w),
		data:     func(current map[string][]byte) (map[string][]byte, error) { return payload.IssuerData(w, current) },
		answered: c.answer,
	})
}

// WriteWebhook implements rotation.Cluster.
func (c *Cluster) WriteWebhook(ctx context.Context, w rotation.WebhookWrite) (string, error) {
	if w.Spec.Namespace == "" {
		return "", fmt.Errorf("write secrets %s of webhook %s: its namespace is not known; the webhook has to be observed first", w.Spec.Secret, w.Spec.Name)
	}
	return c.writeSecret(ctx, secretWrite{
		at: ref{"secrets", w.Spec.Namespace, w.Spec.Secret}, revision: w.Revision, marks: payload.WebhookMarks(w),
		beside: map[string]string{payload.AnnotationInject: "true"},
		data: func(current map[string][]byte) (map[string][]byte, error) {
			want, err := payload.Webhook(w, current)
			// An apply that no longer names what certd once applied removes it.
			if had, ok := current[payload.ReloadKey]; ok && err == nil && w.Reload == "" {
				want[payload.ReloadKey] = bytes.Clone(had)
			}
			return want, err
		},
	})
}

// secretWrite says what is to stand in a Secret.
type secretWrite struct {
	at       ref
	revision string
	marks    rotation.Marks
	beside   map[string]string // annotations that are no marks
	// data is what is to stand there, given what stands there now: nothing if
	// the Secret is to be made.
	data func(current map[string][]byte) (map[string][]byte, error)
	// answered is told of the Secret as the API server says that it is now; nil: nobody is.
	answered func(*corev1.Secret)
}

func (c *Cluster) writeSecret(ctx context.Context, w secretWrite) (string, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	c.writing.Lock()
	defer c.writing.Unlock()
	api := c.core.Secrets(w.at.in)
	labels, annotations := payload.Labels(w.marks), payload.Annotations(w.marks)
	maps.Copy(annotations, w.beside)

	have, err := api.Get(ctx, w.at.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && w.revision == "":
		want, err := w.data(nil)
		if err != nil {
			return "", err
		}
		defer payload.Wipe(want)
		made, err := api.Create(ctx, &corev1.Secret{ObjectMeta: meta(w.at, labels, annotations), Type: corev1.SecretTypeTLS, Data: want}, metav1.CreateOptions{FieldManager: FieldManager})
		if err != nil {
			return "", c.fail(w.at.call("create"), err)
		}
		return c.wroteSecret(w, made), nil
	case apierrors.IsNotFound(err):
		return "", changed(w.at, w.revision, "")
	case err != nil:
		return "", c.fail(w.at.call("get"), err)
	}
	defer payload.Wipe(have.Data)
	if have.ResourceVersion != w.revision {
		return "", changed(w.at, w.revision, have.ResourceVersion)
	}
	want, err := w.data(have.Data)
	if err != nil {
		return "", err
	}
	defer payload.Wipe(want)
	switch {
	case payload.Same(have.Data, want) && marked(have.ObjectMeta, w.marks) && holds(have.Annotations, w.beside):
		return have.ResourceVersion, nil
	case have.Immutable != nil && *have.Immutable && !payload.Same(have.Data, want):
		return "", immutable(w.at)
	}
	apply := applycorev1.Secret(w.at.name, w.at.in).WithResourceVersion(w.revision).
		WithLabels(labels).WithAnnotations(annotations).WithData(want)
	got, err := api.Apply(ctx, apply, metav1.ApplyOptions{FieldManager: FieldManager, Force: true})
	if err != nil {
		return "", c.fail(w.at.call("patch"), err)
	}
	return c.wroteSecret(w, got), nil
}

func (c *Cluster) wroteSecret(w secretWrite, is *corev1.Secret) (revision string) {
	defer payload.Wipe(is.Data)
	if w.answered != nil {
		w.answered(is)
	}
	return c.wrote(w.at, is.ObjectMeta)
}

func meta(at ref, labels, annotations map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: at.name, Namespace: at.in, Labels: labels, Annotations: annotations}
}

// marked says whether the marks stand there as certd spells them.
func marked(m metav1.ObjectMeta, want rotation.Marks) bool {
	have := maps.Clone(m.Annotations)
	maps.DeleteFunc(have, func(k, _ string) bool {
		switch k {
		case payload.AnnotationFleet, payload.AnnotationSerial, payload.AnnotationEpoch, payload.AnnotationKeep, payload.AnnotationAdopted:
			return false
		}
		return true
	})
	return maps.Equal(have, payload.Annotations(want)) && payload.ReadMarks(m.Labels, m.Annotations) == want
}

// holds says whether have has all that want has.
func holds(have, want map[string]string) bool {
	for name, value := range want {
		if got, ok := have[name]; !ok || got != value {
			return false
		}
	}
	return true
}

func (c *Cluster) wrote(at ref, m metav1.ObjectMeta) string {
	c.remember(at, object{string(m.UID), m.ResourceVersion})
	return m.ResourceVersion
}

func changed(at ref, want, have string) error {
	switch {
	case have == "":
		return fmt.Errorf("%s: it is gone: %w", at.call("write"), rotation.ErrChanged)
	case want == "":
		return fmt.Errorf("%s: it exists: %w", at.call("create"), rotation.ErrChanged)
	}
	return fmt.Errorf("%s: it is at resourceVersion %s, not %s: %w", at.call("write"), have, want, rotation.ErrChanged)
}

// immutable says how the mark is taken off, which Kubernetes does not let anybody do in place.
// Of an issuer that a mesh came with nobody else has the key, so that it must not be deleted
// without being put back; and a kubelet does not look again at what a running pod has of it.
func immutable(at ref) error {
	return fmt.Errorf("%s: it is marked immutable; put it back without that, and restart the pods that mount it: kubectl -n %s get %s %s -o json | jq 'del(.immutable)' | kubectl replace --force -f -: %w",
		at.call("write"), at.in, at.resource, at.name, rotation.ErrDenied)
}
