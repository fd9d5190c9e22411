package kube

import (
	"context"
	"encoding/base64"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"certd.internal/backends/backendtest"
	"certd.internal/rotation"
)

// hooks is a namespace of the lab with webhooks in it. What is cluster-scoped
// has the namespace's name in its own, so that tests keep out of each other's
// way, and is about that namespace alone.
type hooks struct {
	kubectl
	l   labCluster
	any dynamic.Interface
}

func newHooks(t testing.TB) *hooks {
	t.Helper()
	l, rc, admin := lab(t)
	dyn, err := dynamic.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	h := &hooks{kubectl{admin, newNamespaceName()}, l, dyn}
	t.Cleanup(func() { deleteNamespace(admin, h.ns) })
	return h
}

// namespace makes one.
func (h *hooks) namespace(t testing.TB, name string) {
	t.Helper()
	_, err := h.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if name != h.ns {
		t.Cleanup(func() { deleteNamespace(h.admin, name) })
	}
}

// open is a certd that looks for webhooks as configuration leaves them: without
// what the objects are to tell.
func (h *hooks) open(t testing.TB, specs ...rotation.WebhookSpec) *Cluster {
	t.Helper()
	c, err := New(Config{Cluster: h.l.Name, Namespace: h.ns, TrustDomain: "cluster.local", Access: Access{File: h.l.Kubeconfig},
		Webhooks: specs, ProbeNamespace: h.ns}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func bare(w rotation.WebhookSpec) rotation.WebhookSpec {
	w.Namespace, w.DNSNames = "", nil
	return w
}

func (h *hooks) injector() rotation.WebhookSpec {
	return rotation.WebhookSpec{Name: "proxy-injector", Service: "linkerd-proxy-injector", Namespace: h.ns, Secret: "linkerd-proxy-injector-k8s-tls",
		DNSNames: []string{"linkerd-proxy-injector." + h.ns + ".svc"}, Objects: []rotation.ObjectRef{{Kind: rotation.KindMutating, Name: "injector-" + h.ns}}}
}

func (h *hooks) tap() rotation.WebhookSpec {
	return rotation.WebhookSpec{Name: "tap", Service: "tap", Namespace: h.ns, Secret: "tap-k8s-tls",
		DNSNames: []string{"tap." + h.ns + ".svc"}, Objects: []rotation.ObjectRef{{Kind: rotation.KindAPIService, Name: "v1alpha1." + h.ns + ".tap.test"}}}
}

// put makes an object or changes it, as manager, and returns it as it is then.
func (h *hooks) put(t testing.TB, manager string, r rotation.ObjectRef, change func(o map[string]any)) *unstructured.Unstructured {
	t.Helper()
	api := h.any.Resource(kinds[r.Kind])
	for {
		o, err := api.Get(t.Context(), r.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			o = &unstructured.Unstructured{Object: map[string]any{}}
			o.SetGroupVersionKind(kinds[r.Kind].GroupVersion().WithKind(r.Kind))
			o.SetName(r.Name)
			change(o.Object)
			o, err = api.Create(t.Context(), o, metav1.CreateOptions{FieldManager: manager})
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_ = api.Delete(ctx, r.Name, metav1.DeleteOptions{})
			})
		} else if err == nil {
			change(o.Object)
			o, err = api.Update(t.Context(), o, metav1.UpdateOptions{FieldManager: manager})
		}
		if err == nil {
			return o
		}
		if !apierrors.IsConflict(err) {
			t.Fatalf("put %s: %v", r, err)
		}
	}
}

func (h *hooks) get(t testing.TB, r rotation.ObjectRef) *unstructured.Unstructured {
	t.Helper()
	o, err := h.any.Resource(kinds[r.Kind]).Get(t.Context(), r.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("get %s: %v", r, err)
	}
	return o
}

// hook is an entry of a webhook configuration, which is asked about nothing that
// there is.
func hook(name string, client map[string]any) map[string]any {
	return map[string]any{
		"name": name, "clientConfig": client, "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": int64(7),
		"admissionReviewVersions": []any{"v1"},
		"objectSelector":          map[string]any{"matchLabels": map[string]any{"nobody": "has-this"}},
		"rules": []any{map[string]any{"operations": []any{"CREATE"}, "apiGroups": []any{""}, "apiVersions": []any{"v1"}, "resources": []any{"pods"},
			"scope": "Namespaced"}},
	}
}

// calls is a clientConfig that names a Service.
func calls(service, namespace string, ca []byte) map[string]any {
	client := map[string]any{"service": map[string]any{"name": service, "namespace": namespace, "path": "/", "port": int64(443)}}
	if len(ca) > 0 {
		client["caBundle"] = base64.StdEncoding.EncodeToString(ca)
	}
	return client
}

// install makes the objects of a webhook, or overwrites what is in them.
func (h *hooks) install(t testing.TB, manager string, w rotation.WebhookSpec, ca []byte) {
	t.Helper()
	for _, r := range w.Objects {
		h.put(t, manager, r, func(o map[string]any) {
			if r.Kind != rotation.KindAPIService {
				o["webhooks"] = []any{hook(w.Name+".linkerd.io", calls(w.Service, w.Namespace, ca))}
				return
			}
			version, group, _ := strings.Cut(r.Name, ".")
			spec := calls(w.Service, w.Namespace, ca)
			delete(spec["service"].(map[string]any), "path")
			maps.Copy(spec, map[string]any{"group": group, "version": version, "groupPriorityMinimum": int64(1000), "versionPriority": int64(100)})
			o["spec"] = spec
		})
		// The API server writes, at a moment of its own, whether it is available.
		for r.Kind == rotation.KindAPIService {
			if said, _, _ := unstructured.NestedSlice(h.get(t, r).Object, "status", "conditions"); len(said) > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// secretOf edits the Secret of a webhook.
func (h *hooks) secretOf(t testing.TB, w rotation.WebhookSpec, change func(*corev1.Secret)) {
	t.Helper()
	api := h.admin.CoreV1().Secrets(w.Namespace)
	for {
		s, err := api.Get(t.Context(), w.Secret, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			s = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: w.Secret}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": {}, "tls.key": {}}}
			change(s)
			_, err = api.Create(t.Context(), s, metav1.CreateOptions{FieldManager: rival})
		case err == nil:
			change(s)
			_, err = api.Update(t.Context(), s, metav1.UpdateOptions{FieldManager: rival})
		}
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

func (h *hooks) dataOf(t testing.TB, w rotation.WebhookSpec) map[string][]byte {
	t.Helper()
	s, err := h.admin.CoreV1().Secrets(w.Namespace).Get(t.Context(), w.Secret, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return s.Data
}

// caBundleOf is what stands in the first entry of a webhook's first object.
func (h *hooks) caBundleOf(t testing.TB, w rotation.WebhookSpec) []byte {
	t.Helper()
	o, err := h.any.Resource(kinds[w.Objects[0].Kind]).Get(t.Context(), w.Objects[0].Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	in, _, _ := unstructured.NestedMap(o.Object, "spec")
	if list, _, _ := unstructured.NestedSlice(o.Object, "webhooks"); len(list) > 0 {
		in = list[0].(map[string]any)["clientConfig"].(map[string]any)
	}
	text, _ := in["caBundle"].(string)
	ca, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func (h *hooks) remove(t testing.TB, w rotation.WebhookSpec) {
	t.Helper()
	for _, r := range w.Objects {
		if err := h.any.Resource(kinds[r.Kind]).Delete(t.Context(), r.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
}

func TestWebhooks(t *testing.T) {
	backendtest.TestWebhooks(t, func(t *testing.T) (rotation.Cluster, backendtest.WebhookHands) {
		h := newHooks(t)
		open := func(t testing.TB) rotation.Cluster { return h.open(t, bare(h.injector()), bare(h.tap())) }
		return open(t), backendtest.WebhookHands{
			As: rival, Spec: h.injector(), APIService: h.tap(), Again: open,
			Install: func(t testing.TB, w rotation.WebhookSpec, ca []byte, secret map[string][]byte) {
				h.namespace(t, w.Namespace)
				h.install(t, rival, w, ca)
				if secret != nil {
					h.secretOf(t, w, func(s *corev1.Secret) { s.Data = secret })
				}
			},
			Remove:      h.remove,
			SetCABundle: func(t testing.TB, w rotation.WebhookSpec, text []byte) { h.install(t, rival, w, text) },
			EditSecret: func(t testing.TB, w rotation.WebhookSpec, edit func(map[string][]byte)) {
				h.secretOf(t, w, func(s *corev1.Secret) { edit(s.Data) })
			},
			DeleteSecret: func(t testing.TB, w rotation.WebhookSpec) {
				if err := h.admin.CoreV1().Secrets(w.Namespace).Delete(t.Context(), w.Secret, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			},
			Secret:   h.dataOf,
			CABundle: h.caBundleOf,
		}
	})
}
