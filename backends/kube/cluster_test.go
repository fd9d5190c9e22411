package kube

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"certd.internal/backends/backendtest"
	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

const rival = "kubectl-edit"

func open(t testing.TB, l labCluster, ns string) *Cluster {
	t.Helper()
	c, err := New(Config{Cluster: l.Name, Namespace: ns, TrustDomain: "cluster.local", Access: Access{File: l.Kubeconfig}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// kubectl edits objects as another party does.
type kubectl struct {
	admin *kubernetes.Clientset
	ns    string
}

func (k kubectl) secret(t testing.TB, change func(*corev1.Secret)) {
	t.Helper()
	api := k.admin.CoreV1().Secrets(k.ns)
	for {
		s, err := api.Get(t.Context(), rotation.IssuerObject, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			s = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: rotation.IssuerObject}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{payload.TLSCert: {}, payload.TLSKey: {}}}
			s, err = api.Create(t.Context(), s, metav1.CreateOptions{FieldManager: rival})
		}
		if err != nil {
			t.Fatal(err)
		}
		change(s)
		if _, err = api.Update(t.Context(), s, metav1.UpdateOptions{FieldManager: rival}); err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

func (k kubectl) configMap(t testing.TB, change func(*corev1.ConfigMap)) {
	t.Helper()
	api := k.admin.CoreV1().ConfigMaps(k.ns)
	for {
		m, err := api.Get(t.Context(), rotation.BundleObject, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			m, err = api.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: rotation.BundleObject}}, metav1.CreateOptions{FieldManager: rival})
		}
		if err != nil {
			t.Fatal(err)
		}
		change(m)
		if _, err = api.Update(t.Context(), m, metav1.UpdateOptions{FieldManager: rival}); err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

func (k kubectl) edit(t testing.TB, object string, edit func(map[string][]byte)) {
	t.Helper()
	if object == rotation.IssuerObject {
		k.secret(t, func(s *corev1.Secret) {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			edit(s.Data)
		})
		return
	}
	k.configMap(t, func(m *corev1.ConfigMap) {
		data := map[string][]byte{}
		for key, text := range m.Data {
			data[key] = []byte(text)
		}
		edit(data)
		m.Data = map[string]string{}
		for key, text := range data {
			m.Data[key] = string(text)
		}
	})
}

func (k kubectl) strip(t testing.TB, object string) {
	t.Helper()
	if object == rotation.IssuerObject {
		k.secret(t, func(s *corev1.Secret) { s.Labels, s.Annotations = nil, nil })
		return
	}
	k.configMap(t, func(m *corev1.ConfigMap) { m.Labels, m.Annotations = nil, nil })
}

func (k kubectl) delete(t testing.TB, object string) {
	t.Helper()
	var err error
	if object == rotation.IssuerObject {
		err = k.admin.CoreV1().Secrets(k.ns).Delete(t.Context(), object, metav1.DeleteOptions{})
	} else {
		err = k.admin.CoreV1().ConfigMaps(k.ns).Delete(t.Context(), object, metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

func (k kubectl) data(t testing.TB, object string) map[string][]byte {
	t.Helper()
	var data map[string][]byte
	var err error
	if object == rotation.IssuerObject {
		var s *corev1.Secret
		if s, err = k.admin.CoreV1().Secrets(k.ns).Get(t.Context(), object, metav1.GetOptions{}); err == nil {
			data = s.Data
		}
	} else {
		var m *corev1.ConfigMap
		if m, err = k.admin.CoreV1().ConfigMaps(k.ns).Get(t.Context(), object, metav1.GetOptions{}); err == nil {
			data = configMapData(m)
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return data
}

func TestCluster(t *testing.T) {
	l, _, admin := lab(t)
	backendtest.TestCluster(t, func(t *testing.T) (rotation.Cluster, backendtest.Hands) {
		k := kubectl{admin, newNamespaceName()}
		t.Cleanup(func() { deleteNamespace(admin, k.ns) })
		return open(t, l, k.ns), backendtest.Hands{
			As:         rival,
			Identity:   pki.Identity{Namespace: k.ns, TrustDomain: "cluster.local"},
			Edit:       k.edit,
			StripMarks: k.strip,
			Delete:     k.delete,
			Data:       k.data,
			Again:      func(t testing.TB) rotation.Cluster { return open(t, l, k.ns) },
		}
	})
}

// deleteNamespace tidies the shared cluster up; nothing depends on it.
func deleteNamespace(admin *kubernetes.Clientset, ns string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = admin.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{})
}
