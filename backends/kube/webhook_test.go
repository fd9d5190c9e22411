package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"certd.internal/backends/backendtest"
	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// seen looks at the one webhook that c is told to look for.
func seen(t testing.TB, c *Cluster) rotation.Webhook {
	t.Helper()
	o, err := c.Observe(t.Context())
	if err != nil || len(o.Webhooks) != len(c.cfg.Webhooks) {
		t.Fatalf("%d webhooks, %v", len(o.Webhooks), err)
	}
	return o.Webhooks[0]
}

// What objects tell of where a webhook is, and of its CAs.
func TestWebhookIsFoundByWhatCallsIt(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	one, other := backendtest.NewWebhookCA(t).Set(), backendtest.NewWebhookCA(t).Set()
	byURL := func(url string, ca []byte) map[string]any {
		c := calls("x", "x", ca)
		delete(c, "service")
		c["url"] = url
		return c
	}
	own := func(change func(*rotation.WebhookSpec)) rotation.WebhookSpec {
		w := rotation.WebhookSpec{Name: "own", Own: true, Secret: "own-tls", Namespace: "kept"}
		change(&w)
		return w
	}
	for i, row := range []struct {
		name      string
		spec      rotation.WebhookSpec
		entries   []any
		namespace string // "": it is not there
		names     string
		cas       pki.CASet
		text      []byte
	}{
		{"one entry", bare(h.injector()), []any{hook("a.b.c", calls("linkerd-proxy-injector", "ns", one.PEM()))},
			"ns", "linkerd-proxy-injector.ns.svc", one, one.PEM()},
		{"two entries that agree", bare(h.injector()), []any{hook("a.b.c", calls("linkerd-proxy-injector", "ns", one.PEM())), hook("d.b.c", calls("linkerd-proxy-injector", "ns", one.PEM()))},
			"ns", "linkerd-proxy-injector.ns.svc", one, one.PEM()},
		{"two entries with one CA in common", bare(h.injector()), []any{hook("a.b.c", calls("linkerd-proxy-injector", "ns", one.Union(other).PEM())), hook("d.b.c", calls("linkerd-proxy-injector", "ns", one.PEM()))},
			"ns", "linkerd-proxy-injector.ns.svc", one, nil},
		{"one of two entries has no CA", bare(h.injector()), []any{hook("a.b.c", calls("linkerd-proxy-injector", "ns", one.PEM())), hook("d.b.c", calls("linkerd-proxy-injector", "ns", nil))},
			"ns", "linkerd-proxy-injector.ns.svc", pki.CASet{}, nil},
		{"an entry of somebody else's beside it", bare(h.injector()), []any{hook("d.b.c", calls("theirs", "ns", other.PEM())), hook("a.b.c", calls("linkerd-proxy-injector", "ns", one.PEM()))},
			"ns", "linkerd-proxy-injector.ns.svc", one, one.PEM()},
		{"one of the same name in another namespace", bare(h.injector()), []any{hook("a.b.c", calls("linkerd-proxy-injector", "ns", one.PEM())), hook("d.b.c", calls("linkerd-proxy-injector", "elsewhere", other.PEM()))},
			"ns", "linkerd-proxy-injector.ns.svc", one, one.PEM()},
		{"the configuration names another namespace", h.injector(), []any{hook("a.b.c", calls("linkerd-proxy-injector", "ns", one.PEM()))}, "", "", pki.CASet{}, nil},
		{"nothing calls it", bare(h.injector()), []any{hook("a.b.c", calls("theirs", "ns", one.PEM()))}, "", "", pki.CASet{}, nil},
		{"no entries", bare(h.injector()), nil, "", "", pki.CASet{}, nil},
		{"an own one by the name of its Service", own(func(w *rotation.WebhookSpec) { w.DNSNames = []string{"policy.ns.svc"} }), []any{hook("a.b.c", calls("policy", "ns", one.PEM()))},
			"ns", "policy.ns.svc", one, one.PEM()},
		{"an own one by URL", own(func(w *rotation.WebhookSpec) { w.DNSNames = []string{"policy.example.org"} }), []any{hook("a.b.c", byURL("https://policy.example.org:8443/x", one.PEM()))},
			"kept", "policy.example.org", one, one.PEM()},
		{"a URL of somebody else's", own(func(w *rotation.WebhookSpec) { w.DNSNames = []string{"policy.example.org"} }), []any{hook("a.b.c", byURL("https://example.org/policy.example.org", one.PEM()))},
			"", "", pki.CASet{}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.spec.Objects = []rotation.ObjectRef{{Kind: rotation.KindValidating, Name: fmt.Sprintf("validator-%s-%d", h.ns, i)}}
			h.put(t, rival, row.spec.Objects[0], func(o map[string]any) { o["webhooks"] = row.entries })
			w := seen(t, h.open(t, row.spec))
			if w.Err != nil {
				t.Fatal(w.Err)
			}
			if row.namespace == "" {
				if len(w.Objects) > 0 {
					t.Errorf("found %+v", w.Objects)
				}
				return
			}
			if len(w.Objects) != 1 || w.Spec.Namespace != row.namespace || strings.Join(w.Spec.DNSNames, " ") != row.names {
				t.Fatalf("%d objects, namespace %q, names %q; want %q and %q", len(w.Objects), w.Spec.Namespace, w.Spec.DNSNames, row.namespace, row.names)
			}
			if o := w.Objects[0]; !o.CABundle.Equal(row.cas) || string(o.CAText) != string(row.text) {
				t.Errorf("%d CAs, text %q; want %d and %q", len(o.CABundle.Certificates()), o.CAText, len(row.cas.Certificates()), row.text)
			}
		})
	}
}

// Who is told to fill in the caBundle, and whether anybody would notice that the
// webhook fails.
func TestWhatObjectsSayBeside(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	w := h.injector()
	h.install(t, rival, w, nil)
	c := h.open(t, bare(w))
	for _, row := range []struct {
		annotations map[string]any
		injector    string
	}{
		{nil, ""},
		{map[string]any{"cert-manager.io/inject-ca-from": "linkerd/injector"}, "Certificate linkerd/injector"},
		{map[string]any{"cert-manager.io/inject-ca-from-secret": "linkerd/s"}, "Secret linkerd/s"},
		{map[string]any{"cert-manager.io/inject-apiserver-ca": "true"}, "the API server's CA"},
	} {
		h.put(t, rival, w.Objects[0], func(o map[string]any) {
			o["metadata"].(map[string]any)["annotations"] = row.annotations
			o["webhooks"].([]any)[0].(map[string]any)["failurePolicy"] = map[bool]string{true: "Ignore", false: "Fail"}[row.injector != ""]
		})
		o := seen(t, c).Objects[0]
		if o.Injector != row.injector || o.Ignores != (row.injector != "") {
			t.Errorf("%v: injector %q, ignores %t", row.annotations, o.Injector, o.Ignores)
		}
	}
}

// A write of a caBundle touches nothing else, and its rivals are named.
func TestCABundleIsAllThatIsWritten(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	w, ca := h.injector(), backendtest.NewWebhookCA(t)
	h.put(t, "helm", w.Objects[0], func(o map[string]any) {
		o["metadata"].(map[string]any)["labels"] = map[string]any{"app.kubernetes.io/managed-by": "Helm"}
		o["webhooks"] = []any{
			hook("theirs.b.c", calls("theirs", h.ns, []byte("theirs"))),
			hook("a.b.c", calls(w.Service, h.ns, []byte("chart's"))),
			hook("d.b.c", calls(w.Service, h.ns, nil)),
		}
	})
	before := h.get(t, w.Objects[0])
	c := h.open(t, bare(w))
	o := seen(t, c)
	if s := names(o.Objects[0].Writers); s != "helm" {
		t.Errorf("writers %q before certd wrote", s)
	}
	write := rotation.CABundleWrite{Spec: o.Spec, Object: w.Objects[0], Revision: o.Objects[0].Revision, Fleet: "acme", Epoch: 7, CAs: ca.Set()}
	rev, err := c.WriteCABundle(t.Context(), write)
	if err != nil {
		t.Fatal(err)
	}
	after := h.get(t, w.Objects[0])
	for i, text := range []string{"theirs", string(ca.Set().PEM()), string(ca.Set().PEM())} {
		entry := after.Object["webhooks"].([]any)[i].(map[string]any)
		config := entry["clientConfig"].(map[string]any)
		if config["caBundle"] != calls("", "", []byte(text))["caBundle"] {
			t.Errorf("entry %d has caBundle %v", i, config["caBundle"])
		}
		was := before.Object["webhooks"].([]any)[i].(map[string]any)
		delete(config, "caBundle")
		delete(was["clientConfig"].(map[string]any), "caBundle")
		if !reflect.DeepEqual(entry, was) {
			t.Errorf("entry %d is %v; want %v", i, entry, was)
		}
	}
	if a := after.GetAnnotations(); len(a) != 2 || a["certd.io/fleet"] != "acme" || a["certd.io/epoch"] != "7" {
		t.Errorf("annotations %v", a)
	}
	if l := after.GetLabels(); l["app.kubernetes.io/managed-by"] != "Helm" {
		t.Errorf("labels %v", l)
	}
	if o := seen(t, c).Objects[0]; len(o.Writers) > 0 || o.WrittenAt.IsZero() || o.Revision != rev {
		t.Errorf("writers %v, written at %s, revision %s; want %s", o.Writers, o.WrittenAt, o.Revision, rev)
	}

	// What helm upgrade does: it sets the field back, and nothing else.
	h.put(t, "helm", w.Objects[0], func(o map[string]any) {
		o["webhooks"].([]any)[1].(map[string]any)["clientConfig"] = calls(w.Service, h.ns, []byte("chart's"))
	})
	if s := names(seen(t, c).Objects[0].Writers); s != "helm" {
		t.Errorf("writers %q after an upgrade", s)
	}
	// What somebody does to another entry is not about this webhook.
	write.Revision = seen(t, c).Objects[0].Revision
	if _, err := c.WriteCABundle(t.Context(), write); err != nil {
		t.Fatal(err)
	}
	h.put(t, "somebody", w.Objects[0], func(o map[string]any) {
		o["webhooks"].([]any)[0].(map[string]any)["clientConfig"] = calls("theirs", h.ns, []byte("changed"))
	})
	if s := names(seen(t, c).Objects[0].Writers); s != "" {
		t.Errorf("writers %q after a change of another entry", s)
	}
}

func TestCABundleThatCannotBeWritten(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	w, ca := h.tap(), backendtest.NewWebhookCA(t)
	h.install(t, rival, w, nil)
	o := h.put(t, rival, w.Objects[0], func(o map[string]any) { o["spec"].(map[string]any)["insecureSkipTLSVerify"] = true })
	c := h.open(t, bare(w))
	write := rotation.CABundleWrite{Spec: w, Object: w.Objects[0], Revision: o.GetResourceVersion(), CAs: ca.Set()}
	if _, err := c.WriteCABundle(t.Context(), write); !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), "insecureSkipTLSVerify") || !strings.Contains(err.Error(), w.Objects[0].Name) {
		t.Errorf("an APIService that skips verification: %v", err)
	}
	o = h.put(t, rival, w.Objects[0], func(o map[string]any) {
		delete(o["spec"].(map[string]any), "insecureSkipTLSVerify")
		o["spec"].(map[string]any)["service"].(map[string]any)["name"] = "theirs"
	})
	write.Revision = o.GetResourceVersion()
	if _, err := c.WriteCABundle(t.Context(), write); !errors.Is(err, rotation.ErrChanged) {
		t.Errorf("one that calls something else: %v", err)
	}
	h.install(t, rival, w, nil)
	write.CAs, write.Revision = pki.CASet{}, h.get(t, w.Objects[0]).GetResourceVersion()
	if _, err := c.WriteCABundle(t.Context(), write); err == nil {
		t.Error("an empty caBundle was written")
	}
	if _, err := c.WriteWebhook(t.Context(), rotation.WebhookWrite{Spec: bare(w)}); err == nil || !strings.Contains(err.Error(), "namespace is not known") {
		t.Errorf("a Secret in no namespace: %v", err)
	}
}

func TestWebhookSecretIsAsItsReadersWantIt(t *testing.T) {
	for _, made := range []corev1.SecretType{"", corev1.SecretTypeTLS, corev1.SecretTypeOpaque} {
		t.Run(string("type "+made), func(t *testing.T) {
			h := newHooks(t)
			h.namespace(t, h.ns)
			w, ca := h.injector(), backendtest.NewWebhookCA(t)
			h.install(t, rival, w, ca.Set().PEM())
			c := h.open(t, bare(w))
			want := corev1.SecretTypeTLS
			if made != "" {
				want = made
				_, err := h.admin.CoreV1().Secrets(h.ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: w.Secret}, Type: made,
					Data: backendtest.ChartPair(t, w.DNSNames[0])}, metav1.CreateOptions{FieldManager: "helm"})
				if err != nil {
					t.Fatal(err)
				}
			}
			cred := ca.Serving(t, w.DNSNames...)
			write := rotation.WebhookWrite{Spec: w, Revision: seen(t, c).Secret.Revision, Fleet: "acme", Epoch: 3, Serial: "1", Credential: &cred, CAs: ca.Set(), Reload: "now"}
			if _, err := c.WriteWebhook(t.Context(), write); err != nil {
				t.Fatal(err)
			}
			secret := func() *corev1.Secret {
				s, err := h.admin.CoreV1().Secrets(h.ns).Get(t.Context(), w.Secret, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := secret()
			if s.Type != want || s.Labels["app.kubernetes.io/managed-by"] != "certd" {
				t.Errorf("type %s, labels %v", s.Type, s.Labels)
			}
			for name, value := range map[string]string{"certd.io/fleet": "acme", "certd.io/serial": "1", "certd.io/epoch": "3", "helm.sh/resource-policy": "keep", "cert-manager.io/allow-direct-injection": "true"} {
				if s.Annotations[name] != value {
					t.Errorf("annotation %s is %q; want %q", name, s.Annotations[name], value)
				}
			}
			o := seen(t, c)
			if len(o.Secret.Writers) > 0 || !o.Facts.Complete || o.WrittenAt.IsZero() || o.Reload != "now" {
				t.Errorf("writers %v, complete %t, written at %s, reload %q", o.Secret.Writers, o.Facts.Complete, o.WrittenAt, o.Reload)
			}

			// Its injector goes by the annotation: one that went missing comes back.
			h.secretOf(t, w, func(s *corev1.Secret) { delete(s.Annotations, payload.AnnotationInject) })
			write.Credential, write.Revision, write.Reload = nil, seen(t, c).Secret.Revision, ""
			if _, err := c.WriteWebhook(t.Context(), write); err != nil {
				t.Fatal(err)
			}
			if s := secret(); s.Annotations[payload.AnnotationInject] != "true" || string(s.Data[payload.ReloadKey]) != "now" {
				t.Errorf("annotations %v, reload %q", s.Annotations, s.Data[payload.ReloadKey])
			}
		})
	}
}

// certificateCRD makes sure that cert-manager's Certificates can be made. Tests
// share it.
func certificateCRD(t testing.TB, h *hooks) {
	t.Helper()
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "certificates.cert-manager.io"},
		"spec": map[string]any{"group": certificates.Group, "scope": "Namespaced", "names": map[string]any{"plural": "certificates", "singular": "certificate", "kind": "Certificate", "listKind": "CertificateList"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}},
	}}
	_, err := h.any.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(t.Context(), crd, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

func TestRenewer(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	w := h.injector()
	h.install(t, rival, w, nil)
	c := h.open(t, bare(w))
	renewer := func() string {
		t.Helper()
		o := seen(t, c)
		if o.Err != nil || !o.Secret.Exists {
			t.Fatalf("exists %t, %v", o.Secret.Exists, o.Err)
		}
		return o.Renewer
	}
	h.secretOf(t, w, func(s *corev1.Secret) {})
	if r := renewer(); r != "" {
		t.Errorf("renewer %q of a Secret that nobody issues into", r)
	}
	h.secretOf(t, w, func(s *corev1.Secret) { s.Annotations = map[string]string{annotationCertificate: "injector"} })
	if r := renewer(); r != "" {
		t.Errorf("renewer %q, whose Certificate is gone", r)
	}
	certificateCRD(t, h)
	made := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": map[string]any{"name": "injector"}}}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := h.any.Resource(certificates).Namespace(h.ns).Create(t.Context(), made, metav1.CreateOptions{})
		if err == nil {
			break
		}
		if !apierrors.IsNotFound(err) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if r, want := renewer(), "Certificate "+h.ns+"/injector"; r != want {
		t.Errorf("renewer %q; want %q", r, want)
	}
}

func TestEventOfAWebhookStandsBesideItsSecret(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	viz := h.ns + "-viz"
	h.namespace(t, viz)
	w := h.tap()
	w.Namespace = viz
	h.install(t, rival, w, nil)
	h.secretOf(t, w, func(*corev1.Secret) {})
	c := h.open(t, bare(w))
	seen(t, c)
	if err := c.Event(t.Context(), rotation.Event{Reason: "CertdWebhookRotated", Object: w.Secret, Namespace: viz, Message: "renewed"}); err != nil {
		t.Fatal(err)
	}
	list, err := h.admin.CoreV1().Events(viz).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=CertdWebhookRotated"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d events, %v", len(list.Items), err)
	}
	s, err := h.admin.CoreV1().Secrets(viz).Get(t.Context(), w.Secret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if about := list.Items[0].InvolvedObject; about.Kind != "Secret" || about.Namespace != viz || about.UID != s.UID {
		t.Errorf("event about %+v", about)
	}
}

// A webhook that is installed while certd runs, and one that moves, are followed
// to the namespace where the Secret then is.
func TestWatchFollowsAWebhook(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	c := h.open(t, bare(h.injector()))
	ctx, stop := context.WithCancel(t.Context())
	told, done := make(chan struct{}, 1000), make(chan error, 1)
	go func() { done <- c.Watch(ctx, func() { told <- struct{}{} }) }()
	defer func() {
		stop()
		<-done
	}()
	// until edits until it is told, as a watch takes a moment to stand.
	until := func(what string, edit func(n int)) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for n := 0; ; n++ {
			for len(told) > 0 {
				<-told
			}
			edit(n)
			select {
			case <-told:
				return
			case <-time.After(100 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%s is not told", what)
			}
		}
	}
	for _, ns := range []string{h.ns, h.ns + "-2"} {
		h.namespace(t, ns)
		w := h.injector()
		w.Namespace = ns
		until("the object in "+ns, func(n int) { h.install(t, rival, w, fmt.Appendf(nil, "%d", n)) })
		if o := seen(t, c); o.Spec.Namespace != ns {
			t.Fatalf("namespace %q", o.Spec.Namespace)
		}
		time.Sleep(300 * time.Millisecond) // nothing else is left to be told of
		until("the Secret in "+ns, func(n int) {
			h.secretOf(t, w, func(s *corev1.Secret) { s.Data["n"] = fmt.Append(nil, n) })
		})
	}
}

// The rights that are missing are granted by one of several files.
func TestManifestForAMissingRight(t *testing.T) {
	own := rotation.WebhookSpec{Name: "gatekeeper", Own: true, Objects: []rotation.ObjectRef{{Kind: rotation.KindValidating, Name: "gatekeeper"}}}
	c := &Cluster{cfg: Config{Namespace: "linkerd", ProbeNamespace: "certd", Webhooks: append(rotation.LinkerdWebhooks(), own)}}
	for _, row := range []struct {
		call call
		want string
	}{
		{ref{"secrets", "linkerd", "x"}.call("get"), "certd.yaml"},
		{ref{"pods", "certd", ""}.call("create"), "certd.yaml"},
		{ref{"secrets", "linkerd-viz", "tap-k8s-tls"}.call("get"), "certd-viz.yaml"},
		{ref{"secrets", "my-jaeger", "x"}.call("patch"), "certd-jaeger.yaml"},
		{ref{"secrets", "gatekeeper-system", "x"}.call("patch"), "certd-webhook.yaml"},
		{ref{apiServiceResource, "", "v1alpha1.tap.linkerd.io"}.call("patch"), "certd.yaml"},
		{ref{validatingResource, "", "gatekeeper"}.call("patch"), "certd-webhook.yaml"},
		{ref{"namespaces", "", "linkerd"}.call("get"), "certd.yaml"},
	} {
		err := c.fail(row.call, apierrors.NewForbidden(schema.GroupResource{Resource: row.call.resource}, row.call.name, errors.New(`User "x" cannot do that`)))
		if !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), "deploy/rbac/"+row.want+" ") {
			t.Errorf("%s: %v; want %s", row.call, err, row.want)
		}
	}
	c.cfg.Namespace = "the-viz"
	if got := c.manifest(ref{"secrets", "the-viz", "x"}.call("get")); got != "certd.yaml" {
		t.Errorf("Linkerd's own namespace that ends in viz: %s", got)
	}
}

// One webhook that cannot be seen leaves the rest to be seen.
func TestUnseenWebhookIsAlone(t *testing.T) {
	forbidden := status(403, "Forbidden", `x is forbidden: User "y" cannot do that`)
	c := identityServer(t, map[string]http.HandlerFunc{
		"/linkerd-sp-validator-webhook-config": forbidden,
		"/v1alpha1.tap.linkerd.io":             hang,
		"/linkerd-proxy-injector-webhook-config": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"kind":"MutatingWebhookConfiguration","apiVersion":"admissionregistration.k8s.io/v1","metadata":{"name":"linkerd-proxy-injector-webhook-config","resourceVersion":"5"},`+
				`"webhooks":[{"name":"linkerd-proxy-injector.linkerd.io","clientConfig":{"service":{"name":"linkerd-proxy-injector","namespace":"linkerd"}}}]}`)
		},
		"/linkerd-policy-validator-webhook-config": status(404, "NotFound", "not found"),
		"/linkerd-tap-injector-webhook-config":     status(404, "NotFound", "not found"),
		"/linkerd-jaeger-injector-webhook-config":  status(404, "NotFound", "not found"),
	})
	c.cfg.Webhooks = rotation.LinkerdWebhooks()
	o, err := c.Observe(t.Context())
	if err != nil || len(o.Webhooks) != 6 {
		t.Fatalf("%d webhooks, %v", len(o.Webhooks), err)
	}
	for _, w := range o.Webhooks {
		want := map[string]error{"sp-validator": rotation.ErrDenied, "tap": rotation.ErrUnavailable}[w.Spec.Name]
		if want != nil != (w.Err != nil) || want != nil && !errors.Is(w.Err, want) {
			t.Errorf("%s: error %v; want %v", w.Spec.Name, w.Err, want)
		}
		if installed := w.Spec.Name == "proxy-injector"; installed != (len(w.Objects) == 1) {
			t.Errorf("%s: %d objects", w.Spec.Name, len(w.Objects))
		}
	}
}

func TestRestartRollsOutAnew(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	c := h.open(t)
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"theirs": "stays"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}
	meta, selector, none := metav1.ObjectMeta{Name: "hook"}, &metav1.LabelSelector{MatchLabels: template.Labels}, int32(0)
	apps := h.admin.AppsV1()
	_, err := apps.Deployments(h.ns).Create(t.Context(), &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
	_, dsErr := apps.DaemonSets(h.ns).Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}, metav1.CreateOptions{})
	_, stsErr := apps.StatefulSets(h.ns).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
	if err := errors.Join(err, dsErr, stsErr); err != nil {
		t.Fatal(err)
	}
	w := h.injector()
	for _, kind := range []string{"Deployment", "DaemonSet", "StatefulSet"} {
		if err := c.Restart(t.Context(), w.Namespace, rotation.ObjectRef{Kind: kind, Name: "hook"}); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	d, err := apps.Deployments(h.ns).Get(t.Context(), "hook", metav1.GetOptions{})
	ds, dsErr := apps.DaemonSets(h.ns).Get(t.Context(), "hook", metav1.GetOptions{})
	sts, stsErr := apps.StatefulSets(h.ns).Get(t.Context(), "hook", metav1.GetOptions{})
	if err := errors.Join(err, dsErr, stsErr); err != nil {
		t.Fatal(err)
	}
	for i, a := range []map[string]string{d.Spec.Template.Annotations, ds.Spec.Template.Annotations, sts.Spec.Template.Annotations} {
		at, err := time.Parse(time.RFC3339, a[restartedAt])
		if err != nil || time.Since(at).Abs() > time.Minute || a["theirs"] != "stays" {
			t.Errorf("%d: annotations %v", i, a)
		}
	}
	if err := c.Restart(t.Context(), w.Namespace, rotation.ObjectRef{Kind: "Deployment", Name: "gone"}); !errors.Is(err, rotation.ErrChanged) {
		t.Errorf("one that is gone: %v", err)
	}
	if err := c.Restart(t.Context(), w.Namespace, rotation.ObjectRef{Kind: "ReplicaSet", Name: "hook"}); err == nil {
		t.Error("a ReplicaSet was rolled out anew")
	}
}

// What keeps its pods when it is rolled out is left alone, and told of with what to do.
func TestRestartWhatKeepsItsPods(t *testing.T) {
	h := newHooks(t)
	for _, name := range []string{h.ns, elsewhere("certd", h.ns), h.ns + "-apps"} {
		h.namespace(t, name)
	}
	c := h.granted(t, "keeps", "certd.yaml", "certd-restart-workloads.yaml")
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}
	selector, none, two, apps, in := &metav1.LabelSelector{MatchLabels: template.Labels}, int32(0), int32(2), h.admin.AppsV1(), h.ns+"-apps"
	_, err := apps.Deployments(in).Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "paused"}, Spec: appsv1.DeploymentSpec{Paused: true, Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
	_, err1 := apps.DaemonSets(in).Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "on-delete"}, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template,
		UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}}}, metav1.CreateOptions{})
	_, err2 := apps.StatefulSets(in).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "on-delete"}, Spec: appsv1.StatefulSetSpec{Replicas: &none, Selector: selector, Template: template,
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}}}, metav1.CreateOptions{})
	_, err3 := apps.StatefulSets(in).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "parted"}, Spec: appsv1.StatefulSetSpec{Replicas: &none, Selector: selector, Template: template,
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &two}}}}, metav1.CreateOptions{})
	if err := errors.Join(err, err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ kind, name, want string }{
		{"Deployment", "paused", "rollout resume deployment/paused"},
		{"DaemonSet", "on-delete", "OnDelete"},
		{"StatefulSet", "on-delete", "OnDelete"},
		{"StatefulSet", "parted", "below number 2"},
	} {
		var err error
		takingEffect(func() bool {
			_, err = c.RestartSince(t.Context(), in, rotation.ObjectRef{Kind: row.kind, Name: row.name}, time.Now(), false)
			return err == nil || !strings.Contains(err.Error(), "verb")
		})
		if !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s %s: %v", row.kind, row.name, err)
		}
	}
}

// A workload is restarted unless that was done since, by whomever, and not
// where its label forbids it. That takes rights of its own.
func TestRestartSince(t *testing.T) {
	h := newHooks(t)
	for _, name := range []string{h.ns, elsewhere("certd", h.ns), h.ns + "-apps"} {
		h.namespace(t, name)
	}
	c, without := h.granted(t, "with", "certd.yaml", "certd-restart-workloads.yaml"), h.granted(t, "without", "certd.yaml")
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}
	selector, none, apps := &metav1.LabelSelector{MatchLabels: template.Labels}, int32(0), h.admin.AppsV1()
	in := h.ns + "-apps"
	for _, meta := range []metav1.ObjectMeta{{Name: "app"}, {Name: "theirs", Labels: map[string]string{rotation.RestartLabel: rotation.RestartNever}}} {
		_, err := apps.Deployments(in).Create(t.Context(), &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
		_, dsErr := apps.DaemonSets(in).Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}, metav1.CreateOptions{})
		_, stsErr := apps.StatefulSets(in).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
		if err := errors.Join(err, dsErr, stsErr); err != nil {
			t.Fatal(err)
		}
	}
	restarted := func(kind, name string) (at string) {
		t.Helper()
		var err error
		switch kind {
		case "Deployment":
			o, e := apps.Deployments(in).Get(t.Context(), name, metav1.GetOptions{})
			at, err = o.Spec.Template.Annotations[restartedAt], e
		case "DaemonSet":
			o, e := apps.DaemonSets(in).Get(t.Context(), name, metav1.GetOptions{})
			at, err = o.Spec.Template.Annotations[restartedAt], e
		default:
			o, e := apps.StatefulSets(in).Get(t.Context(), name, metav1.GetOptions{})
			at, err = o.Spec.Template.Annotations[restartedAt], e
		}
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	since := time.Now()
	for _, kind := range []string{"Deployment", "DaemonSet", "StatefulSet"} {
		app, theirs := rotation.ObjectRef{Kind: kind, Name: "app"}, rotation.ObjectRef{Kind: kind, Name: "theirs"}
		_, err := without.RestartSince(t.Context(), in, app, since, false)
		if !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), "deploy/rbac/certd-restart-workloads.yaml") || restarted(kind, "app") != "" {
			t.Errorf("%s, without the right: %v", kind, err)
		}
		takingEffect(func() bool {
			var certd bool
			certd, err = c.RestartSince(t.Context(), in, app, since, false)
			return err == nil && certd
		})
		first := restarted(kind, "app")
		if at, bad := time.Parse(time.RFC3339, first); err != nil || bad != nil || at.Before(since.Truncate(time.Second)) {
			t.Errorf("%s: %v, restarted at %q", kind, err, first)
		}
		if certd, err := c.RestartSince(t.Context(), in, app, since, false); err != nil || !certd || restarted(kind, "app") != first {
			t.Errorf("%s, again: %v, restarted at %q and %q", kind, err, first, restarted(kind, "app"))
		}
		byHand := []byte(`{"spec":{"template":{"metadata":{"annotations":{"` + restartedAt + `":"` + since.Add(30*time.Minute).UTC().Format(time.RFC3339) + `"}}}}}`)
		if err := h.patchWorkload(t, in, kind, "app", byHand); err != nil {
			t.Fatal(err)
		}
		if certd, err := c.RestartSince(t.Context(), in, app, since.Add(time.Minute), false); err != nil || certd {
			t.Errorf("%s, when others had done it: %t, %v", kind, certd, err)
		}
		if certd, err := c.RestartSince(t.Context(), in, app, since.Add(time.Hour), false); err != nil || !certd {
			t.Errorf("%s, since a later time: %v", kind, err)
		}
		for range 100 { // the lab's controllers say otherwise in a moment
			h.unwell(t, in, kind, "app")
			if _, err = c.RestartSince(t.Context(), in, app, time.Now().Add(2*time.Hour), true); err != nil {
				break
			}
		}
		if !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), " of its pods are not available") {
			t.Errorf("%s without one of its pods: %v", kind, err)
		}
		if _, err := c.RestartSince(t.Context(), in, app, time.Now().Add(2*time.Hour), false); err != nil {
			t.Errorf("%s without one of its pods, all the same: %v", kind, err)
		}
		if _, err := c.RestartSince(t.Context(), in, theirs, since, false); !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), "certd.io/restart: never") || restarted(kind, "theirs") != "" {
			t.Errorf("%s with the label: %v", kind, err)
		}
	}
}

// patchWorkload changes one as a person does.
func (h *hooks) patchWorkload(t *testing.T, namespace, kind, name string, patch []byte) (err error) {
	apps, options := h.admin.AppsV1(), metav1.PatchOptions{FieldManager: rival}
	switch kind {
	case "Deployment":
		_, err = apps.Deployments(namespace).Patch(t.Context(), name, types.StrategicMergePatchType, patch, options)
	case "DaemonSet":
		_, err = apps.DaemonSets(namespace).Patch(t.Context(), name, types.StrategicMergePatchType, patch, options)
	default:
		_, err = apps.StatefulSets(namespace).Patch(t.Context(), name, types.StrategicMergePatchType, patch, options)
	}
	return err
}

// unwell has a workload lack one pod.
func (h *hooks) unwell(t *testing.T, namespace, kind, name string) {
	t.Helper()
	apps, ctx := h.admin.AppsV1(), t.Context()
	var err error
	switch kind {
	case "Deployment":
		o, e := apps.Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		o.Status.Replicas, o.Status.UnavailableReplicas = 1, 1
		if _, err = apps.Deployments(namespace).UpdateStatus(ctx, o, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
			err = nil // the next time
		}
		err = errors.Join(e, err)
	case "DaemonSet":
		o, e := apps.DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		o.Status.NumberUnavailable = 1
		if _, err = apps.DaemonSets(namespace).UpdateStatus(ctx, o, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
			err = nil
		}
		err = errors.Join(e, err)
	default:
		o, e := apps.StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
		o.Status.Replicas = 1
		if _, err = apps.StatefulSets(namespace).UpdateStatus(ctx, o, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
			err = nil
		}
		err = errors.Join(e, err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCABundleFields(t *testing.T) {
	for _, row := range []struct {
		name    string
		entries []string
		fields  string
		want    bool
	}{
		{"an APIService's", nil, `{"f:spec":{"f:caBundle":{},"f:group":{}}}`, true},
		{"the rest of an APIService", nil, `{"f:spec":{"f:group":{}}}`, false},
		{"the whole of its spec", nil, `{"f:spec":{}}`, true},
		{"an entry's", []string{"a.b"}, `{"f:webhooks":{".":{},"k:{\"name\":\"a.b\"}":{".":{},"f:clientConfig":{".":{},"f:caBundle":{}}}}}`, true},
		{"another entry's", []string{"a.b"}, `{"f:webhooks":{"k:{\"name\":\"c.d\"}":{"f:clientConfig":{"f:caBundle":{}}}}}`, false},
		{"an entry but for its caBundle", []string{"a.b"}, `{"f:webhooks":{"k:{\"name\":\"a.b\"}":{".":{},"f:clientConfig":{".":{},"f:service":{}}}}}`, false},
		{"the whole of its clientConfig", []string{"a.b"}, `{"f:webhooks":{"k:{\"name\":\"a.b\"}":{"f:clientConfig":{}}}}`, true},
		{"the whole list", []string{"a.b"}, `{"f:webhooks":{}}`, true},
		{"nothing of it", []string{"a.b"}, `{"f:metadata":{"f:labels":{}}}`, false},
		{"rubbish", []string{"a.b"}, `{{`, false},
	} {
		if got := caBundleFields(row.entries)([]byte(row.fields)); got != row.want {
			t.Errorf("%s: %t; want %t", row.name, got, row.want)
		}
	}
	if slices.ContainsFunc([]string{`{"f:metadata":{"f:annotations":{}}}`, `{"f:metadata":{}}`, `{}`}, func(s string) bool { return orMarks(dataFields(nil))([]byte(s)) }) {
		t.Error("empty annotations are taken for certd's")
	}
}
